"""Commands answer at once where they need no torch: what they import is counted, not how long they take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r2ac.launch.cli import COMMANDS

PROGRAM = """
import contextlib, io, json, sys
from r2ac.launch.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            codes.append(main(words))
        except SystemExit as ended:
            codes.append(ended.code or 0)
print(json.dumps({"codes": codes, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
LARGE = {"torch", "triton", "ray", "matplotlib", "PIL", "tensorboard", "pandas", "scipy", "safetensors", "fsspec"}


def run_all(commands: dict[str, int]) -> set[str]:
    """The packages that a process has imported once it has run the commands, which end with these codes."""
    words = [command.split() for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert dict(zip(commands, result["codes"], strict=True)) == commands
    return set(result["modules"])


@pytest.mark.parametrize(
    ("commands", "without"),
    [
        ({"--help": 0, "": 2, "--version": 0, "trian memory/tmaze": 2}, {*LARGE, "gymnasium", "numpy", "tyro"}),
        ({f"{name} --help": 0 for name in COMMANDS}, LARGE),
        (
            {
                "train memory/tmaze --help": 0,
                "train --suite memory --help": 0,
                "envs --watch memory/tmaze --help": 0,
                "envs --check gym/CartPole-v1 --help": 0,
                "jobs list --help": 0,
                "cluster slurm --help": 0,
                "envs": 0,
                "reproduce": 0,
                "cluster slurm memory/tmaze": 0,
            },
            LARGE,
        ),
        (
            {
                "train memory/tmaz": 2,
                "train memory/tmaze --sed 3": 2,
                "train memory/tmaze --batch-size 1000": 2,
                "evaluate run --episodes many": 2,
                "plot run --x days": 2,
                "submit memory/tmaze --hidden-size x": 2,
                "sweep memory/tmaze --trials x": 2,
                "jobs show": 2,
                "bench memory/tmaze --sed 3": 2,
                "train": 2,
            },
            LARGE,
        ),
    ],
    ids=["nothing but the command line", "help of every command", "help and lists of tasks", "typing errors"],
)
def test_what_needs_no_torch_imports_none(commands: dict[str, int], without: set[str]) -> None:
    assert run_all(commands) & without == set()


def test_the_library_needs_no_posix_and_the_commands_say_that_they_do() -> None:
    # The references: since Python 3.12 the search for a compiler would ask Windows itself.
    program = """
import os, sys
import gymnasium, torch
os.environ["R2AC_KERNELS"] = "reference"
sys.modules.update(dict.fromkeys(["fcntl", "pwd", "resource", "termios"]))
sys.platform = "win32"
from r2ac.agents import Recurrent, check_recurrent
from r2ac.envs import make_vector
assert check_recurrent(Recurrent("lru", 2, 2)) == [] and make_vector("memory/tmaze", 2, 0).reset()
import r2ac.launch.cli
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: the commands of r2ac need Linux or macOS" in done.stderr


def test_a_table_of_curves_needs_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"task": "memory/tmaze", "seed": 1}')
    (tmp_path / "metrics.jsonl").write_text('{"env_steps": 1, "env_frames": 1, "wall_time": 1, "episode_return": 2}\n')
    assert run_all({f"plot {tmp_path} --output {tmp_path}/curves.csv": 0}) & LARGE == set()


def test_a_training_of_a_small_agent_does_not_import_torch_compile(tmp_path: Path) -> None:
    """Which imports these two: together they take longer than torch."""
    assert run_all({f"train memory/tmaze --total-steps 1 --run-dir {tmp_path}/run": 0}) & {"sympy", "triton"} == set()
