"""What goes wrong inside of an engine, by the double: the real one cannot be told when to fail."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from r2ac.envs import Signals
from r2ac.envs.dmlab import SUITE, DmlabOptions, engine_settings
from r2ac.envs.dmlab.engine import Failure
from r2ac.envs.dmlab.process import EngineProcess
from r2ac.envs.dmlab.vector import DmlabVector, EngineFailed
from r2ac.envs.suite import MissingPackage
from tests.processes import processes_below, wait_until

DOUBLE = Path(__file__).parent / "double"
SMALL = {"image_height": 24, "image_width": 32}
STILL = np.zeros(1, dtype=np.int64)

Make = Callable[..., DmlabVector]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes' own folders lie; the processes find the double."""
    monkeypatch.syspath_prepend(DOUBLE)
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def make(folders: Path) -> Iterator[Make]:
    made: list[DmlabVector] = []

    def make_one(task: str = "rooms_watermaze", num_envs: int = 1, **options: object) -> DmlabVector:
        env = SUITE.make(task, num_envs, 0, "train", DmlabOptions(**SMALL, **options))
        assert isinstance(env, DmlabVector)
        made.append(env)
        return env

    yield make_one
    for env in made:
        env.close()
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("exit@construct:1", 'died (exit code 1, its last words "ERROR: Couldn\'t load maps/lt_missing.bsp")'),
        ("segfault@reset:1", "died (signal 11, Segmentation fault)"),
        ("exit@reset:2", 'died (exit code 1, its last words "ERROR: Couldn\'t load maps/lt_missing.bsp")'),
        ("hang@reset:2", "gave no answer in time (signal 9, Killed)"),
        ("raise@reset:2", 'RuntimeError: Failed to advance environment "[string] lua error"'),
        ("hang@step:9", "gave no answer in time"),
        ("raise@step:9", "ValueError: Failed to advance environment"),
    ],
)
def test_one_fault_costs_one_episode(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    told: str,
) -> None:
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", fault)
    monkeypatch.setenv("DMLAB_DOUBLE_ONCE", str(tmp_path / "happened"))
    # Only what hangs is to take too long: on a busy machine starts and steps have their time.
    env = make(
        step_timeout=3.0 if fault.startswith("hang@step") else 60.0,
        reset_timeout=4.0 if "hang@reset" in fault else 60.0,
    )
    observation, info = env.reset()
    failed, ended, cut, seeds = [Signals.of(info).engine_failed is not None], 0, 0, [env.level_seeds()[0]]
    for _ in range(20):
        assert observation.any()
        observation, _, terminated, truncated, info = env.step(STILL)
        failed.append(Signals.of(info).engine_failed is not None)
        ended, cut = ended + terminated[0], cut + truncated[0]
        seeds.append(env.level_seeds()[0])
        assert (seeds[-1] != seeds[-2]) == (terminated[0] or truncated[0])
    assert (sum(failed), env.engine_restarts) == (1, 1)
    assert cut == ("step" in fault), "an episode that had ended is not cut short by the next one's failure"
    assert ended >= 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert told in record.getMessage()


def test_a_slow_reset_is_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMLAB_DOUBLE_RESET_SECONDS", "2.5")
    env = make("explore_object_locations_small", step_timeout=2.0)
    env.reset()
    while not env.step(STILL)[2][0]:
        pass
    assert env.engine_restarts == 0


@pytest.mark.parametrize(("bound", "most"), [(2, 2), (0, 5)])
def test_resets_at_a_time_are_bounded(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: int, most: int
) -> None:
    log = tmp_path / "log"
    env = make("explore_object_locations_small", num_envs=5, parallel_resets=bound)
    monkeypatch.setenv("DMLAB_DOUBLE_LOG", str(log))
    monkeypatch.setenv("DMLAB_DOUBLE_RESET_SECONDS", "0.25")
    env.reset()
    log.unlink()
    env.reset()
    lines = log.read_text().splitlines()
    together = np.cumsum([{"reset begins": 1, "reset ends": -1}.get(line, 0) for line in lines])
    assert lines.count("reset begins") == 5
    assert (together.max(), together[-1]) == (most, 0)


