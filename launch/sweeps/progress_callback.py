"""What a sweep tells while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from rich.console import Console

from r2ac.launch.runtime.progress import short_count
from r2ac.launch.sweeps.sweep_plan import SweepPlan

INTERVAL_SECONDS = 10.0


class Telling(tune.Callback):
    """A line for each trial that ends or copies another, and now and then one about all of them."""

    def __init__(self, plan: SweepPlan, names: Sequence[str], console: Console) -> None:
        self._total, self._console = plan.trials[0].config.total_steps * len(names), console
        self._minimise, self._perturbed = plan.settings.minimise, list(plan.perturbed)
        self._latest: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._names = list(names)
        self._shown = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks down for a way of resuming that sweeps do not use; a console cannot be.
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Note how far it is."""
        name = str(trial)
        before = self._latest.get(name)
        self._latest[name] = result
        if before is not None and result["copies"] > before["copies"]:
            settings = ", ".join(f"{setting} {trial.config[setting]:.4g}" for setting in self._perturbed)
            self._say(f"{name} goes on as a copy of {result['donor']}, with {settings}")
        if result["failure"] and not (before and before["failure"]):
            self._say(f"{name} failed: {result['failure']}")
        now = time.monotonic()
        if now - self._shown >= INTERVAL_SECONDS:
            self._shown = now
            self._say(self._all())

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One has ended."""
        self._end(str(trial), "has ended")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One was given up."""
        self._end(str(trial), "was given up")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One is started again."""
        self._say(f"{trial} lost its process and goes on from its last checkpoint")

    def _end(self, name: str, how: str) -> None:
        self._ended.add(name)
        latest = self._latest.get(name)
        score = "" if latest is None or not math.isfinite(latest["score"]) else f", score {latest['score']:,.3f}"
        self._say(f"{name} {how}{score} ({len(self._ended)} of {len(self._names)})")

    def _all(self) -> str:
        steps = sum(result["env_steps"] for result in self._latest.values())
        scores = {name: one["score"] for name, one in self._latest.items() if math.isfinite(one["score"])}
        line = f"{short_count(steps)} of {short_count(self._total)} steps"
        if scores:
            best = (min if self._minimise else max)(scores, key=lambda name: scores[name])
            line += f", best {best} with {scores[best]:,.3f}"
        return line

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)
