"""A trial as Ray Tune's: imported where Ray is there, in the sweep's process and in those of its trials."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from r2ac.launch.sweeps.space import Settings
from r2ac.launch.sweeps.sweep_plan import SweepPlan
from r2ac.launch.sweeps.trial import Trial

REPORT_SECONDS = 2.0


class SweepTrial(tune.Trainable):
    """Ray Tune's interface to a :class:`Trial`; ``config`` holds the settings that may change, by their flags."""

    def setup(self, config: dict[str, Any], plan: SweepPlan, first_generation: int) -> None:  # type: ignore[override]
        # Ray would else log every checkpoint that members hand to one another.
        logging.getLogger("ray").setLevel(logging.WARNING)
        self._plan, self._first_generation = plan, first_generation
        self._open(config)

    def step(self) -> dict[str, Any]:
        """Some seconds of training, or up to a comparison or the end."""
        report = self._trial.report(REPORT_SECONDS)
        return {**asdict(report), "generation": report.generation - self._first_generation}

    def save_checkpoint(self, folder: str) -> None:
        self._trial.save(Path(folder))

    def load_checkpoint(self, folder: str) -> None:  # type: ignore[override]
        """The member's own, or that of the member that it copies."""
        self._trial.load(Path(folder))

    def reset_config(self, config: dict[str, Any]) -> bool:
        self._trial.stop()
        self._open(config)
        return True

    def cleanup(self) -> None:
        self._trial.stop()

    def _open(self, config: dict[str, Any]) -> None:
        plan = self._plan
        planned = next(trial for trial in plan.trials if trial.name == self.trial_name)
        settings: Settings = {name: float(config[name]) for name in plan.perturbed}
        sweep = plan.settings
        self._trial = Trial(planned.name, planned.config, settings, sweep.metric, sweep.minimise, plan.perturb_every)
