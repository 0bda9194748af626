"""``python -m r2ac.launch``: the command line, also where no script ``r2ac`` is on the path."""

import sys

from r2ac.launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
