"""How much memory a training run will hold, computed before it starts, and whether it fits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from r2ac.agents import NatureEncoder, ObservationSpec
from r2ac.launch.rollouts.batch_pipeline import BUFFERS
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights
from r2ac.launch.runs.loading import make_agent
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.train.sources import acts_on_workers
from r2ac.learner import DeviceFeed, Learner, Rollout
from r2ac.learner.refresh import KEPT

Place = Literal["device", "machine", "shared", "cluster"]
"""Where memory is held: on the learner's device; by processes of this machine; in its /dev/shm, where Ray keeps its
objects; or somewhere in the Ray cluster that was joined."""

# Rough figures: the process of a rollout actor or inference worker with Ray, torch and Gymnasium; Ray's own services on
# this machine (325 MB were seen); an engine of DeepMind Lab, one for each stream (200 to 380 MB were seen); what an
# inference worker's process holds on a GPU.
ACTOR_BYTES = 250_000_000
RAY_BYTES = 350_000_000
DMLAB_ENGINE_BYTES = 300_000_000
WORKER_GPU_BYTES = 600_000_000

# An update also holds gradients that pass through the layers, scratch memory and gaps in the heap. With three times the
# largest saved array for these the estimate lay between 23 % below and 21 % above the growth of processes on a CPU
# (IMPALA's encoder, in float32 and bfloat16, and the small one, 84x84, 80 to 1600 observations in an update).
_WORKING_ARRAYS = 3
# No more than this was ever free: v1 writes it where there is no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class BudgetPart:
    """One of the things that a run holds; ``remedy`` makes it smaller, as the end of a sentence."""

    name: str
    place: Place
    nbytes: int
    remedy: str


@dataclass(frozen=True)
class MemoryBudget:
    """What a run will hold, part by part, and how many parameters the agent has; ``device`` is the learner's."""

    device: str
    parts: tuple[BudgetPart, ...]
    parameters: int
    """Of the agent."""
    learned: int
    """Those of them that are not frozen."""

    def of(self, *places: Place) -> tuple[BudgetPart, ...]:
        """The parts at these places; where the learner is on the CPU, its device's parts are this machine's too."""
        on_cpu = self.device == "cpu" and "machine" in places
        return tuple(part for part in self.parts if part.place in places or (on_cpu and part.place == "device"))

    def total(self, *places: Place) -> int:
        """Bytes of these parts together."""
        return sum(part.nbytes for part in self.of(*places))


@dataclass(frozen=True)
class Available:
    """Bytes that a run may take: of this machine's memory, of /dev/shm and of the learner's GPU; None: not known."""

    machine: int | None = None
    shared: int | None = None
    device: int | None = None


def memory_budget(config: TrainConfig[Any], spec: ObservationSpec, device: torch.device) -> MemoryBudget:
    """What a run will hold that learns on ``device``: activations are an estimate, good to about a quarter on a CPU,
    processes are rough figures, all else is exact but for small change. Raises ConfigError if there can be no such
    agent."""
    # In this mode tensors have shapes and no numbers: nothing is allocated or computed. What a small run holds is made
    # instead: the mode imports torch.compile, which takes longer than all of torch.
    small = device.type == "cpu" and _is_small(config, spec)
    with torch.random.fork_rng(devices=()), nullcontext() if small else FakeTensorMode():
        agent = make_agent(spec, config.agent, config.seed, torch.device("cpu"))
        if config.freeze_encoder:
            agent.freeze_encoder()
        learner = Learner(agent, config.learner, config.num_streams, config.total_steps)
        parts = [*_learner_parts(config, learner, spec, device)]
    queued = RolloutLayout(
        config.rollout_length, config.streams_per_actor, spec, agent.core.state_size, config.bootstrap_at_time_limits
    )
    on_gpu = device.type == "cuda"
    parts += _batch_parts(config, replace(queued, num_streams=config.batch_size).nbytes(), on_gpu=on_gpu)
    parts += _queue_parts(config, queued.nbytes(), _nbytes(agent.parameters()))
    workers = config.inference_workers if acts_on_workers(config, spec) else 0
    parts += _process_parts(config, workers, on_gpu=on_gpu)
    return MemoryBudget(str(device), tuple(parts), agent.parameter_count(), agent.parameter_count(learned=True))


def _is_small(config: TrainConfig[Any], spec: ObservationSpec) -> bool:
    """Whether the learner of a training without images holds some megabytes, at most some hundred. Sensitivities of
    all layers together are never small: a stream's may take tens of megabytes."""
    agent, steps = config.agent, config.batch_size * config.rollout_length
    width = max(agent.hidden_size, agent.encoder_features, agent.readout_size, *spec.shape)
    held = width * agent.layers * max(config.num_streams * agent.hidden_size, steps)
    return len(spec.shape) == 1 and held < 2**24 and agent.layer_gradient != "full"


