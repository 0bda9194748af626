"""What RTRL adds to the gradient: against autograd through the whole stream, in float64."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import ELSTM, Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import Learner, LearnerConfig, Rollout
from r2ac.learner.carries import CarryStore
from r2ac.learner.rtrl_metrics import (
    GradientParts,
    RTRLMetrics,
    gradient_parts,
    is_measured,
    norms_and_cosine,
)

SIZE, ACTIONS, HIDDEN, STREAMS, STEPS = 3, 4, 5, 3, 4
NAMES = {"rtrl/boundary_norm", "rtrl/inside_norm", "rtrl/cosine", "rtrl/credit_horizon"}
GOOD = torch.tensor(True)


def make_core() -> ELSTM:
    core = ELSTM(SIZE, HIDDEN).double()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return core


def recurrent(core: Any) -> list[Tensor]:
    return [core.input_weight, core.recurrent_weight, core.bias]


class BruteForce:
    """The recurrence written out over some rollouts; autograd reaches from each to the first step."""

    def __init__(self, core: ELSTM, x: Tensor, is_first: Tensor, start: Tensor) -> None:
        self.weights = [weight.detach().clone().requires_grad_() for weight in recurrent(core)]
        (F, Z), (w_f, w_z), (b_f, b_z) = self.weights
        cell = start.detach().clone().requires_grad_()
        self.starts, self.cells = [], []
        for t, (x_t, first) in enumerate(zip(x, is_first, strict=True)):
            if t % STEPS == 0:
                self.starts.append(cell)
            before = torch.where(first[:, None], 0.0, cell)
            f = torch.sigmoid(x_t @ F.T + w_f * before + b_f)
            cell = f * before + (1 - f) * torch.tanh(x_t @ Z.T + w_z * before + b_z)
            self.cells.append(cell)

    def gradients(self, number: int, direct: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of sum_t e_t c_t over rollout ``number``: by the weights, and by the cells before it and before each rollout
        before it, the newest first."""
        loss = (torch.stack(self.cells[number * STEPS : (number + 1) * STEPS]) * direct).sum()
        found = torch.autograd.grad(loss, self.weights + self.starts[number::-1], retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in found[:3]]), list(found[3:])


def streams_of(core: ELSTM) -> tuple[CarryStore, Tensor]:
    """A store of more streams than the batch has, and the batch's."""
    return CarryStore(core, STREAMS + 2), torch.tensor([4, 0, 2])


def test_the_parts_of_every_gradient_are_those_of_autograd_through_the_whole_stream() -> None:
    core, rollouts = make_core(), 6
    x = torch.randn(rollouts * STEPS, STREAMS, SIZE, dtype=torch.float64)
    is_first, direct = torch.rand(len(x), STREAMS) < 0.1, torch.randn(len(x), STREAMS, HIDDEN, dtype=torch.float64)
    nothing = torch.zeros(STREAMS, HIDDEN, dtype=torch.float64)
    brute = BruteForce(core, x, is_first, nothing)
    store, streams = streams_of(core)
    meter = RTRLMetrics(core, STREAMS + 2, every=1)
    way = credit = 0.0
    norms = []
    for i, (x_r, first_r, direct_r) in enumerate(zip(*(a.split(STEPS) for a in (x, is_first, direct)), strict=True)):
        gap = torch.full((STREAMS,), i == 0)
        carry = meter.begin(store.fetch(streams, gap, nothing), update=i)
        core.zero_grad()
        cells, after = core.states(x_r, carry, first_r)
        cells.backward(direct_r)
        store.store(streams, after, GOOD)
        parts = gradient_parts(core, carry)
        values = meter.measure(carry, STEPS)
        assert values is not None
        meter.add(values, GOOD)

        total, (by_start, *by_earlier) = brute.gradients(i, direct_r)
        inside, _ = BruteForce(core, x_r, first_r, brute.starts[i]).gradients(0, direct_r)
        torch.testing.assert_close(parts.inside, inside)
        torch.testing.assert_close(parts.boundary, total - inside)
        torch.testing.assert_close(parts.by_state, (by_start,))
        boundary = total - inside if i > 0 else torch.zeros_like(total)
        angle = torch.nn.functional.cosine_similarity(boundary, inside, dim=0)
        norms.append([boundary.norm(), inside.norm(), angle])
        if i > 0:
            left = by_start.abs()
            through = STEPS * torch.stack(by_earlier).abs().sum(0) / left.clamp_min(1e-300)
            way += float((left * STEPS / torch.log1p(STEPS / through)).sum())
            credit += float(left.sum())
    assert way > 0
    found = meter.take()
    assert found.keys() == NAMES
    expected = [*torch.tensor(norms, dtype=torch.float64).mean(0).tolist(), way / credit]
    assert list(found.values()) == pytest.approx(expected, rel=1e-10)
    assert meter.take() == {}


