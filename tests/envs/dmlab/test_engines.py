"""DeepMind Lab engines in their processes: the same tests for the double and for the real engine."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import VectorEnv

from r2ac.envs import Signals
from r2ac.envs.dmlab import SUITE, DmlabOptions, engine_settings
from r2ac.envs.dmlab.engine import ACTION_SETS

DOUBLE = Path(__file__).parent / "double"
LEVEL = "rooms_select_nonmatching_object"
NEEDS_ENGINE = pytest.mark.skipif(find_spec("deepmind_lab") is None, reason=str(SUITE.missing()))
# Seconds after which an engine that has been stopped is taken for hung: some real levels load maps in a step.
STEP_TIMEOUT = {"double": 2.0, "real": 30.0}

Make = Callable[..., VectorEnv]


@pytest.fixture(params=["double", pytest.param("real", marks=NEEDS_ENGINE)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which `deepmind_lab` the processes find."""
    name: str = request.param
    if name == "double":
        monkeypatch.syspath_prepend(DOUBLE)
    return name


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes' own folders lie."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def make(engine: str, folders: Path) -> Iterator[Make]:
    """Makes environments; when the test is over nothing may be left of them."""
    made: list[VectorEnv] = []

    def make_one(
        task: str = LEVEL, num_envs: int = 1, seed: int = 0, split: str = "train", **options: object
    ) -> VectorEnv:
        small = {"image_height": 24, "image_width": 32, "step_timeout": STEP_TIMEOUT[engine], **options}
        made.append(SUITE.make(task, num_envs, seed, split, DmlabOptions(**small)))
        return made[-1]

    yield make_one
    pids = [pid for env in made for pid in env.engine_pids() if pid is not None]
    for env in made:
        env.close()
    assert not [pid for pid in pids if lives(pid)]
    assert list(folders.iterdir()) == []


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_script(name: str, *arguments: str, tmpdir: Path) -> subprocess.CompletedProcess[str]:
    """A script beside the double, in a process of its own that finds the same `deepmind_lab`."""
    # -P: or the double would lie beside the script.
    command = [sys.executable, "-P", str(DOUBLE / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmpdir)}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=tmpdir)


