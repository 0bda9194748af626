"""What the sections of a check share: the time that is left, what passed, what failed, what was measured."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from report import Goal
from torch import Tensor

Value = TypeVar("Value")
LOST = "CUDA error", "Triton Error [CUDA]"
"""In the message of an error after which nothing can be relied on to run on the GPU in this process: a failed capture
leaves torch's allocator and generators in the middle of it."""


@dataclass
class Section:
    """What one section found."""

    verdict: str = "passed"
    """Or "failed", or "left out"."""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured, for the JSON."""


class Session:
    """A check that is under way. Sections tell it what they compare and measure; it prints that as it comes.

    Args:
        device: what is checked.
        quick: whether to take sizes that mean nothing, for a CPU.
        seconds: that all sections may take.
    """

    def __init__(self, device: torch.device, quick: bool, seconds: float) -> None:
        self.device, self.quick = device, quick
        self.on_gpu = device.type == "cuda"
        self.goals: list[Goal] = []
        self.sections: dict[str, Section] = {}
        self._end = time.monotonic() + seconds
        self._section, self._until = Section(), self._end
        self.is_lost = False
        """Whether nothing more is to run on the GPU in this process."""

    def left(self) -> float:
        """Seconds left for all that follows."""
        return self._end - time.monotonic()

    def run(self, name: str, least: float, most: float, section: Callable[[Session], None]) -> None:
        """Run a section; whatever it raises is a failure of its own.

        Args:
            name: of the section.
            least: seconds without which it is not begun.
            most: seconds after which it begins no further case.
            section: what it does.
        """
        found = self.sections[name] = self._section = Section()
        began = time.monotonic()
        self._until = min(self._end, began + most)
        if self.left() < least or self.is_lost:
            found.verdict = "left out"
            reason = "the GPU is lost" if self.is_lost else f"{max(0, self.left()):.0f} s are left of {least:.0f}"
            print(f"\n--- {name}: left out, {reason}", flush=True)
            return
        print(f"\n=== {name}", flush=True)
        with self.case(name):
            section(self)
        found.seconds = time.monotonic() - began
        found.verdict = "failed" if found.failures else "passed"
        print(f"--- {name}: {found.verdict}, {found.seconds:.1f} s", flush=True)

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """What is raised inside is a failure by this name, and does not stop what follows."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self.is_lost = self.is_lost or any(sign in str(error) for sign in LOST)
            self.fail(f"{name}: {type(error).__name__}: {str(error)[:500]}")
            traceback.print_exc(limit=-6)

    def each(self, cases: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
        """The cases by name, as long as there is time for them."""
        for number, (name, case) in enumerate(cases.items()):
            if number and (time.monotonic() > self._until or self.is_lost):
                rest = list(cases)[number:]
                self.note(f"left out, {'the GPU is lost' if self.is_lost else 'no time'}: {', '.join(rest)}")
                self.record("left out", rest)
                return
            yield name, case

    def has_time(self) -> bool:
        """Whether the section may begin something more."""
        return time.monotonic() < self._until

    def near(self, name: str, found: Tensor, expected: Tensor, bound: float) -> None:
        """Check that the largest difference, relative to the largest number expected, is within the bound."""
        if found.shape != expected.shape:
            self.fail(f"{name}: the shape is {tuple(found.shape)} and not {tuple(expected.shape)}")
            return
        difference = (found.double().cpu() - expected.double().cpu()).abs()
        size = float(expected.abs().max()) if expected.numel() else 0.0
        error = float(difference.max()) / max(size, 1e-30) if found.numel() else 0.0
        self.expect(f"{name}: {error:.1e} <= {bound:.0e}", error <= bound)
        self.record(name, error if math.isfinite(error) else str(error))

    def expect(self, name: str, holds: bool) -> None:
        """Check one thing."""
        print(f"    {'ok ' if holds else 'BAD'} {name}", flush=True)
        if not holds:
            self._section.failures.append(name)

    def fail(self, what: str) -> None:
        """Note a failure."""
        self.expect(what, holds=False)

    def note(self, text: str) -> None:
        """Print something."""
        print(f"    {text}", flush=True)

    def record(self, name: str, value: Any) -> None:
        """Keep a figure for the JSON."""
        self._section.figures[name] = value

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
