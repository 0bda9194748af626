"""Actions are named as the engines, and the docstrings of the tasks, number them."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from r2ac.envs import find_task, make_vector
from r2ac.envs.atari import AtariOptions
from r2ac.envs.dmlab.engine import ACTION_SETS
from r2ac.envs.procgen_engine import PACKAGE
from r2ac.launch.watching.action_names import action_names


def names(task: str, options: Any = None) -> tuple[str, ...]:
    if sentence := find_task(task).suite.missing():
        pytest.skip(sentence)
    env = make_vector(task, 2, 0, options=options)
    try:
        return action_names(task, env)
    finally:
        env.close()


def test_what_has_no_name_has_its_number() -> None:
    assert names("memory/copy") == ("0", "1", "2", "3")
    assert names("gym/CartPole-v1") == ("0", "1")


def test_the_maze_pays_for_the_direction_of_its_cue() -> None:
    assert names("memory/tmaze") == ("up", "down")
    assert names("memory/key_to_door") == ("up", "down", "left", "right")


def test_atari_names_the_actions_of_the_game() -> None:
    assert names("atari/Breakout", AtariOptions(full_action_space=False)) == ("noop", "fire", "right", "left")
    assert len(set(names("atari/Breakout"))) == 18


def test_minigrid_names_its_own() -> None:
    named = names("minigrid/MemoryS7")
    assert named == tuple(action.name for action in importlib.import_module("minigrid.core.actions").Actions)


@pytest.mark.skipif(PACKAGE.modules[0] != "procgen", reason="the engine of this Python does not name its keys")
def test_procgen_presses_keys() -> None:
    named = names("procgen/maze")
    # The environment has imported the engine, which wants the old gym otherwise.
    combos = importlib.import_module("procgen.env").BaseProcgenEnv.get_combos(None)
    for name, combo in zip(named, combos, strict=True):
        arrows = set(combo) & {"LEFT", "RIGHT", "UP", "DOWN"}
        assert name == (" ".join(combo).lower() if arrows else f"key {combo[0]}" if combo else "nothing")


@pytest.mark.parametrize("size", ACTION_SETS)
def test_dmlab_moves_and_looks(size: int) -> None:
    env: Any = SimpleNamespace(single_action_space=SimpleNamespace(n=size), unwrapped=None)
    for name, (look, up, strafe, move, fire, *_) in zip(action_names("dmlab/any", env), ACTION_SETS[size], strict=True):
        assert ("left" in name, "right" in name) == (look < 0 or strafe < 0, look > 0 or strafe > 0)
        assert (name.startswith("forward"), name == "back", "strafe" in name) == (move > 0, move < 0, strafe != 0)
        assert (name == "look down", name == "look up", name == "fire") == (up > 0, up < 0, fire > 0)
        assert size == 9 or not look or str(abs(look)) in name
