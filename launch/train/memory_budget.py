"""How much memory a training run will hold, told before it starts, and whether it fits."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from r2ac.agents import Agent, Carry, ObservationSpec
from r2ac.launch.rollouts.batch_pipeline import BUFFERS
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.rollouts.transport.shared_weights import WeightsBoard
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.train.sources import acts_on_workers
from r2ac.learner import DeviceFeed, Learner, LearnerConfig, Rollout
from r2ac.learner.algorithms import ALGORITHMS

Place = Literal["device", "machine", "shared", "cluster"]
"""Where memory is held: on the learner's device; by processes of this machine; in its /dev/shm, where Ray keeps its
objects; or somewhere in the Ray cluster that was joined."""

ACTOR_BYTES = 250_000_000
"""The process of a rollout actor or inference worker with Ray, torch and Gymnasium; a rough figure."""
RAY_BYTES = 350_000_000
"""Ray's own services on this machine; a rough figure, 325 MB were seen."""
DMLAB_ENGINE_BYTES = 300_000_000
"""An engine of DeepMind Lab, one for each stream; 200 to 380 MB were seen."""
WORKER_GPU_BYTES = 600_000_000
"""What an inference worker's process holds on a GPU; a rough figure."""

# An update holds more than what it saves for the backward pass: the gradients that pass through the layers, the
# libraries' scratch memory, gaps in the heap. With three times the largest saved array for all that, the estimate lay
# between 23 % below and 21 % above the growth of processes on a CPU (IMPALA's encoder, in float32 and bfloat16, and the
# small one, 84x84, 80 to 1600 observations in an update).
_WORKING_ARRAYS = 3
# No more than this was ever free: v1 writes it where there is no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class BudgetPart:
    """One of the things that a run holds."""

    name: str
    place: Place
    nbytes: int
    remedy: str
    """What makes it smaller, as the end of a sentence."""


@dataclass(frozen=True)
class MemoryBudget:
    """What a run will hold, part by part."""

    device: str
    """The learner's device."""
    parts: tuple[BudgetPart, ...]
    held: int
    """Bytes of the device's parts that are allocated already: the agent's weights."""

    def of(self, *places: Place) -> tuple[BudgetPart, ...]:
        """The parts at these places; where the learner is on the CPU, its device's parts are this machine's too."""
        on_cpu = self.device == "cpu" and "machine" in places
        return tuple(part for part in self.parts if part.place in places or (on_cpu and part.place == "device"))

    def total(self, *places: Place) -> int:
        """Bytes of these parts together."""
        return sum(part.nbytes for part in self.of(*places))


@dataclass(frozen=True)
class Available:
    """Bytes that a run may take; None where they cannot be told, or do not matter."""

    machine: int | None = None
    """Memory of this machine."""
    shared: int | None = None
    """Free space of /dev/shm."""
    device: int | None = None
    """Free memory of the learner's GPU."""


def memory_budget(
    config: TrainConfig[Any], agent: Agent, spec: ObservationSpec, device: torch.device | None = None
) -> MemoryBudget:
    """What a run with ``config`` will hold.

    Nothing of it is allocated, so that this can be asked before the learner, and with it the sensitivities, are made.
    Sensitivities, weights, batches and the queue are exact but for small change; activations are an estimate (see
    :func:`activation_bytes`), processes are rough figures.

    Args:
        config: checked settings.
        agent: the agent that will learn, on the learner's device; it stays as it is. On the device meta it has shapes
            alone: activations, which are measured, are then left out.
        spec: what the environment shows and takes.
        device: the learner's, where that is not the agent's.
    """
    weights = list(agent.parameters())
    nbytes = sum(weight.nbytes for weight in weights)
    held = 0 if weights[0].is_meta else nbytes
    device = device or weights[0].device
    queued = RolloutLayout(
        config.rollout_length, config.streams_per_actor, spec, agent.core.state_size, config.bootstrap_at_time_limits
    )
    one = replace(queued, num_streams=config.batch_size).nbytes()
    on_gpu = device.type == "cuda"
    parts = [*_learner_parts(config, agent, spec, device), *_batch_parts(config, one, on_gpu=on_gpu)]
    parts += _queue_parts(config, queued.nbytes(), weights_bytes=nbytes)
    workers = config.inference_workers if acts_on_workers(config, spec) else 0
    parts += _process_parts(config, workers, on_gpu=on_gpu)
    return MemoryBudget(str(device), tuple(parts), held)


