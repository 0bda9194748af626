"""The lines that begin a training or go on with it, run by a real shell; what a training needs of a cluster."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ac.launch.cluster.manifests.resources import Needs, Training, check_name, worker_bounds
from r2ac.launch.cluster.manifests.templates import render
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.presets import preset

MakeTraining = Callable[..., Training]
# Whatever a process can be told: no NUL, no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
NASTY = [
    "$(touch hit)",
    "`touch hit`",
    "a b",
    "'",
    '"',
    "\\",
    "x\ny",
    "; touch hit",
    "$HOME",
    "$(HOME)",
    "*",
    "~/x",
    "--",
    "",
]


def chosen(training: Training, folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    """The command that the shell is left with."""
    script = render("command.sh.j2", training=training) + "printf '%s\\0' \"$@\"\n"
    done = subprocess.run(["sh", "-ec", script], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_a_new_training_begins(make_training: MakeTraining, tmp_path: Path) -> None:
    assert chosen(make_training(preset="paper"), tmp_path) == [
        *("python", "-m", "r2ac.launch", "train", "memory/tmaze", "--preset", "paper", "--seed", "2"),
        *("--run-dir", "runs/a", "--ray-address", "auto"),
    ]


def test_a_training_with_a_checkpoint_goes_on(make_training: MakeTraining, tmp_path: Path) -> None:
    (tmp_path / "runs/a/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/a/checkpoints/step_000000000000.safetensors").touch()
    assert chosen(make_training(preset="paper"), tmp_path) == [
        *("python", "-m", "r2ac.launch", "train", "--resume", "runs/a", "--seed", "2", "--ray-address", "auto"),
    ]


def test_a_run_that_died_before_its_first_checkpoint_is_kept_aside(make_training: MakeTraining, tmp_path: Path) -> None:
    (tmp_path / "runs/a/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/a/config.json").write_text("{}")
    assert "--resume" not in chosen(make_training(), tmp_path)
    (kept,) = (tmp_path / "runs").iterdir()
    assert kept.name.startswith("a.never-began-")
    assert (kept / "config.json").read_text() == "{}"


def test_a_run_at_a_url_goes_on_where_there_is_one(
    make_training: MakeTraining, tmp_path: Path, programs: Callable[[dict[str, str]], Path]
) -> None:
    tools = programs({"python": f'exec {sys.executable} "$@"'})
    training = make_training(run_dir=f"file://{tmp_path}/runs/a")
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    assert chosen(training, tmp_path, environment)[-4:-2] == ["--run-dir", f"file://{tmp_path}/runs/a"]
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.json").touch()
    assert chosen(training, tmp_path, environment)[4:6] == ["--resume", f"file://{tmp_path}/runs/a"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(TEXT | st.sampled_from(NASTY), max_size=4), run_dir=TEXT.filter(bool) | st.sampled_from(NASTY[:-1])
)
def test_no_word_is_ever_expanded(make_training: MakeTraining, tmp_path: Path, words: list[str], run_dir: str) -> None:
    training = make_training(flags=tuple(words), run_dir=f"x{run_dir}")
    before = sorted(tmp_path.iterdir())
    assert chosen(training, tmp_path)[4:] == [
        *("memory/tmaze", *words, "--run-dir", f"x{run_dir}", "--ray-address", "auto"),
    ]
    assert sorted(tmp_path.iterdir()) == before


def test_needs_follow_the_settings() -> None:
    config = replace(preset("procgen/chaser"), num_actors=20, learner_threads=4)
    needs = Needs.of(config)
    assert (needs.actors, needs.learner_cpus, needs.gpus) == (20, 4, 0)
    assert (needs.driver_cpus, needs.worker_cpus(8), needs.workers(8)) == (4, 8, 3)
    needs = Needs.of(replace(config, device="cuda"))
    assert (needs.gpus, needs.driver_cpus, needs.workers(8), needs.gpu_nodes(8)) == (1, 0, 3, 1)


def test_inference_workers_take_a_cpu_each() -> None:
    config = replace(preset("memory/tmaze", algorithm="vtrace"), num_actors=6, inference="worker", inference_workers=2)
    assert Needs.of(config).actors == 8
    with pytest.raises(ConfigError, match="--inference-device is cuda, but a manifest asks for the GPUs of learners"):
        Needs.of(replace(config, inference_device="cuda"))


def test_learners_in_processes_of_their_own_need_cpus_or_gpus_beside_the_actors() -> None:
    needs = Needs(actors=8, learners=4, learner_cpus=2, gpus=0)
    assert (needs.workers(8), needs.worker_cpus(8), needs.driver_cpus) == (2, 8, 0)
    needs = Needs(actors=8, learners=4, learner_cpus=2, gpus=4)
    assert (needs.workers(8), needs.driver_cpus, needs.gpu_nodes(8), needs.gpu_nodes(1)) == (1, 0, 1, 4)


@given(
    actors=st.integers(1, 200), learners=st.integers(0, 20), learner_cpus=st.integers(1, 12), most=st.integers(1, 64)
)
def test_workers_hold_what_is_to_run(actors: int, learners: int, learner_cpus: int, most: int) -> None:
    needs = Needs(actors, learners, learner_cpus, gpus=0)
    cpus = needs.worker_cpus(most)
    free = [cpus] * needs.workers(cpus)
    for _ in range(learners):
        free[free.index(max(free))] -= learner_cpus
    assert min(free) >= 0
    assert sum(free) >= actors
    # One fewer would be too few, by CPUs or by learners.
    fewer = len(free) - 1
    assert fewer * cpus < actors + learners * learner_cpus or fewer * (cpus // learner_cpus) < learners


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a-", "a" * 48, "a\nb", "a;b", "$(a)"])
def test_names_that_some_cluster_would_not_take_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--name is"):
        check_name(name)
    check_name("a" * 47)


@pytest.mark.parametrize(("least", "most"), [(-1, 3), (3, 2), (0, 0)])
def test_bounds_that_cannot_be_are_refused(least: int, most: int) -> None:
    with pytest.raises(ConfigError, match="workers is"):
        worker_bounds(1, least, most)
