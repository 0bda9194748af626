"""How well an agent does over many tasks, from a few runs each, with honest intervals.

The statistics of Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, "Deep reinforcement learning at the edge of
the statistical precipice" (NeurIPS), over normalised scores. Scores come as an array [runs, tasks], or as a mapping
task -> scores of its runs [runs], where tasks may have different numbers of runs.

Every statistic here is a function of the scores x [M] of all M runs and of their weights w [M], which sum to 1: a run
of task k, one of n_k runs on K tasks, weighs 1 / (K n_k), so that every task counts the same. To draw the runs of a
task again with replacement (section 4.1: stratified bootstrap) is to draw how often each one is met: the weights
become counts / (K n_k), and R resamples are one array [R, M].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from r2ac.launch.runtime.errors import RunError

Scores = ArrayLike | Mapping[str, ArrayLike]
"""Normalised scores: an array [runs, tasks], or task -> [runs]."""

_Floats = NDArray[np.float64]
_CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval."""

    value: float
    low: float | None
    """Lower end of the percentile interval; None where every task has a single run: nothing can be drawn again."""
    high: float | None
    runs: int
    """Runs of a task; the fewest, where tasks differ. A task of one run adds nothing to the width of the interval."""
    tasks: int

    def __str__(self) -> str:
        """``0.61 [0.52, 0.70]``, or what is missing: ``0.61 [one run]``."""
        interval = "one run" if self.low is None or self.high is None else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.value:.2f} [{interval}]"


@dataclass(frozen=True)
class Aggregates:
    """What a set of scores comes to (section 4.3)."""

    iqm: Estimate
    """Interquartile mean: the mean without the lowest and the highest quarter of all runs."""
    mean: Estimate
    median: Estimate
    """Median over tasks of the mean over runs."""
    optimality_gap: Estimate
    """What is missing to the score gamma, on average: mean of max(gamma - score, 0). Lower is better."""


@dataclass(frozen=True)
class Profile:
    """A performance profile (section 4.2): which share of the runs scores above each threshold, every task counting
    the same; with the interval at each threshold by itself, None where every task has a single run. All are [L]."""

    thresholds: _Floats
    share: _Floats
    low: _Floats | None
    high: _Floats | None


def aggregate(scores: Scores, gamma: float = 1.0, resamples: int = _RESAMPLES, seed: int = 0) -> Aggregates:
    """IQM, mean, median and optimality gap of ``scores``, each with its 95 % stratified bootstrap interval.

    ``gamma`` is the score from which on more is not better, in the optimality gap; all four statistics share the
    ``resamples`` draws. Raises RunError where the scores are empty, not of the shape of `Scores` or not finite, or
    ``resamples`` is below 1.
    """
    sample = _Sample.of(scores)
    draws = _draw(sample.sizes, resamples, np.random.default_rng(seed))
    missing = np.maximum(gamma - sample.x, 0.0)

    def estimate(statistic: Callable[[_Floats], _Floats]) -> Estimate:
        return _estimate(statistic(sample.weights), None if draws is None else statistic(draws), sample)

    return Aggregates(
        iqm=estimate(lambda w: _interquartile_mean(sample.x, w)),
        mean=estimate(lambda w: w @ sample.x),
        median=estimate(lambda w: np.median(sample.task_means(w), axis=-1)),
        optimality_gap=estimate(lambda w: w @ missing),
    )


def performance_profile(scores: Scores, thresholds: ArrayLike, resamples: int = _RESAMPLES, seed: int = 0) -> Profile:
    """F(tau) = mean over tasks of the share of runs with score > tau (section 4.2), with its pointwise 95 % band.

    ``thresholds`` are the tau, [L]; the other arguments and the errors are those of `aggregate`.
    """
    sample = _Sample.of(scores)
    taus = np.asarray(thresholds, dtype=np.float64).reshape(-1)
    above = (sample.x[:, None] > taus).astype(np.float64)
    share = (sample.weights @ above)[0]
    draws = _draw(sample.sizes, resamples, np.random.default_rng(seed))
    low, high = (None, None) if draws is None else _interval(draws @ above)
    return Profile(taus, share, low, high)


def probability_of_improvement(x: Scores, y: Scores, resamples: int = _RESAMPLES, seed: int = 0) -> Estimate:
    """P(X > Y): how likely a run of X beats a run of Y on a task drawn at random (section 4.3).

    The mean over tasks of (1 / (N K)) sum_ij s(x_i, y_j), with s = 1 where x_i > y_j, 1/2 where they are equal and 0
    below: the Mann-Whitney U statistic over N K. The runs of X and of Y, whose numbers may differ, are drawn again
    independently, within tasks. Arguments and errors are those of `aggregate`; the two must have the same tasks.
    """
    ours, theirs = _Sample.of(x), _Sample.of(y)
    if ours.tasks != theirs.tasks:
        missing = sorted(set(ours.tasks) ^ set(theirs.tasks))
        raise RunError(f"scores can be compared on the same tasks only, but one of the two lacks {', '.join(missing)}")
    generator = np.random.default_rng(seed)
    draws_x, draws_y = (_draw(each.sizes, resamples, generator) for each in (ours, theirs))

    def statistic(weights_x: _Floats, weights_y: _Floats) -> _Floats:
        total = np.zeros(max(len(weights_x), len(weights_y)))
        for a, b in zip(ours.slices, theirs.slices, strict=True):
            wins = (np.sign(ours.x[a, None] - theirs.x[b]) + 1) / 2
            # The weights of each task sum to 1 / K, on both sides: one K too many.
            total += ((weights_x[:, a] @ wins) * weights_y[:, b]).sum(axis=1) * len(ours.tasks)
        return total

    drawn = None
    if draws_x is not None or draws_y is not None:
        drawn = statistic(ours.weights if draws_x is None else draws_x, theirs.weights if draws_y is None else draws_y)
    estimate = _estimate(statistic(ours.weights, theirs.weights), drawn, ours)
    return Estimate(estimate.value, estimate.low, estimate.high, min(ours.sizes + theirs.sizes), estimate.tasks)


