"""The batch script: its directives, and its lines run by a real bash with stand-ins for Slurm's programs.

`ray symmetric-run` itself is not run: at its end it stops every Ray of the user on the machine, others' tests among
them. Its own parser reads what the script gives it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ac.launch.cluster.manifests.resources import Training
from r2ac.launch.cluster.manifests.slurm import SlurmOptions, slurm_manifest
from r2ac.launch.settings.config import ConfigError
from tests.processes import wait_until

MakeTraining = Callable[..., Training]
Programs = Callable[[dict[str, str]], Path]
# One node: the task runs here, and srun passes a signal on.
SRUN = 'while [ "${1#--}" != "$1" ]; do shift; done\nSLURM_NODEID=0 exec "$@"'
SCONTROL = 'echo "$*" >> "$LOG/scontrol"\nif [ "$1" = show ]; then echo "   JobState=$STATE Reason=None"; fi'
RAY = """\
stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$LOG/mode"
env > "$LOG/environment"
printf '%s\\0' "$@" > "$LOG/ray"
while [ "$1" != -- ]; do shift; done
shift
"$@" & wait $!"""
# The training: saves at SIGTERM.
PYTHON = """\
if [ "$1" = -c ]; then exec "$REAL_PYTHON" "$@"; fi
printf '%s\\0' "$@" > "$LOG/training"
if [ -n "${SECONDS_TO_TRAIN:-}" ]; then
    trap 'echo saved > "$LOG/saved"; exit 143' TERM
    echo > "$LOG/ready"
    for i in $(seq $((10 * SECONDS_TO_TRAIN))); do sleep 0.1; done
