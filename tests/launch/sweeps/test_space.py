"""The language of --vary, and the draws from it."""

import math

import pytest

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.sweeps.space import Choice, Listed, Span, draw_settings, parse_vary


def test_each_form_is_read() -> None:
    space = parse_vary(
        [
            "seed=1,2,3",
            "gradient=rtrl,tbptt",
            "learning-rate=loguniform(1e-5, 1e-2)",
            "--entropy_cost=uniform(0,0.1)",
            "hidden-size=choice(8,16)",
            "rollout-length=randint(5,10)",
        ]
    )
    assert space == {
        "seed": Listed((1, 2, 3)),
        "gradient": Listed(("rtrl", "tbptt")),
        "learning-rate": Span(1e-5, 1e-2, logarithmic=True),
        "entropy-cost": Span(0.0, 0.1),
        "hidden-size": Choice((8, 16)),
        "rollout-length": Span(5, 10, whole=True),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed", "NAME=VALUES"),
        ("=1,2", "NAME=VALUES"),
        ("seed=", "NAME=VALUES"),
        ("seed=1,,2", "a value is missing"),
        ("seed=1,1", "a value comes twice"),
        ("learning-rate=gauss(0,1)", "there is no gauss"),
        ("learning-rate=uniform(1", "its values must be"),
        ("learning-rate=uniform(1)", "two numbers"),
        ("learning-rate=uniform(a,b)", "two numbers"),
        ("learning-rate=uniform(2,1)", "below the second"),
        ("learning-rate=uniform(0,inf)", "finite"),
        ("learning-rate=loguniform(0,1)", "above 0"),
        ("rollout-length=randint(1.5,3)", "whole numbers"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_can(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_vary([text])


def test_a_name_comes_once() -> None:
    with pytest.raises(ConfigError, match="seed is given twice"):
        parse_vary(["seed=1,2", "seed=3"])


def test_lists_make_a_grid_and_each_draw_meets_all_of_it() -> None:
    space = parse_vary(["seed=1,2", "learning-rate=loguniform(1e-4,1e-2)", "gradient=rtrl,tbptt"])
    settings = draw_settings(space, draws=3, seed=5)
    assert len(settings) == 12
    assert [list(one) for one in settings] == [["seed", "learning-rate", "gradient"]] * 12
    for i in range(0, 12, 4):
        assert len({one["learning-rate"] for one in settings[i : i + 4]}) == 1
        points = [(one["seed"], one["gradient"]) for one in settings[i : i + 4]]
        assert points == [(1, "rtrl"), (1, "tbptt"), (2, "rtrl"), (2, "tbptt")]
    assert len({one["learning-rate"] for one in settings}) == 3


def test_draws_follow_from_the_seed_and_more_draws_begin_with_the_same() -> None:
    space = parse_vary(["learning-rate=loguniform(1e-4,1e-2)", "rollout-length=randint(3,5)", "clip-c=choice(1,2)"])
    few, many = draw_settings(space, 5, seed=1), draw_settings(space, 200, seed=1)
    assert many[:5] == few
    assert draw_settings(space, 5, seed=2) != few
    rates = [float(one["learning-rate"]) for one in many]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    # Half of them lie below the geometric mean of the ends.
    assert 60 < sum(math.log(rate) < math.log(1e-3) for rate in rates) < 140
    assert {one["rollout-length"] for one in many} == {3, 4, 5}
    assert {one["clip-c"] for one in many} == {1, 2}