def saved_for_backward(learner: Learner, spec: ObservationSpec, steps: int, batch: int) -> list[int]:
    """Bytes of every array that forward pass and losses save for the backward pass over T steps of B streams."""
    shapes = RolloutLayout(steps, batch, spec, learner.agent.core.state_size).arrays()
    dtypes = {name: torch.from_numpy(np.empty(0, dtype)).dtype for name, (_, dtype) in shapes.items()}
    rollout = Rollout(**{name: torch.zeros(shape, dtype=dtypes[name]) for name, (shape, _) in shapes.items()})
    carry = learner.carries.fetch(torch.arange(batch), torch.zeros(batch, dtype=torch.bool), rollout.first_state)
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = learner.agent(carry=carry, **rollout.inputs())
        learner.algorithm.losses(output, rollout, learner.config)
    traces = [tensor for each in carry.traces for tensor in each.tensors()]
    kept = [*rollout.arrays().values(), *learner.agent.state_dict().values(), carry.state, *traces]
    counted = {tensor.untyped_storage()._cdata for tensor in kept}  # by other parts of the budget
    return [storage.nbytes() for key, storage in saved.items() if key not in counted]


def available_memory(device: torch.device, root: Path = Path("/")) -> Available:
    """What is free now: of this machine the least of MemAvailable and what the control groups leave (v1 and v2).
    ``root`` has the folders proc, sys and dev."""
    meminfo = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
    limits = [1024 * int(size) for name, size, *_ in meminfo if name == "MemAvailable:"]
    limits += _cgroups_available(root)
    try:
        shm = os.statvfs(root / "dev/shm")
        shared = shm.f_bavail * shm.f_frsize
    except OSError:
        shared = None
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return Available(min(limits, default=None), shared, on_device)


def check_fits(budget: MemoryBudget, available: Available) -> None:
    """Raises ConfigError for the first place that is too small, with the largest part and what makes it smaller."""
    limits: list[tuple[str, tuple[Place, ...], int | None]] = [
        (f"memory on {budget.device}", ("device",), available.device),
        ("shared memory (/dev/shm)", ("shared",), available.shared),
        ("memory on this machine", ("machine", "shared"), available.machine),
    ]
    for what, places, free in limits:
        needed = budget.total(*places)
        if free is None or needed <= free:
            continue
        largest = max(budget.of(*places), key=lambda part: part.nbytes)
        raise ConfigError(
            f"this run needs {memory_text(needed)} of {what}, but {memory_text(free)} are free; the largest part is "
            f"{largest.name} ({memory_text(largest.nbytes)}): {largest.remedy}"
        )


def print_budget(console: Console, budget: MemoryBudget, who: str = "the run") -> None:
    """One line for each place where ``who`` holds memory: the sum, and its parts."""
    labels: dict[Place, str] = {
        "device": f"learner on {budget.device}",
        "machine": "other processes and batches" if budget.device == "cpu" else "this machine",
        "shared": "Ray's objects (/dev/shm)",
        "cluster": "Ray cluster",
    }
    rows = []
    for place, label in labels.items():
        parts = [part for part in budget.parts if part.place == place]
        if parts:
            each = ", ".join(f"{part.name} {memory_text(part.nbytes)}" for part in parts)
            rows.append((label, f"{memory_text(sum(part.nbytes for part in parts)):>7}: {each}"))
    print_table(console, f"memory that {who} will hold", rows)


def memory_text(nbytes: int) -> str:
    """Three significant digits with a unit: 297 kB, 25.5 MB, 3.44 GB; 1 kB is 1000 bytes."""
    # Rounded first: 999,999 bytes are 1 MB and not 1000 kB.
    rounded = float(f"{nbytes:.3g}")
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if rounded >= size:
            return f"{rounded / size:.6g} {unit}"
    return f"{rounded / 1e3:.3g} kB"


def _learner_parts(
    config: TrainConfig[Any], learner: Learner, spec: ObservationSpec, device: torch.device
) -> Iterator[BudgetPart]:
    rtrl = learner.agent.core.uses_rtrl
    remedy = "lower --streams-per-actor, --num-actors or --hidden-size"
    if rtrl and config.learner.sensitivity_storage == "float32":
        remedy += ", or store them with --sensitivity-storage bfloat16"
    what = f"one {'sensitivity' if rtrl else 'state'} for each of {config.num_streams} streams"
    yield BudgetPart(what, "device", learner.carries.nbytes(device), remedy)
    # Weights and optimiser state twice: an update keeps them as they were, in case it must be undone.
    state = sum(_nbytes(of_one.values()) for of_one in learner.optimiser.state.values())
    nbytes = _nbytes(learner.agent.parameters()) + 2 * _nbytes(learner.parameters) + 2 * state
    yield BudgetPart("weights, gradients and optimiser", "device", nbytes, "lower --hidden-size or --encoder-features")
    if config.learner.refresh_every:
        count = config.learner.refresh_rollouts
        layout = RolloutLayout(config.rollout_length, config.num_streams, spec, learner.agent.core.state_size)
        kept = [math.prod(of) * np.dtype(kind).itemsize for name, (of, kind) in layout.arrays().items() if name in KEPT]
        yield BudgetPart(f"{count} rollouts of each stream", "device", count * sum(kept), "lower --refresh-rollouts")
    if traces := learner.algorithm.traces:
        # An update also holds the gradients of all streams, and a copy of their traces.
        yield BudgetPart("eligibility traces", "device", 3 * _nbytes(traces), "lower --streams-per-actor")
    columns = config.batch_size // config.learner.num_minibatches
    saved = saved_for_backward(learner, spec, config.rollout_length, columns)
    nbytes = sum(saved) + _WORKING_ARRAYS * max(saved)
    smaller = _smaller_encoder(spec.shape, config.agent.encoder)
    yield BudgetPart("activations of an update", "device", nbytes, _smaller_batch(config) + smaller)


