"""The kernels of agents that learn online against the agent, its closed form and autograd, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import (
    Agent,
    AgentConfig,
    BoxActions,
    DiscreteActions,
    MultiDiscreteActions,
    ObservationSpec,
    OnlineAgent,
)
from r2ac.agents.actions import ActionSpec
from r2ac.kernels.native_library import missing_reason
from r2ac.learner import Learner, LearnerConfig, Rollout

pytestmark = pytest.mark.skipif(missing_reason() is not None, reason="there is no C++ compiler")
STREAMS, STEPS, SIZE = 3, 6, 4
READ_OUTS: list[dict[str, Any]] = [
    {},
    {"gradient": "tbptt", "readout": "mlp", "readout_size": 6},
    {"output_gate": False, "readout": "mlp", "readout_skip": True, "normalise_observations": True},
    {"readout_skip": True, "normalise_rewards": True, "reward_clip": "none", "normalise_observations": True},
]


def make_agent(actions: ActionSpec, **settings: Any) -> Agent:
    torch.manual_seed(1)
    config = AgentConfig(**{"hidden_size": 5, "encoder": "none", "input_scale": 1.0} | settings)
    return Agent(ObservationSpec((SIZE,), actions, action_masks=True), config).double()


def make_rollouts(actions: ActionSpec, random: np.random.Generator) -> list[Rollout[np.ndarray]]:
    """One step of each stream, again and again, with masks and time limits."""
    ends = random.random((STEPS + 1, STREAMS)) < 0.3
    shown = random.normal(size=(STEPS + 1, STREAMS, SIZE)).astype(np.float32)
    rewards = random.normal(size=(STEPS + 1, STREAMS)).astype(np.float32)
    mask = random.random((STEPS + 1, STREAMS, actions.parameters)) < 0.8
    mask[..., 0] = mask[..., -1] = True
    return [
        Rollout(
            observation=shown[t : t + 2],
            reward=rewards[t : t + 2],
            is_first=ends[t : t + 2],
            action=actions.choose(np.where(mask[t], 0, -1e9), random.random((STREAMS, *actions.shape)))[None],
            behaviour_logits=np.zeros((1, STREAMS, actions.parameters), np.float32),
            first_state=random.normal(size=(STREAMS, 5)).astype(np.float32),
            stream=random.permutation(STREAMS),
            sequence=np.full(STREAMS, t if t < 4 else t + 1),
            weights_version=np.zeros(STREAMS, np.int64),
            truncated=ends[t + 1 : t + 2] & (random.random(STREAMS) < 0.5),
            final_observation=random.normal(size=(1, STREAMS, SIZE)).astype(np.float32),
            action_mask=mask[t : t + 2],
        )
        for t in range(STEPS)
    ]


def learned(algorithm: Any, actions: ActionSpec, settings: dict[str, Any]) -> list[Tensor]:
    """Everything that some updates change, and what they report."""
    config = LearnerConfig(algorithm=algorithm, optimiser="sgd", learning_rate=0.3, discount=0.9, trace_lambda=0.7)
    learner = Learner(make_agent(actions, **settings), config, STREAMS, 10**6)
    reported = [learner.update(each) for each in make_rollouts(actions, np.random.default_rng(0))]
    carry = learner.carries.fetch(
        torch.arange(STREAMS), torch.zeros(STREAMS, dtype=torch.bool), torch.zeros(STREAMS, 5)
    )
    sensitivities = [each for traces in carry.traces for each in (traces.weight, traces.vectors)]
    metrics = [torch.stack([each.double() for each in metrics.values()]) for metrics in reported]
    return [*learner.agent.state_dict().values(), *learner.algorithm.traces, carry.state, *sensitivities, *metrics]


@pytest.mark.parametrize("algorithm", ["stream", "td"])
@pytest.mark.parametrize("settings", READ_OUTS)
@pytest.mark.parametrize("actions", [DiscreteActions(3), MultiDiscreteActions((2, 3))])
def test_updates_by_kernels_are_those_by_formulas(
    algorithm: str, settings: dict[str, Any], actions: ActionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernel = learned(algorithm, actions, settings)
    with monkeypatch.context() as patch:
        patch.setenv("R2AC_KERNELS", "reference")
        by_formula = learned(algorithm, actions, settings)
    # Rewards are divided by the deviation of returns in float32.
    bound = 1e-6 if "normalise_rewards" in settings else 1e-10
    torch.testing.assert_close(by_kernel, by_formula, rtol=bound, atol=bound)


def test_a_time_limit_without_a_final_observation_is_an_end() -> None:
    actions, config = DiscreteActions(3), LearnerConfig(algorithm="stream")
    rollout = make_rollouts(actions, np.random.default_rng(0))[0]
    ends = replace(rollout, is_first=np.ones((2, STREAMS), dtype=bool), truncated=None, final_observation=None)
    cut, ended = (
        Learner(make_agent(actions), config, STREAMS, 10**6).update(each)
        for each in (replace(ends, truncated=np.ones((1, STREAMS), dtype=bool)), ends)
    )
    assert cut == ended


def test_it_fits_agents_all_of_whose_layers_it_knows() -> None:
    actions = DiscreteActions(3)
    assert OnlineAgent.fits(make_agent(actions))
    assert not OnlineAgent.fits(make_agent(BoxActions((-1.0,), (1.0,))))
    for settings in ({"core": "lru"}, {"encoder": "mlp"}, {"layer_norm": True}, {"layers": 2}):
        assert not OnlineAgent.fits(make_agent(actions, **settings)), settings
    for name in ("core.input_weight", "policy.bias"):
        partly = make_agent(actions)
        partly.get_parameter(name).requires_grad_(False)
        assert not OnlineAgent.fits(partly), name