def meter_of_constant_decay(decay: float, rollouts: int, episode: int) -> dict[str, float]:
    """What is measured in the last of so many rollouts where a_t is ``decay`` and an episode has so many steps.

    Weights of zero and a bias that says f: then a_t = f, whatever is seen."""
    core = ELSTM(SIZE, HIDDEN).double()
    with torch.no_grad():
        for weight in recurrent(core):
            weight.zero_()
        core.bias[0] = log(decay / (1 - decay))
        core.bias[1] = 0.3
    store, streams = streams_of(core)
    meter = RTRLMetrics(core, STREAMS + 2, every=1)
    for i in range(rollouts):
        meter.take()
        carry = meter.begin(store.fetch(streams, torch.full((STREAMS,), i == 0), torch.zeros(STREAMS, HIDDEN)), i)
        x = torch.randn(STEPS, STREAMS, SIZE, dtype=torch.float64)
        is_first = (torch.arange(i * STEPS, (i + 1) * STEPS) % episode == 0).unsqueeze(1).expand(-1, STREAMS)
        cells, after = core.states(x, carry, is_first)
        core.zero_grad()
        cells.backward(torch.randn(STEPS, STREAMS, HIDDEN, dtype=torch.float64))
        store.store(streams, after, GOOD)
        values = meter.measure(carry, STEPS)
        assert values is not None
        meter.add(values, GOOD)
    return meter.take()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_where_all_units_decay_by_one_factor_the_horizon_is_its_e_folding_time(decay: float) -> None:
    horizon = meter_of_constant_decay(decay, rollouts=800, episode=10**6)["rtrl/credit_horizon"]
    assert horizon == pytest.approx(-1 / log(decay), rel=1e-9)
    assert "rtrl/credit_horizon" not in meter_of_constant_decay(decay, rollouts=1, episode=10**6), "nothing is no zero"


def test_an_episodes_beginning_ends_the_horizon_however_slowly_units_forget() -> None:
    """It began 22 steps before the rollout: 20 of them are whole rollouts, which is what counts, beside the step that
    stands for those that are not whole."""
    slow = meter_of_constant_decay(0.99999, rollouts=28, episode=86)
    assert slow["rtrl/credit_horizon"] == pytest.approx(STEPS / np.log1p(STEPS / 20), rel=1e-3)


def test_the_cosine_of_nothing_is_zero() -> None:
    vector, across, nothing = torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 3.0]), torch.zeros(2)
    found = [
        [float(number) for number in norms_and_cosine(GradientParts(boundary, vector, by_state=(nothing,)))]
        for boundary in (2 * vector, across, nothing)
    ]
    assert found == [[10, 5, pytest.approx(1)], [5, 5, 0], [0, 5, 0]]


def make_learner(
    gradient: Any = "rtrl", core: Any = "elstm", dtype: torch.dtype = torch.float64, **config: Any
) -> Learner:
    torch.manual_seed(5)
    agent_config = AgentConfig(gradient, core, hidden_size=HIDDEN, encoder="none")
    agent = Agent(ObservationSpec((SIZE,), DiscreteActions(ACTIONS)), agent_config).to(dtype)
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Learner(agent, LearnerConfig(**config), STREAMS, total_steps=10**6)


