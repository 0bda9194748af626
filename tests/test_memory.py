"""Bytes that the core's forward and backward pass take above what is stored: counted, not guessed."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import get_args

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from r2ac.agents import ELSTM, Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.agents.config import Gradient
from r2ac.kernels import GATES, REFERENCE, kernels_for
from r2ac.learner import Learner, LearnerConfig, Rollout

GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
pytestmark = pytest.mark.skipif(
    kernels_for(torch.zeros(1, device=DEVICE)) is REFERENCE, reason="the readable reference keeps more than it needs"
)
GPU_BLOCK = 2 * 2**20
"""CUDA's allocator may round a tensor up by so much."""


def bytes_of(run: Callable[[], None]) -> tuple[int, int]:
    """Peak of the bytes that ``run`` allocates at once, and its largest tensor, when libraries are warm. It must leave
    nothing that the next time frees: the profiler may or may not tell of that."""
    run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    with profile(activities=activities, profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    found = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    found = [event for event in found if (event.device_type() == torch.autograd.DeviceType.CUDA) == ON_GPU]
    sizes = [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]
    assert len(sizes) > 10
    return max(accumulate(sizes)), max(sizes)


def bytes_of_the_core(gradient: Gradient, T: int, B: int, N: int, D: int, streams: int) -> tuple[int, int]:
    """Of forward and backward pass of the recurrence, inputs and stored carries not counted."""
    core = ELSTM(D, N, gradient).to(DEVICE)
    store, rows = core.initial_carry(streams), torch.randperm(streams)[:B].to(DEVICE)
    cell, fresh = core.initial_carry(B).state, torch.zeros(B, dtype=torch.bool, device=DEVICE)
    carry = replace(store, state=cell).of_streams(rows, fresh)
    x = torch.randn(T, B, D, device=DEVICE, requires_grad=True)
    is_first, by_cell = torch.zeros(T, B, dtype=torch.bool, device=DEVICE), torch.randn(T, B, N, device=DEVICE)

    def run() -> None:
        core.states(x, carry, is_first)[0].backward(by_cell)
        for parameter in (x, *core.parameters()):
            parameter.grad = None

    return bytes_of(run)


def bytes_of_an_update(gradient: Gradient, T: int, B: int, N: int, D: int) -> int:
    """Peak of the learner's whole update."""
    agent = Agent(
        ObservationSpec((D - 1,), DiscreteActions(3)),
        AgentConfig(gradient, hidden_size=N, encoder="none"),
    ).to(DEVICE)
    learner = Learner(agent, LearnerConfig(cuda_graph=False), num_streams=B, total_steps=10**6)
    random = np.random.default_rng(0)

    def run() -> None:
        rollout = Rollout(
            observation=random.standard_normal((T + 1, B, D - 1), dtype=np.float32),
            reward=random.standard_normal((T + 1, B), dtype=np.float32),
            is_first=random.random((T + 1, B)) < 0.1,
            action=random.integers(0, 3, (T, B)),
            behaviour_logits=random.standard_normal((T, B, 3), dtype=np.float32),
            first_state=np.zeros((B, N), dtype=np.float32),
            stream=np.arange(B),
            sequence=np.full(B, learner.updates),
            weights_version=np.zeros(B, dtype=np.int64),
        )
        learner.update(rollout)
        agent.zero_grad()

    return bytes_of(run)[0]


@pytest.mark.parametrize(("T", "B", "N", "D"), [(20, 8, 16, 64), (5, 16, 64, 129), (100, 4, 32, 33), (1, 4, 64, 65)])
@pytest.mark.parametrize("streams", [16, 40])
def test_an_update_of_the_core_takes_no_more_than_the_documents_say(
    T: int, B: int, N: int, D: int, streams: int
) -> None:
    """The formula of docs/rtrl.md; it does not depend on how many streams are stored."""
    steps, weights, vectors = T * B * N, GATES * N * D, GATES * B * N
    # Triton's pass sums its term over up to 16 groups of streams.
    partial = 16 * weights if ON_GPU else 0
    bound = 4 * (3 * GATES * steps + steps + T * B * D + 3 * weights + 12 * vectors + partial) + (
        8 * GPU_BLOCK if ON_GPU else 0
    )
    peak, largest = bytes_of_the_core("rtrl", T, B, N, D, streams)
    assert peak <= bound
    # No tensor of T x B x N x D, and no copy of the sensitivities of the batch.
    assert largest <= 4 * max(GATES * steps, T * B * D, weights, partial) + (GPU_BLOCK if ON_GPU else 0)
    if B > 2 * T and not ON_GPU:
        assert peak < 4 * B * weights


def test_exact_gradients_take_little_more_memory_than_truncated_ones() -> None:
    """One more array of T x B x K x N, and what the size of the weights is."""
    T, B, N, D = 50, 8, 32, 65
    more = 4 * (GATES * T * B * N + 2 * GATES * N * D + 12 * GATES * B * N) + (8 * GPU_BLOCK if ON_GPU else 0)
    exact, truncated = (bytes_of_the_core(gradient, T, B, N, D, streams=B)[0] for gradient in GRADIENTS)
    assert truncated < exact <= truncated + more
    exact, truncated = (bytes_of_an_update(gradient, T, B, N, D) for gradient in GRADIENTS)
    assert exact <= truncated + more
