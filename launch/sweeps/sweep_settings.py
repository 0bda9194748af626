"""The settings of a sweep, as the command line and ``sweep.json`` have them."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from r2ac.launch.settings.config import ConfigError, require

METRICS = ("episode_return", "episode_length", "normalised_return", "capped_normalised_return")
"""What a trial can be judged by, beside the metrics that stand in a group, such as loss/entropy."""
CHANGEABLE = frozenset({"concurrent", "gpus_per_trial", "max_failures", "ray_address", "sweep_dir"})
"""What a sweep that goes on may have other than it began: none of it changes what is learned."""

Many = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class SweepSettings:
    """Train an agent for each of many settings, as trials of Ray Tune, and rank them. All other flags are those of
    r2ac train and hold for every trial. A sweep that was interrupted goes on with: r2ac sweep --resume DIR"""

    vary: Many = ()
    """NAME=VALUES, once for each flag of r2ac train that is varied. VALUES is a list (a,b,c: each of them),
    choice(a,b,c), uniform(a,b), loguniform(a,b) or randint(a,b)."""
    trials: int = 0
    """Random draws; each is trained at every combination of the lists. 0: 8, or 1 where nothing is random."""
    scheduler: Literal["none", "pbt"] = "none"
    """none: every trial trains to its end with the settings that it began with; pbt: population based training, all
    trials are one population whose worst copy the best and go on with changed settings."""
    metric: str = "episode_return"
    """What trials are judged by: its mean over the last ten lines of metrics.jsonl."""
    minimise: bool = False
    """The lower the metric, the better."""
    perturb_every: int = 0
    """With pbt: environment steps between two comparisons; 0: a twentieth of the run."""
    quantile: float = 0.25
    """With pbt: the share of the population that copies, and the share that is copied."""
    perturb_factor: float = 1.25
    """With pbt: one that has copied multiplies or divides each of its numbers by this."""
    resample: float = 0.25
    """With pbt: the probability that it draws a number anew from its range instead."""
    bounds: Many = ()
    """NAME=LOW,HIGH, with pbt: how far changes may carry a setting; by default as far as its first draws reach."""
    concurrent: int = 0
    """The most trials at a time; 0: as many as there are CPUs for."""
    gpus_per_trial: float = 1.0
    """GPUs of a trial where the learner runs on one; less than 1 shares one."""
    max_failures: int = 3
    """How often a trial whose process fails is started again, from its last checkpoint."""
    sweep_dir: Annotated[Path | None, tyro.conf.arg(aliases=("--run-dir",))] = None
    """Where all runs are written, each in a folder of its own; runs/<suite>-<task>/sweep-<time> if not given."""
    sweep_seed: int = 1
    """Seeds the random draws, and the changes of pbt."""
    ray_address: str = "local"
    """Ray cluster to join, whose machines all see --sweep-dir; local starts Ray on this machine alone."""

    @property
    def is_population(self) -> bool:
        return self.scheduler == "pbt"

    def check(self) -> None:
        """Raise ConfigError for the first setting that is not allowed."""
        for name in ("trials", "perturb_every", "concurrent", "max_failures", "sweep_seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        if not self.vary:
            raise ConfigError("nothing is varied: r2ac sweep needs --vary NAME=VALUES, such as --vary seed=1,2,3")
        # A path has no two slashes in a row.
        is_url = re.match(r"[\w+.-]+:/", str(self.sweep_dir))
        require(not is_url, "sweep_dir", self.sweep_dir, "a folder, not a URL")
        metrics = f"{', '.join(METRICS)} or a metric of a group, such as loss/entropy"
        require(self.metric in METRICS or "/" in self.metric, "metric", self.metric, metrics)
        require(0 < self.quantile <= 0.5, "quantile", self.quantile, "above 0 and at most 0.5")
        require(self.perturb_factor > 1, "perturb_factor", self.perturb_factor, "above 1")
        require(0 <= self.resample <= 1, "resample", self.resample, "0 to 1")
        gpus = self.gpus_per_trial
        require(
            0 < gpus < 1 or (gpus > 0 and float(gpus).is_integer()), "gpus_per_trial", gpus, "a part of 1, or whole"
        )
        if not self.is_population and (self.bounds or self.perturb_every):
            given = "--bounds" if self.bounds else "--perturb-every"
            raise ConfigError(f"{given} is for --scheduler pbt: without it no setting is changed")
        if self.is_population and self.concurrent and self.ray_address != "local":
            raise ConfigError(
                "--concurrent cannot be given with --scheduler pbt on a cluster that is joined: as many members of a "
                "population train as there is room for"
            )

    def to_json(self) -> dict[str, Any]:
        return {n: str(v) if isinstance(v, Path) else v for n, v in dataclasses.asdict(self).items()}


def settings_from_json(values: dict[str, Any], sweep_dir: Path) -> SweepSettings:
    """Reverses :meth:`SweepSettings.to_json` for the sweep now in ``sweep_dir``; raises ConfigError for others."""
    try:
        lists = {name: tuple(map(str, values[name])) for name in ("vary", "bounds")}
        return SweepSettings(**{**values, **lists, "sweep_dir": sweep_dir})
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{sweep_dir} is not a sweep of this version of r2ac: {error}") from error