def activation_bytes(agent: Agent, spec: ObservationSpec, config: LearnerConfig, steps: int, batch: int) -> int:
    """An estimate of what an update of T steps of B streams holds beside weights, carries and the batch.

    What forward pass and losses save for the backward pass is measured on a copy of the agent on the CPU, for two tiny
    rollouts; each of the saved arrays grows in a straight line with T B. Three times the largest of them is added to
    their sum, for what the update works on: good to about a quarter on a CPU.
    """
    copied = copy.deepcopy(agent).cpu()
    small, large = (saved_for_backward(copied, spec, config, size, batch=2) for size in (1, 2))
    grown = [a + (b - a) * (steps * batch - 2) // 2 for a, b in zip(small, large, strict=True)]
    return max(0, sum(grown) + _WORKING_ARRAYS * max(grown))


def saved_for_backward(agent: Agent, spec: ObservationSpec, config: LearnerConfig, steps: int, batch: int) -> list[int]:
    """Bytes of every array that forward pass and losses save for the backward pass over a rollout of zeros, without
    weights, carry and the rollout itself. The agent gets no gradient, and no random number is drawn."""
    device = next(agent.parameters()).device
    layout = RolloutLayout(steps, batch, spec, agent.core.state_size)
    zeros = layout.over(np.zeros(layout.nbytes(), dtype=np.uint8)).arrays()
    rollout = Rollout(**{name: torch.from_numpy(array).to(device) for name, array in zeros.items()})
    carry = agent.core.initial_carry(batch)
    sensitivities = carry.sensitivities.tensors() if carry.sensitivities is not None else ()
    if carry.sensitivities is not None:
        # As the learner gives it: sensitivities are then left to the backward pass, which never runs here.
        carry = Carry(carry.cell, carry.sensitivities, torch.arange(batch, device=device))
    known = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*agent.parameters(), *rollout.arrays().values(), carry.cell, *sensitivities)
    }
    # The storages are kept, so that none takes the place of another.
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = agent(rollout.observation, rollout.reward, rollout.is_first, carry, rollout.instruction)
        ALGORITHMS[config.algorithm].losses(output, rollout, config)
    return [storage.nbytes() for storage in saved.values()]


def available_memory(device: torch.device, root: Path = Path("/")) -> Available:
    """What is free now: of this machine the least of MemAvailable and what the control groups leave (v1 and v2).

    Args:
        device: the learner's.
        root: where proc, sys and dev are found.
    """
    limits = [*_meminfo_available(root), *_cgroups_available(root)]
    try:
        shm = os.statvfs(root / "dev/shm")
        shared = shm.f_bavail * shm.f_frsize
    except OSError:
        shared = None
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return Available(min(limits, default=None), shared, on_device)


def check_fits(budget: MemoryBudget, available: Available) -> None:
    """Compare a budget with what was free when the agent had been made and the learner had not.

    Raises:
        ConfigError: for the first place that is too small; the message names what is needed and free, the largest
            part, and what makes it smaller.
    """
    on_cpu = budget.device == "cpu"
    limits: list[tuple[str, tuple[Place, ...], int, int | None]] = [
        (f"memory on {budget.device}", ("device",), budget.held, None if on_cpu else available.device),
        ("shared memory (/dev/shm)", ("shared",), 0, available.shared),
        ("memory on this machine", ("machine", "shared"), budget.held if on_cpu else 0, available.machine),
    ]
    for what, places, held, free in limits:
        needed = budget.total(*places) - held
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
    config: TrainConfig[Any], agent: Agent, spec: ObservationSpec, device: torch.device
) -> Iterator[BudgetPart]:
    # A learner of shapes alone: what it allocates has sizes, but takes no memory.
    shapes = Learner(copy.deepcopy(agent).to("meta"), config.learner, config.num_streams, config.total_steps)
    trained = sum(weight.nbytes for weight in shapes.parameters)
    state = sum(value.nbytes for of_one in shapes.optimiser.state.values() for value in of_one.values())
    rtrl = config.agent.core == "elstm" and config.agent.gradient == "rtrl"
    fewer = "lower --streams-per-actor, --num-actors or --hidden-size"
    bfloat16 = ", or store them with --sensitivity-storage bfloat16"
    yield BudgetPart(
        f"{'sensitivities' if rtrl else 'cells'} of {config.num_streams} streams",
        "device",
        shapes.carries.nbytes(device),
        fewer + bfloat16 if rtrl and config.learner.sensitivity_storage == "float32" else fewer,
    )
    # Weights and optimiser state twice: an update keeps them as they were, in case it must be undone.
    yield BudgetPart(
        "weights, gradients and optimiser",
        "device",
        sum(weight.nbytes for weight in agent.parameters()) + 2 * trained + 2 * state,
        "lower --hidden-size or --encoder-features",
    )
    if next(agent.parameters()).is_meta:
        return
    # As the learner will set it.
    learning = copy.deepcopy(agent)
    learning.encoder_dtype = shapes.agent.encoder_dtype
    smaller = ", or take --encoder nature" if len(spec.shape) == 3 and config.agent.encoder != "nature" else ""
    yield BudgetPart(
        "activations of an update",
        "device",
        activation_bytes(learning, spec, config.learner, config.rollout_length, config.batch_size),
        f"lower --rollout-length or --batch-size{smaller}",
    )


