"""The system's update and the same update alone, in turn in the learner's process: one line of JSON. A part of
throughput.py, for CPUs.

While `r2ac train` trains with its actors, some updates of the system, with all that the learner does between them, are
followed by as many on noise by RTRL and by TBPTT. Why: processes one after another differ more, by chance and by what
else the machine does, than the system differs from its learner. Where the learner waits for its actors, the comparison
says nothing of it; so the share of its time that it waits is reported, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401
import numpy as np
from throughput_bare import noise_updates
from throughput_setting import Setting, read_setting
from throughput_system import LEAVE_OUT, train_arguments

from r2ac.agents import Gradient
from r2ac.launch.cli import main as r2ac
from r2ac.launch.train.loop import TrainingLoop
from r2ac.learner import Rollout

MOST, BLOCK_SECONDS = 20, 1.0
"""Updates of one kind in a row at most, and how long they take at most."""
SKIPPED = 3
"""Of the system's after those on noise, meanwhile rollouts have queued up."""
SYSTEM = "system"
GRADIENTS: tuple[Gradient, ...] = ("rtrl", "tbptt")


class Turns:
    """In the place of ``update``, which makes the system's: between blocks of these it makes others on noise."""

    def __init__(
        self, setting: Setting, update: Callable[[Rollout[np.ndarray]], Any], waited: Callable[[], float]
    ) -> None:
        self.seconds: list[dict[str, float]] = []
        """Of an update of each kind, block by block."""
        self._update, self._updates, self._since = update, 0, 0.0
        self._waited, self._began = waited, (0.0, 0.0)
        self._noise = {gradient: noise_updates(setting, gradient)[1] for gradient in GRADIENTS}
        for run in self._noise.values():
            run()
        began = time.perf_counter()
        self._noise[GRADIENTS[0]]()
        self.block = max(1, min(MOST, round(BLOCK_SECONDS / (time.perf_counter() - began))))

    def __call__(self, rollout: Rollout[np.ndarray]) -> Any:
        place = self._updates % (SKIPPED + self.block)
        if self._updates == 0:
            # The wait for the first rollouts is the start-up's.
            self._began = self._waited(), time.perf_counter()
        elif place == 0:
            self._take_turns((time.perf_counter() - self._since) / self.block)
        if place == SKIPPED:
            self._since = time.perf_counter()
        self._updates += 1
        return self._update(rollout)

    def _take_turns(self, of_system: float) -> None:
        seconds = {SYSTEM: of_system}
        # Neither gradient is always the one that comes after the system.
        for gradient in GRADIENTS if len(self.seconds) % 2 else reversed(GRADIENTS):
            began = time.perf_counter()
            for _ in range(self.block):
                self._noise[gradient]()
            seconds[gradient] = (time.perf_counter() - began) / self.block
        self.seconds.append(seconds)

    def summary(self, steps: int) -> dict[str, float]:
        """Milliseconds of an update of each kind in the mean over the blocks after the start-up, of which the first is
        a part, the system's steps a second in its turns, with so many steps an update, and what share of the time the
        learner waited for rollouts."""
        kept = self.seconds[max(1, round(LEAVE_OUT * len(self.seconds))) :]
        means = {name: sum(each[name] for each in kept) / len(kept) for name in (SYSTEM, *GRADIENTS)}
        waited, began = self._began
        return {
            "steps_per_second": steps / means[SYSTEM],
            **{f"{name}_ms": 1000 * seconds for name, seconds in means.items()},
            "learner_wait": (self._waited() - waited) / (time.perf_counter() - began),
        }


def train(setting: Setting) -> dict[str, float]:
    """The summary of a training of the setting's seconds, at least of three blocks of each kind."""
    found: dict[str, float] = {}
    loop = TrainingLoop.loop

    def loop_with_turns(self: TrainingLoop, stop_requested: Callable[[], bool]) -> Any:
        turns, began = Turns(setting, self._learner.update, lambda: self._batches.waited), time.monotonic()
        self._learner.update = turns  # type: ignore[method-assign]

        def is_over() -> bool:
            return len(turns.seconds) >= 3 and time.monotonic() > began + setting.seconds / (1 - LEAVE_OUT)

        summary = loop(self, lambda: stop_requested() or is_over())
        found.update(turns.summary(setting.length * setting.batch))
        return summary

    TrainingLoop.loop = loop_with_turns  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="r2ac-throughput-") as folder:
        if code := r2ac(train_arguments(setting, {}, Path(folder) / "run")):
            sys.exit(code)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    setting, _ = read_setting(parser, arguments)
    print(json.dumps(train(setting)))


if __name__ == "__main__":
    main()
