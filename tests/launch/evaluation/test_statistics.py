"""The statistics of few runs: against numbers by hand, loops that draw runs one by one, and what must always hold."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from r2ac.launch.evaluation.statistics import (
    Estimate,
    aggregate,
    bootstrap_mean,
    performance_profile,
    probability_of_improvement,
)
from r2ac.launch.runtime.errors import RunError

Columns = Sequence[NDArray[np.float64]]

# Integers in floats: sums are exact in any order, so that equal means equal.
scores_of_tasks = st.lists(
    st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=6), min_size=1, max_size=5
).map(lambda columns: {f"task{k}": column for k, column in enumerate(columns)})


def interquartile_mean(scores: Any) -> float:
    return aggregate(scores, resamples=1).iqm.value


def draw_by_loops(
    columns: Columns, statistic: Callable[[Columns], float], resamples: int = 3000
) -> tuple[float, float]:
    """The percentile interval, drawing every run by itself."""
    generator = np.random.default_rng(99)
    drawn = []
    for _ in range(resamples):
        drawn.append(statistic([generator.choice(column, size=len(column)) for column in columns]))
    return float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5))


def trimmed_mean(columns: Columns) -> float:
    pooled = sorted(itertools.chain.from_iterable(columns))
    cut = len(pooled) // 4
    return float(np.mean(pooled[cut : len(pooled) - cut]))


STATISTICS: dict[str, Callable[[Columns], float]] = {
    "iqm": trimmed_mean,
    "mean": lambda columns: float(np.mean([np.mean(column) for column in columns])),
    "median": lambda columns: float(np.median([np.mean(column) for column in columns])),
    "optimality_gap": lambda columns: float(np.mean([np.mean(np.maximum(1 - column, 0)) for column in columns])),
}


def test_the_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([[8.0, 1.0], [3.0, 100.0], [-50.0, 2.0], [4.0, 5.0]]) == (2 + 3 + 4 + 5) / 4
    # Of 6 runs the lowest and the highest are left out, one of each.
    assert interquartile_mean({"a": [0.0, 1.0, 2.0], "b": [3.0, 4.0, 50.0]}) == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert interquartile_mean([[7.0]]) == 7.0


def test_tasks_weigh_the_same_however_many_runs_they_have() -> None:
    # Weights of 1/2 for a and 1/8 for each of b: of 5 runs a share of 1/5 goes at either end.
    found = interquartile_mean({"a": [10.0], "b": [1.0, 2.0, 3.0, 4.0]})
    assert found == pytest.approx((0.05 * 2 + 0.125 * 3 + 0.125 * 4 + 0.3 * 10) / 0.6)
    assert aggregate({"a": [10.0], "b": [1.0, 2.0, 3.0, 4.0]}).mean.value == pytest.approx((10 + 2.5) / 2)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 4), (5, 7), (10, 26)])
def test_the_interquartile_mean_is_that_of_scipy(shape: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(0).normal(size=shape)
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


@pytest.mark.parametrize("name", STATISTICS)
def test_values_and_intervals_are_those_of_a_loop(name: str) -> None:
    scores = np.random.default_rng(1).gamma(2.0, 0.5, size=(7, 5)) * np.arange(1, 6) / 3
    columns = list(scores.T)
    estimate: Estimate = getattr(aggregate(scores, resamples=20_000), name)
    assert estimate.value == pytest.approx(STATISTICS[name](columns))
    assert (estimate.runs, estimate.tasks) == (7, 5)
    assert estimate.low is not None
    assert estimate.high is not None
    low, high = draw_by_loops(columns, STATISTICS[name])
    tolerance = 0.08 * (high - low)
    assert estimate.low == pytest.approx(low, abs=tolerance)
    assert estimate.high == pytest.approx(high, abs=tolerance)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    offsets, covered = np.array([0.0, 1.0, 5.0]), 0
    for seed in range(300):
        mean = aggregate(offsets + generator.normal(size=(20, 3)), resamples=400, seed=seed).mean
        assert mean.low is not None
        assert mean.high is not None
        covered += mean.low <= offsets.mean() <= mean.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_profile_is_the_share_of_runs_above() -> None:
    scores = {"a": [0.1, 0.5, 0.5], "b": [0.5, 2.0]}
    profile = performance_profile(scores, [0.0, 0.3, 0.5, 1.0, 2.0], resamples=5000)
    np.testing.assert_allclose(profile.share, [1.0, (2 / 3 + 1) / 2, (0 + 1 / 2) / 2, 1 / 4, 0.0])
    assert profile.low is not None
    assert profile.high is not None
    # At 1 the share is half of how often b's 2.0 is drawn in two draws.
    assert (profile.low[3], profile.high[3]) == (0.0, 0.5)
    np.testing.assert_allclose((profile.low[[0, 4]], profile.high[[0, 4]]), [[1, 0], [1, 0]])


def test_the_profile_band_is_that_of_a_loop() -> None:
    scores = np.random.default_rng(3).normal(size=(8, 6))
    profile = performance_profile(scores, [0.4], resamples=20_000)
    assert profile.low is not None
    assert profile.high is not None
    low, high = draw_by_loops(list(scores.T), lambda columns: float(np.mean(np.stack(columns) > 0.4)))
    # The share comes in steps of one run in 48.
    np.testing.assert_allclose([profile.low[0], profile.high[0]], [low, high], atol=1.01 / 48)


def improvement_by_loops(x: Columns, y: Columns) -> float:
    shares = []
    for ours, theirs in zip(x, y, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs]
        shares.append(sum(wins) / len(wins))
    return sum(shares) / len(shares)


def test_the_probability_of_improvement_is_that_of_a_loop() -> None:
    generator = np.random.default_rng(4)
    # Whole numbers: ties are many.
    x, y = generator.integers(0, 6, size=(6, 4)) + 1.0, generator.integers(0, 6, size=(5, 4)) * 1.0
    estimate = probability_of_improvement(x, y, resamples=20_000)
    assert estimate.value == pytest.approx(improvement_by_loops(list(x.T), list(y.T)))
    assert (estimate.runs, estimate.tasks) == (5, 4)
    low, high = draw_by_loops([*x.T, *y.T], lambda columns: improvement_by_loops(columns[:4], columns[4:]), 2000)
    assert estimate.low == pytest.approx(low, abs=0.02)
    assert estimate.high == pytest.approx(high, abs=0.02)


def test_the_probability_of_improvement_by_hand() -> None:
    estimate = probability_of_improvement({"a": [1.0, 2.0], "b": [0.0]}, {"b": [0.0], "a": [1.0, 0.0, 3.0]})
    # On a: 1 against 1, 0, 3 is a half and a win, 2 is two wins; on b one tie.
    assert estimate.value == pytest.approx(((0.5 + 1 + 2) / 6 + 0.5) / 2)
    # One run against many can be drawn again on one side.
    assert probability_of_improvement([[1.0]], [[0.0], [2.0]]).low == 0.0


@given(scores_of_tasks, st.randoms(use_true_random=False))
def test_the_order_of_runs_and_tasks_is_nothing(scores: dict[str, list[float]], random: Any) -> None:
    tasks = random.sample(list(scores), len(scores))
    shuffled = {task: random.sample(scores[task], len(scores[task])) for task in tasks}
    assert aggregate(shuffled, resamples=10) == aggregate(scores, resamples=10)
    assert probability_of_improvement(shuffled, scores, resamples=10).value == pytest.approx(0.5)


@given(scores_of_tasks)
def test_statistics_keep_their_bounds(scores: dict[str, list[float]]) -> None:
    pooled = [score for column in scores.values() for score in column]
    found = aggregate(scores, resamples=20)
    for estimate in (found.iqm, found.mean, found.median):
        for value in (estimate.value, estimate.low, estimate.high):
            assert value is None or min(pooled) - 1e-9 <= value <= max(pooled) + 1e-9
    assert found.optimality_gap.value >= max(0.0, 1.0 - found.mean.value) - 1e-9
    share = performance_profile(scores, range(-51, 52), resamples=1).share
    assert share[0] == pytest.approx(1.0)
    assert share[-1] == 0.0
    assert (np.diff(share) <= 1e-12).all()


@given(scores_of_tasks, st.integers(0, 5))
def test_one_of_two_is_better_or_they_tie(scores: dict[str, list[float]], shift: int) -> None:
    others = {task: [*(score + shift for score in column), 0.0] for task, column in scores.items()}
    there = probability_of_improvement(scores, others, resamples=1).value
    back = probability_of_improvement(others, scores, resamples=1).value
    assert there + back == pytest.approx(1.0)


def test_a_single_run_has_no_interval() -> None:
    found = aggregate([[0.2, 0.9]])
    assert found.mean == Estimate(pytest.approx(0.55), None, None, runs=1, tasks=2)
    assert str(found.mean) == "0.55 [one run]"
    assert str(Estimate(0.61, 0.524, 0.7, 3, 5)) == "0.61 [0.52, 0.70]"
    assert performance_profile([[0.2, 0.9]], [0.5]).low is None
    assert probability_of_improvement([[1.0]], [[0.0]]) == Estimate(1.0, None, None, 1, 1)
    assert bootstrap_mean([[1.0, 2.0]]) is None


def test_the_seed_decides_what_is_drawn() -> None:
    scores = np.random.default_rng(5).normal(size=(5, 3))
    assert aggregate(scores, seed=1) == aggregate(scores, seed=1)
    assert aggregate(scores, seed=1).mean.low != aggregate(scores, seed=2).mean.low


def test_the_mean_of_three_curves_lies_between_the_lowest_and_the_highest() -> None:
    interval = bootstrap_mean([[1.0, 5.0], [2.0, 5.0], [9.0, 8.0]])
    assert interval is not None
    np.testing.assert_allclose(interval, [[1.0, 5.0], [9.0, 8.0]])


def test_the_interval_of_mean_curves_is_that_of_a_loop() -> None:
    values = np.random.default_rng(6).normal(size=(12, 2)) * [1.0, 3.0]
    interval = bootstrap_mean(values, resamples=20_000)
    assert interval is not None
    for point in range(2):
        low, high = draw_by_loops([values[:, point]], lambda columns: float(np.mean(columns[0])))
        np.testing.assert_allclose([interval[0][point], interval[1][point]], [low, high], atol=0.08 * (high - low))


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({}, "name at least one task"),
        ({"a": []}, "the scores of a must be a list of at least one number"),
        ({"a": [1.0, float("nan")]}, "the scores of a must be finite, but they hold nan"),
        ([1.0, 2.0], r"an array \[runs, tasks\] with something in it, but its shape is \(2,\)"),
        (np.zeros((0, 3)), r"its shape is \(0, 3\)"),
    ],
)
def test_scores_that_are_none_are_one_sentence(scores: Any, sentence: str) -> None:
    for statistic in (aggregate, interquartile_mean, lambda s: performance_profile(s, [0.0])):
        with pytest.raises(RunError, match=sentence):
            statistic(scores)


def test_what_cannot_be_compared_is_one_sentence() -> None:
    with pytest.raises(RunError, match="the same tasks only, but one of the two lacks b, c"):
        probability_of_improvement({"a": [1.0], "b": [1.0]}, {"a": [1.0], "c": [1.0]})
    with pytest.raises(RunError, match="the number of resamples is 0, but it must be at least 1"):
        aggregate([[1.0], [2.0]], resamples=0)
    with pytest.raises(RunError, match=r"finite numbers, but its shape is \(3,\)"):
        bootstrap_mean([1.0, 2.0, 3.0])
