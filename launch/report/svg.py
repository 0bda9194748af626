"""Figures of matplotlib as SVG that stands within a page: its colours follow the page's, its text stays text."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from r2ac.launch.plots.plot import PALETTE
from r2ac.launch.report.format import clean

_DASHES = ((), (5, 2), (1, 1.5), (6, 2, 1, 2))
_HATCHES = ("", "////", "....", "xxxx")
BLUE, ORANGE = PALETTE[:2]
# No colours but names for those of the page, which a figure cannot know: they follow a reader's dark mode.
INK, MUTED, LINE, _CARD = "#010101", "#020202", "#030303", "#040404"
_OF_THE_PAGE = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", _CARD: "var(--card)"}

WIDTH = 4.6
"""Inches, at 72 points; on a telephone a point is about one of its dots."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # Else the names within a drawing are random.
    "svg.hashsalt": "r2ac",
    # A dollar in the name of a run begins no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.0,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.dash_capstyle": "butt",
}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERRING = ("href", "clip-path", "style", "fill")
_REFERENCE = re.compile(r"#([\w.-]+)")


@contextmanager
def drawn() -> Iterator[None]:
    """Decorates a function that makes a figure and turns it into SVG: both follow the style of the page."""
    with rc_context(_STYLE):
        yield


class Swatch(NamedTuple):
    """How the lines of a configuration are drawn, as CSS and SVG read it."""

    colour: str
    dash: str
    """Lengths of lines and gaps; empty for a full line."""


def swatch(number: int) -> Swatch:
    return Swatch(colour(number), " ".join(f"{length:g}" for length in _dash(number)))


def colour(number: int) -> str:
    """Of the configuration of that number, as in the next functions."""
    return PALETTE[number % len(PALETTE)]


def line_style(number: int) -> dict[str, Any]:
    return {"color": colour(number), "linestyle": (0, _dash(number)) if _dash(number) else "-"}


def bar_style(number: int) -> dict[str, Any]:
    hatch = _HATCHES[number // len(PALETTE) % len(_HATCHES)]
    return {"facecolor": colour(number), "edgecolor": _CARD, "hatch": hatch or None}


def new_figure(height: float, panels: int = 1, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `WIDTH` times ``height`` inches with panels one below the other, which share the x axis."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    return figure, figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=ratios).ravel().tolist()


def inline_svg(figure: Figure, label: str) -> Markup:
    """The figure as an element of a page; ``label`` says what it shows to those who do not see it.

    What a page can do without is left out: names of XML, what cannot be seen, coordinates beyond hundredths of a point,
    and the rules of style that would hold for the whole page.
    """
    for text in figure.findobj(Text):
        text.set_text(clean(text.get_text()))
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are in a reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    # What this process has just written.
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        if not (parent.text or "").strip():
            parent.text = None
        for child in list(parent):
            child.tail = None
            if child.tag in (f"{_SVG}style", f"{_SVG}metadata") or child.attrib.get("style") == "fill: none":
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {k.removeprefix(_XLINK): _shortened(k, value) for k, value in element.attrib.items()}
    _rename_parts(root, label)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.attrib |= {"class": "plot", "role": "img", "aria-label": clean(label), "style": f"--width: {width:g}"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _shortened(name: str, value: str) -> str:
    if name == "style":
        for ours, of_the_page in _OF_THE_PAGE.items():
            value = value.replace(ours, of_the_page)
        # The page's own fonts, which are there.
        return re.sub(r"font-family: [^;]*;? ?|font-size: 10px;? ?", "", value).strip("; ")
    if name == f"{_XLINK}href":
        # An embedded picture is broken into lines.
        return "".join(value.split())
    if name == "d":
        value = " ".join(value.split())
    return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)


def _rename_parts(root: ElementTree.Element, label: str) -> None:
    """Parts that are referred to get names that no other figure of the page has; the others need none."""
    used = {
        part
        for element in root.iter()
        for name, value in element.attrib.items()
        if name in _REFERRING and not value.startswith("data:")
        for part in _REFERENCE.findall(value)
    }
    own = {element.attrib["id"] for element in root.iter() if "id" in element.attrib} & used
    digest = hashlib.sha256(label.encode("utf-8", "replace") + ElementTree.tostring(root)).hexdigest()[:10]
    names = {part: f"p{digest}-{i}" for i, part in enumerate(sorted(own))}
    for element in root.iter():
        if (part := element.attrib.pop("id", None)) in names:
            element.attrib["id"] = names[part]
        for name, value in element.attrib.items():
            if name in _REFERRING and not value.startswith("data:"):
                element.attrib[name] = _REFERENCE.sub(lambda found: f"#{names.get(found[1], found[1])}", value)


def _dash(number: int) -> tuple[float, ...]:
    return _DASHES[number // len(PALETTE) % len(_DASHES)]
