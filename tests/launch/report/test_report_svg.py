"""Drawings of a report: what is drawn, and that a drawing stands in a page by itself."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from r2ac.launch.evaluation.statistics import Estimate, Profile
from r2ac.launch.plots.reference_lines import Line
from r2ac.launch.report.figures import (
    Bar,
    StyledCurve,
    draw_bars,
    draw_curves,
    draw_grouped_bars,
    draw_intervals,
    draw_profiles,
    thinned,
)
from r2ac.launch.report.svg import line_style, swatch

HOSTILE = "<script>alert(1)</script>&\"' $x^$ \x1b\ud800 深"
BLUE = "#0072b2"


def parsed(svg: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def texts(svg: Markup) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter("text")]


def path_of(svg: Markup, style: str) -> np.ndarray:
    """The points [P, 2] of the one shape whose style holds these words."""
    root = parsed(svg)
    (found,) = [e for e in root.iter() if style in e.attrib.get("style", "")]
    paths = {f"#{e.attrib.get('id')}": e for e in root.iter("path")}
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", paths.get(found.attrib.get("href", ""), found).attrib["d"]))
    # What stands elsewhere and is used here is moved down.
    return points.astype(float) + np.array([0.0, float(found.attrib.get("y", 0))])


def every_drawing(name: str) -> list[Markup]:
    x = np.linspace(0, 1, 5)
    estimate = Estimate(0.5, 0.4, 0.7, runs=3, tasks=2)
    bar = Bar(0, name, 0.5, "0.5", 0.1, (0.4, 0.6))
    return [
        draw_curves([StyledCurve(0, x, x, (x - 0.1, x + 0.1))], "steps", name, name, [Line(name[:8], 0.5)]),
        draw_bars([bar, bar], "return", name, [Line("best", 1.0)]),
        draw_grouped_bars({name: [bar]}, "score", name),
        draw_intervals([(0, name, estimate)], "score", name, middle=0.5),
        draw_profiles([(0, Profile(x, 1 - x, 1 - x, 1 - x))], name),
    ]


@pytest.mark.parametrize("name", [HOSTILE, "a" * 300])
def test_names_are_text_however_strange_and_long(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawings = every_drawing(name)
    for svg in drawings:
        root = parsed(svg)
        assert not list(root.iter("script"))
        assert root.attrib["aria-label"] == name.replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    shown = [text for svg in drawings for text in texts(svg)]
    assert any(text.startswith(name[:20]) for text in shown)
    assert max(map(len, shown)) <= 300
    assert max(len(text) for text in texts(drawings[3])) <= 60


def test_a_drawing_shares_nothing_with_the_page_and_with_other_drawings() -> None:
    ids: list[str] = []
    for svg in every_drawing("one") + every_drawing("other"):
        root = parsed(svg)
        own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        ids += own
        assert not list(root.iter("style"))
        for element in root.iter():
            for name, value in element.attrib.items():
                if name == "href" or "url(" in value:
                    assert value.removeprefix("url(").removesuffix(")").removeprefix("#") in own
        assert "http" not in svg
        assert "width" not in root.attrib
    assert ids
    assert len(set(ids)) == len(ids)


def test_the_same_drawing_is_the_same_text() -> None:
    assert every_drawing("one") == every_drawing("one")


def test_ink_and_lines_have_the_colours_of_the_page() -> None:
    for svg in every_drawing("one"):
        assert "var(--muted)" in svg
        assert "var(--line)" in svg
        assert "#010101" not in svg
        # Matplotlib's own black, which nobody sees on a dark page.
        assert "#000000" not in svg


def test_curves_and_bands_lie_where_their_numbers_say() -> None:
    x = np.array([0.0, 50.0, 100.0])
    svg = draw_curves([StyledCurve(0, x, x / 10, (x / 10 - 2, x / 10 + 2))], "steps", "return", "label")
    line = path_of(svg, f"stroke: {BLUE}; stroke-width: 1.6")
    band = path_of(svg, f"fill: {BLUE}; fill-opacity: 0.2")
    up = line[0, 1] - line[-1, 1]
    assert line[1] == pytest.approx((line[0] + line[2]) / 2, abs=0.02)
    # A return of 10 is as high as `up`: the band reaches 2 beyond the line at either end.
    assert band[:, 1].max() - line[0, 1] == pytest.approx(up / 5, abs=0.03)
    assert line[-1, 1] - band[:, 1].min() == pytest.approx(up / 5, abs=0.03)


def test_bars_are_as_long_as_their_values() -> None:
    svg = draw_bars([Bar(0, "a", 3.0, "3"), Bar(1, "b", 1.5, "1.5")], "return", "label")
    long, short = (np.ptp(path_of(svg, f"fill: {colour}")[:, 0]) for colour in (BLUE, "#d55e00"))
    assert long == pytest.approx(2 * short, abs=0.03)
    assert {"a: 3", "b: 1.5", "return"} <= set(texts(svg))


def test_an_estimate_without_interval_has_no_bar() -> None:
    with_one, without = (
        draw_intervals([(0, "a", Estimate(0.5, low, high, 2, 1))], "score", "label")
        for low, high in ((0.4, 0.6), (None, None))
    )
    assert "opacity: 0.45" in with_one
    assert "opacity: 0.45" not in without


def test_thinned_curves_keep_their_mean() -> None:
    x, y = np.arange(1000.0), np.random.default_rng(0).standard_normal(1000)
    at, values = thinned(x, y, 100)
    assert len(at) == len(values) == 100
    assert values.mean() == pytest.approx(y.mean())
    assert at[0] == pytest.approx(4.5)
    assert thinned(x, y, 1000)[1] is y


def test_configurations_are_told_apart_in_colour_or_dash() -> None:
    styles = {swatch(number) for number in range(24)}
    assert len(styles) == 24
    assert line_style(0)["linestyle"] == "-"
    assert line_style(6)["linestyle"] == (0, (5, 2))


def test_bars_of_one_colour_differ_in_their_hatching() -> None:
    first, second = (draw_bars([Bar(number, "a", 1.0, "1")], "return", "label") for number in (0, 6))
    assert "<pattern" not in first
    (pattern,) = parsed(second).iter("pattern")
    assert f"fill: url(#{pattern.attrib['id']})" in second
