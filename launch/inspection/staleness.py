"""How far the gradient by carried sensitivities strays from the exact one while the parameters move.

The sensitivities sum derivatives taken at the parameters of each moment. The exact gradient of a rollout is that of its
loss at the present parameters, as if these had made the whole stored history: states and sensitivities are computed
again from it. Both are taken of the same rollout by the parameters of the recurrence. What the sensitivities alone do
is in the boundary term, computed from one state by the carried sensitivities and by those from the history.
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
class StaleGradient:
    """The gradient by carried sensitivities beside the exact one, means over the updates of some ages: angles in
    degrees, ratios of norms, carried over exact; nan where one of the two is zero in all of them."""

    first_age: int
    """Updates since the parameters began to move; until then the carried sensitivities are exact."""
    last_age: int
    angle: float
    ratio: float
    boundary_angle: float
    """Between two boundary terms that differ in their sensitivities alone."""
    boundary_ratio: float
    angle_after: float
    """Of the same rollout once its update is made, by the sensitivities before it: what the last of several epochs
    meets."""
    boundary_angle_after: float
    """The same between boundary terms."""
    truncated_angle: float
    """Between the gradient inside the rollout, TBPTT's, and the exact one."""


@dataclass(frozen=True)
class Staleness:
    """What was measured while a training went on."""

    learning_rate: float
    history: int
    """Rollouts that the exact gradient reaches through."""
    gradients: tuple[StaleGradient, ...]
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
        remember(past, on_device(rollout, learner))
    past.recompute(learner.agent, learner.carries)
    learner.carries.advance(rollout.stream, rollout.sequence)
    rows = []
    for _ in range(updates + 1):
        rollout = collect()
        batch = on_device(rollout, learner)
        before = copy.deepcopy(learner.carries)
        found = compare(learner, before, past, batch)
        try:
            learner.update(rollout)
        except TrainingDiverged as error:
            raise ConfigError(str(error)) from error
        rows.append([*found, *compare(learner, before, past, batch)[::2]])
        remember(past, batch)
    return Staleness(learner.config.learning_rate, history, tuple(_by_age(np.array(rows))))


def _by_age(rows: np.ndarray) -> Iterator[StaleGradient]:
    """Means over the ages 0, 1, 2, 3 to 4, 5 to 8, …"""
    first = last = 0
    while first < len(rows):
        part = rows[first : last + 1]
        known = np.isfinite(part)
        sums, counts = np.where(known, part, 0).sum(0), known.sum(0)
        means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        angle, ratio, boundary, boundary_ratio, truncated, after, boundary_after, _ = means.tolist()
        ages = first, first + len(part) - 1
        yield StaleGradient(*ages, angle, ratio, boundary, boundary_ratio, after, boundary_after, truncated)
        first, last = last + 1, max(1, 2 * last)


def compare(learner: Learner, carried: CarryStore, past: History, batch: Rollout[Tensor]) -> list[float]:
    """Angles and ratios of the gradient and of the boundary term, and the angle of the part inside the rollout, as
    :class:`StaleGradient` has them; neither the carries nor the learner's weights change."""
    recomputed = CarryStore(learner.agent.core, len(carried.next_sequence))
    past.recompute(learner.agent, recomputed)
    # On-policy algorithms begin a rollout at the state that the actor had.
    state = batch.first_state if learner.config.on_policy else carried.before(*_begun(batch))[0]
    found = _gradient(learner, carried, batch, state)
    of_state = _gradient(learner, recomputed, batch, state)
    exact = _gradient(learner, recomputed, batch, recomputed.before(*_begun(batch))[0])
    whole = exact.inside + exact.boundary
    return [
        *_angle_and_ratio(found.inside + found.boundary, whole),
        *_angle_and_ratio(found.boundary, of_state.boundary),
        _angle_and_ratio(found.inside, whole)[0],
    ]


def _gradient(learner: Learner, carries: CarryStore, batch: Rollout[Tensor], state: Tensor) -> GradientParts:
    """Of the loss of a batch that begins at ``state`` with the sensitivities of these carries, which stay."""
    agent, core = learner.agent, learner.agent.core
    # The backward pass takes sensitivities across the rollout.
    carry = replace(copy.deepcopy(carries).fetch(*_begun(batch)), state=state)
    begun = core.with_notes(carry, core.initial_through(len(carry.traces[0].weight)))
    agent.zero_grad()
    output = agent(carry=begun, **batch.inputs())
    ALGORITHMS[learner.config.algorithm].losses(output, batch, learner.config).backward()
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


def remember(past: History, batch: Rollout[Tensor]) -> None:
    """Add a batch that was played with the newest weights: its streams' states are the learner's."""
    _, never, state = _begun(batch)
    past.add(batch, state, never)


def _begun(batch: Rollout[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What carries are fetched by, of streams that go on."""
    return batch.stream, torch.zeros_like(batch.stream, dtype=torch.bool), batch.first_state


def on_device(rollout: Rollout[np.ndarray], learner: Learner) -> Rollout[Tensor]:
    """As tensors where the learner is."""
    return Rollout(**{name: torch.from_numpy(array).to(learner.device) for name, array in rollout.arrays().items()})
