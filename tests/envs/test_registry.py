"""Names, errors, reference scores, and what importing the package costs."""

import subprocess
import sys

import pytest

from r2ac.envs import SUITES, InvalidOption, MissingPackage, UnknownTask, find_task, make_vector
from r2ac.envs.atari import AtariOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.procgen import ProcgenOptions
from r2ac.envs.procgen_engine import PACKAGE


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_task_is_found_by_its_full_name() -> None:
    names = [task.name for suite in SUITES.values() for task in suite.tasks]
    assert len(names) == len(set(names))
    assert {"memory/tmaze", "atari/Breakout", "atari/MsPacman", "procgen/chaser"} <= set(names)
    assert all(find_task(name).name == name for name in names)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("atari/Brakout", "atari/Breakout"),
        ("atari/breakout", "atari/Breakout"),
        ("atari/ms_pacman", "atari/MsPacman"),
        ("Breakout", "atari/Breakout"),
        ("procgen/Breakout", "atari/Breakout"),
        ("atary/Pong", "atari/Pong"),
        ("PROCGEN/CHASER", "procgen/chaser"),
        ("procgen/chasser", "procgen/chaser"),
        ("tmaze", "memory/tmaze"),
        ("memroy/tmaze", "memory/tmaze"),
        ("memory/", "memory/tmaze"),
        ("popgym/RepeatFirst", "popgym/RepeatFirstEasy"),
        ("minigrid/memorys13", "minigrid/MemoryS13"),
        ("gym/CartPole-v9", "`v1`"),
        ("", "memory"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownTask) as error:
        find_task(wrong)
    assert repr(wrong) in str(error.value)
    assert nearest in str(error.value)
    with pytest.raises(UnknownTask):
        make_vector(wrong, 1, 0)


def test_frames_per_step_is_the_action_repeat() -> None:
    assert find_task("memory/tmaze").frames_per_step() == 1
    assert find_task("procgen/chaser").frames_per_step() == 1
    assert find_task("atari/Breakout").frames_per_step() == 4
    assert find_task("atari/Breakout").frames_per_step(AtariOptions(action_repeat=3)) == 3


def test_reference_scores() -> None:
    tmaze = find_task("memory/tmaze").reference_scores()
    assert tmaze is not None
    assert (tmaze.normalise(0.5), tmaze.normalise(1.0)) == (0.0, 1.0)
    breakout = find_task("atari/Breakout").reference_scores()
    assert breakout is not None
    assert (breakout.low, breakout.high, breakout.low_name, breakout.high_name) == (1.7, 30.5, "random", "human")
    chaser = find_task("procgen/chaser")
    by_mode = {mode: chaser.reference_scores(ProcgenOptions(distribution_mode=mode)) for mode in ("easy", "hard")}
    assert by_mode["easy"] is not None
    assert by_mode["hard"] is not None
    assert (by_mode["easy"].high, by_mode["hard"].high) == (13.0, 14.2)
    assert chaser.reference_scores(ProcgenOptions(distribution_mode="extreme")) is None
    assert find_task("atari/Adventure").reference_scores() is None


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("memory/tmaze", MemoryOptions(corridor_length=0), "corridor_length is 0"),
        ("memory/tmaze", MemoryOptions(corridor_length=2.5), "corridor_length is 2.5"),
        ("memory/tmaze", AtariOptions(), "MemoryOptions, not AtariOptions"),
        ("atari/Pong", AtariOptions(action_repeat=0), "action_repeat is 0"),
        ("atari/Pong", AtariOptions(frame_stack=0), "frame_stack is 0"),
        ("atari/Pong", AtariOptions(image_size=-1), "image_size is -1"),
        ("atari/Pong", AtariOptions(sticky_actions=1.5), "sticky_actions is 1.5"),
        ("atari/Pong", AtariOptions(max_noops=-1), "max_noops is -1"),
        ("atari/Pong", AtariOptions(max_episode_frames=3), "max_episode_frames is 3"),
        ("atari/Pong", AtariOptions(threads=-2), "threads is -2"),
        ("procgen/coinrun", ProcgenOptions(distribution_mode="extreme"), "easy, hard, exploration"),
        ("procgen/chaser", ProcgenOptions(distribution_mode="memory"), "easy, hard, extreme"),
        ("procgen/chaser", ProcgenOptions(distribution_mode="exploration"), "easy, hard, extreme"),
        ("procgen/maze", ProcgenOptions(distribution_mode="insane"), "easy, hard, memory, exploration"),
        ("procgen/maze", ProcgenOptions(num_levels=-1), "num_levels is -1"),
        ("procgen/maze", ProcgenOptions(start_level=2**30), "start_level 1073741824"),
        ("procgen/maze", ProcgenOptions(start_level=2**30 - 100, num_levels=101), "num_levels 101"),
        ("procgen/maze", ProcgenOptions(test_levels=0), "test_levels is 0"),
        ("procgen/maze", ProcgenOptions(test_levels=2**30), "test_levels is 1073741824"),
    ],
)
def test_a_bad_option_is_named_before_any_engine_starts(task: str, options: object, named: str) -> None:
    with pytest.raises(InvalidOption, match=r"^[^\n]*$") as error:
        make_vector(task, 1, 0, options=options)
    assert named in str(error.value)
    with pytest.raises(InvalidOption):
        find_task(task).frames_per_step(options)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidOption, match="num_envs is 0"):
        make_vector("memory/tmaze", 0, 0)
    with pytest.raises(InvalidOption, match="seed is -1"):
        make_vector("memory/tmaze", 1, -1)
    with pytest.raises(InvalidOption, match="split is 'valid', but it must be one of train, test"):
        make_vector("memory/tmaze", 1, 0, split="valid")
    with pytest.raises(InvalidOption, match="exploration mode has one level only"):
        make_vector("procgen/maze", 1, 0, split="test", options=ProcgenOptions(distribution_mode="exploration"))


@pytest.mark.parametrize(
    ("module", "task", "install"),
    [("ale_py", "atari/Breakout", "pip install 'ale-py"), (PACKAGE.modules[-1], "procgen/chaser", PACKAGE.remedy)],
)
def test_a_missing_engine_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, module: str, task: str, install: str
) -> None:
    suite = find_task(task).suite
    assert suite.missing() is None
    monkeypatch.setitem(sys.modules, module, None)
    sentence = suite.missing()
    assert sentence is not None
    assert install in sentence
    with pytest.raises(MissingPackage) as error:
        make_vector(task, 1, 0)
    assert str(error.value) == sentence


def test_the_tasks_are_listed_without_the_engines() -> None:
    printed = run_python(
        "import sys\n"
        "from r2ac.envs.procgen_engine import PACKAGE\n"
        "for name in ('ale_py', *PACKAGE.modules, 'popgym', 'minigrid'): sys.modules[name] = None\n"
        "from r2ac.envs import SUITES\n"
        "for name in ('memory', 'popgym', 'minigrid', 'atari', 'procgen'):\n"
        "    print(name, len(SUITES[name].tasks), SUITES[name].missing() is None)"
    )
    assert printed.splitlines() == [
        "memory 13 True",
        "popgym 42 False",
        "minigrid 6 False",
        "atari 57 False",
        "procgen 16 False",
    ]


def test_the_import_loads_no_engine_no_torch_and_no_ray() -> None:
    printed = run_python(
        "import sys, r2ac.envs\n"
        "engines = {'ale_py', 'procgen', 'gym3', 'gym', 'popgym', 'minigrid', 'pygame'}\n"
        "print(sorted(({'torch', 'ray'} | engines) & set(sys.modules)))"
    )
    assert printed.strip() == "[]"
