"""The training that a manifest starts: what it needs of a cluster, the lines that begin it or go on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from r2ac.launch.settings.config import ConfigError, TrainConfig, require
from r2ac.launch.settings.places import is_url


@dataclass(frozen=True)
class Needs:
    """What a training asks a cluster for."""

    actors: int
    """Rollout actors and inference workers, of which each takes one CPU."""
    learners: int
    """Learners that are processes of their own; 0: the driver learns."""
    learner_cpus: int
    """CPUs of each learner."""
    gpus: int
    """GPUs of all learners together."""
    retries: int = 3
    """Restarts from the last checkpoint of a training that failed."""

    @classmethod
    def of(cls, config: TrainConfig[Any]) -> Needs:
        """Of checked settings, with GPUs for --device cuda. Raises ConfigError for --inference-device cuda."""
        works = config.inference == "worker"
        if works and config.inference_device.startswith("cuda"):
            raise ConfigError(
                f"--inference-device is {config.inference_device}, but a manifest asks for the GPUs of learners alone: "
                "with auto inference workers take those that are left, or CPUs"
            )
        actors = config.num_actors + config.inference_workers * works
        learners = config.num_learners
        gpus = max(learners, 1) if config.device.startswith("cuda") else 0
        return cls(actors, learners, config.learner_threads or 1, gpus, config.max_failures or cls.retries)

    @property
    def driver_cpus(self) -> int:
        """CPUs of the driver, besides what Ray counts: with GPUs it learns where they are."""
        return self.learner_cpus if self.learners == 0 and self.gpus == 0 else 0

    def workers(self, cpus: int) -> int:
        """How many nodes of so many CPUs hold all that runs on CPUs: the actors, and learners without GPUs."""
        return self.nodes(0 if self.gpus else self.learners, cpus)

    def worker_cpus(self, most: int) -> int:
        """CPUs of such a node: ``most``, or what there is to run; more only where a learner takes more."""
        learners = 0 if self.gpus else self.learners
        return max(min(most, self.actors + learners * self.learner_cpus), self.learner_cpus if learners else 1)

    def gpu_nodes(self, gpus: int) -> int:
        """How many nodes of so many GPUs hold the learners."""
        return math.ceil(self.gpus / gpus)

    def nodes(self, learners: int, cpus: int) -> int:
        """How many nodes of so many CPUs hold the actors, of one CPU each, and learners, which cannot be split."""
        total = self.actors + learners * self.learner_cpus
        return max(math.ceil(total / cpus), math.ceil(learners / max(1, cpus // self.learner_cpus)))


@dataclass(frozen=True)
class Training:
    """A training as a manifest writes it down."""

    task: str
    flags: tuple[str, ...]
    """Flags of r2ac train as they were given, without --preset, --run-dir and --ray-address."""
    preset: str | None
    run_dir: str
    """Where the run is written, as the nodes see it."""
    name: str
    """Of the job, see `check_name`."""
    needs: Needs

    @property
    def at_url(self) -> bool:
        return is_url(self.run_dir)


def check_name(name: str) -> None:
    """Raise ConfigError for a name that Kubernetes, Slurm or a cloud would not take."""
    allowed = "lower-case letters, digits and dashes, begin with a letter, end with no dash, and have at most 47 "
    check_text("name", name, "[a-z]([-a-z0-9]{0,45}[a-z0-9])?", f"{allowed}characters")


def check_text(name: str, value: str, pattern: str, allowed: str) -> None:
    """Raise ConfigError for the value of a flag that does not match the pattern as a whole."""
    require(re.fullmatch(pattern, value) is not None, name, repr(value), allowed)


def worker_bounds(enough: int, least: int | None, most: int | None) -> tuple[int, int]:
    """The fewest and the most CPU workers: the flags' values, or ``enough``. Raises ConfigError for impossible ones."""
    least = enough if least is None else least
    most = max(enough, least) if most is None else most
    require(least >= 0, "min_workers", least, "at least 0")
    require(most >= max(least, 1), "max_workers", most, f"at least {max(least, 1)}")
    return least, most


def check_at_least(options: object, *names: str, least: int = 1) -> None:
    """Raise ConfigError for the first of these fields of ``options`` that is given and below ``least``."""
    for name in names:
        value = getattr(options, name)
        require(value is None or value >= least, name, value, f"at least {least}")


def ray_version() -> str:
    """The installed version of Ray. Raises ConfigError where it has no token authentication."""
    installed = version("ray")
    if tuple(map(int, installed.split(".")[:2])) < (2, 52):
        raise ConfigError(f"Ray {installed} is installed, but clusters need token authentication: Ray 2.52 or later")
    return installed
