"""The learner's whole update on a CUDA device that does nothing: no operator of it may make the host wait."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.learner import OPTIMISERS, Collective, Learner, LearnerConfig, ProcessGroup, Rollout, load_optimiser_state
from r2ac.learner.optimiser import step_where
from r2ac.learner.optimiser_setup import make_optimiser
from tests.fake_cuda.spy import HostWaits, Launch, Spy

BATCH, HIDDEN, WORDS, ACTIONS = 4, 16, 2, 5
SMALL = AgentConfig(hidden_size=HIDDEN, encoder_features=8)


@dataclass(frozen=True)
class Case:
    """One configuration of agent and learner."""

    shape: tuple[int, ...] = (9,)
    agent: AgentConfig = SMALL
    words: int = 0
    steps: int = 20
    frozen: bool = False
    final_observations: bool = False
    learner: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> ObservationSpec:
        """What the environment shows and takes."""
        return ObservationSpec(self.shape, DiscreteActions(ACTIONS), instruction_length=self.words, instruction_ids=100)

    def make(self, collective: Collective | None = None) -> Learner:
        """The learner, on the GPU."""
        with torch.device("cuda"):
            agent = Agent(self.spec(), self.agent)
        if self.frozen:
            agent.freeze_encoder()
        return Learner(agent, LearnerConfig(cuda_graph=False, **self.learner), 2 * BATCH, 10**6, collective)

    def batch(self) -> dict[str, Tensor]:
        """A batch on the GPU, as the feed hands it over."""
        state_size = 0 if self.agent.core == "feedforward" else HIDDEN
        layout = RolloutLayout(self.steps, BATCH, self.spec(), state_size, self.final_observations)
        with torch.device("cuda"):
            return {
                name: torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
                for name, (shape, dtype) in {**layout.arrays(), "gap": ((BATCH,), np.bool_)}.items()
            }


def update(learner: Learner, batch: dict[str, Tensor]) -> tuple[Spy, dict[str, Tensor]]:
    """One update, watched."""
    rollout: Any = Rollout(**{name: tensor for name, tensor in batch.items() if name != "gap"})
    learner._feed.take = lambda: batch  # type: ignore[method-assign]
    learner._staged.append(rollout)
    with Spy() as spy:
        metrics = learner.update(rollout)
    return spy, metrics


IMAGE = (3, 40, 48)
CASES = {
    "vectors": Case(),
    "no encoder": Case(agent=replace(SMALL, encoder="none")),
    "images, impala": Case(IMAGE),
    "images, nature": Case(IMAGE, replace(SMALL, encoder="nature")),
    "pictures, patch": Case((3, 22, 24), replace(SMALL, encoder="patch")),
    "frozen encoder": Case(IMAGE, replace(SMALL, encoder="nature"), frozen=True),
    "encoder in bfloat16": Case(IMAGE, replace(SMALL, encoder="nature"), learner={"encoder_precision": "bfloat16"}),
    "instructions": Case(words=WORDS),
    "adam": Case(learner={"optimiser": "adam"}),
    "sensitivities in bfloat16": Case(learner={"sensitivity_storage": "bfloat16"}),
    "few steps": Case(steps=3),
    "no metrics of RTRL": Case(learner={"rtrl_metrics_every": 0}),
    "tbptt": Case(agent=replace(SMALL, gradient="tbptt")),
    "gru": Case(agent=replace(SMALL, core="gru")),
    "feed-forward": Case(agent=replace(SMALL, core="feedforward"), learner={"optimiser": "adam"}),
    "rewards normalised": Case(agent=replace(SMALL, normalise_rewards=True)),
    "time limits": Case(final_observations=True),
    "ppo": Case(learner={"algorithm": "ppo", "n_epochs": 2, "target_kl": 0.1, "clip_range_vf": 0.2}),
    "ppo in minibatches": Case(learner={"algorithm": "ppo", "n_epochs": 2, "num_minibatches": 2, "optimiser": "adam"}),
    "refreshed": Case(IMAGE, words=WORDS, learner={"refresh_every": 1}),
    "stream": Case(steps=1, final_observations=True, learner={"algorithm": "stream", "optimiser": "sgd"}),
    "td": Case(steps=1, learner={"algorithm": "td"}),
    "all together": Case(
        IMAGE,
        replace(SMALL, encoder="nature", chrono_steps=100, normalise_rewards=True, reward_clip="none"),
        WORDS,
        final_observations=True,
        learner={"optimiser": "adam", "encoder_precision": "bfloat16", "sensitivity_storage": "bfloat16"},
    ),
}
KERNELS = {"_forward_kernel": 1, "_backward_kernel": 1, "_pass_kernel": 1, "_vector_kernel": 1}
PASSES = {"ppo": (2, 2), "ppo in minibatches": (5, 4)}
"""Forwards and backwards, over a batch or a part of it. Parts have no pass over the whole batch, from which the values
before the first step could come: it is made for them, without gradient."""


@pytest.mark.parametrize("name", CASES)
def test_an_update_does_not_wait_for_the_gpu(name: str, launches: None) -> None:
    case = CASES[name]
    learner = case.make()
    spy, metrics = update(learner, case.batch())
    assert {tensor.device.type for tensor in metrics.values()} == {"cuda"}
    assert learner.updates == 1
    kernels = {kernel: spy.calls[kernel] for kernel in KERNELS if kernel in spy.calls}
    if case.agent.core in ("gru", "feedforward"):
        assert kernels == {}
    elif case.agent.gradient == "tbptt":
        assert kernels == {"_forward_kernel": 1, "_backward_kernel": 1}
    elif name in PASSES:
        forwards, backwards = PASSES[name]
        assert kernels == dict.fromkeys(KERNELS, backwards) | {"_forward_kernel": forwards}
    elif name == "refreshed":
        assert kernels == dict.fromkeys(KERNELS, 2)
    else:
        assert kernels == KERNELS
    print(f"{name}: {spy.calls.total()} operators")


def test_an_update_by_the_operators_that_compilers_and_profilers_see(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2AC_KERNELS", "reference")  # what the operators would call: fakes do not
    case = CASES["vectors"]
    spy, _ = update(case.make(), case.batch())
    ours = {name: count for name, count in spy.calls.items() if name.startswith("r2ac.")}
    names = "recurrence", "backward_scan", "recurrence_backward", "sensitivity_pass_", "vector_pass_"
    assert ours == {f"r2ac.{name}.default": 1 for name in names}


def test_an_update_of_two_learners(launches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients and losses are summed in one message, and what RTRL adds is measured in another."""
    initialise = dist.init_process_group
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **settings: initialise("fake", **settings))
    case = CASES["vectors"]
    learner = case.make(ProcessGroup(FakeStore(), 0, 2, torch.device("cuda")))
    try:
        spy, _ = update(learner, case.batch())
    finally:
        dist.destroy_process_group()
    assert spy.calls["c10d.allreduce_.default"] == 2


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_step_that_may_be_skipped_is_as_many_operators_for_any_number_of_parameters(
    optimiser: str, fake_cuda: None
) -> None:
    calls = []
    for number in (2, 20):
        parameters = [torch.nn.Parameter(torch.zeros(3, size, device="cuda")) for size in range(1, number + 1)]
        made = make_optimiser(parameters, optimiser, 0.1, capturable=True)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        with Spy() as spy:
            step_where(made, torch.ones((), dtype=torch.bool, device="cuda"), may_branch=False)
        calls.append(spy.calls)
    few, many = calls
    assert few == many
    assert few.total() < 25


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_update_that_goes_on_from_a_state_of_a_cpu(optimiser: Any, launches: None) -> None:
    case = replace(CASES["vectors"], learner={"optimiser": optimiser})
    on_cpu, learner = Learner(Agent(case.spec(), SMALL), LearnerConfig(optimiser=optimiser), BATCH, 1), case.make()
    load_optimiser_state(learner.optimiser, on_cpu.optimiser.state_dict())
    update(learner, case.batch())


