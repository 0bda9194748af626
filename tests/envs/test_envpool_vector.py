"""EnvPool under our promises: a stand-in for its interface, and where it is installed its MiniGrid."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from r2ac.envs import InvalidOption, MissingPackage, Signals, find_task, make_vector
from r2ac.envs.envpool_vector import EnvPoolVector
from r2ac.envs.episode_limit import EpisodeLimit
from r2ac.envs.minigrid import MinigridOptions, one_hot
from r2ac.launch.cli import main

ENVPOOL = MinigridOptions(engine="envpool")
TASKS = [task.short_name for task in find_task("minigrid/MemoryS7").suite.tasks]
LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
SEEDS = [2, 5, 3, 3]


class StandIn:
    """Takes and returns what EnvPool does; episodes of as many steps as the seed says, of which those are truncated
    that end by action 0. Observations are the number of the episode, the step in it and the last action."""

    action_space = Discrete(7)

    def __init__(self, task: str, num_envs: int, env_seed: Sequence[int], num_threads: int) -> None:
        assert (task, num_envs) == ("Counting-v0", len(env_seed))
        self.lengths = np.array(env_seed)
        self.seen = np.zeros((num_envs, 3), dtype=np.float32)
        self.ended = np.zeros(num_envs, dtype=bool)

    def close(self) -> None:
        self.lengths = self.lengths[:0]

    def reset(self, options: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
        streams = np.flatnonzero(options["reset_mask"])
        self.seen[streams, 0] += 1
        self.seen[streams, 1:] = 0
        self.ended[streams] = False
        return self.seen[streams], {"env_id": streams}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        assert not self.ended.any(), "EnvPool would ignore the action and begin an episode"
        self.seen[:, 1] += 1
        self.seen[:, 2] = actions
        self.ended = self.seen[:, 1] == self.lengths
        truncated = self.ended & (actions == 0)
        return self.seen.copy(), self.seen[:, 1].copy(), self.ended & ~truncated, truncated, {}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> EnvPoolVector:
    module: Any = ModuleType("envpool")
    module.__spec__, module.make_gymnasium = ModuleSpec("envpool", None), StandIn
    monkeypatch.setitem(sys.modules, "envpool", module)
    return EnvPoolVector("Counting-v0", SEEDS, Box(0, 9, (3,), np.float32), lambda seen: seen)


@pytest.mark.parametrize("limit", [0, 3])
def test_an_ended_stream_begins_an_episode_in_the_same_step(counting: EnvPoolVector, limit: int) -> None:
    """Also where a limit of our own ends the episode."""
    env = EpisodeLimit(counting, limit)
    lengths = np.minimum(SEEDS, limit or 9)
    observation, _ = env.reset()
    expected = np.tile([1.0, 0.0, 0.0], (4, 1))
    for actions in np.random.default_rng(0).integers(2, size=(20, 4)):
        np.testing.assert_array_equal(observation, expected)
        observation, reward, terminated, truncated, info = env.step(actions)
        expected[:, 1] += 1
        expected[:, 2] = actions
        ended, own = expected[:, 1] == lengths, expected[:, 1] == SEEDS
        np.testing.assert_array_equal(reward, expected[:, 1])
        np.testing.assert_array_equal(terminated, own & (actions == 1))
        np.testing.assert_array_equal(truncated, (own & (actions == 0)) | (ended & ~own))
        if ended.any():
            signals = Signals.of(info)
            np.testing.assert_array_equal(signals.has_final, ended)
            np.testing.assert_array_equal(signals.final_observation[ended], expected[ended])
        expected[ended, 0] += 1
        expected[ended, 1:] = 0


def test_a_seed_of_reset_makes_a_new_engine(counting: EnvPoolVector) -> None:
    counting.reset()
    counting.reset(seed=1)
    ends = [np.logical_or(*counting.step(np.ones(4))[2:4]) for _ in range(2)]
    np.testing.assert_array_equal(ends, [[True, False, False, False], [True, True, False, False]])
    with pytest.raises(ValueError, match="3 seeds for 4 streams"):
        counting.reset(seed=[1, 2, 3])


def test_without_envpool_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if sentence := find_task("minigrid/MemoryS7").suite.missing():
        pytest.skip(sentence)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingPackage, match=r"needs envpool, not installed here: pip install 'r2ac\[envpool\]'$"):
        make_vector("minigrid/MemoryS7", 1, 0, options=ENVPOOL)
    assert main(["train", "minigrid/MemoryS7", "--engine", "envpool", "--run-dir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "needs envpool, not installed here" in message
    assert message.count("\n") == 1


def test_envpool_has_no_pixels() -> None:
    with pytest.raises(InvalidOption, match="pixels is True, but with engine 'envpool' it must be False"):
        find_task("minigrid/MemoryS7").checked_options(MinigridOptions(engine="envpool", pixels=True))


def maze_of(state: Any, task: str) -> gymnasium.Env:
    """MiniGrid's engine in the maze, at the place and with the goals of EnvPool's."""
    grids = pytest.importorskip("minigrid.core.grid")
    engine = gymnasium.make(f"MiniGrid-{task}-v0")
    engine.reset()
    maze: Any = engine.unwrapped
    codes = np.array(state.grid, dtype=np.uint8).reshape(state.width, state.height, 3)
    maze.grid, _ = grids.Grid.decode(codes)
    maze.agent_pos, maze.agent_dir = np.array(state.agent_pos), state.agent_dir
    maze.success_pos, maze.failure_pos = state.success_pos, state.failure_pos
    return engine


def shown(engine: Any) -> np.ndarray:
    seen = engine.unwrapped.gen_obs()
    return one_hot(seen["image"][None], np.array([seen["direction"]]))[0]


@pytest.mark.parametrize("task", TASKS)
def test_envpool_is_minigrid_on_the_same_maze(task: str) -> None:
    """Step by step with all seven actions, across resets: observations, rewards and ends."""
    pytest.importorskip("envpool")
    env: Any = make_vector(f"minigrid/{task}", 4, 0, options=MinigridOptions(engine="envpool", max_episode_steps=60))
    observation, _ = env.reset()
    states = env.unwrapped.engine.debug_states
    engines = [maze_of(state, task) for state in states()]
    ends = 0
    choose = np.random.default_rng(0)
    for _ in range(300):
        np.testing.assert_array_equal(observation, [shown(engine) for engine in engines])
        actions = choose.choice(7, size=4, p=[0.1, 0.1, 0.6, 0.05, 0.05, 0.05, 0.05])
        observation, reward, terminated, truncated, info = env.step(actions)
        for i, engine in enumerate(engines):
            _, paid, terminal, _, _ = engine.step(int(actions[i]))
            truncation = engine.unwrapped.step_count == 60
            assert reward[i] == pytest.approx(paid, rel=1e-6)
            assert (terminated[i], truncated[i]) == (terminal, truncation)
            if terminal or truncation:
                ends += terminal
                np.testing.assert_array_equal(Signals.of(info).final_observation[i], shown(engine))
                engines[i] = maze_of(states()[i], task)
    assert ends
    env.close()


def test_envpools_time_limit_is_minigrids() -> None:
    """In the step of the limit the right object still pays, and the episode is truncated, not terminated."""
    pytest.importorskip("envpool")
    env: Any = make_vector("minigrid/MemoryS7", 2, 0, options=ENVPOOL)
    env.reset()
    state = env.unwrapped.engine.debug_states()[0]
    (x, y), (goal_x, goal_y) = state.agent_pos, state.success_pos
    way = [FORWARD] * (goal_x - x) + [LEFT if goal_y < y else RIGHT, FORWARD]
    for step, action in enumerate([DONE] * (245 - len(way)) + way, 1):
        _, reward, terminated, truncated, _ = env.step(np.array([action, DONE]))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step == 245)
    np.testing.assert_allclose(reward, [0.1, 0.0], rtol=1e-6)


def test_envpools_mazes_follow_from_the_seed_of_each_stream() -> None:
    pytest.importorskip("envpool")

    def mazes(seed: int, split: str = "train", num_envs: int = 16) -> list[list[str]]:
        env: Any = make_vector("minigrid/MemoryS17Random", num_envs, seed, split=split, options=ENVPOOL)
        begun = []
        for _ in range(3):
            env.reset()
            begun.append([str((each.agent_pos, each.grid)) for each in env.unwrapped.engine.debug_states()])
        return [list(each) for each in zip(*begun, strict=True)]

    first = mazes(3)
    assert mazes(3, num_envs=20)[:16] == first
    assert len({*map(str, first)}) > 12
    assert not {*map(str, mazes(4)), *map(str, mazes(3, "test"))} & {*map(str, first)}
