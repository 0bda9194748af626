"""What a recurrent agent remembers: which units tell cues apart, for how long, and whether the state as a whole does.

A cue is what the first observation of an episode shows. The state is c_t, the core's cell state after step t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.watching.episodes import PlayedEpisode

MOST_CUES = 8
RESOLUTION = 0.01
"""States are compared as if they were read with noise of this standard deviation (cells of the eLSTM lie between -1
and 1). Where an environment has no randomness after the cue, states of one cue are all equal, and without it a trace
of 1e-9 would count as a memory."""


class NoCues(Exception):
    """Episodes do not say which cue they had; the message is a clause that says why."""


@dataclass(frozen=True)
class CueMemory:
    """How the states of E episodes tell K cues apart."""

    cues: np.ndarray
    """The cue of each episode, int64 [E]: see :func:`cue_groups`; each has one of the ``labels``."""
    labels: tuple[str, ...]
    decision_step: int | None
    """The step at which the cues are compared; None for the last one of each episode."""
    states: np.ndarray
    """Of the steps that all episodes have, float32 [E, S, N]."""
    spread: np.ndarray
    """Standard deviation of the cues' mean states at the decision step, [N]."""
    separation: np.ndarray
    """[N]: see :func:`separation`."""
    accuracy: np.ndarray
    """How often the state of each step names the cue, [S]: see :func:`nearest_mean_accuracy`."""
    decision_accuracy: float
    """The same at the decision step."""
    half_lives: np.ndarray
    """Of the delay, from the step after the cue to the decision step, in steps, [N]."""

    @property
    def order(self) -> np.ndarray:
        """The units, those first that tell the cues apart best."""
        return np.lexsort((-self.spread, -self.separation))


def separation(states: np.ndarray, cues: np.ndarray, noise: float = RESOLUTION) -> tuple[np.ndarray, np.ndarray]:
    """How well each unit tells the cues apart: eta squared, the share of its variance that the cue explains.

        spread^2 = B = sum_k p_k (m_k - m)^2      W = sum_k p_k v_k      separation = B / (B + W + noise^2)

    with p_k the share of the episodes that have cue k, m_k and v_k the mean and the variance (n) of their states, and m
    the mean of all. 0: the states do not depend on the cue; 1: on nothing else. ``states`` of N units are [E, N], one
    of each episode, and ``cues`` their numbers, int64 [E]; ``noise``, above 0, is the standard deviation of the noise
    that states are read with. Returns the separation and the spread, float64 [N] each.
    """
    states = states.astype(np.float64)
    between, within = np.zeros(states.shape[1]), np.zeros(states.shape[1])
    for cue in np.unique(cues):
        own = states[cues == cue]
        share = len(own) / len(states)
        between += share * (own.mean(axis=0) - states.mean(axis=0)) ** 2
        within += share * own.var(axis=0)
    return between / (between + within + noise**2), np.sqrt(between)


def nearest_mean_accuracy(states: np.ndarray, cues: np.ndarray) -> float:
    """How often the cue is that whose mean state is the nearest, each episode left out of its own cue's mean, from the
    episodes' states [E, N] and their cues 0 … K - 1, int64 [E]; each cue must occur at least twice."""
    states = states.astype(np.float64)
    member = np.eye(int(cues.max()) + 1)[cues]
    counts, sums = member.sum(axis=0), member.T @ states
    distances = ((states[:, None] - sums / counts[:, None]) ** 2).sum(axis=2)
    own = (sums[cues] - states) / (counts[cues] - 1)[:, None]
    distances[np.arange(len(cues)), cues] = ((states - own) ** 2).sum(axis=1)
    return float((distances.argmin(axis=1) == cues).mean())


def half_lives(jacobians: np.ndarray) -> np.ndarray:
    """After how many steps half of a small change of a unit's state is left: ln 2 / -ln g, with g the geometric mean of
    |a_t| over the steps of ``jacobians``, a_t = dc_t/dc_{t-1} [steps, N]; infinite where g is 1 or more, 0 where some
    a_t is 0, nan where there is no step."""
    if not len(jacobians):
        return np.full(jacobians.shape[1], math.nan)
    with np.errstate(divide="ignore"):
        log_mean = np.log(np.abs(jacobians.astype(np.float64))).mean(axis=0)
        return np.where(log_mean < 0, math.log(2) / -log_mean, math.inf)


