"""How the benchmarks measure: in turns, on a CPU by the clock, on a GPU by its events and also without launch gaps.

Machines are shared and noisy. So methods take turns within a round, a time is the median over the rounds, and a ratio
is the median of the ratios within a round.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

Run = Callable[[], None]
LEAST_SECONDS = 0.02
"""A shorter run is measured several times in a row, at most ``MOST_CALLS`` times."""
MOST_CALLS = 500
MOST_SETS = 16


@dataclass(frozen=True)
class Times:
    """Seconds of every method in every round."""

    rounds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a method."""
        return statistics.median(self.rounds[name])

    def medians(self) -> dict[str, float]:
        """Of all methods that were measured."""
        return {name: self.median(name) for name in self.rounds}

    def ratio(self, name: str, to: str) -> float | None:
        """Median over the rounds of the ratio within a round; None where one of the two was not measured."""
        if name not in self.rounds or to not in self.rounds:
            return None
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[to], strict=True))

    def difference(self, name: str, to: str) -> float:
        """Median over the rounds of the difference within a round, in seconds."""
        return statistics.median(a - b for a, b in zip(self.rounds[name], self.rounds[to], strict=True))


def take_turns(
    runs: Mapping[str, Run], rounds: int, device: torch.device, each: Mapping[str, int] | None = None
) -> Times:
    """Measure every method in every round.

    Args:
        runs: what makes one measurement of each method; it must have run before (compiled, allocated).
        rounds: number of rounds.
        device: where the work is.
        each: how many pieces of work a run of each method does; one where it is not named.
    """
    names = list(runs)
    calls = {name: _calls(runs[name], device) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        # Every method comes at every place of a round: what ran before leaves caches and memory in its own state.
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(seconds(runs[name], calls[name], device) / (each or {}).get(name, 1))
    return Times(times)


def seconds(run: Run, calls: int, device: torch.device) -> float:
    """Seconds of one of ``calls`` runs in a row, the waits of a GPU for its launches included."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


def _calls(run: Run, device: torch.device) -> int:
    return max(1, min(MOST_CALLS, round(LEAST_SECONDS / seconds(run, 1, device))))


def as_graph(run: Run, calls: int) -> Run | None:
    """``calls`` runs in a row as one CUDA graph: kernel follows kernel, with no launch from Python between them.

    None, with a warning, where the run cannot be captured.
    """
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    # Autograd remembers the stream of its nodes: not the default stream, which a capture must leave alone.
    with torch.cuda.stream(stream):
        for _ in range(max(3, calls)):
            run()
    current.wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
    except RuntimeError as error:
        warnings.warn(f"measured without a CUDA graph, because its capture failed: {error}", stacklevel=2)
        return None
    return graph.replay


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most bytes that torch's tensors hold at a time during a run, above what they held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _without_messages():
        profile.start()
    run()
    with _without_messages():
        profile.stop()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Standard error goes nowhere: the profiler's library greets there at every start."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def cache_bytes(device: torch.device) -> int:
    """The last level of cache: bytes that a repeated measurement might find without going to memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=2**25)


def sets_beyond_cache(one: int, device: torch.device) -> int:
    """How many sets of ``one`` bytes each a measurement must go round so that it never finds a set in the cache."""
    return min(MOST_SETS, 1 + -(-cache_bytes(device) // one))


def rotating(run: Callable[[int], object], sets: int) -> Run:
    """Calls ``run`` with 0, 1, … sets - 1, 0, 1, … in turn."""
    numbers = itertools.cycle(range(sets))

    def call() -> None:
        run(next(numbers))

    return call


def release_memory(device: torch.device) -> None:
    """Give back what earlier measurements left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
