"""How far the gradient by carried sensitivities strays from the exact one while the parameters move.

The sensitivities sum derivatives taken at the parameters of each moment. The exact gradient of a rollout is that of its
loss at the present parameters, as if these had made the whole stored history: states and sensitivities are computed
again from it. Both are taken of the same rollout by the parameters of the recurrence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import ObservationSpec
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.train.learn import make_learner
from r2ac.learner import CarryStore, Learner, Rollout, TrainingDiverged
from r2ac.learner.algorithms import ALGORITHMS
from r2ac.learner.checkpoint import Checkpoint
from r2ac.learner.refresh import History
from r2ac.learner.rtrl_metrics import GradientParts, gradient_parts


@dataclass(frozen=True)
class Comparison:
    """The gradient by carried sensitivities beside the exact one, means over the updates of some ages: angles in
    degrees, ratios of norms, carried over exact; nan where one of the two is zero in all of them."""

    first_age: int
    """Updates since the parameters began to move; until then the carried sensitivities are exact."""
    last_age: int
    angle: float
    ratio: float
    boundary_angle: float
    """Between the two boundary terms alone."""
    boundary_ratio: float
    angle_after: float
    """Of the same rollout once its update is made, by the sensitivities before it: what the last of several epochs
    meets."""
    truncated_angle: float
    """Between the gradient inside the rollout, TBPTT's, and the exact one."""


@dataclass(frozen=True)
class Staleness:
    """What was measured while a training went on."""

    learning_rate: float
    history: int
    """Rollouts that the exact gradient reaches through."""
    comparisons: tuple[Comparison, ...]
    """By rising age."""


def continued_learner(
    training: TrainConfig[Any],
    spec: ObservationSpec,
    device: torch.device,
    checkpoint: Checkpoint,
    streams: int,
    learning_rate: float,
) -> Learner:
    """A learner of its own that goes on as the run would, by batches of ``streams`` streams; 0 for the learning rate of
    the run's first update. Raises ConfigError and CheckpointError."""
    config = replace(
        training.learner,
        learning_rate=learning_rate or training.learner.learning_rate,
        learning_rate_schedule="constant",
        cuda_graph=False,
        rtrl_metrics_every=0,
        refresh_every=0,
    )
    alone = replace(training, learner=config, num_actors=0, num_learners=0, streams_per_actor=streams)
    learner, _ = make_learner(replace(alone, batch_size=streams), spec, device, checkpoint)
    return learner


def measure_staleness(
    learner: Learner, collect: Callable[[], Rollout[np.ndarray]], updates: int, history: int
) -> Staleness:
    """Fill the past with rollouts while the parameters stand still, then make updates and compare before each.

    ``collect`` plays the next rollout of all streams with the learner's weights. The learner's core must be trained by
    RTRL. Raises ConfigError where the training diverges.
    """
    past = History(history, len(learner.carries.next_sequence))
    for _ in range(history):
        rollout = collect()
        _add(past, _on_device(rollout, learner))
    past.recompute(learner.agent, learner.carries)
    learner.carries.advance(rollout.stream, rollout.sequence)
    rows = []
    for _ in range(updates + 1):
        rollout = collect()
        batch = _on_device(rollout, learner)
        before = copy.deepcopy(learner.carries)
        found = _compare(learner, before, past, batch)
        try:
            learner.update(rollout)
        except TrainingDiverged as error:
            raise ConfigError(str(error)) from error
        rows.append([*found, _compare(learner, before, past, batch)[0]])
        _add(past, batch)
    return Staleness(learner.config.learning_rate, history, tuple(_by_age(np.array(rows))))


def _by_age(rows: np.ndarray) -> Iterator[Comparison]:
    """Means over the ages 0, 1, 2, 3 to 4, 5 to 8, …"""
    first = last = 0
    while first < len(rows):
        part = rows[first : last + 1]
        known = np.isfinite(part)
        sums, counts = np.where(known, part, 0).sum(0), known.sum(0)
        means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        angle, ratio, boundary_angle, boundary_ratio, truncated, after = means.tolist()
        ages = first, first + len(part) - 1
        yield Comparison(*ages, angle, ratio, boundary_angle, boundary_ratio, after, truncated)
        first, last = last + 1, max(1, 2 * last)


def _compare(learner: Learner, carried: CarryStore, past: History, batch: Rollout[Tensor]) -> list[float]:
    """Angles and ratios of the gradient and of the boundary term, and the angle of the part inside the rollout."""
    exact_carries = CarryStore(learner.agent.core, len(carried.next_sequence))
    past.recompute(learner.agent, exact_carries)
    found = _gradient(learner, carried, batch, batch.first_state)
    exact = _gradient(learner, exact_carries, batch)
    whole = exact.inside + exact.boundary
    return [
        *_angle_and_ratio(found.inside + found.boundary, whole),
        *_angle_and_ratio(found.boundary, exact.boundary),
        _angle_and_ratio(found.inside, whole)[0],
    ]


def _gradient(
    learner: Learner, carries: CarryStore, batch: Rollout[Tensor], state: Tensor | None = None
) -> GradientParts:
    """Of the batch's loss, which begins with these carries, and at ``state`` where it is given. They stay."""
    agent, core = learner.agent, learner.agent.core
    # The backward pass takes sensitivities across the rollout.
    carry = copy.deepcopy(carries).fetch(batch.stream, _never(batch), batch.first_state)
    begun = core.with_notes(carry if state is None else replace(carry, state=state))
    agent.zero_grad()
    output = agent(carry=begun, **batch.inputs())
    ALGORITHMS[learner.config.algorithm].losses(output, batch, learner.config).total.backward()
    parts = gradient_parts(core, begun)
    agent.zero_grad()
    return parts


def _angle_and_ratio(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """The angle between two vectors, in degrees, and the ratio of their norms; nan where one is zero."""
    sizes = found.double().norm(), exact.double().norm()
    if min(sizes) == 0:
        return float("nan"), float("nan")
    # Unlike the cosine, the chord keeps its digits where the angle is small.
    chord = (found.double() / sizes[0] - exact.double() / sizes[1]).norm()
    return float(torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1)))), float(sizes[0] / sizes[1])


def _add(past: History, batch: Rollout[Tensor]) -> None:
    past.add(batch, batch.first_state, _never(batch))


def _never(batch: Rollout[Tensor]) -> Tensor:
    return torch.zeros_like(batch.stream, dtype=torch.bool)


def _on_device(rollout: Rollout[np.ndarray], learner: Learner) -> Rollout[Tensor]:
    return Rollout(**{name: torch.from_numpy(array).to(learner.device) for name, array in rollout.arrays().items()})
