"""What docs/cells.md claims of layers' gradients: which are exact, and which are not."""

from collections.abc import Callable
from types import ModuleType

import torch

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import LearnerConfig, Rollout
from tests.learner.test_learner import ACTIONS, SIZE, make_stream


def test_the_upper_layer_is_exact_by_rtrl_and_the_lower_one_with_full_alone(
    module: Callable[[str], ModuleType],
) -> None:
    spec = ObservationSpec((SIZE,), DiscreteActions(ACTIONS))
    config = AgentConfig(hidden_size=4, layers=2, encoder="none", input_scale=1.0)
    weights = Agent(spec, config).state_dict()
    rollouts = [
        Rollout(**{name: torch.from_numpy(array) for name, array in rollout.arrays().items()})
        for rollout in make_stream(12, resets=0.0).cuts(3, 3, 3, 3)
    ]
    angles = {
        method: rows[:, 0]
        for method, rows in module("depth").compare(spec, config, weights, LearnerConfig(), rollouts, 1).items()
    }
    assert angles["RTRL, full"].max() < 1e-6
    for inexact in ("RTRL, rollout", "RTRL, local"):
        assert angles[inexact][0] > 0.1
        assert angles[inexact][1] < 1e-6
    assert angles["TBPTT"].min() > 0.1
