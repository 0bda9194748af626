"""What a sweep prints while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from rich.console import Console

from r2ac.launch.runtime.progress import number_text, short_count
from r2ac.launch.sweeps.sweep_plan import SweepPlan

INTERVAL_SECONDS = 10.0


class ProgressCallback(tune.Callback):
    """A line for each trial that ends or copies another, and every ten seconds or so one about all of them."""

    def __init__(self, plan: SweepPlan, env_steps: Mapping[str, int], console: Console) -> None:
        """``env_steps``: of each trial that is trained now, by its name, the steps that it begins with."""
        self._plan, self._env_steps, self._console = plan, dict(env_steps), console
        self._latest: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()
        self._shown = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its callbacks down for a way of resuming that sweeps do not use; a console cannot be.
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        name = str(trial)
        before = self._latest.get(name)
        self._latest[name] = result
        self._env_steps[name] = result["env_steps"]
        if before is not None and result["copies"] > before["copies"]:
            settings = ", ".join(f"{setting} {trial.config[setting]:.4g}" for setting in self._plan.perturbed)
            self._print(f"{name} goes on as a copy of {result['donor']}, with {settings}")
        if result["failure"] and not (before and before["failure"]):
            self._print(f"{name} failed: {result['failure']}")
        now = time.monotonic()
        if now - self._shown >= INTERVAL_SECONDS:
            self._shown = now
            self._print_state()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._print_end(str(trial), "has ended")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._print_end(str(trial), "was given up")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._print(f"{trial} lost its process and goes on from its last checkpoint")

    def _print_end(self, name: str, how: str) -> None:
        self._ended.add(name)
        score = self._scores().get(name)
        shown = "" if score is None else f", score {number_text(score)}"
        self._print(f"{name} {how}{shown} ({len(self._ended)} of {len(self._env_steps)})")

    def _print_state(self) -> None:
        steps = sum(self._env_steps.values())
        total = self._plan.trials[0].config.total_steps * len(self._env_steps)
        line, scores = f"{short_count(steps)} of {short_count(total)} steps", self._scores()
        if scores:
            best = (min if self._plan.settings.minimise else max)(scores, key=lambda name: scores[name])
            line += f", best {best} with {number_text(scores[best])}"
        self._print(line)

    def _scores(self) -> dict[str, float]:
        return {name: one["score"] for name, one in self._latest.items() if math.isfinite(one["score"])}

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)
