"""Lets ``r2ac`` be imported from this checkout where it is not installed, as on a GPU machine with torch alone.

Imported for that effect, before anything of r2ac.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

if find_spec("r2ac") is None:
    package = ModuleType("r2ac")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["r2ac"] = package
