"""The table of algorithms, and that a new one needs no more than an entry in it."""

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from torch import Tensor

from r2ac.agents import Carry
from r2ac.learner import LearnerConfig, Rollout
from r2ac.learner.algorithms import ALGORITHMS
from r2ac.learner.algorithms.actor_critic import ActorCritic
from r2ac.learner.algorithms.algorithm import Descent
from tests.learner.test_learner import close, make_learner, make_stream, weights


def test_the_flag_takes_the_names_of_the_table() -> None:
    assert get_args(get_type_hints(LearnerConfig)["algorithm"]) == tuple(ALGORITHMS)


def test_an_algorithm_that_makes_two_steps_by_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(ActorCritic):
        def update(self, batch: Rollout[Tensor], carry: Carry) -> tuple[Carry, Descent]:
            super().update(batch, carry)
            return super().update(batch, carry)

    monkeypatch.setitem(ALGORITHMS, "twice", Twice)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"gradient": "tbptt", "encoder": "mlp", "total_steps": 10**9}
    learner, other = make_learner(**settings, algorithm="twice"), make_learner(**settings)
    # A gap each time: both learners begin at the shipped cells.
    rollout = replace(make_stream().cut(0, 6, 0), sequence=np.full(3, 7))
    learner.update(rollout)
    other.update(rollout)
    assert not any(map(np.array_equal, weights(learner), weights(other)))
    other.update(rollout)
    close(weights(learner), weights(other), relative=1e-6)
    assert (learner.updates, other.updates) == (1, 2)
    assert learner.read_metrics().keys() == other.read_metrics().keys()
