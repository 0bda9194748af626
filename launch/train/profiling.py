"""Where a training's time goes (``--profile``): the loop's phases, and ``torch.profiler``'s trace of some updates."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from r2ac.agents.scopes import scope
from r2ac.launch.rollouts.inference.acting_agent import InferenceStatistics
from r2ac.launch.train.profile_summary import OTHER, ProfileSummary

UPDATE = "update"  # the phase of the updates themselves
TRACE, TIMELINE, SUMMARY = "learner-trace.json.gz", "ray-timeline.json", "summary.md"
SENSITIVITY_OPERATORS = {"r2ac::sensitivity_pass_", "r2ac::vector_pass_", "r2ac::block_sensitivity_pass_"}
# The part that a scope of Agent and Learner belongs to, and the part of the backward pass of what it computed.
FORWARD = {
    "encoder": "encoder forward",
    "core": "core forward",
    "heads": "heads, losses",
    "agent": "agent forward",  # all three, by one kernel (agents/fused.py)
    "agent backward": "agent backward",
    "losses": "heads, losses",
    "peers": "other learners",
    "optimiser": "optimiser",
    "copies": "copies",
    "metrics": "metrics",
    "refresh": "refresh",
    "backward": OTHER,
    UPDATE: OTHER,
}
BACKWARD = {
    "encoder": "encoder backward",
    "core": "core backward",
    "heads": "heads, losses",
    "agent": "agent backward",
    "losses": "heads, losses",
}
_NODE = "autograd::engine::evaluate_function"


class TrainingProfile:
    """Counts the seconds of the phases of a training's loop, and traces some of its updates; :meth:`write` puts its
    files into ``folder``.

    Seconds are counted from the beginning of the first phase "update" to the end of the last phase; phases do not nest.
    What starting and stopping the trace takes is counted nowhere. The trace begins after ``skip`` updates, of which the
    first compile kernels and fill caches, and ends with the update that reaches one of the limits.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        skip: int = 20,
        most_updates: int = 40,
        most_seconds: float = 20.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._folder, self._on_gpu, self._clock = folder, device.type == "cuda", clock
        self._skip, self._most_updates, self._most_seconds = skip, most_updates, most_seconds
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._updates = self._traced = 0
        self._trace: torch.profiler.profile | None = None
        self._traces = False
        self._began: float | None = None
        self._ended = self._trace_began = self._not_counted = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """``with profile.phase("waiting"):`` counts the seconds of a part of the loop, and names it in the trace."""
        if name == UPDATE:
            self._before_update()
        began = self._clock()
        try:
            with scope(name):
                yield
        finally:
            if self._began is not None:
                self._seconds[name] += self._clock() - began
            if name == UPDATE:
                self._after_update()
            self._ended = self._clock()

    def write(
        self,
        actors: Mapping[str, float],
        workers: InferenceStatistics | None = None,
        timeline: Callable[[Path], object] | None = None,
        on_policy: bool = False,
    ) -> ProfileSummary:
        """End the trace, and write it, Ray's timeline (by ``timeline``) and ``summary.md``. ``actors`` are seconds of
        "environment", "inference" and "waiting", summed over all rollout actors; without "waiting" where the learner's
        process steps the environments. Raises OSError."""
        self._stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        parts: dict[str, float] = {}
        if self._trace is not None:
            self._trace.export_chrome_trace(str(self._folder / TRACE))
            parts = update_seconds(self._trace.events(), self._on_gpu)
        if timeline is not None:
            timeline(self._folder / TIMELINE)
        began = self._ended if self._began is None else self._began
        rest = self._ended - began - self._not_counted - sum(self._seconds.values())
        loop = {**self._seconds, OTHER: max(0.0, rest)}
        summary = ProfileSummary(
            on_gpu=self._on_gpu,
            updates=self._updates,
            traced=self._traced,
            skipped=self._skip,
            loop=loop,
            parts=parts,
            actors=dict(actors),
            workers=workers,
            on_policy=on_policy,
            timeline=timeline is not None,
        )
        (self._folder / SUMMARY).write_text(summary.markdown())
        return summary

    def _before_update(self) -> None:
        began = self._clock()
        if self._began is None:
            self._began = began
        if self._updates == self._skip and self._trace is None:
            gpu = [ProfilerActivity.CUDA] if self._on_gpu else []
            self._trace = torch.profiler.profile(activities=[ProfilerActivity.CPU, *gpu])
            self._trace.start()
            self._traces = True
            self._trace_began = self._clock()
            self._not_counted += self._trace_began - began

    def _after_update(self) -> None:
        self._updates += 1
        if self._traces:
            self._traced += 1
            began = self._clock()
            if self._traced >= self._most_updates or began - self._trace_began >= self._most_seconds:
                self._stop()
                self._not_counted += self._clock() - began

    def _stop(self) -> None:
        if self._trace is not None and self._traces:
            self._trace.stop()
        self._traces = False


def update_seconds(events: Iterable[FunctionEvent], on_device: bool) -> dict[str, float]:
    """Seconds of each part of the updates (scopes "update") that a profiler saw: of the GPU's kernels with
    ``on_device``, else of the thread that makes them. Every moment counts once, in the part of the innermost event that
    names one. A node of the backward pass belongs to the scope of the operator that made it."""
    events = list(events)
    made_in = _scopes_of_nodes(events)
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if (part := _part_of(event, made_in)) is not None:
            seconds[part] += (_kernel_time(event) if on_device else event.self_cpu_time_total) / 1e6
    return {part: spent for part, spent in seconds.items() if spent > 0}


def _lineage(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """The event and all that enclose it, from the inside out."""
    inner: FunctionEvent | None = event
    while inner is not None:
        yield inner
        inner = inner.cpu_parent


def _scopes_of_nodes(events: Iterable[FunctionEvent]) -> dict[tuple[int, int], str]:
    """The scope in which each node of the backward pass was made, by forward thread and autograd's number."""
    scopes: dict[tuple[int, int], str] = {}
    for event in events:
        if event.sequence_nr < 0 or event.name.startswith(_NODE):
            continue
        names = [outer.name for outer in _lineage(event)]
        if not any(name.startswith(_NODE) for name in names):
            # An operator shows the number that comes next; of those with the same, the last makes the node.
            scopes[event.thread, event.sequence_nr] = next((name for name in names if name in FORWARD), OTHER)
    return scopes


def _part_of(event: FunctionEvent, made_in: Mapping[tuple[int, int], str]) -> str | None:
    """The part of the update in which the event lies; None outside the updates, where agents act."""
    part, in_update = None, False
    for outer in _lineage(event):
        part = part or _part_named_by(outer, made_in)
        # On a GPU the backward pass runs in a thread of its own.
        in_update = in_update or outer.name == UPDATE or outer.name.startswith(_NODE)
    return part if in_update else None


def _part_named_by(event: FunctionEvent, made_in: Mapping[tuple[int, int], str]) -> str | None:
    if event.name in SENSITIVITY_OPERATORS:
        return "sensitivities"
    if event.name.startswith(_NODE):
        return BACKWARD.get(made_in.get((event.fwd_thread or 0, event.sequence_nr), OTHER), OTHER)
    return FORWARD.get(event.name)


def _kernel_time(event: FunctionEvent) -> float:
    """Microseconds of the kernels that the event itself launched, without what it encloses."""
    # A scope shows on the GPU as well, under its own name, from its first kernel to its last.
    return sum(kernel.duration for kernel in event.kernels if kernel.name != event.name)
