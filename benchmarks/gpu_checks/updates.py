"""The learner on the device: how it starts, whether an update waits for the GPU, captured against eager, threads."""

from __future__ import annotations

import queue
import shutil
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learner_update import WORD_IDS, Preset, synthetic_rollout
from torch import Tensor

from gpu_checks.session import Session
from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.kernels import kernels_for
from r2ac.learner import Learner, LearnerConfig, Rollout, use_matmul_precision

ROOT = Path(__file__).parents[2]
BATCH, ACTIONS = 5, 3
SMALL = AgentConfig(hidden_size=16, encoder_features=8)
WAITS = "called a synchronizing CUDA operation"
"""What torch's debug mode warns with."""


@dataclass(frozen=True)
class Case:
    """A learner and the rollouts that it gets."""

    shape: tuple[int, ...] = (9,)
    agent: AgentConfig = SMALL
    steps: int = 6
    batch: int = BATCH
    words: int = 0
    final_observations: bool = False
    precision: str = "highest"
    """Of matrix products."""
    bound: float = 1e-5
    config: dict[str, Any] = field(default_factory=dict)
    """Of the learner."""

    def learner(self, device: torch.device, **config: Any) -> Learner:
        """With the same weights each time."""
        torch.manual_seed(5)
        spec = ObservationSpec(self.shape, DiscreteActions(ACTIONS), self.words, WORD_IDS if self.words else 0)
        settings = LearnerConfig(**{**self.config, **config})
        return Learner(Agent(spec, self.agent).to(device), settings, self.batch, 10**6)

    def rollout(self, sequence: int, steps: int | None = None) -> Rollout[np.ndarray]:
        """Number ``sequence`` of every stream, with resets."""
        hidden = 0 if self.agent.core == "feedforward" else self.agent.hidden_size
        preset = Preset(self.shape, hidden, ACTIONS, 1, self.steps, (self.steps,))
        rollout = synthetic_rollout(steps or self.steps, self.batch, preset, hidden, sequence, self.words)
        rollout.is_first[:] = np.random.default_rng(sequence).random(rollout.is_first.shape) < 0.1
        rollout.sequence[:] = sequence
        if not self.final_observations:
            return rollout
        truncated = rollout.is_first[1:] & (np.arange(self.batch) % 2 == 0)
        return replace(rollout, truncated=truncated, final_observation=rollout.observation[1:].copy())


IMAGE = (3, 16, 16)
CASES = {
    "rmsprop": Case(),
    "adam": Case(config={"optimiser": "adam"}),
    "many steps": Case(steps=20),
    "many steps, TF32": Case(steps=20, precision="high", bound=1e-3),
    "images": Case(IMAGE),
    "images in bfloat16": Case(IMAGE, bound=1e-3, config={"encoder_precision": "bfloat16"}),
    "nature, TF32": Case((4, 36, 36), replace(SMALL, encoder="nature"), precision="high", bound=1e-3),
    "instructions": Case(IMAGE, words=5),
    # PyTorch sums the gradient of an embedding otherwise where there are more than 4096 words.
    "long instructions": Case(steps=20, words=50),
    "sensitivities in bfloat16": Case(steps=20, bound=1e-3, config={"sensitivity_storage": "bfloat16"}),
    "tbptt": Case(agent=replace(SMALL, gradient="tbptt")),
    "feed-forward": Case(agent=replace(SMALL, core="feedforward")),
    "no RTRL metrics": Case(config={"rtrl_metrics_every": 0}),
    "rewards normalised": Case(agent=replace(SMALL, normalise_rewards=True)),
    "time limits": Case(final_observations=True),
}

WATCHED = "rmsprop", "images", "adam", "rewards normalised", "time limits"
"""Those of which an update is watched for waits."""


