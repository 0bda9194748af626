"""Refreshed sensitivities: against a fresh pass at the present parameters, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from r2ac.agents import Carry
from r2ac.learner import Learner, Rollout
from tests.learner.test_learner import HIDDEN, Stream, close, make_learner, make_stream, weights

ROLLOUTS, LENGTH = 5, 4


def stream_of_one_episode(begins: int = 0) -> Stream:
    """Three streams whose only episode begins at step ``begins``."""
    stream = make_stream(ROLLOUTS * LENGTH, resets=0.0)
    stream.is_first[begins] = True
    return stream


def carried(learner: Learner) -> list[torch.Tensor]:
    """State and sensitivities of all streams."""
    streams = torch.arange(3)
    never = torch.zeros(3, dtype=torch.bool)
    state, _ = learner.carries.before(streams, never, torch.zeros(3, HIDDEN))
    (traces,) = learner.carries.fetch(streams, never, state).traces
    return [state, traces.weight.clone(), traces.vectors.clone()]


def fresh_pass(
    learner: Learner, past: Stream | Rollout[np.ndarray], state: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The same after a past that began at ``state``, or at zero, at once, by the learner's present weights."""
    fields = [torch.from_numpy(array[:-1]) for array in (past.observation, past.reward, past.is_first)]
    core, begun = learner.agent.core, learner.agent.core.initial_carry(3)
    begun = begun if state is None else replace(begun, state=state.double())
    after = core.advance(learner.agent.core_input(*fields, None).detach(), begun, fields[2])
    return [after.state, after.traces[0].weight, after.traces[0].vectors]


def acted(learner: Learner, rollouts: list[Rollout[np.ndarray]]) -> list[Rollout[np.ndarray]]:
    """The rollouts with the states that an actor with the learner's weights would ship."""
    state, shipped = torch.zeros(3, HIDDEN), []
    for rollout in rollouts:
        shipped.append(replace(rollout, first_state=state.numpy()))
        state = fresh_pass(learner, rollout, state)[0]
    return shipped


@pytest.mark.parametrize("settings", [{}, {"algorithm": "ppo", "n_epochs": 3}, {"encoder": "mlp"}])
@pytest.mark.parametrize("begins", [0, 6])
def test_refreshed_carries_are_those_of_a_fresh_pass(settings: dict[str, Any], begins: int) -> None:
    stream = stream_of_one_episode(begins)
    given: dict[str, Any] = {"refresh_every": ROLLOUTS, "refresh_rollouts": 4 if begins else ROLLOUTS, **settings}
    learner, stale = make_learner(**given), make_learner(**given | {"refresh_every": 0})
    for rollout in stream.cuts(*[LENGTH] * ROLLOUTS):
        learner.update(rollout)
        stale.update(rollout)
    assert all(map(torch.equal, weights(learner), weights(stale)))
    exact = fresh_pass(learner, stream)
    close(carried(learner), exact)
    assert all((mine - of).norm() > 1e-4 * of.norm() for mine, of in zip(carried(stale), exact, strict=True))


@pytest.mark.parametrize("algorithm", ["vtrace", "ppo"])
def test_with_parameters_that_stand_still_a_refresh_changes_nothing(algorithm: Any) -> None:
    still: dict[str, Any] = {"learning_rate": 0.0, "algorithm": algorithm, "refresh_rollouts": ROLLOUTS}
    learner, other = make_learner(**still, refresh_every=1), make_learner(**still)
    for rollout in acted(learner, make_stream(ROLLOUTS * LENGTH).cuts(*[LENGTH] * ROLLOUTS)):
        learner.update(rollout)
        other.update(rollout)
        close(carried(learner), carried(other), relative=1e-9)


def test_credit_from_before_the_kept_rollouts_is_lost() -> None:
    learner = make_learner(refresh_every=ROLLOUTS, refresh_rollouts=1)
    stream = stream_of_one_episode()
    *earlier, last = stream.cuts(*[LENGTH] * ROLLOUTS)
    for rollout in earlier:
        learner.update(rollout)
    before, *_ = carried(learner)
    # `carried` has fetched the streams: put them back as an update does.
    learner.carries.store(torch.arange(3), Carry(before), torch.tensor(True))
    learner.update(last)
    close(carried(learner), fresh_pass(learner, last, before))


def test_streams_that_begin_again_and_batches_of_some_streams() -> None:
    """A gap ends the past of its stream; what a refresh makes of a stream does not depend on the others' batches."""
    learner = make_learner(refresh_every=2 * ROLLOUTS, refresh_rollouts=ROLLOUTS)
    stream = stream_of_one_episode()
    rollouts = stream.cuts(*[LENGTH] * ROLLOUTS)
    for number, rollout in enumerate(rollouts):
        # The rollouts of the third stream were lost before the fourth one.
        lost = np.array([0, 0, 10 * (number >= 3)])
        numbered = replace(rollout, sequence=rollout.sequence + lost)
        learner.update(numbered.columns(2, 3))
        learner.update(numbered.columns(0, 2))
    found, whole = carried(learner), fresh_pass(learner, stream)
    close([each[:2] for each in found], [each[:2] for each in whole])
    rest = stream.cut(3 * LENGTH, ROLLOUTS * LENGTH, 0)
    begun_again = fresh_pass(learner, rest, torch.from_numpy(rollouts[3].first_state))
    close([each[2:] for each in found], [each[2:] for each in begun_again])


def test_a_skipped_update_ends_the_past() -> None:
    learner = make_learner(refresh_every=1, refresh_rollouts=ROLLOUTS)
    rollouts = stream_of_one_episode().cuts(*[LENGTH] * ROLLOUTS)
    nowhere = np.full_like(rollouts[1].reward, np.nan)
    for number, rollout in enumerate(rollouts):
        learner.update(replace(rollout, reward=nowhere) if number == 1 else rollout)
    assert learner.skipped_updates == 1
    assert all(torch.isfinite(each).all() for each in carried(learner))


def test_what_cannot_be_refreshed_is_refused() -> None:
    with pytest.raises(ValueError, match="refresh_every must be at least 0, not -1"):
        make_learner(refresh_every=-1)
    with pytest.raises(ValueError, match="no sensitivities"):
        make_learner(refresh_every=1, gradient="tbptt")