def bootstrap_mean(values: ArrayLike, resamples: int = _RESAMPLES, seed: int = 0) -> tuple[_Floats, _Floats] | None:
    """The 95 % percentile bootstrap interval of the mean over runs, [R, P] -> lower and upper end, [P] each.

    The P points, such as those of learning curves, share the draws; None for a single run. Of few runs the interval is
    too narrow: that of 3 runs is from the lowest to the highest, between which the true mean lies in about three cases
    of four. Raises RunError as `aggregate` does.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise RunError(f"values must be an array [runs, P] of finite numbers, but its shape is {array.shape}")
    draws = _draw((len(array),), resamples, np.random.default_rng(seed))
    return None if draws is None else _interval(draws @ array)


@dataclass(frozen=True)
class _Sample:
    """Scores x [M] of all runs, task after task, in rising order within a task, and the runs of each task."""

    tasks: tuple[str, ...]
    x: _Floats
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, scores: Scores) -> _Sample:
        by_task = _by_task(scores)
        for task, values in by_task.items():
            if values.ndim != 1 or not values.size:
                raise RunError(f"the scores of {task} must be a list of at least one number, one for each run")
            if not np.isfinite(values).all():
                raise RunError(f"the scores of {task} must be finite, but they hold {values[~np.isfinite(values)][0]}")
        # Sorted, so that neither the order of tasks nor that of runs decides what is drawn.
        tasks = tuple(sorted(by_task))
        columns = [np.sort(by_task[task]) for task in tasks]
        return cls(tasks, np.concatenate(columns), tuple(len(column) for column in columns))

    @property
    def slices(self) -> list[slice]:
        """Where the runs of each task lie."""
        ends = np.cumsum(self.sizes)
        return [slice(int(end - size), int(end)) for end, size in zip(ends, self.sizes, strict=True)]

    @property
    def weights(self) -> _Floats:
        """[1, M]."""
        return _weights(self.sizes)[None]

    def task_means(self, weights: _Floats) -> _Floats:
        """[R, M] -> [R, K]."""
        starts = [part.start for part in self.slices]
        return np.add.reduceat(weights * self.x, starts, axis=1) * len(self.sizes)


def _by_task(scores: Scores) -> dict[str, NDArray[Any]]:
    if isinstance(scores, Mapping):
        if not scores:
            raise RunError("there are no scores: name at least one task")
        return {str(task): np.asarray(values, dtype=np.float64) for task, values in scores.items()}
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise RunError(f"scores must be an array [runs, tasks] with something in it, but its shape is {array.shape}")
    width = len(str(array.shape[1]))
    return {f"task {k:0{width}}": column for k, column in enumerate(array.T)}


def _weights(sizes: Sequence[int]) -> _Floats:
    """[M]: 1 / (K n_k) for each run, from the n_k of the K tasks."""
    return 1.0 / (len(sizes) * np.repeat(sizes, sizes).astype(np.float64))


def _draw(sizes: Sequence[int], resamples: int, generator: np.random.Generator) -> _Floats | None:
    """Weights [R, M] of stratified resamples of n_k runs for each task; None where every task has a single run."""
    if resamples < 1:
        raise RunError(f"the number of resamples is {resamples}, but it must be at least 1")
    if max(sizes) == 1:
        return None
    counts = [generator.multinomial(size, np.full(size, 1.0 / size), size=resamples) for size in sizes]
    return np.concatenate(counts, axis=1) * _weights(sizes)


def _interquartile_mean(x: _Floats, weights: _Floats) -> _Floats:
    """[M], [R, M] -> [R]: the mean of what lies between the weights g and 1 - g of the sorted scores, where
    g = floor(M / 4) / M: whole runs are left out where all runs weigh the same."""
    order = np.argsort(x, kind="stable")
    left_out = (len(x) // 4) / len(x)
    upper = np.cumsum(weights[:, order], axis=1)
    # The last sum is 1, whatever rounding says.
    upper = np.concatenate([np.zeros((len(upper), 1)), upper / upper[:, -1:]], axis=1)
    kept = np.diff(np.clip(upper, left_out, 1.0 - left_out), axis=1)
    result: _Floats = kept @ x[order] / (1.0 - 2.0 * left_out)
    return result


def _estimate(value: _Floats, drawn: _Floats | None, sample: _Sample) -> Estimate:
    low, high = (None, None) if drawn is None else map(float, _interval(drawn))
    return Estimate(float(value[0]), low, high, min(sample.sizes), len(sample.tasks))


def _interval(drawn: Sequence[Any] | _Floats) -> tuple[Any, Any]:
    """[R, ...] -> two of [...]: what lies between holds 95 % of the resamples."""
    outside = (1.0 - _CONFIDENCE) / 2.0
    low, high = np.quantile(np.asarray(drawn), (outside, 1.0 - outside), axis=0)
    return low, high
