"""The kernels of the losses against their readable forms, values and gradients, in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from r2ac.agents import Carry, DiscreteActions, RolloutOutput
from r2ac.kernels.native_library import missing_reason
from r2ac.kernels.native_losses import actor_critic_losses
from r2ac.learner import LearnerConfig, Rollout
from r2ac.learner.algorithms.actor_critic import ActorCritic
from r2ac.learner.algorithms.algorithm import Losses
from r2ac.learner.algorithms.ppo import PPO, clipped_losses, targets_of

pytestmark = pytest.mark.skipif(missing_reason() is not None, reason="there is no C++ compiler")
CASES = st.tuples(st.sampled_from([1, 2, 9]), st.sampled_from([1, 5, 18]), st.sampled_from([2, 3, 17, 40]))


def make(steps: int, batch: int, actions: int, near: bool) -> tuple[RolloutOutput, Rollout[Tensor]]:
    """What an agent computed, and the rollout; ``near``: by weights like those that acted."""
    logits = torch.randn(steps, batch, actions, dtype=torch.float64)
    values = torch.randn(steps, batch, dtype=torch.float64)
    output = RolloutOutput(
        actions=DiscreteActions(actions),
        logits=logits.clone().requires_grad_(),
        values=values.requires_grad_(),
        bootstrap_value=torch.randn(batch, dtype=torch.float64),
        carry=Carry(torch.zeros(batch, 1)),
        core_input=torch.zeros(steps, batch, 1),
        rewards=torch.randn(steps, batch, dtype=torch.float64),
    )
    rollout: Any = Rollout(
        observation=torch.zeros(steps + 1, batch, 1),
        reward=torch.zeros(steps + 1, batch),
        is_first=torch.rand(steps + 1, batch) < 0.2,
        action=torch.randint(0, actions, (steps, batch)),
        behaviour_logits=logits + (0.1 if near else 1) * torch.randn_like(logits),
        first_state=torch.zeros(batch, 1),
        stream=torch.arange(batch),
        sequence=torch.zeros(batch),
        weights_version=torch.zeros(batch),
    )
    return output, rollout


def compare(compute: Any, output: RolloutOutput, metrics: tuple[str, ...]) -> None:
    def found() -> list[Tensor]:
        losses: Losses = compute()
        output.logits.grad = output.values.grad = None
        losses.backward(3)
        assert output.logits.grad is not None
        assert output.values.grad is not None
        return [losses.total, *(losses.parts[name] for name in metrics), output.logits.grad, output.values.grad]

    ours = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2AC_KERNELS", "reference")
        readable = found()
    torch.testing.assert_close(ours, readable)


@given(case=CASES, clips=st.sampled_from([1.0, 0.4, float("inf")]), lambda_=st.sampled_from([1.0, 0.7]))
@settings(max_examples=40, deadline=None)
def test_vtrace(case: tuple[int, int, int], clips: float, lambda_: float) -> None:
    output, rollout = make(*case, near=False)
    config = LearnerConfig(clip_rho=clips, clip_pg_rho=2 * clips, clip_c=clips, vtrace_lambda=lambda_, discount=0.9)
    compare(lambda: ActorCritic.losses(output, rollout, config), output, ActorCritic.metrics)


@given(case=CASES, near=st.booleans(), value_clip=st.sampled_from([0.3, "none"]), schedule=st.booleans())
@settings(max_examples=40, deadline=None)
def test_ppo(case: tuple[int, int, int], near: bool, value_clip: Any, schedule: bool) -> None:
    output, rollout = make(*case, near=near)
    kind: Any = "linear" if schedule else "constant"
    config = LearnerConfig(clip_range_vf=value_clip, clip_schedule=kind, entropy_schedule=kind, entropy_cost=0.05)
    targets = targets_of(output, rollout, config)
    moved = RolloutOutput(**vars(output) | {"values": output.values + 0.4 * torch.randn_like(output.values)})
    remaining = torch.tensor(0.6, dtype=torch.float64)
    compare(lambda: clipped_losses(moved, rollout, targets, config, remaining), output, PPO.metrics[:-1])


def test_masked_actions_have_no_part() -> None:
    output, rollout = make(2, 3, 4, near=True)
    logits = output.logits.detach().clone()
    logits[..., 2] = -1e9
    rollout.action[rollout.action == 2] = 1
    masked = RolloutOutput(**vars(output) | {"logits": logits.requires_grad_()})
    compare(lambda: ActorCritic.losses(masked, rollout, LearnerConfig()), masked, ActorCritic.metrics)


def test_what_is_not_finite_passes() -> None:
    output, rollout = make(2, 3, 4, near=True)
    with torch.no_grad():
        output.logits[0, 1, 2] = float("nan")
    losses = ActorCritic.losses(output, rollout, LearnerConfig())
    losses.backward()
    assert losses.total.isnan()
    assert output.logits.grad is not None
    assert output.logits.grad[0, 1].isnan().all()


def test_an_action_that_there_is_not_raises() -> None:
    output, rollout = make(2, 3, 4, near=True)
    rollout.action[1, 2] = 4
    with pytest.raises(ValueError, match=r"actions must lie in 0 to 3, not \d to 4"):
        ActorCritic.losses(output, rollout, LearnerConfig())
    ones = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="advantages must be"):
        actor_critic_losses(output.logits, output.values, rollout.action * 0, ones[:1], ones, (1, 0, 1, 1))
    with pytest.raises(ValueError, match="costs must be 4 numbers, not 2"):
        actor_critic_losses(output.logits, output.values, rollout.action * 0, ones, ones, (1, 0))