fi
exit 0"""


def directives(script: str) -> dict[str, str]:
    """The options that sbatch reads: those before the first command."""
    found = {}
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH --"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[name] = value
        elif line and not line.startswith("#"):
            return found
    return found


def start(script: str, folder: Path, tools: Path, **environment: str) -> "subprocess.Popen[str]":
    (folder / "venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / "venv/bin/activate").write_text(f"PATH='{tools}':$PATH\n")
    (folder / "job").write_text(script)
    variables = {
        # Without what other tests of this process have told Ray.
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(folder / "home"),
        "LOG": str(folder),
        "REAL_PYTHON": sys.executable,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node[1-1]",
        "SLURM_CPUS_PER_TASK": "4",
        "STATE": "RUNNING",
        **environment,
    }
    return subprocess.Popen(["bash", "job"], cwd=folder, env=variables, text=True, stdout=subprocess.PIPE)


def written(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


@pytest.fixture
def tools(programs: Programs) -> Path:
    return programs({"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "python": PYTHON})


def test_the_directives_follow_the_needs(make_training: MakeTraining) -> None:
    training = make_training(actors=40, learner_cpus=4, gpus=1, name="chaser")
    found = directives(slurm_manifest(training, SlurmOptions(time="2-00:00:00", partition="gpu", warning_seconds=60)))
    assert found == {
        "job-name": "chaser",
        "output": "%x-%j.log",
        "open-mode": "append",
        "nodes": "3",
        "ntasks-per-node": "1",
        "cpus-per-task": "15",
        "gpus-per-node": "1",
        "time": "2-00:00:00",
        "signal": "B:TERM@60",
        "partition": "gpu",
        "requeue": "",
        "exclusive": "",
    }


def test_nodes_hold_whole_learners(make_training: MakeTraining) -> None:
    """Three learners of five CPUs and one actor are 16 CPUs, but two nodes of eight hold two such learners."""
    found = directives(
        slurm_manifest(make_training(actors=1, learners=3, learner_cpus=5), SlurmOptions(cpus_per_node=8))
    )
    assert (found["nodes"], found["cpus-per-task"]) == ("3", "6")
    script = slurm_manifest(make_training(learners=4, gpus=4, actors=12), SlurmOptions(nodes=2))
    assert directives(script)["gpus-per-node"] == "2"
    # The driver learns nothing: all CPUs are Ray's.
    assert "\nlearner_cpus=0\n" in script


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SlurmOptions(nodes=0), "--nodes is 0"),
        (SlurmOptions(nodes=1, cpus_per_node=2), "--cpus-per-node is 2"),
        (SlurmOptions(time="a day"), "--time is 'a day'"),
        (SlurmOptions(time="1\n#SBATCH --uid=0"), "--time is"),
        (SlurmOptions(partition="a b"), "--partition is 'a b'"),
        (SlurmOptions(account="x\n#SBATCH --uid=0"), "--account is"),
        (SlurmOptions(warning_seconds=1), "--warning-seconds is 1"),
        (SlurmOptions(gpus_per_node=-1), "--gpus-per-node is -1"),
    ],
)
def test_options_that_cannot_be_are_named(make_training: MakeTraining, options: SlurmOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        slurm_manifest(make_training(), options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(word=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20))
def test_bash_reads_every_script(make_training: MakeTraining, word: str) -> None:
    training = make_training(flags=("--x", word), run_dir=f"r{word}")
    script = slurm_manifest(training, SlurmOptions(venv=Path(f"/v{word}")))
    assert subprocess.run(["bash", "-n"], input=script.encode(), check=False).returncode == 0


def test_a_job_trains_and_leaves_no_token(make_training: MakeTraining, tmp_path: Path, tools: Path) -> None:
    words = ("--seed", "2", "--x", "$(touch hit) 'a' \"b\"\n;")
    script = slurm_manifest(make_training(flags=words, learner_cpus=2), SlurmOptions(venv=tmp_path / "venv"))
    assert start(script, tmp_path, tools).wait(60) == 0
    launch = ["-m", "r2ac.launch", "train", "memory/tmaze", *words, "--run-dir", "runs/a", "--ray-address", "auto"]
    assert written(tmp_path / "training") == launch
    environment = (tmp_path / "environment").read_text().splitlines()
    assert "RAY_ADDRESS=127.0.0.1:24711" in environment
    assert "RAY_AUTH_MODE=token" in environment
    # Ray then listens on loopback only.
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0" in environment
    assert (tmp_path / "mode").read_text() == "600\n"
    assert list((tmp_path / "home/.r2ac").iterdir()) == []
    assert not (tmp_path / "scontrol").exists()
    assert not (tmp_path / "hit").exists()
    command = written(tmp_path / "ray")
    assert command[0] == "symmetric-run"
    assert read_by_ray(command[1:]) == {
        "address": "127.0.0.1:24711",
        "min_nodes": 1,
        # Two of four CPUs are the learner's.
        "start": ["--num-cpus", "2", "--num-gpus", "0"],
    }


def read_by_ray(arguments: list[str]) -> dict[str, object]:
    """What the parsers of `ray symmetric-run` and `ray start` make of the arguments."""
    from ray.scripts.scripts import start as ray_start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    parsed = symmetric_run.make_context("_", list(arguments)).params
    options = curate_and_validate_ray_start_args(arguments[: arguments.index("--")])
    # Raises for an option that it does not have.
    ray_start.make_context("_", ["--head", *options])
    return {"address": parsed["address"], "min_nodes": parsed["min_nodes"], "start": options}


def test_several_nodes_meet_at_the_first(make_training: MakeTraining, tmp_path: Path, programs: Programs) -> None:
    tools = programs({"srun": SRUN, "scontrol": "printf 'node1\\nnode2\\n'", "ray": RAY, "python": PYTHON})
    script = slurm_manifest(make_training(), SlurmOptions(venv=tmp_path / "venv"))
    assert start(script, tmp_path, tools, SLURM_JOB_NUM_NODES="2").wait(60) == 0
    assert written(tmp_path / "ray")[:5] == ["symmetric-run", "--address", "node1:24711", "--min-nodes", "2"]
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_job_that_is_told_to_stop_saves_and_is_queued_again(
    make_training: MakeTraining, tmp_path: Path, tools: Path, state: str, requeued: bool
) -> None:
    script = slurm_manifest(make_training(), SlurmOptions(venv=tmp_path / "venv"))
    job = start(script, tmp_path, tools, SECONDS_TO_TRAIN="60", STATE=state)
    try:
        wait_until((tmp_path / "ready").exists)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143
    finally:
        job.kill()
    assert (tmp_path / "saved").exists()
    calls = (tmp_path / "scontrol").read_text().splitlines()
    assert calls == ["show job 4711"] + ["requeue 4711"] * requeued


def test_a_job_whose_ray_does_not_start_has_failed(
    make_training: MakeTraining, tmp_path: Path, programs: Programs
) -> None:
    """The command says so, but ends with 0."""
    tools = programs({"srun": SRUN, "scontrol": SCONTROL, "ray": "exit 0", "python": PYTHON})
    script = slurm_manifest(make_training(), SlurmOptions(venv=tmp_path / "venv"))
    assert start(script, tmp_path, tools).wait(60) == 1
    assert not (tmp_path / "scontrol").exists()


def test_a_job_that_is_queued_again_goes_on(make_training: MakeTraining, tmp_path: Path, tools: Path) -> None:
    (tmp_path / "runs/a/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/a/checkpoints/step_000000000100.safetensors").touch()
    script = slurm_manifest(make_training(), SlurmOptions(venv=tmp_path / "venv"))
    assert start(script, tmp_path, tools).wait(60) == 0
    assert written(tmp_path / "training")[3:5] == ["--resume", "runs/a"]
