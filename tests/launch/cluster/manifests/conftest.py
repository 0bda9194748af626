"""A training to write manifests of, and programs that stand in for those of a cluster."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from r2ac.launch.cluster.manifests.resources import Needs, Training

NEEDS = Needs(actors=3, learners=0, learner_cpus=1, gpus=0)
TRAINING = Training("memory/tmaze", ("--seed", "2"), None, "runs/a", "a", NEEDS)


@pytest.fixture
def make_training() -> Callable[..., Training]:
    """make_training(gpus=1, name="b", …) is a small training with other needs and fields."""

    def make(**changes: object) -> Training:
        needs = {name: changes.pop(name) for name in tuple(changes) if name in vars(NEEDS)}
        return replace(TRAINING, needs=replace(NEEDS, **needs), **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def programs(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """programs({"name": "shell lines", …}) is a directory that holds these programs."""

    def write(scripts: dict[str, str]) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, lines in scripts.items():
            program = folder / name
            program.write_text(f"#!/bin/bash\n{lines}\n")
            program.chmod(0o755)
        return folder

    return write
