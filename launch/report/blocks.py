"""What a page is made of: the HTML that the macros of ``blocks.html`` make."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from r2ac.launch.report.svg import swatch

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["swatch"] = swatch
TEMPLATES.filters["png_address"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
html: Any = TEMPLATES.get_template("blocks.html").module
"""Its macros: ``html.text(sentence)`` gives a paragraph as `Markup`."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    key: str
    """Where links within the page lead."""
    title: str
    blocks: list[Markup]