@pytest.mark.parametrize(("fault", "words"), [("exit@reset:1", "lt_missing.bsp"), ("raise@step:1", "lua error")])
def test_a_stream_that_only_fails_ends_the_run(
    make: Make, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", fault)
    env = make(max_engine_failures=2)

    def play() -> None:
        env.reset()
        for _ in range(5):
            env.step(STILL)

    with pytest.raises(EngineFailed, match=r"^[^\n]*2 times in a row$") as error:
        play()
    assert words in str(error.value)
    assert env.engine_restarts == 1


def test_failures_with_steps_between_them_never_end_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", "raise@step:9")
    env = make(max_engine_failures=2)
    env.reset()
    assert [bool(env.step(STILL)[3][0]) for _ in range(9)] == [False, False, True] * 3
    assert env.engine_restarts == 3


def test_an_engine_that_cannot_be_made_is_told_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", "raise@construct:1")
    env = make(num_envs=2)
    with pytest.raises(EngineFailed, match="cannot play contributed/dmlab30/rooms_watermaze: RuntimeError: Failed to"):
        env.reset()
    assert env.engine_restarts == 0


def test_a_package_that_cannot_be_imported_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deepmind_lab.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = r"^[^\n]*\(ModuleNotFoundError: No module named 'no_such_module'\): [^\n]*with dm_env[^\n]*$"
    with pytest.raises(MissingPackage, match=sentence):
        make().reset()


def test_a_process_that_cannot_be_started_is_a_failure(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(EngineFailed, match=r"could not be started: .* 2 times in a row"):
        make(max_engine_failures=2).reset()


def test_a_hanging_engine_does_not_outlive_a_lost_owner_for_ever(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody kills it here: the kernel does, a minute after the longest time-out."""
    monkeypatch.setenv("DMLAB_DOUBLE_FAULT", "hang@reset:1")
    settings = engine_settings("rooms_watermaze", "train", DmlabOptions(**SMALL))
    process = EngineProcess(settings, longest_timeout=-58.0)
    process.ask("reset", 1)
    assert process.receive(20.0) == Failure("died")
    assert process.kill() == "signal 14, Alarm clock"


def test_folders_that_nobody_could_remove_go_with_the_next_environment(make: Make, folders: Path) -> None:
    settings = engine_settings("rooms_watermaze", "train", DmlabOptions(**SMALL))
    lost = EngineProcess(settings, longest_timeout=60.0)
    lost.ask("reset", 1)
    os.kill(lost.pid, signal.SIGKILL)
    while not isinstance(lost.receive(20.0), Failure):
        pass
    # Its pipe breaks before it has let go of all else.
    wait_until(lambda: lost.pid not in processes_below())
    (lost_folder,) = folders.iterdir()
    living = EngineProcess(settings, longest_timeout=60.0)
    make()
    assert (lost_folder.exists(), len(list(folders.iterdir()))) == (False, 1)
    living.ask("reset", 1)
    assert not isinstance(living.receive(20.0), Failure)
    assert lost.kill() == "signal 9, Killed"
    living.kill()


def test_a_repeat_of_one_frame_and_the_last_frame_alone(make: Make) -> None:
    """Of three settings that play the same frames, each shows what it is asked to."""
    by_frame, by_four, both = (make(**options) for options in FRAME_OPTIONS)
    frames = [by_frame.reset()[0]] + [by_frame.step(STILL)[0] for _ in range(4)]
    by_four.reset()
    both.reset()
    np.testing.assert_array_equal(by_four.step(STILL)[0], frames[4])
    np.testing.assert_array_equal(both.step(STILL)[0], np.maximum(frames[3], frames[4]))


FRAME_OPTIONS: tuple[dict[str, int], ...] = ({"action_repeat": 1}, {"max_of_two_frames": False}, {})