def _smaller_encoder(shape: tuple[int, ...], encoder: str) -> str:
    """What to write after other remedies where an encoder for images is not the smallest."""
    smallest = "patch" if min(shape[-2:]) < NatureEncoder.smallest else "nature"
    return f", or take --encoder {smallest}" if len(shape) == 3 and encoder not in ("nature", "patch") else ""


def _batch_parts(config: TrainConfig[Any], one: int, *, on_gpu: bool) -> Iterator[BudgetPart]:
    """Batches of ``one`` bytes each: as they are put together, and as a GPU gets them."""
    remedy = _smaller_batch(config)
    # Without actors: the batch that was learned from, and the next one; a GPU's are copied to pinned memory.
    count = BUFFERS if config.num_actors else 2 + (DeviceFeed.SLOTS if on_gpu else 0)
    yield BudgetPart(f"{count} batches", "machine", count * one, remedy)
    if on_gpu:
        # Those under way, and the one that updates read.
        count = DeviceFeed.SLOTS + 1
        yield BudgetPart(f"{count} batches", "device", count * one, remedy)


def _smaller_batch(config: TrainConfig[Any]) -> str:
    return f"lower --rollout-length or {'--streams-per-actor' if config.learner.on_policy else '--batch-size'}"


def _queue_parts(config: TrainConfig[Any], rollout: int, weights_bytes: int) -> Iterator[BudgetPart]:
    """Rollouts in flight, of ``rollout`` bytes each, and the weights that actors need for them."""
    if config.num_actors == 0:
        # One of which a batch has left some streams, and the one that is under way.
        yield BudgetPart("queue of 2 rollouts", "machine", 2 * rollout, "lower --rollout-length or --streams-per-actor")
        return
    count = config.num_actors * config.rollouts_in_flight
    objects: Place = "shared" if config.ray_address == "local" else "cluster"
    place = "machine" if config.shares_memory else objects
    remedy = "lower --rollout-length, --streams-per-actor, --num-actors or --rollouts-in-flight"
    yield BudgetPart(f"queue of {count} rollouts", place, count * rollout, remedy)
    # Shared: three; through Ray every rollout that was ordered may be waiting for weights of another version, and
    # the newest lie ready.
    copies = SharedWeights.SLOTS if config.shares_memory else count + 1
    remedy = "lower --num-actors, --rollouts-in-flight or --hidden-size, or raise --publish-every"
    yield BudgetPart("weights for the actors", place, copies * weights_bytes, remedy)


def _process_parts(config: TrainConfig[Any], workers: int, *, on_gpu: bool) -> Iterator[BudgetPart]:
    """Other processes than the learner's; ``workers`` of them compute actions."""
    local = config.ray_address == "local" or config.num_actors == 0
    place: Place = "machine" if local else "cluster"
    if config.num_actors:
        yield _processes(config.num_actors, "rollout actor", place, ACTOR_BYTES, "lower --num-actors")
        if local:
            yield BudgetPart("Ray (roughly)", "machine", RAY_BYTES, "--num-actors 0 does without it")
    if workers:
        remedy = "lower --inference-workers, or take --inference actor"
        yield _processes(workers, "inference worker", place, ACTOR_BYTES, remedy)
        # Several may be dealt out among GPUs; what lies on the learner's is no more than this.
        if on_gpu and local and config.inference_device != "cpu":
            yield _processes(workers, "inference worker", "device", WORKER_GPU_BYTES, remedy)
    if config.tasks[0].suite.name == "dmlab":
        remedy = "lower --streams-per-actor or --num-actors"
        yield _processes(config.num_streams, "DMLab engine", place, DMLAB_ENGINE_BYTES, remedy)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _processes(count: int, name: str, place: Place, each: int, remedy: str) -> BudgetPart:
    return BudgetPart(f"{count} {name}{'s' if count > 1 else ''} (roughly)", place, count * each, remedy)


def _cgroups_available(root: Path) -> Iterator[int]:
    """What this process's control groups leave, and those around them; their file caches count as free."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        inside = Path(path.lstrip("/"))
        # In a container the path may be the host's: only the mount's root is then to be seen.
        for group in (root / mount / part for part in (inside, *inside.parents)):
            most, now = _text(group / limit).strip(), _text(group / used).strip()
            if most.isdecimal() and now.isdecimal() and int(most) < _NO_LIMIT:
                statistics = dict(line.split() for line in _text(group / "memory.stat").splitlines())
                yield max(0, int(most) - int(now) + int(statistics.get(cache, 0)))


def _text(path: Path) -> str:
    """What the file holds; nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
