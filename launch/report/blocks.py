"""What a page is made of. Blocks hold plain text; the template escapes it all but the SVG of figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """A paragraph: plain, about something that is missing, or about something that asks for attention."""

    kind: ClassVar = "text"
    text: str
    tone: Literal["plain", "missing", "alert"] = "plain"


@dataclass(frozen=True)
class Swatch:
    """How a configuration is drawn in all figures, with its name."""

    name: str
    colour: str
    """As CSS reads it."""
    dash: str
    """Lengths of lines and gaps, as SVG reads them; empty for a full line."""


@dataclass(frozen=True)
class Legend:
    """Which line is whose."""

    kind: ClassVar = "legend"
    entries: tuple[Swatch, ...]


@dataclass(frozen=True)
class Figure:
    """A drawing with a title and a line below it."""

    svg: Markup
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, as many as there is room for; a picture among them is twice as wide."""

    kind: ClassVar = "figures"
    figures: tuple[Figure | Picture, ...]


@dataclass(frozen=True)
class Picture:
    """A picture of dots, as a PNG file."""

    png: bytes
    alt: str
    caption: tuple[str, ...] = ()
    """Lines."""

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Pictures:
    """A contact sheet of small pictures, which are enlarged dot by dot."""

    kind: ClassVar = "pictures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Cell:
    """A field of a table that is more than its text."""

    text: str
    swatch: Swatch | None = None
    alert: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below the names of their columns; the first field of a row is its name."""

    kind: ClassVar = "table"
    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell | str, ...]]
    numbers: frozenset[str] = frozenset()
    """The columns that are set flush right."""


@dataclass(frozen=True)
class Code:
    """Text that keeps its lines."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Details:
    """What is shown on demand."""

    kind: ClassVar = "details"
    summary: str
    blocks: tuple[Block, ...]


_MOST_ROWS = 30
Block = Text | Legend | Figures | Pictures | Table | Code | Heading | Details


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    key: str
    """Where links within the page lead."""
    title: str
    blocks: tuple[Block, ...]


def folded(table: Table, summary: str) -> Block:
    """The table; a long one is shown on demand."""
    return table if len(table.rows) <= _MOST_ROWS else Details(f"{summary} ({len(table.rows)})", (table,))
