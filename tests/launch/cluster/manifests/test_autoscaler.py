"""The YAML for `ray up`: Ray's own validation takes it, and its commands do what they say, run as Ray runs them."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ac.launch.cluster.manifests.autoscaler import AutoscalerOptions, autoscaler_manifest
from r2ac.launch.cluster.manifests.resources import Training
from r2ac.launch.settings.config import ConfigError

MakeTraining = Callable[..., Training]
Programs = Callable[[dict[str, str]], Path]
PROVIDERS = {
    "aws": AutoscalerOptions(package="r2ac==1"),
    "gcp": AutoscalerOptions(provider="gcp", project="p", package="r2ac==1"),
    "local": AutoscalerOptions(provider="local", head_ip="10.0.0.1", worker_ips="10.0.0.2,node-3", package="r2ac==1"),
}
NEEDS = [{}, {"actors": 100, "gpus": 1}, {"actors": 32, "learners": 4, "gpus": 4}, {"actors": 32, "learners": 4}]


def cluster(training: Training, options: AutoscalerOptions) -> dict[str, Any]:
    found = yaml.safe_load(autoscaler_manifest(training, options, "2.60.0"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("needs", NEEDS, ids=["cpu", "gpu in the driver", "gpu learners", "cpu learners"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_ray_takes_it(make_training: MakeTraining, provider: str, needs: dict[str, int]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    document = cluster(make_training(**needs), PROVIDERS[provider])
    complete = prepare_config(copy.deepcopy(document))
    validate_config(complete)
    # Nothing was dropped: what Ray works with holds what was written.
    left_to_ray = {"available_node_types", "min_workers", "provider", "head_setup_commands"}
    assert {key: complete[key] for key in document if key not in left_to_ray} == {
        key: value for key, value in document.items() if key not in left_to_ray
    }
    assert complete["head_setup_commands"] == document["setup_commands"] + document["head_setup_commands"]


def test_ray_refuses_a_field_that_it_does_not_know(make_training: MakeTraining) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(prepare_config({**cluster(make_training(), PROVIDERS["aws"]), "idle_minutes": 5}))


def test_workers_are_as_many_as_hold_the_actors(make_training: MakeTraining) -> None:
    found = cluster(make_training(actors=100), AutoscalerOptions(package="r2ac", min_workers=1))
    workers = found["available_node_types"]["cpu_worker"]
    assert (workers["min_workers"], workers["max_workers"], workers["resources"]) == (1, 7, {"CPU": 16})
    assert found["max_workers"] == 7
    assert found["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_a_driver_that_learns_on_a_gpu_has_it_on_the_head(make_training: MakeTraining) -> None:
    found = cluster(make_training(gpus=1), AutoscalerOptions(package="r2ac", gpu_type="p5.48xlarge", gpus_per_worker=8))
    assert found["available_node_types"]["head"]["node_config"]["InstanceType"] == "p5.48xlarge"
    assert found["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 8}
    assert "gpu_worker" not in found["available_node_types"]


def test_learners_on_gpus_have_machines_of_their_own(make_training: MakeTraining) -> None:
    found = cluster(make_training(learners=4, gpus=4, learner_cpus=2), AutoscalerOptions(package="r2ac"))
    workers = found["available_node_types"]["gpu_worker"]
    assert (workers["min_workers"], workers["max_workers"]) == (4, 4)
    assert workers["resources"] == {"CPU": 2, "GPU": 1}


def test_a_worker_holds_a_learner(make_training: MakeTraining) -> None:
    with pytest.raises(ConfigError, match="--cpus-per-worker is 2, but a learner takes 4"):
        cluster(make_training(learners=2, learner_cpus=4), AutoscalerOptions(package="r2ac", cpus_per_worker=2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (AutoscalerOptions(provider="local"), "--head-ip"),
        (AutoscalerOptions(provider="gcp"), "--project"),
        (AutoscalerOptions(head_ip="a"), "--provider local"),
        (AutoscalerOptions(provider="local", head_ip="a;b"), "'a;b'"),
        (AutoscalerOptions(provider="local", head_ip="a", worker_ips="b,"), "''"),
        (AutoscalerOptions(provider="local", head_ip="a", worker_ips="b", max_workers=2), "names 1 machines"),
        (AutoscalerOptions(ssh_user="-o x"), "--ssh-user"),
        (AutoscalerOptions(cpus_per_worker=0), "--cpus-per-worker is 0"),
        (AutoscalerOptions(min_workers=3, max_workers=2), "--max-workers is 2"),
    ],
)
def test_options_that_cannot_be_are_named(make_training: MakeTraining, options: AutoscalerOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        autoscaler_manifest(make_training(), options, "2.60.0")


def test_every_node_knows_the_token(make_training: MakeTraining) -> None:
    found = cluster(make_training(), PROVIDERS["aws"])
    assert found["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "export RAY_AUTH_MODE=token" in found[key][-1]


def test_a_folder_is_brought_to_the_machines_and_installed_there(make_training: MakeTraining, tmp_path: Path) -> None:
    found = cluster(make_training(), AutoscalerOptions(package=str(tmp_path)))
    assert found["file_mounts"]["~/r2ac-source"] == str(tmp_path)
    assert found["setup_commands"] == ["pip install \"$HOME\"/'r2ac-source[cluster]'"]


def run_as_ray(command: str, folder: Path, tools: Path, docker: bool) -> None:
    """Run a command of the YAML as Ray does on a machine: in a login shell, with docker in a container besides."""
    from ray.autoscaler._private.command_runner import _with_interactive
    from ray.autoscaler._private.docker import with_docker_exec

    if docker:
        # Ray puts the home of the container's user in.
        inside = " ".join(_with_interactive(command.replace("~/", "/home/ray/")))
        (command,) = with_docker_exec([inside], "r2ac", "docker", with_interactive=True)
    # A login shell begins with the machine's own PATH.
    (folder / ".bashrc").write_text(f"PATH={tools}:$PATH\n")
    variables = {**os.environ, "HOME": str(folder)}
    line = " ".join(_with_interactive(command))
    subprocess.run(["sh", "-c", line], env=variables, cwd=folder, check=True, capture_output=True, timeout=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(
    words=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
        | st.sampled_from(["~/x", "a!b", "'~/'", "$(touch hit)", "x\ny", "{a} %s"]),
        max_size=3,
    ),
    docker=st.booleans(),
)
def test_the_training_gets_its_words_through_ssh_and_docker(
    make_training: MakeTraining, tmp_path: Path, programs: Programs, words: list[str], docker: bool
) -> None:
    tools = programs({"docker": 'shift 3; exec "$@"', "python": "printf '%s\\0' \"$@\" > words"})
    document = cluster(make_training(flags=tuple(words)), PROVIDERS["aws"])
    run_as_ray(document["head_setup_commands"][-1], tmp_path, tools, docker)
    before = sorted(tmp_path.iterdir())
    variables = {"HOME": str(tmp_path), "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", "r2ac-train.sh"], cwd=tmp_path, env=variables, check=True)
    expected = ["-m", "r2ac.launch", "train", "memory/tmaze", *words, "--run-dir", "runs/a", "--ray-address", "auto"]
    assert (tmp_path / "words").read_text().split("\0")[:-1] == expected
    (tmp_path / "words").unlink()
    assert sorted(tmp_path.iterdir()) == [path for path in before if path.name != "words"]


def test_own_machines_use_an_environment_of_their_own(
    make_training: MakeTraining, tmp_path: Path, programs: Programs
) -> None:
    document = cluster(make_training(), PROVIDERS["local"])
    tools = programs({})
    venv = tmp_path / "r2ac-venv/bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text('#!/bin/sh\necho "$1 $2" > words\n')
    (venv / "python").chmod(0o755)
    run_as_ray(document["head_setup_commands"][-1], tmp_path, tools, docker=False)
    subprocess.run(["sh", "r2ac-train.sh"], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert (tmp_path / "words").read_text() == "-m r2ac.launch\n"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert document["setup_commands"][0].endswith(f'{python} -m venv "$HOME/r2ac-venv"')
