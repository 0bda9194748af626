"""What the learner computes is the same on every device."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r2ac.agents import ELSTM, Agent, AgentConfig, Carry, DiscreteActions, ObservationSpec
from r2ac.kernels.sensitivity import row_stride
from r2ac.learner import CarryStore, Learner, LearnerConfig, Rollout

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is False")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])

CPU, DOUBLE = torch.device("cpu"), torch.float64
BATCH, WIDTH, HIDDEN, LENGTHS = 5, 9, 16, (7, 1, 4, 7)


def close(actual: Sequence[Tensor], expected: Sequence[Tensor], relative: float) -> None:
    for mine, other in zip(actual, expected, strict=True):
        assert (mine.cpu() - other.cpu()).abs().max() <= relative * other.abs().max()


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def make_core(device: torch.device) -> ELSTM:
    """The same core whatever the device."""
    torch.manual_seed(3)
    core = ELSTM(WIDTH, HIDDEN).double()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return core.to(device)


def own_carry(core: ELSTM) -> Carry:
    return core.initial_carry(BATCH)


def carry_by_streams(core: ELSTM) -> Carry:
    """Sensitivities of seven streams, of which five are in the batch, in another order."""
    kept = core.initial_carry(BATCH + 2)
    streams = torch.tensor([6, 0, 3, 5, 1]).to(kept.state.device)
    return replace(kept, state=core.initial_carry(BATCH).state).of_streams(streams)


def after_rollouts(device: torch.device, make_carry: Callable[[ELSTM], Carry]) -> list[Tensor]:
    """Gradients summed over several rollouts, then the cells and sensitivities after them."""
    core, generator = make_core(device), torch.Generator().manual_seed(0)
    carry = make_carry(core)
    for length in LENGTHS:
        x, by_h = (torch.randn(length, BATCH, n, dtype=DOUBLE, generator=generator) for n in (WIDTH, HIDDEN))
        is_first = torch.rand(length, BATCH, generator=generator) < 0.1
        h, carry = core(x.to(device), carry, is_first.to(device))
        (h * by_h.to(device)).sum().backward()
    rows = slice(None) if carry.traces[0].streams is None else carry.traces[0].streams
    gradients = [parameter.grad for parameter in core.parameters()]
    found = [*gradients, carry.state, carry.traces[0].weight[rows], carry.traces[0].vectors[rows]]
    assert {tensor.device.type for tensor in found} == {device.type}
    return found


@every_device
@pytest.mark.parametrize("make_carry", [own_carry, carry_by_streams])
def test_gradients_and_sensitivities(device: str, make_carry: Callable[[ELSTM], Carry]) -> None:
    close(after_rollouts(torch.device(device), make_carry), after_rollouts(CPU, own_carry), 1e-10)


def carries_after(device: torch.device) -> list[Tensor]:
    """Cells and sensitivities of all streams after batches out of order, one of which follows a gap."""
    core, generator = make_core(device), torch.Generator().manual_seed(1)
    store = CarryStore(core, 4)
    for stream, sequence in [((2, 0, 3), (0, 0, 0)), ((1, 2), (0, 1)), ((3, 1, 0), (1, 3, 1)), ((0, 2), (2, 2))]:
        first_state = torch.randn(len(stream), HIDDEN, generator=generator).to(device)
        x = torch.randn(3, len(stream), WIDTH, dtype=DOUBLE, generator=generator).to(device)
        gap = torch.from_numpy(store.gaps(ints(*stream), ints(*sequence)))
        store.advance(ints(*stream), ints(*sequence))
        carry = store.fetch(torch.tensor(stream, device=device), gap.to(device), first_state)
        h, carry = core(x, carry, torch.zeros(3, len(stream), dtype=torch.bool, device=device))
        h.square().sum().backward()
        store.store(torch.tensor(stream, device=device), carry, torch.tensor(True, device=device))
    assert store.resets == 1
    assert store.next_sequence.tolist() == [3, 4, 3, 2]
    gap = torch.from_numpy(store.gaps(ints(3, 0, 2, 1), ints(2, 3, 4, 4))).to(device)
    carry = store.fetch(torch.tensor([3, 0, 2, 1], device=device), gap, torch.ones(4, HIDDEN, device=device))
    assert store.resets == 2
    streams = carry.traces[0].streams
    found = [carry.state, carry.traces[0].weight[streams], carry.traces[0].vectors[streams]]
    assert {tensor.device.type for tensor in found} == {device.type}
    # Stream 2, the third of the batch, begins again.
    assert bool((carry.state[2] == 1).all())
    assert carry.traces[0].fresh is not None
    assert carry.traces[0].fresh.tolist() == [False, False, True, False]
    return found


@every_device
def test_carries_of_streams_out_of_order_and_after_a_gap(device: str) -> None:
    close(carries_after(torch.device(device)), carries_after(CPU), 1e-10)


def make_rollout(sequence: int = 0, steps: int = 6, shape: tuple[int, ...] = (WIDTH,)) -> Rollout[np.ndarray]:
    rng, actions = np.random.default_rng(sequence), 3
    image = len(shape) == 3
    seen = rng.integers(0, 256, (steps + 1, BATCH, *shape)) if image else rng.normal(size=(steps + 1, BATCH, *shape))
    return Rollout(
        observation=seen.astype(np.uint8 if image else np.float32),
        reward=rng.normal(size=(steps + 1, BATCH)).astype(np.float32),
        is_first=rng.random((steps + 1, BATCH)) < 0.1,
        action=rng.integers(0, actions, (steps, BATCH)),
        behaviour_logits=rng.normal(size=(steps, BATCH, actions)).astype(np.float32),
        first_state=rng.normal(size=(BATCH, HIDDEN)).astype(np.float32),
        stream=np.arange(BATCH),
        sequence=np.full(BATCH, sequence),
        weights_version=np.zeros(BATCH, dtype=np.int64),
    )


def make_learner(
    device: torch.device, shape: tuple[int, ...] = (WIDTH,), agent: AgentConfig | None = None, **config: Any
) -> Learner:
    torch.manual_seed(5)
    agent = agent or AgentConfig(hidden_size=HIDDEN, encoder_features=8)
    return Learner(
        Agent(ObservationSpec(shape, DiscreteActions(3)), agent).to(device),
        LearnerConfig(**config),
        BATCH,
        10**6,
    )


def weights(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.parameters]


def changes_of_the_weights(device: torch.device) -> list[Tensor]:
    """What the second of two updates adds to the weights: the first leaves it sensitivities."""
    learner = make_learner(device, learning_rate=0.05)
    learner.update(make_rollout())
    before = weights(learner)
    learner.update(make_rollout(1))
    assert learner.updates == 2
    assert learner.carries.resets == 0
    assert {parameter.device.type for parameter in learner.parameters} == {device.type}
    return [after - old for after, old in zip(weights(learner), before, strict=True)]


@every_device
def test_an_update_changes_the_weights_by_the_same(device: str) -> None:
    changes = changes_of_the_weights(torch.device(device))
    assert all(change.count_nonzero() for change in changes)
    close(changes, changes_of_the_weights(CPU), 1e-4)


SMALL = AgentConfig(hidden_size=HIDDEN, encoder_features=8)
IMAGE = (3, 16, 16)
CAPTURES: dict[str, dict[str, Any]] = {
    "rmsprop": {},
    "adam": {"optimiser": "adam"},
    "many steps": {"steps": 20},
    "images": {"shape": IMAGE},
    "images in bfloat16": {"shape": IMAGE, "encoder_precision": "bfloat16"},
    "sensitivities in bfloat16": {"sensitivity_storage": "bfloat16"},
    "tbptt": {"agent": replace(SMALL, gradient="tbptt")},
    "gru": {"agent": replace(SMALL, core="gru")},
    "feed-forward": {"agent": replace(SMALL, core="feedforward")},
    "rewards normalised": {"agent": replace(SMALL, normalise_rewards=True)},
    "refreshed": {"refresh_every": 2, "refresh_rollouts": 3},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CAPTURES)
@every_device
def test_captured_updates_are_the_same_as_those_run_one_by_one(device: str, name: str) -> None:
    """Ten updates, of which one is spoilt, then some of another length; on a CPU all run one by one."""
    config = dict(CAPTURES[name])
    steps, shape = config.pop("steps", 6), config.pop("shape", (WIDTH,))
    learners = [make_learner(torch.device(device), shape, cuda_graph=graph, **config) for graph in (True, False)]
    for learner in learners:
        for sequence in range(15):
            rollout = make_rollout(sequence, steps if sequence < 10 else steps + 1, shape)
            if learner.agent.core.state_size == 0:
                rollout = replace(rollout, first_state=rollout.first_state[:, :0])
            if sequence == 7:
                rollout.reward[2, 1] = np.nan
            learner.update(rollout)
            assert learner.captured == (learner is learners[0] and device == "cuda" and sequence % 10 >= 3)
    one, other = learners
    close(weights(one), weights(other), 1e-3 if "bfloat16" in name else 1e-5)
    assert one.skipped_updates == other.skipped_updates == 1
    assert one.carries.resets == other.carries.resets == BATCH
    assert one.read_metrics() == pytest.approx(other.read_metrics(), rel=1e-2 if "bfloat16" in name else 1e-4)


@NEEDS_GPU
def test_nothing_in_an_update_waits_for_the_gpu() -> None:
    learner = make_learner(torch.device("cuda"))
    for sequence in range(5):
        learner.update(make_rollout(sequence))
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.update(make_rollout(5))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learner.skipped_updates == 0


@every_device
def test_an_encoder_in_bfloat16_gives_nearly_the_same_update(device: str) -> None:
    learners = [make_learner(torch.device(device), encoder_precision=dtype) for dtype in ("float32", "bfloat16")]
    before = weights(learners[0])
    for learner in learners:
        learner.update(make_rollout())
        assert all(parameter.dtype == torch.float32 for parameter in learner.parameters)
    plain, low = ([new - old for new, old in zip(weights(learner), before, strict=True)] for learner in learners)
    close(low, plain, 0.2)
    assert not all(torch.equal(mine, other) for mine, other in zip(low, plain, strict=True))


@every_device
def test_sensitivities_stored_in_bfloat16_give_nearly_the_same_update(device: str) -> None:
    learners = [make_learner(torch.device(device), sensitivity_storage=dtype) for dtype in ("float32", "bfloat16")]
    plain, low = (learner.carries.nbytes() for learner in learners)
    # Half of the rows, which are further apart on a GPU than they are wide.
    assert plain - low == 2 * BATCH * 2 * HIDDEN * row_stride(WIDTH, learners[0].device)
    for learner in learners:
        for sequence in range(4):
            learner.update(make_rollout(sequence))
    one, other = map(weights, learners)
    close(other, one, 1e-2)
    assert not all(torch.equal(mine, rounded) for mine, rounded in zip(one, other, strict=True))
