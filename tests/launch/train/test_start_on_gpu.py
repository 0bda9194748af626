"""How a training starts on a machine with GPUs, with torch's questions about them answered here: none is there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from torch._subclasses import fake_tensor

from r2ac.agents import Agent, DiscreteActions, ObservationSpec
from r2ac.launch.rollouts.inference.acting_agent import InferenceConfig
from r2ac.launch.rollouts.inference.pool import pool_beside
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.runs.loading import choose_device, learner_device
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.presets import preset
from r2ac.launch.train import bench, learn, sources
from r2ac.launch.train.group_member import LearnerProcess
from r2ac.launch.train.memory_budget import available_memory, memory_budget
from r2ac.learner import LearnerConfig, SingleLearner

# Of a fake tensor that is given another device.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")

COUNT, FREE = 2, 24 * 10**9
IMAGES = ObservationSpec((4, 84, 84), DiscreteActions(18))


class Started(Exception):
    """Raised where a training would start its rollout actors."""


@dataclass
class Machine:
    """What the training asked of torch, and what it gave to its learner."""

    current: list[int] = field(default_factory=list)
    """Numbers of the GPUs that were made torch's current device, one after another."""
    asked: list[torch.device] = field(default_factory=list)
    """Whose memory was asked for."""
    learner: Any = None
    free: int = FREE


def move(agent: nn.Module, device: torch.device | str) -> nn.Module:
    """As ``Module.to``: the tensors say that they are there."""
    for tensor in (*agent.parameters(), *agent.buffers()):
        assert isinstance(tensor, fake_tensor.FakeTensor)
        tensor.fake_device = torch.device(device)
    return agent


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """A machine with two GPUs, and memory enough beside them, up to where a learner allocates there."""
    machine = Machine()

    def free_memory(device: torch.device) -> tuple[int, int]:
        machine.asked.append(device)
        return machine.free, 2 * machine.free

    def make_learner(agent: Agent, config: LearnerConfig, num_streams: int, total_steps: int, collective: Any) -> Any:
        machine.learner = SimpleNamespace(device=next(agent.parameters()).device, config=config)
        raise Started

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: COUNT)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_memory)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", machine.current.append, raising=False)
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
    monkeypatch.setattr(Agent, "to", move)
    monkeypatch.setattr(learn, "available_memory", partial(available_memory, root=tmp_path))
    monkeypatch.setattr(learn, "Learner", make_learner)
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        yield machine


def settings(device: str = "auto", **changes: Any) -> TrainConfig[Any]:
    return replace(preset("memory/tmaze", algorithm="vtrace"), device=device, **changes)


def train_alone(config: TrainConfig[Any]) -> None:
    with StopSignals() as signals:
        learn.learn(config, SingleLearner(), None, signals)


def start(config: TrainConfig[Any]) -> None:
    with pytest.raises(Started):
        train_alone(config)


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_learner_has_one_gpu_which_is_torchs_current_device(machine: Machine, name: str, number: int) -> None:
    start(settings(name))
    device = torch.device("cuda", number)
    assert machine.current == [number]
    assert set(machine.asked) == {device}
    assert machine.learner.device == device
    assert machine.learner.config.cuda_graph


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_one_of_several_learners_starts_on_the_gpu_that_ray_gives_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    process = LearnerProcess(0, settings(device, num_learners=2))
    with pytest.raises(Started):
        process.train(None, None)
    assert machine.current == [0]
    assert machine.learner.device == torch.device("cuda", 0)


def test_a_bench_starts_as_a_training_does(machine: Machine) -> None:
    with pytest.raises(Started):
        bench.measure(settings("cuda:1"), seconds=1)
    assert machine.current == [1]
    assert machine.learner.device == torch.device("cuda", 1)


def test_the_cpu_stays_the_cpu(machine: Machine) -> None:
    start(settings("cpu"))
    assert machine.current == []
    assert machine.asked == []
    assert machine.learner.device == torch.device("cpu")


def test_updates_are_captured_unless_they_are_traced_or_it_is_turned_off(machine: Machine) -> None:
    learning = replace(settings().learner, cuda_graph=False)
    for config, captured in ((settings(), True), (settings(profile=True), False), (settings(learner=learning), False)):
        start(config)
        assert machine.learner.config.cuda_graph == captured


def test_a_gpu_that_is_too_small_is_named(machine: Machine) -> None:
    machine.free = 10**6
    with pytest.raises(ConfigError, match=r"this run needs .* of memory on cuda:1, but 1 MB are free"):
        train_alone(settings("cuda:1"))


def test_a_number_that_is_not_there_is_refused(machine: Machine) -> None:
    for choose in (choose_device, learner_device):
        with pytest.raises(ConfigError, match="--device is 'cuda:2', but this machine has 2 CUDA devices"):
            choose("cuda:2")
    assert machine.current == []