def make_rollouts(count: int, resets: float = 0.1) -> list[Rollout[np.ndarray]]:
    rng, steps = np.random.default_rng(0), STEPS
    return [
        Rollout(
            observation=rng.normal(size=(steps + 1, STREAMS, SIZE)),
            reward=rng.normal(size=(steps + 1, STREAMS)).astype(np.float32),
            is_first=rng.random((steps + 1, STREAMS)) < resets,
            action=rng.integers(0, ACTIONS, (steps, STREAMS)),
            behaviour_logits=rng.normal(size=(steps, STREAMS, ACTIONS)),
            first_state=np.zeros((STREAMS, HIDDEN), dtype=np.float32),
            stream=np.arange(STREAMS),
            sequence=np.full(STREAMS, i),
            weights_version=np.zeros(STREAMS, dtype=np.int64),
        )
        for i in range(count)
    ]


def gradient(learner: Learner) -> Tensor:
    return torch.cat([weight.grad.flatten() for weight in recurrent(learner.agent.core)])  # type: ignore[union-attr]


def test_the_learner_tells_what_rtrl_adds_to_the_gradient_of_tbptt() -> None:
    still = {"learning_rate": 0.0, "max_gradient_norm": 1e9, "rtrl_metrics_every": 1}
    exact, truncated = make_learner(**still), make_learner("tbptt", **still)
    for i, rollout in enumerate(make_rollouts(4)):
        exact.update(rollout)
        truncated.update(rollout)
        inside = gradient(truncated)
        boundary = gradient(exact) - inside
        found = exact.read_metrics()
        assert found["rtrl/inside_norm"] == pytest.approx(inside.norm().item(), rel=1e-10)
        assert found["rtrl/boundary_norm"] == pytest.approx(boundary.norm().item(), rel=1e-10, abs=1e-14)
        if i == 0:
            assert found["rtrl/boundary_norm"] == found["rtrl/cosine"] == found["rtrl/credit_horizon"] == 0
        else:
            angle = torch.nn.functional.cosine_similarity(inside, boundary, dim=0).item()
            assert found["rtrl/cosine"] == pytest.approx(angle, rel=1e-8)
            assert found["rtrl/boundary_norm"] > 0.01
            assert found["rtrl/credit_horizon"] > 0


