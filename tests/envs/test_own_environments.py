"""Environments of users: where they are found, what they are given, and what of theirs becomes an image or a vector."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from r2ac.envs import EnvironmentFailed, InvalidOption, UnknownTask, find_task, make_vector
from r2ac.envs.gym import GymOptions
from tests import own_envs

OWN = "gym/tests.own_envs:own/"
PROGRAM = """
import sys
from r2ac.envs import UnknownTask, find_task, make_vector
try:
    print(make_vector(sys.argv[1], 1, 0).reset()[0].shape)
except UnknownTask as error:
    print(error)
"""


def run_in(folder: Path, task: str) -> str:
    """What a program that was started in another folder, as the command line is, says of the task."""
    script = Path(sys.executable).with_name("python")
    code = f"import sys; sys.path = [p for p in sys.path if p]; sys.argv = ['', {task!r}]; exec({PROGRAM!r})"
    return subprocess.run([script, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_module_of_the_current_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine_alone.py").write_text(Path(own_envs.__file__).read_text())
    assert run_in(tmp_path, "gym/mine_alone:own/Walk-v0") == "(1, 3)\n"
    (tmp_path / "elsewhere").mkdir()
    said = run_in(tmp_path / "elsewhere", "gym/mine_alone:own/Walk-v0")
    assert said.startswith("there is no task 'gym/mine_alone:own/Walk-v0': No module named 'mine_alone' in the current")
    assert f"({tmp_path / 'elsewhere'}), on PYTHONPATH or installed; start the command where it lies" in said
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    assert "needs_more cannot be imported: ModuleNotFoundError(" in run_in(tmp_path, "gym/needs_more:own/Walk-v0")


@pytest.mark.parametrize("statement", ["sys.exit()", "os._exit(0)"])
def test_a_module_that_leaves_the_process_cannot_be_imported(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text(f"import os, sys\n{statement}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownTask, match=r"leaving cannot be imported: SystemExit\("):
        make_vector("gym/leaving:Walk-v0", 1, 0)


def test_arguments_reach_the_environment_and_wrappers_wrap_it() -> None:
    options = GymOptions(
        env_kwargs='{"level": 2}', wrappers=("tests.own_envs:deaf", "tests.own_envs:Louder"), action_repeat=1
    )
    env = make_vector(f"{OWN}Needy-v0", 2, 0, options=options)
    assert env.reset()[0].shape == (2, 1)
    steps = [env.step(np.array([0, 1])) for _ in range(4)]
    assert [step[1].tolist() for step in steps] == [[0, 10]] * 4
    assert [step[2].tolist() for step in steps] == [[False] * 2, [True] * 2] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env_kwargs": "level=3"}, "env_kwargs is 'level=3', but it must be a JSON object"),
        ({"env_kwargs": "[3]"}, "it must be a JSON object"),
        ({"env_kwargs": '{"id": "Other-v0"}'}, "env_kwargs names 'id'"),
        ({"env_kwargs": '{"disable_env_checker": false}'}, "env_kwargs names 'disable_env_checker'"),
        ({"env_kwargs": '{"speed": 3}'}, "cannot be made with env_kwargs .*unexpected keyword argument 'speed'"),
        ({}, "Needy-v0 cannot be made with env_kwargs {}: .*'level'"),
        ({"wrappers": ("deaf",)}, "wrappers has 'deaf', but each must be module:function"),
        ({"wrappers": ("tests.own_envs:blind",)}, "there is no wrapper tests.own_envs:blind: .*no attribute 'blind'"),
        ({"wrappers": ("no_such_module:deaf",)}, "there is no wrapper no_such_module:deaf: No module named"),
        ({"wrappers": ("tests.own_envs:nothing",)}, "tests.own_envs:nothing returns None, but it must return a"),
    ],
)
def test_a_wrong_argument_or_wrapper_is_one_sentence(options: dict, said: str) -> None:
    given = {"env_kwargs": '{"level": 3}', **options} if options else {}
    with pytest.raises(InvalidOption, match=said) as error:
        make_vector(f"{OWN}Needy-v0", 1, 0, options=GymOptions(**given))
    assert "\n" not in str(error.value)


def test_dictionaries_and_tuples_become_vectors() -> None:
    """Keys in the order of the space, which Gymnasium sorts where it is made from a plain dictionary; numbers as they
    are, discrete ones one-hot."""
    env = make_vector(f"{OWN}Mixed-v0", 3, 0)
    (single, *_) = (one.unwrapped for one in env.unwrapped.envs)  # type: ignore[attr-defined]
    single._see = lambda: {
        "grid": np.array([[0.1, 0.2], [0.3, 0.4]], np.float32),
        "pair": (2, np.array([1, 0], np.int8)),
        "speed": np.array([-1, 0, 0.5], np.float32),
    }
    observation, _ = env.reset()
    assert (observation.shape, observation.dtype) == ((3, 12), np.float32)
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation[0], np.float32([0.1, 0.2, 0.3, 0.4, 0, 0, 1, 1, 0, -1, 0, 0.5]))
    assert make_vector(f"{OWN}Pair-v0", 2, 0).reset()[0].shape == (2, 6)
    assert make_vector("gym/FrozenLake-v1", 2, 0).reset()[0].tolist() == [[1] + [0] * 15] * 2
    assert make_vector("gym/Blackjack-v1", 2, 0).reset()[0].shape == (2, 32 + 11 + 2)
    stacked = make_vector(f"{OWN}Pair-v0", 2, 0, options=GymOptions(frame_stack=2))
    assert stacked.reset()[0].shape == (2, 12)


def test_an_image_alone_stays_an_image() -> None:
    env = make_vector(f"{OWN}OneImage-v0", 2, 0)
    shown = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    env.unwrapped.envs[0].unwrapped._see = lambda: {"camera": (shown,)}  # type: ignore[attr-defined]
    observation, _ = env.reset()
    assert (observation.shape, observation.dtype) == ((2, 3, 8, 8), np.uint8)
    np.testing.assert_array_equal(observation[0], np.moveaxis(shown, 2, 0))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ImageAndMore",
            "it shows the image camera beside speed, but an agent sees one image or one vector; --wrappers",
        ),
        ("Words", "its observations must be uint8 images .* not Text.* in mission"),
        ("Switches", r"its actions must be Discrete, .* numbers, not MultiBinary\(3\); --wrappers module:function can"),
        ("Several", r"its actions must be Discrete, .* numbers, not Tuple\(Discrete\(2\), Box.*\)"),
        ("Integers", r"its actions must be Discrete, .* numbers, not Box\(0, 5, \(2,\), int64\)"),
    ],
)
def test_what_cannot_be_shown_or_done_is_refused(name: str, said: str) -> None:
    assert find_task(f"{OWN}{name}-v0")
    with pytest.raises(UnknownTask, match=said) as error:
        make_vector(f"{OWN}{name}-v0", 1, 0)
    assert re.fullmatch("[^\n]+", str(error.value))


class Shows(gymnasium.Env):
    """Shows the value that it is given, and ends with every step."""

    def __init__(self, space: Space, value: object) -> None:
        self.observation_space, self.action_space, self._value = space, Discrete(2), value

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[object, dict]:
        return self._value, {}

    def step(self, action: object) -> tuple[object, float, bool, bool, dict]:
        return self._value, 0.0, True, False, {}


def shown(space: Space, value: object) -> list[float]:
    entry = functools.partial(Shows, space, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gymnasium.registry, "Shows-v0", EnvSpec("Shows-v0", entry_point=entry))
        env = make_vector("gym/Shows-v0", 1, 0)
        observation: np.ndarray = env.reset()[0][0]
        env.close()
        return observation.ravel().tolist()


PAIR = Dict({"a": Box(-1, 1, (2,)), "b": Tuple((Discrete(2), Box(0, 9, (), np.int64)))})


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (Discrete(3), 1, [0, 1, 0]),
        (Discrete(3, start=5), np.array([7]), [0, 0, 1]),
        (MultiDiscrete([2, 3], start=[1, 0]), [2, 0], [0, 1, 1, 0, 0]),
        (MultiBinary(2), [True, False], [1, 0]),
        (Box(0, 1, (2,), np.bool_), np.array([True, False]), [1, 0]),
        (Tuple((Discrete(2), Discrete(3))), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (Box(0, 9, (2,), np.int32), [3.0, 12.0], [3, 12]),
        (Box(-1, 1, (2,)), [[0.5], [2.5]], [0.5, 2.5]),
        (PAIR, {"a": [0, 1], "b": (1, 4), "c": 0}, [0, 1, 0, 1, 4]),
        (Box(0, 255, (1, 1, 2), np.uint8), np.array([[[3, 255]]], np.uint16), [3, 255]),
    ],
)
def test_observations_are_shown_as_they_are(space: Space, value: object, expected: list[float]) -> None:
    assert shown(space, value) == expected


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (Discrete(3), -1),
        (Discrete(3), 0.5),
        (Discrete(3), {"a": 1}),
        (MultiDiscrete([2, 3]), [1, [2, 3]]),
        (Discrete(3), None),
        (Discrete(3, start=5), 4),
        (MultiDiscrete([2, 3]), [2, 0]),
        (MultiDiscrete([2, 3]), [1]),
        (MultiBinary(2), [0, 2]),
        (Box(0, 9, (2,), np.int32), [0.5, 1]),
        (Box(0, 255, (2,), np.uint8), [1, 256]),
        (PAIR, {"a": [0, 1, 1], "b": (1, 4)}),
        (PAIR, {"a": [0, 1], "b": (1,)}),
        (PAIR, {"a": [0, 1]}),
        (Box(0, 255, (1, 1, 2), np.uint8), np.array([[[3, 300]]], np.uint16)),
    ],
)
def test_an_observation_that_would_be_shown_as_another_is_refused(space: Space, value: object) -> None:
    with pytest.raises(EnvironmentFailed, match=r"an observation is .*, which is not in its space|which is no uint8"):
        shown(space, value)