def check_start(session: Session) -> None:
    """The machine, the kernels, and the device as ``r2ac train`` chooses it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    kernels = kernels_for(torch.empty(0, device=session.device)).name
    session.record("C compiler", compiler)
    session.note(f"{kernels} kernels; C compiler: {compiler or 'none'}")
    if session.on_gpu:
        properties = torch.cuda.get_device_properties(session.device)
        free, total = torch.cuda.mem_get_info(session.device)
        about = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "L2 cache, bytes": properties.L2_cache_size,
            "memory, bytes": total,
            "free, bytes": free,
        }
        session.record("GPU", about)
        session.note(", ".join(f"{name} {value}" for name, value in about.items()))
        session.expect("the kernels are Triton's", kernels == "triton")
    try:
        from r2ac.launch.runs.loading import learner_device
    except ImportError as error:
        session.note(f"r2ac train's own choice of the device is left out: {error}")
    else:
        for name in ("auto", "cuda", f"cuda:{session.device.index}") if session.on_gpu else ("cpu",):
            session.expect(f"--device {name}: {learner_device(name)}", True)
        if session.on_gpu:
            torch.cuda.set_device(session.device)
    learner = Case().learner(session.device)
    learner.update(Case().rollout(0))
    learner.check()
    session.expect("one update of a small agent", learner.skipped_updates == 0)


def waits_in(run: Callable[[], object], on_gpu: bool) -> list[str]:
    """Where the run waits for the GPU, by torch's debug mode: the innermost line of this repository, and torch's."""
    found: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, number: int, *_: object) -> None:
        if WAITS not in str(message):
            return
        inside = [frame for frame in traceback.extract_stack() if _is_product(frame.filename)]
        place = f"{Path(inside[-1].filename).resolve().relative_to(ROOT)}:{inside[-1].lineno}" if inside else "?"
        found.append(f"{place} waits for the GPU ({filename}:{number})")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            if on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return list(dict.fromkeys(found))


def _is_product(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("agents", "kernels", "learner")


def check_waits(session: Session) -> None:
    """An update that is launched from Python, one by one: what waits for the GPU no CUDA graph may hold."""
    for name, case in session.each({name: CASES[name] for name in WATCHED}):
        with session.case(name):
            learner = case.learner(session.device, cuda_graph=False)
            for sequence in range(3):
                learner.update(case.rollout(sequence))
            rollout = case.rollout(3)
            learner.stage(rollout)
            update = partial(learner.update, rollout)
            session.synchronise()
            waits = waits_in(update, session.on_gpu)
            session.expect(f"{name}: nothing waits", not waits)
            for wait in waits:
                session.fail(f"{name}: {wait}")


def check_captures(session: Session) -> None:
    """Ten updates as a CUDA graph and one by one, one of them spoilt, then five of another length."""
    for name, case in session.each(CASES):
        with session.case(name):
            use_matmul_precision(case.precision)
            if session.quick:
                case = replace(case, words=min(case.words, 5))
            try:
                _compare_captured(session, name, case)
            finally:
                use_matmul_precision("highest")


def _compare_captured(session: Session, name: str, case: Case) -> None:
    found = []
    for graph in (True, False):
        learner = case.learner(session.device, cuda_graph=graph)
        for sequence in range(2 if session.quick else 15):
            rollout = case.rollout(sequence, case.steps + (sequence >= 10))
            if sequence == 7:
                rollout.reward[2, 1] = np.nan
            learner.update(rollout)
        if session.on_gpu:
            session.expect(f"{name}: {'captured' if graph else 'not captured'}", learner.captured == graph)
        found.append((_weights(learner), learner.skipped_updates, learner.read_metrics()))
    (captured, skipped, metrics), (eager, expected, eager_metrics) = found
    session.near(f"{name}: weights after captured updates", captured, eager, case.bound)
    session.expect(f"{name}: {skipped} updates skipped", skipped == expected == (not session.quick))
    session.expect(f"{name}: the same metrics by name", metrics.keys() == eager_metrics.keys())
    worst = max(abs(metrics[key] - value) / max(abs(value), 1e-6) for key, value in eager_metrics.items())
    session.expect(f"{name}: metrics: {worst:.1e} <= {10 * case.bound:.0e}", worst <= 10 * case.bound)


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten().cpu() for parameter in learner.parameters])


def check_threads(session: Session) -> None:
    """Batches that a thread stages ahead from pinned memory that is used again, against batches staged one by one."""
    count = 6 if session.quick else 60
    agent = AgentConfig(hidden_size=8 if session.quick else 64, encoder_features=32)
    case = Case(IMAGE if session.quick else (3, 64, 64), agent, 4 if session.quick else 20, 3 if session.quick else 32)
    rollouts = [case.rollout(number) for number in range(4)]
    found = []
    for ahead in (True, False):
        learner = case.learner(session.device)
        ring = [_pinned_like(rollouts[0], session.on_gpu) for _ in range(3)]
        staged: queue.Queue[Any] = queue.Queue(maxsize=1)

        def stage(number: int, learner: Learner = learner, ring: list[Rollout[np.ndarray]] = ring) -> Any:
            into = ring[number % 3]
            for name, array in rollouts[number % 4].arrays().items():
                into.arrays()[name][...] = array
            into.sequence[:] = number
            learner.stage(into)
            return into

        def stage_all(staged: queue.Queue[Any] = staged, stage: Callable[[int], Any] = stage) -> None:
            try:
                for number in range(count):
                    staged.put(stage(number))
            except BaseException as error:
                staged.put(error)

        if ahead:
            threading.Thread(target=stage_all, daemon=True).start()
        weights = []
        for number in range(count):
            batch = staged.get(timeout=60) if ahead else stage(number)
            if isinstance(batch, BaseException):
                raise batch
            learner.update(batch)
            if number % 7 == 0:
                weights.append(_weights(learner))
        found.append((torch.stack(weights), learner.carries.resets, learner.skipped_updates))
    (by_thread, *counts), (alone, *expected) = found
    session.near("weights after batches staged on a thread", by_thread, alone, 1e-4)
    session.expect(f"{counts[0]} stream resets, {counts[1]} updates skipped", counts == expected)


def _pinned_like(rollout: Rollout[np.ndarray], pinned: bool) -> Rollout[np.ndarray]:
    arrays = rollout.arrays().items()
    return Rollout(
        **{name: torch.from_numpy(np.empty_like(a)).pin_memory().numpy() if pinned else a.copy() for name, a in arrays}
    )