@pytest.mark.parametrize("passes", [{"n_epochs": 1}, {"n_epochs": 3, "num_minibatches": 2}])
def test_ppo_by_kernels_measures_what_it_does_by_autograd(passes: dict[str, Any]) -> None:
    config: dict[str, Any] = {"algorithm": "ppo", "rtrl_metrics_every": 1, "optimiser": "sgd", **passes}
    found = []
    for kernels in ("", "reference"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("R2AC_KERNELS", kernels)
            learner = make_learner(**config)
            for rollout in make_rollouts(5):
                learner.update(rollout)
            found.append(learner.read_metrics())
    assert found[0] == pytest.approx(found[1], rel=1e-8)
    assert found[0]["rtrl/boundary_norm"] > 0


def test_norms_are_those_before_clipping() -> None:
    free, clipped = (make_learner(max_gradient_norm=norm, rtrl_metrics_every=1) for norm in (1e9, 1e-3))
    (rollout,) = make_rollouts(1)
    for learner in (free, clipped):
        learner.update(rollout)
    assert gradient(clipped).norm() < 0.01 * gradient(free).norm()
    assert free.read_metrics() == clipped.read_metrics()


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_measuring_changes_no_weight_by_a_bit(storage: str) -> None:
    settings = {"dtype": torch.float32, "sensitivity_storage": storage}
    learners = [make_learner(rtrl_metrics_every=every, **settings) for every in (0, 1, 3)]
    for rollout in make_rollouts(12):
        rollout = replace(rollout, observation=rollout.observation.astype(np.float32))
        metrics = [learner.update(rollout) for learner in learners]
        assert metrics[0] == metrics[1] == metrics[2]
    weights = [torch.nn.utils.parameters_to_vector(learner.agent.parameters()) for learner in learners]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert [set(learner.read_metrics()) & NAMES for learner in learners] == [set(), NAMES, NAMES]


@pytest.mark.parametrize(("gradient", "core"), [("tbptt", "elstm"), ("rtrl", "feedforward")])
def test_without_rtrl_there_is_nothing_to_tell(gradient: str, core: str) -> None:
    learner = make_learner(gradient, core, rtrl_metrics_every=1)
    (rollout,) = make_rollouts(1)
    if core == "feedforward":
        rollout = replace(rollout, first_state=np.zeros((STREAMS, 0), dtype=np.float32))
    learner.update(rollout)
    assert not set(learner.read_metrics()) & NAMES


def test_a_skipped_update_does_not_count_and_its_streams_have_no_past_in_the_next() -> None:
    learner = make_learner(rtrl_metrics_every=1)
    first, second, third, fourth = make_rollouts(4, resets=0.0)
    learner.update(first)
    learner.read_metrics()
    learner.update(replace(second, reward=np.full_like(second.reward, np.nan)))
    assert learner.read_metrics() == {}
    learner.update(third)
    found = learner.read_metrics()
    assert found["rtrl/boundary_norm"] == 0
    assert "rtrl/credit_horizon" not in found
    learner.update(fourth)
    found = learner.read_metrics()
    assert found["rtrl/boundary_norm"] > 0
    assert found["rtrl/credit_horizon"] > 0


@pytest.mark.parametrize("every", [7, 100])
def test_what_is_measured_now_and_then_is_what_is_measured_always(every: int) -> None:
    always, sometimes = make_learner(rtrl_metrics_every=1), make_learner(rtrl_metrics_every=every)
    compared = 0
    for i, rollout in enumerate(make_rollouts(150)):
        # Streams come in any order, and not in every batch.
        batch = rollout.columns(0, 2) if i % 2 else rollout.columns(1, 3)
        sequence = always.carries.next_sequence[batch.stream]
        for learner in (always, sometimes):
            learner.update(replace(batch, sequence=sequence + (i % 40 == 20)))
        expected, found = always.read_metrics(), sometimes.read_metrics()
        if set(found) >= NAMES:
            assert found == expected
            compared += 1
    assert 1 < compared < 150 / every + 2


@pytest.mark.parametrize("every", [1, 2, 7, 10])
def test_one_update_of_so_many_is_measured_and_none_of_a_rhythm_is_left_out(every: int) -> None:
    measured = [update for update in range(10_000) if is_measured(update, every)]
    assert measured[0] == 0
    assert len(measured) == pytest.approx(10_000 / every, rel=0.01)
    for rhythm in (2, 5, 7, 10):
        counts = np.bincount(np.array(measured) % rhythm, minlength=rhythm)
        assert counts.min() > 0.9 * counts.mean()


def test_notes_want_room_of_the_right_size_and_streams() -> None:
    core = make_core()
    store, streams = streams_of(core)
    fetched = store.fetch(streams, torch.ones(STREAMS, dtype=torch.bool), torch.zeros(STREAMS, HIDDEN))
    carry = core.with_notes(fetched, core.initial_through(STREAMS + 2))
    x, is_first = torch.zeros(STEPS, STREAMS, SIZE, dtype=torch.float64), torch.zeros(STEPS, STREAMS, dtype=torch.bool)
    (notes,) = carry.notes
    assert notes.boundary is not None
    short = (replace(notes, boundary=notes.boundary[1:]),)
    with pytest.raises(ValueError, match=r"notes must have the shapes \[\(5, 5\), \(3, 5\), \(50,\)\], or"):
        core(x, replace(carry, notes=short), is_first)
    with pytest.raises(ValueError, match=r"carry\.notes and traces\.fresh go with traces\.streams"):
        core(x, replace(core.initial_carry(STREAMS), notes=carry.notes), is_first)


def test_a_setting_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rtrl_metrics_every must be at least 0, not -1"):
        make_learner(rtrl_metrics_every=-1)
