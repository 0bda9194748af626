"""How far back the gradient reaches: against autograd through as much of the past as is named, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig, Carry, DiscreteActions, ObservationSpec, RolloutOutput
from r2ac.launch.inspection.credit import Reach, measure_reach, truncation_points
from r2ac.learner import LearnerConfig, Rollout
from r2ac.learner.algorithms.actor_critic import ActorCritic

SIZE, ACTIONS, HIDDEN, STREAMS, STEPS = 3, 4, 5, 3, 4
CONFIG = LearnerConfig(discount=0.9)


def make_agent(
    gradient: Any = "rtrl", core: Any = "elstm", dtype: torch.dtype = torch.float64, layers: int = 1
) -> Agent:
    torch.manual_seed(5)
    agent_config = AgentConfig(gradient, core, hidden_size=HIDDEN, layers=layers, encoder="none")
    agent = Agent(ObservationSpec((SIZE,), DiscreteActions(ACTIONS)), agent_config).to(dtype)
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return agent


class Stream:
    """Rollouts one after another, and the agent's recurrence over them written out."""

    def __init__(self, agent: Agent, rollouts: int, resets: float) -> None:
        rng, steps = np.random.default_rng(1), rollouts * STEPS
        self.agent = agent
        self.observation = rng.normal(size=(steps + 1, STREAMS, SIZE))
        self.reward = rng.normal(size=(steps + 1, STREAMS)).astype(np.float32)
        self.is_first = rng.random((steps + 1, STREAMS)) < resets
        self.action = rng.integers(0, ACTIONS, (steps, STREAMS))
        self.logits = rng.normal(size=(steps, STREAMS, ACTIONS))
        self.cells = [torch.zeros(STREAMS, HIDDEN, dtype=torch.float64)]
        with torch.no_grad():
            for t in range(steps):
                self.cells.append(self.step(t, self.cells[-1])[1])

    def step(self, t: int, cell: Tensor) -> tuple[Tensor, Tensor]:
        """What the core reads and its cells after step t."""
        core: Any = self.agent.core
        (F, Z), (w_f, w_z), (b_f, b_z) = core.input_weight, core.recurrent_weight, core.bias
        first = torch.from_numpy(self.is_first[t])[:, None]
        reward = torch.where(first, 0.0, torch.from_numpy(self.reward[t]).double().clip(-1, 1)[:, None])
        x = torch.cat((torch.from_numpy(self.observation[t]), reward), dim=-1)
        cell = torch.where(first, 0.0, cell)
        f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
        return x, f * cell + (1 - f) * torch.tanh(x @ Z.T + w_z * cell + b_z)

    def rollouts(self) -> list[Rollout[np.ndarray]]:
        return [self.cut(start) for start in range(0, len(self.action), STEPS)]

    def cut(self, start: int) -> Rollout[np.ndarray]:
        return Rollout(
            observation=self.observation[start : start + STEPS + 1],
            reward=self.reward[start : start + STEPS + 1],
            is_first=self.is_first[start : start + STEPS + 1],
            action=self.action[start : start + STEPS],
            behaviour_logits=self.logits[start : start + STEPS],
            first_state=self.cells[start].numpy(),
            stream=np.arange(STREAMS),
            sequence=np.full(STREAMS, start // STEPS),
            weights_version=np.zeros(STREAMS, dtype=np.int64),
        )

    def gradient(self, number: int, back: int) -> Tensor:
        """Of the loss of rollout ``number`` by the recurrent parameters, through ``back`` rollouts before it."""
        agent, core = self.agent, self.agent.core
        begin, start = max(0, number - back) * STEPS, number * STEPS
        cell = self.cells[begin]
        outputs = []
        for t in range(begin, start + STEPS + 1):
            x, cell = self.step(t, cell)
            outputs.append(torch.sigmoid(core.output_gate(torch.cat((x, cell), dim=-1))) * cell)  # type: ignore[operator,union-attr]
        h = torch.stack(outputs[start - begin :])
        values = agent.value(h).squeeze(-1)
        batch = Rollout(**{name: torch.from_numpy(array) for name, array in self.cut(start).arrays().items()})
        output = RolloutOutput(
            actions=agent.actions,
            logits=agent.policy(h[:-1]),
            values=values[:-1],
            bootstrap_value=values[-1].detach(),
            carry=Carry(cell),
            core_input=torch.empty(0),
            rewards=batch.reward[1:].clamp(-1, 1),
        )
        weights = [core.input_weight, core.recurrent_weight, core.bias]
        agent.zero_grad()
        ActorCritic.losses(output, batch, CONFIG).backward()
        return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


@pytest.mark.parametrize("resets", [0.0, 0.15])
def test_errors_of_truncation_are_those_of_autograd_cut_there(resets: float) -> None:
    agent, warm_up, count = make_agent(), 5, 8
    stream = Stream(agent, count, resets)
    measured = range(warm_up, count)
    exact = {number: stream.gradient(number, number) for number in measured}
    cut = {(number, k): stream.gradient(number, k) for number in measured for k in (0, 1, 2, 4)}
    jacobians = brute_jacobians(stream, warm_up * STEPS)

    reach = measure_reach(agent, CONFIG, stream.rollouts(), warm_up)

    assert reach.measured == count - warm_up
    boundary = [exact[number] - cut[number, 0] for number in measured]
    inside = [cut[number, 0] for number in measured]
    assert reach.boundary_norm == pytest.approx(np.mean([float(part.norm()) for part in boundary]), rel=1e-10)
    assert reach.inside_norm == pytest.approx(np.mean([float(part.norm()) for part in inside]), rel=1e-10)
    angles = torch.nn.functional.cosine_similarity(torch.stack(boundary), torch.stack(inside), dim=1)
    assert reach.cosine == pytest.approx(angles.mean().item(), rel=1e-8)
    assert [(each.rollouts, each.steps) for each in reach.truncations] == [(0, 0), (1, 4), (2, 8), (4, 16)]
    for each in reach.truncations:
        missing = {number: exact[number] - cut[number, each.rollouts] for number in measured}
        errors = [float(missing[number].norm() / exact[number].norm()) for number in measured]
        shares = [float(missing[number] @ exact[number] / exact[number].square().sum()) for number in measured]
        assert each.error == pytest.approx(np.mean(errors), rel=1e-8, abs=1e-14)
        assert each.share == pytest.approx(np.mean(shares), rel=1e-8, abs=1e-14)
    assert reach.truncations[0].error > 0.1
    np.testing.assert_allclose(np.sort(reach.jacobians, axis=0), np.sort(jacobians, axis=0), rtol=1e-5)


def brute_jacobians(stream: Stream, start: int) -> np.ndarray:
    """dc_t/dc_{t-1} from step ``start`` on, where no episode begins, by autograd; the recurrence is element-wise."""
    rows = []
    for t in range(start, len(stream.action)):
        before = stream.cells[t].clone().requires_grad_()
        (jacobian,) = torch.autograd.grad(stream.step(t, before)[1].sum(), before)
        rows.append(jacobian[~torch.from_numpy(stream.is_first[t])])
    return torch.cat(rows).float().numpy()


def test_where_every_rollout_begins_an_episode_nothing_comes_from_before() -> None:
    agent = make_agent()
    stream = Stream(agent, 4, resets=0.0)
    stream.is_first[::STEPS] = True
    reach = measure_reach(agent, CONFIG, stream.rollouts(), warm_up=2)
    assert reach.boundary_norm == reach.cosine == reach.credit_horizon == 0
    assert {each.error for each in reach.truncations} == {0.0}
    assert reach.inside_norm > 0


@pytest.mark.parametrize(("core", "layers"), [("mingru", 1), ("lru", 1), ("rtu", 1), ("mixed:qrnn+lru", 2)])
def test_a_gradient_that_reaches_through_all_rollouts_is_exact_for_every_kind_of_core(core: str, layers: int) -> None:
    agent, random = make_agent(core=core, layers=layers), np.random.default_rng(0)
    rollouts = [
        Rollout(**{**rollout.arrays(), "first_state": random.normal(size=(STREAMS, agent.core.state_size))})
        for rollout in Stream(make_agent(), 5, resets=0.0).rollouts()
    ]
    reach = measure_reach(agent, CONFIG, rollouts, warm_up=4)
    assert [each.rollouts for each in reach.truncations] == [0, 1, 2, 4]
    assert reach.truncations[0].error > 1e-3
    assert reach.truncations[-1].error < 1e-10
    assert reach.credit_horizon > 0
    assert reach.jacobians.shape == (STEPS * STREAMS, agent.core.state_size)


def test_no_weight_moves() -> None:
    agent = make_agent(dtype=torch.float32)
    stream = Stream(make_agent(), 4, resets=0.1)
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    rollouts = [
        Rollout(**{**rollout.arrays(), "observation": rollout.observation.astype(np.float32)})
        for rollout in stream.rollouts()
    ]
    reach: Reach = measure_reach(agent, CONFIG, rollouts, warm_up=1)
    assert reach.measured == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state_dict().items())


def test_points_of_truncation_lie_within_the_warm_up() -> None:
    assert truncation_points(1) == [0, 1]
    assert truncation_points(15) == [0, 1, 2, 4, 8]
    assert truncation_points(16) == [0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("agent", "warm_up", "sentence"),
    [
        (make_agent("tbptt"), 1, "recurrent core with gradient rtrl"),
        (make_agent(core="feedforward"), 1, "recurrent core with gradient rtrl"),
        (make_agent(), 0, "warm_up must be at least 1, not 0"),
        (make_agent(), 4, "no rollout beyond the warm-up"),
    ],
)
def test_what_cannot_be_measured_is_refused(agent: Agent, warm_up: int, sentence: str) -> None:
    stream = Stream(make_agent(), 4, resets=0.1)
    with pytest.raises(ValueError, match=sentence):
        measure_reach(agent, CONFIG, stream.rollouts(), warm_up)