def test_the_engine_has_the_manners_that_the_adapter_knows(engine: str, tmp_path: Path) -> None:
    done = run_script("manners.py", tmpdir=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["all as expected"], done.stderr
    assert done.returncode == -signal.SIGSEGV, "a reset after close() ends the process"


def test_shapes_seeds_and_the_step_that_ends_an_episode(make: Make) -> None:
    env = make(num_envs=2, actions=15)
    assert (env.single_observation_space.shape, env.single_observation_space.dtype) == ((3, 24, 32), np.uint8)
    assert env.single_action_space.n == 15
    observation, info = env.reset()
    seeds = [env.level_seeds()]
    assert (observation in env.observation_space, Signals.of(info)) == (True, Signals())
    assert (observation[0] != observation[1]).any(), "each stream has its own seed"
    choose = np.random.default_rng(0)
    ends = np.zeros(2, dtype=int)
    for _ in range(400):
        before = observation.copy()
        following, reward, terminated, truncated, info = env.step(choose.integers(15, size=2))
        np.testing.assert_array_equal(observation, before, err_msg="arrays are the caller's to keep")
        observation = following
        assert observation in env.observation_space
        assert (reward.shape, reward.dtype, Signals.of(info)) == ((2,), np.float32, Signals())
        assert (terminated.dtype, truncated.any()) == (np.bool_, False)
        seeds.append(env.level_seeds())
        np.testing.assert_array_equal(seeds[-1] != seeds[-2], terminated)
        ends += terminated
        if ends.min() >= 1:
            break
    assert ends.min() >= 1
    assert len(np.unique(np.stack(seeds))) == 2 + ends.sum()


@pytest.mark.parametrize("max_of_two_frames", [True, False])
def test_it_plays_as_the_paper_s_code_does(
    make: Make, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_of_two_frames: bool
) -> None:
    env = make(seed=5, max_of_two_frames=max_of_two_frames)
    choices = np.random.default_rng(1).integers(9, size=200 if engine == "real" else 30)
    images, rewards, ends = [env.reset()[0][0]], [], []
    seeds = [int(env.level_seeds()[0])]
    for choice in choices:
        observation, reward, terminated, _, _ = env.step(np.array([choice]))
        images.append(observation[0])
        rewards.append(reward[0])
        ends.append(terminated[0])
        seeds += [int(env.level_seeds()[0])] * int(terminated[0])
    assert sum(ends) >= 1
    env.close()
    options = DmlabOptions(image_height=24, image_width=32)
    settings = engine_settings(LEVEL, "train", options)
    job = {"level": settings.level, "config": settings.config, "actions": ACTION_SETS[9], "repeat": 4}
    job |= {"choices": choices.tolist(), "seeds": seeds, "engine_repeat": not max_of_two_frames}
    output = tmp_path / "played.npz"
    done = run_script("paper_loop.py", json.dumps({**job, "output": str(output)}), tmpdir=tmp_path)
    assert done.returncode == 0, done.stderr
    played = np.load(output)
    np.testing.assert_array_equal(np.array(ends), played["ends"])
    np.testing.assert_array_equal(np.array(rewards), played["rewards"].astype(np.float32))
    np.testing.assert_array_equal(np.stack(images), played["images"])


def test_one_seed_is_one_game_whatever_the_number_of_streams(make: Make) -> None:
    few, more, other = make(num_envs=1, seed=7), make(num_envs=2, seed=7), make(num_envs=1, seed=7, split="test")
    first = few.reset()[0]
    np.testing.assert_array_equal(first, more.reset()[0][:1])
    assert (other.reset()[0] != first).any()
    assert few.level_seeds()[0] == more.level_seeds()[0] < 2**30 <= other.level_seeds()[0]
    np.testing.assert_array_equal(few.step(np.array([3]))[0], more.step(np.array([3, 3]))[0][:1])
    seeds = few.level_seeds()
    assert (few.reset()[0] != first).any(), "a second reset is a new episode"
    assert few.level_seeds() != seeds
    few.reset(seed=11)
    seeds = few.level_seeds()
    few.reset()
    few.reset(seed=[11])
    assert few.level_seeds() == seeds
    with pytest.raises(ValueError, match="got 3 seeds for 2 streams"):
        more.reset(seed=[1, 2, 3])


def test_instructions_come_with_the_observations(make: Make) -> None:
    # A seed of which the first instructions of the two streams differ: they stay until an object is picked.
    env = make("language_select_described_object", num_envs=2, seed=1, instruction=True)
    _, info = env.reset()
    seen = [Signals.of(info).instruction]
    for _ in range(10):
        *_, info = env.step(np.zeros(2, dtype=np.int64))
        seen.append(Signals.of(info).instruction)
    instructions = np.stack(seen)
    assert (instructions.shape, instructions.dtype) == ((11, 2, 16), np.int32)
    assert instructions.any(axis=2).any(axis=0).all()
    assert len(np.unique(instructions.reshape(-1, 16), axis=0)) > 1


def test_hold_out_levels_open_in_tests(make: Make) -> None:
    for split in ("train", "test"):
        observation, _ = make("rooms_collect_good_objects", split=split).reset()
        assert observation.any()


def test_a_cached_map_is_the_map(make: Make, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = {"num_levels": 1, "level_cache": str(cache), "seed": 2}
    first = make("explore_object_locations_small", num_envs=2, **options).reset()[0]
    (entry,) = cache.iterdir()
    written = entry.stat().st_mtime_ns
    again = make("explore_object_locations_small", **options).reset()[0]
    np.testing.assert_array_equal(first[:1], again)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written], "it was found, not compiled again"


def test_a_lost_engine_is_replaced_and_its_stream_goes_on(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    env = make(num_envs=4)
    env.reset()
    env.step(np.zeros(4, dtype=np.int64))
    pids, seeds = env.engine_pids(), env.level_seeds()
    for pid, fate in zip(pids, (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP), strict=False):
        os.kill(pid, fate)
    with caplog.at_level(logging.WARNING):
        observation, reward, terminated, truncated, info = env.step(np.zeros(4, dtype=np.int64))
    assert truncated.tolist() == Signals.of(info).engine_failed.tolist() == [True, True, True, False]
    assert (terminated.any(), reward[:3].any(), env.engine_restarts) == (False, False, 3)
    assert observation.any(axis=(1, 2, 3)).all(), "the first observations of new episodes"
    assert (env.level_seeds() != seeds).tolist() == [True, True, True, False]
    now = env.engine_pids()
    assert now[3] == pids[3]
    assert len(set(now[:3]) & set(pids)) == 0
    assert not [pid for pid in pids[:3] if lives(pid)]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    for words, message in zip(("signal 9", "signal 11", "gave no answer in time"), told, strict=True):
        assert words in message
        assert f"{LEVEL}, episode seed " in message
        assert "step 1" in message
    *_, terminated, truncated, info = env.step(np.zeros(4, dtype=np.int64))
    assert (truncated.any(), Signals.of(info), env.engine_restarts) == (False, Signals(), 3)


def test_a_reset_finds_a_lost_engine_too(make: Make) -> None:
    env = make(num_envs=2)
    env.reset()
    os.kill(env.engine_pids()[1], signal.SIGKILL)
    observation, info = env.reset()
    assert Signals.of(info).engine_failed.tolist() == [False, True]
    assert observation.any(axis=(1, 2, 3)).all()
    assert env.engine_restarts == 1


def test_an_interrupted_step_does_not_mix_up_the_answers(make: Make) -> None:
    class Interrupt:
        def __int__(self) -> int:
            raise KeyboardInterrupt

    env = make(num_envs=2)
    env.reset()
    pids = env.engine_pids()
    with pytest.raises(KeyboardInterrupt):
        env.step([0, Interrupt()])
    with pytest.raises(RuntimeError, match="must be reset"):
        env.step([0, 0])
    env.reset()
    assert (env.engine_pids()[0] != pids[0], env.engine_pids()[1] == pids[1]) == (True, True)
    assert env.engine_restarts == 0


def test_a_closed_environment_stays_closed(make: Make) -> None:
    env = make()
    with pytest.raises(RuntimeError, match="must be reset before its first step"):
        env.step(np.zeros(1, dtype=np.int64))
    env.reset()
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros(1, dtype=np.int64))):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_engines_go_when_nobody_is_left_to_close_them(engine: str, folders: Path) -> None:
    code = (
        "import sys, tempfile, time\n"
        f"tempfile.tempdir = {str(folders)!r}\n"
        "from r2ac.envs.dmlab import SUITE, DmlabOptions\n"
        f"env = SUITE.make({LEVEL!r}, 1, 0, 'train', DmlabOptions())\n"
        "env.reset()\n"
        "print(*env.engine_pids(), flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert lives(pid)
        owner.kill()
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and (list(folders.iterdir()) or lives(pid)):
        time.sleep(0.02)
    assert list(folders.iterdir()) == []
    assert not lives(pid)
