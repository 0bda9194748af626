"""The table of algorithms, and that a new one needs no more than an entry in it."""

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from torch import Tensor

from r2ac.agents import Agent, Carry
from r2ac.learner import LearnerConfig, Rollout
from r2ac.learner.algorithms import ALGORITHMS
from r2ac.learner.algorithms.algorithm import Descend, Descent
from tests.learner.test_learner import close, make_learner, make_stream, weights


def test_the_flag_takes_the_names_of_the_table() -> None:
    assert get_args(get_type_hints(LearnerConfig)["algorithm"]) == tuple(ALGORITHMS)


def test_an_algorithm_that_makes_two_steps_by_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    once = ALGORITHMS["vtrace"]

    def update_twice(
        agent: Agent, batch: Rollout[Tensor], carry: Carry, config: LearnerConfig, descend: Descend
    ) -> tuple[Carry, Descent]:
        once.update(agent, batch, carry, config, descend)
        return once.update(agent, batch, carry, config, descend)

    monkeypatch.setitem(ALGORITHMS, "twice", replace(once, update=update_twice))
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