def carried(episodes: Sequence[PlayedEpisode], steps: Sequence[range] | None = None) -> np.ndarray:
    """The Jacobians, [steps, N], of all steps before which the state was not zeroed, or of some ``steps`` of each
    episode."""
    chosen = map(list, steps or [range(len(episode)) for episode in episodes])
    pairs = zip(episodes, chosen, strict=True)
    return np.concatenate([episode.jacobians[own][~episode.is_first[own]] for episode, own in pairs])


def cue_groups(first_observations: np.ndarray) -> np.ndarray:
    """The cue of each episode, 0 … K - 1, int64 [E], by its first observation [E, ...].

    Cues are the distinct first observations in lexicographic order, the greatest first (one-hot ones by their number).
    Raises NoCues unless there are 2 to 8 of them, each in at least two episodes.
    """
    flat = first_observations.reshape(len(first_observations), -1)
    distinct, group = np.unique(flat, axis=0, return_inverse=True)
    if not 2 <= len(distinct) <= MOST_CUES:
        begin = "all begin with the same observation" if len(distinct) == 1 else f"begin in {len(distinct)} ways"
        raise NoCues(f"{len(flat)} episodes {begin}, where 2 to {MOST_CUES} would be cues")
    if np.bincount(group.ravel()).min() < 2:
        raise NoCues(f"there is a cue that only one of {len(flat)} episodes begins with")
    return len(distinct) - 1 - group.ravel()


def cue_labels(first_observations: np.ndarray, cues: np.ndarray) -> tuple[str, ...]:
    """What tells the cues apart: for vectors, the features that differ and are not 0 (``feature 2 = 1``)."""
    shown = np.stack([first_observations[np.argmax(cues == cue)] for cue in range(int(cues.max()) + 1)])
    differing = np.flatnonzero((shown != shown[0]).reshape(len(shown), -1).any(axis=0))
    if shown.ndim > 2 or len(differing) > 2 * MOST_CUES:
        return tuple(f"first observation {cue + 1}" for cue in range(len(shown)))
    features = [[f"feature {i} = {row[i]:.3g}" for i in differing if row[i]] for row in shown]
    return tuple(", ".join(names) or f"feature {differing[0]} = 0" for names in features)


def cue_memory(episodes: Sequence[PlayedEpisode], decision_step: int | None, seed: int) -> CueMemory:
    """What whole episodes say about the memory of their cues; those that were cut off are left out.

    At ``decision_step`` the cues are compared; None: at the last one of each episode. Raises ConfigError for one
    beyond an episode's end, and NoCues where there are none. ``seed`` is that of the noise that states are read with,
    the same for all steps of an episode.
    """
    whole = [episode for episode in episodes if episode.complete]
    if not whole:
        raise NoCues("no episode ended within --max-steps")
    first = np.stack([episode.observations[0] for episode in whole])
    cues = cue_groups(first)
    shortest = min(len(episode) for episode in whole)
    if decision_step is not None and decision_step >= shortest:
        raise ConfigError(f"--decision-step is {decision_step}, but the last step of an episode is {shortest - 1}")
    decisions = [len(episode) - 1 if decision_step is None else decision_step for episode in whole]
    at_decision = np.stack([episode.cells[step] for episode, step in zip(whole, decisions, strict=True)])
    delays = [range(1, step + 1) for step in decisions]
    states = np.stack([episode.cells[:shortest] for episode in whole])
    strength, spread = separation(at_decision, cues)
    noise = RESOLUTION * np.random.default_rng(seed).standard_normal(at_decision.shape)
    return CueMemory(
        cues=cues,
        labels=cue_labels(first, cues),
        decision_step=decision_step,
        states=states,
        spread=spread,
        separation=strength,
        accuracy=np.array([nearest_mean_accuracy(states[:, step] + noise, cues) for step in range(shortest)]),
        decision_accuracy=nearest_mean_accuracy(at_decision + noise, cues),
        half_lives=half_lives(carried(whole, delays)),
    )