def test_a_budget_has_the_batches_and_the_workers_on_the_gpu(machine: Machine) -> None:
    config = replace(preset("atari/Breakout"), num_actors=2)
    on_device = [part.name for part in memory_budget(config, IMAGES, torch.device("cuda", 0)).of("device")]
    assert "4 batches" in on_device
    assert "1 inference worker (roughly)" in on_device


@dataclass
class Opened:
    """What the rollout actors, the batches and the pool of inference workers were made of, instead of these."""

    inference: InferenceConfig | None = None
    acts_on: str = ""
    pinned: bool = False
    ahead: bool = False


@pytest.fixture
def open_on_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    """open_on_gpu(config, spec) opens the rollouts of a learner on cuda:0."""
    found = Opened()

    def pool(ray: Any, inference: InferenceConfig, *_: Any) -> Any:
        found.inference = inference
        return SimpleNamespace(close=lambda: None)

    def ring(layout: RolloutLayout, count: int, pinned: bool) -> None:
        found.pinned = pinned

    def actor(config: Any, device: str, **_: Any) -> Any:
        found.acts_on = device
        return SimpleNamespace(close=lambda: None)

    def pipeline(source: Any, stage: Any) -> Any:
        found.ahead = True
        return SimpleNamespace(close=lambda: None)

    for name, double in (("pool_beside", pool), ("batch_ring", ring), ("RolloutActor", actor)):
        monkeypatch.setattr(sources, name, double)
    monkeypatch.setattr(sources, "BatchPipeline", pipeline)
    for name in ("connect", "SharedWeights", "SocketLink", "WeightsPublisher"):
        monkeypatch.setattr(sources, name, MagicMock())

    def open_rollouts(config: TrainConfig[Any], spec: ObservationSpec, device: str = "cuda:0") -> Opened:
        learner: Any = SimpleNamespace(device=torch.device(device), agent=Agent(spec, config.agent), updates=0, stage=0)
        found.ahead = False
        with ExitStack() as stack:
            sources.open_rollouts(config, spec, learner, {}, stack)
        return found

    return open_rollouts


@pytest.mark.parametrize(
    ("name", "acts_on"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_for_images_a_worker_acts_where_it_is_told(open_on_gpu: Callable[..., Opened], name: str, acts_on: str) -> None:
    made = open_on_gpu(replace(preset("atari/Breakout"), inference_device=name), IMAGES)
    assert made.inference is not None
    assert made.inference.device == acts_on
    assert made.pinned, "batches are copied to the GPU from where they are put together"


def test_for_vectors_rollout_actors_act_for_themselves(open_on_gpu: Callable[..., Opened]) -> None:
    assert open_on_gpu(settings(), ObservationSpec((3,), DiscreteActions(4))).inference is None


def test_in_one_process_images_are_seen_on_the_gpu_and_vectors_on_the_cpu(
    open_on_gpu: Callable[..., Opened],
) -> None:
    assert open_on_gpu(replace(preset("atari/Breakout"), num_actors=0), IMAGES).acts_on == "cuda"
    assert open_on_gpu(settings(num_actors=0), ObservationSpec((3,), DiscreteActions(4))).acts_on == "cpu"


def test_batches_are_made_ahead_for_a_gpu_alone(open_on_gpu: Callable[..., Opened]) -> None:
    for device, num_actors, ahead in (("cuda:0", 2, True), ("cuda:0", 0, False), ("cpu", 2, False)):
        assert (
            open_on_gpu(settings(num_actors=num_actors), ObservationSpec((3,), DiscreteActions(4)), device).ahead
            == ahead
        )


class FakeRay:
    """As much of Ray as starts inference workers here: it keeps their configurations."""

    def __init__(self) -> None:
        self.configs: list[InferenceConfig] = []
        self.exceptions = SimpleNamespace(RayError=RuntimeError)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_placement_group_id=lambda: None)

    def nodes(self) -> list[str]:
        return ["this one"]

    def remote(self, kind: type) -> Any:
        def start(config: InferenceConfig, board: Any, address: str) -> Any:
            self.configs.append(config)
            return SimpleNamespace(
                statistics=SimpleNamespace(remote=lambda: None), failure=SimpleNamespace(remote=lambda: None)
            )

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references, []

    def get(self, reference: Any, **_: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("device", "dealt"),
    [
        ("cuda", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", ["cuda:1", "cuda:1", "cuda:1"]),
        ("cpu", ["cpu", "cpu", "cpu"]),
    ],
)
def test_workers_without_a_number_are_dealt_out_over_the_gpus(
    machine: Machine, tmp_path: Path, device: str, dealt: list[str]
) -> None:
    config = preset("atari/Breakout")
    layout = RolloutLayout(config.rollout_length, config.streams_per_actor, IMAGES, config.agent.hidden_size)
    inference = InferenceConfig(config.agent, layout, (slice(0, config.streams_per_actor),), config.num_streams, device)
    ray: Any = FakeRay()
    pool_beside(ray, inference, 3, None, tmp_path)  # type: ignore[arg-type]
    assert [each.device for each in ray.configs] == dealt
