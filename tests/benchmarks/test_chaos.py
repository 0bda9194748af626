"""The benchmark that kills: what it sees in a run, and what it makes of its kills."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from r2ac.learner.checkpoint import checkpoint_path
from tests.processes import processes_below, wait_until

Module = Callable[[str], ModuleType]


def write_lines(run: Path, lines: list[tuple[int, int]]) -> None:
    rows = [json.dumps({"env_steps": steps, "updates": updates}) + "\n" for steps, updates in lines]
    (run / "metrics.jsonl").write_text("".join(rows))


def test_steps_must_grow_and_be_those_of_the_updates(module: Module, tmp_path: Path) -> None:
    watch = module("chaos").Watch(tmp_path, 40)
    write_lines(tmp_path, [(40, 1), (120, 3)])
    watch.look()
    assert (watch.steps, watch.wrong) == (120, [])
    write_lines(tmp_path, [(40, 1), (120, 3), (130, 4)])
    watch.look()
    assert watch.wrong == ["130 steps after 4 updates of 40"]
    write_lines(tmp_path, [(120, 3), (80, 2)])
    watch.look()
    assert watch.wrong[1:] == ["80 steps after 120"]
    watch.look()
    assert len(watch.wrong) == 2, "each is told once"


def test_the_newest_checkpoint_is_known(module: Module, tmp_path: Path) -> None:
    watch = module("chaos").Watch(tmp_path, 40)
    assert watch.checkpoint() == 0
    (tmp_path / "checkpoints").mkdir()
    for steps in (400, 1200):
        checkpoint_path(tmp_path / "checkpoints", steps).touch()
    assert watch.checkpoint() == 1200


def test_kills_are_summed_by_kind(module: Module) -> None:
    chaos = module("chaos")
    kills = [
        chaos.Kill(20.0, "driver", 500, 100, 4.0),
        chaos.Kill(40.0, "actor", 900, 0, 0.5),
        chaos.Kill(60.0, "driver", 1500, 300, 8.0),
        chaos.Kill(80.0, "driver", 1600, 50),
    ]
    assert chaos.rows_of(kills) == [
        {
            "killed": "actor",
            "kills": 1,
            "lost_steps": 0,
            "most_lost": 0,
            "recovery": 0.5,
            "longest": 0.5,
            "unrecovered": 0,
        },
        {
            "killed": "driver",
            "kills": 3,
            "lost_steps": 450,
            "most_lost": 300,
            "recovery": 6.0,
            "longest": 8.0,
            "unrecovered": 1,
        },
    ]


class NoNodes:
    """A cluster in which nothing lives."""

    def processes(self, title: str) -> list[int]:
        return []

    def kill_one(self, dice: random.Random) -> bool:
        return False


@pytest.mark.parametrize("seed", range(4))
def test_of_random_kinds_one_that_lives_is_killed(module: Module, seed: int) -> None:
    chaos = module("chaos")
    child = [sys.executable, "-c", "import time; time.sleep(99)", "r2ac", "train", "task"]
    program = f"import subprocess; print(subprocess.Popen({child}).wait(), flush=True)"
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: any(" train " in words for words in processes_below(supervisor.pid).values()), supervisor)
        assert chaos.strike(chaos.KINDS, NoNodes(), supervisor.pid, random.Random(seed)) == "driver"
        output, _ = supervisor.communicate(timeout=30)
        assert output == "-9\n"
        assert chaos.strike(chaos.KINDS, NoNodes(), supervisor.pid, random.Random(seed)) is None
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.communicate()