def _batch_parts(config: TrainConfig[Any], one: int, *, on_gpu: bool) -> Iterator[BudgetPart]:
    """Batches of ``one`` bytes each: as they are put together, and as a GPU gets them."""
    remedy = "lower --rollout-length or --batch-size"
    # Without actors: the batch that was learned from, and the next one; a GPU's are copied to pinned memory.
    count = BUFFERS if config.num_actors else 2 + (DeviceFeed.SLOTS if on_gpu else 0)
    yield BudgetPart(f"{count} batches", "machine", count * one, remedy)
    if on_gpu:
        # Those under way, and the one that updates read.
        count = DeviceFeed.SLOTS + 1
        yield BudgetPart(f"{count} batches", "device", count * one, remedy)


def _queue_parts(config: TrainConfig[Any], rollout: int, weights_bytes: int) -> Iterator[BudgetPart]:
    """Rollouts in flight, of ``rollout`` bytes each, and the weights that actors need for them."""
    if config.num_actors == 0:
        # One of which a batch has left some streams, and the one that is under way.
        yield BudgetPart("queue of 2 rollouts", "machine", 2 * rollout, "lower --rollout-length or --streams-per-actor")
        return
    count = config.num_actors * config.rollouts_in_flight
    objects: Place = "shared" if config.ray_address == "local" else "cluster"
    yield BudgetPart(
        f"queue of {count} rollouts",
        "machine" if config.shares_memory else objects,
        count * rollout,
        "lower --rollout-length, --streams-per-actor, --num-actors or --rollouts-in-flight",
    )
    # A board of three; through Ray every rollout that was ordered may be waiting for weights of another version, and
    # the newest lie ready.
    copies = WeightsBoard.SLOTS if config.shares_memory else count + 1
    yield BudgetPart(
        "weights for the actors",
        "machine" if config.shares_memory else objects,
        copies * weights_bytes,
        "lower --num-actors, --rollouts-in-flight or --hidden-size, or raise --publish-every",
    )


def _process_parts(config: TrainConfig[Any], workers: int, *, on_gpu: bool) -> Iterator[BudgetPart]:
    """Other processes than the learner's; ``workers`` of them compute actions."""
    local = config.ray_address == "local" or config.num_actors == 0
    place: Place = "machine" if local else "cluster"
    actors = config.num_actors
    if actors:
        yield BudgetPart(_rough(actors, "rollout actor"), place, actors * ACTOR_BYTES, "lower --num-actors")
        if local:
            yield BudgetPart("Ray (roughly)", "machine", RAY_BYTES, "--num-actors 0 does without it")
    if workers:
        remedy = "lower --inference-workers, or take --inference actor"
        yield BudgetPart(_rough(workers, "inference worker"), place, workers * ACTOR_BYTES, remedy)
        # Several may be dealt out among GPUs; what lies on the learner's is no more than this.
        if on_gpu and local and config.inference_device != "cpu":
            yield BudgetPart(_rough(workers, "inference worker"), "device", workers * WORKER_GPU_BYTES, remedy)
    if config.tasks[0].suite.name == "dmlab":
        remedy = "lower --streams-per-actor or --num-actors"
        engines = config.num_streams
        yield BudgetPart(_rough(engines, "DMLab engine"), place, engines * DMLAB_ENGINE_BYTES, remedy)


def _rough(count: int, name: str) -> str:
    return f"{count} {name}{'s' if count > 1 else ''} (roughly)"


def _meminfo_available(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield 1024 * int(value.split()[0])


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