def assign_a_number(tensor: Tensor) -> None:
    tensor[torch.zeros(2, dtype=torch.int64, device="cuda")] = True


def read_a_number(tensor: Tensor) -> None:
    tensor.sum().item()


def branch(tensor: Tensor) -> None:
    if tensor.sum() > 0:
        tensor += 1


def select(tensor: Tensor) -> None:
    tensor[tensor > 0].sum()


def copy_from_the_host(tensor: Tensor) -> None:
    tensor.copy_(torch.ones(5))


def copy_to_the_host(tensor: Tensor) -> None:
    tensor.cpu()


def add_a_number_of_the_host(tensor: Tensor) -> None:
    tensor += torch.ones(())


def launch_with_a_tensor_of_the_host(tensor: Tensor) -> None:
    Launch("_some_kernel")[1, 2](tensor, torch.ones(3), 4, BLOCK=32)


FAULTS = {
    assign_a_number: r"aten\.index_put_\.default mixes devices",
    read_a_number: r"aten\._local_scalar_dense\.default reads numbers on the host",
    branch: r"aten\._local_scalar_dense\.default reads numbers on the host",
    select: r"aten\.index\.Tensor reads numbers on the host",
    copy_from_the_host: r"aten\.copy_\.default copies between host and device",
    copy_to_the_host: r"aten\._to_copy\.default copies between host and device",
    add_a_number_of_the_host: r"aten\.add_\.Tensor mixes devices",
    launch_with_a_tensor_of_the_host: "_some_kernel gets a tensor of the CPU",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_spy_finds(fault: Any, fake_cuda: None) -> None:
    tensor = torch.zeros(5, device="cuda")
    line = rf"{__file__}:{fault.__code__.co_firstlineno + 1}$"
    with Spy(), pytest.raises(HostWaits, match=f"^{FAULTS[fault]}: {line}"):
        fault(tensor)


def test_the_spy_finds_what_a_backward_pass_does(fake_cuda: None) -> None:
    """It runs on a thread of its own."""
    weight = torch.zeros(5, device="cuda", requires_grad=True)
    weight.register_hook(lambda gradient: read_a_number(gradient))
    with Spy(), pytest.raises(HostWaits, match=rf"{__file__}:{read_a_number.__code__.co_firstlineno + 1}$"):
        weight.square().sum().backward()
