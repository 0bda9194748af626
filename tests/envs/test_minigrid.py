"""MiniGrid's memory mazes by the real engine."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from r2ac.agents.encoders import make_encoder
from r2ac.envs import SUITES, InvalidOption, MissingPackage, Signals, find_task, make_vector
from r2ac.envs.minigrid import MinigridOptions
from r2ac.envs.seeding import engine_seeds

if (_missing := find_task("minigrid/MemoryS7").suite.missing()) is not None:
    pytest.skip(_missing, allow_module_level=True)

TASKS = [task.short_name for task in SUITES["minigrid"].tasks]
LEFT, RIGHT, FORWARD = 0, 1, 2


def engine_of(task: str) -> gymnasium.Env:
    make_vector(f"minigrid/{task}", 1, 0)  # registers the ids
    return gymnasium.make(f"MiniGrid-{task}-v0")


@pytest.mark.parametrize("task", TASKS)
def test_shapes_and_dtypes(task: str) -> None:
    env = make_vector(f"minigrid/{task}", 2, 0)
    observation, _ = env.reset()
    for _ in range(3):
        assert observation in env.observation_space
        assert (observation.shape, observation.dtype) == ((2, 7 * 7 * 20 + 4), np.float32)
        assert (observation[:, -4:].sum(axis=1) == 1).all()
        assert (observation.sum(axis=1) == 7 * 7 * 3 + 1).all()
        observation, reward, terminated, truncated, _ = env.step(np.full(2, LEFT))
        assert (reward.shape, terminated.dtype, truncated.dtype) == ((2,), np.bool_, np.bool_)
    assert env.single_action_space.n == 7


def test_every_memory_maze_of_minigrid_is_listed() -> None:
    engine_of("MemoryS7")
    ids = {name for name in gymnasium.registry if name.startswith("MiniGrid-Memory")}
    assert ids == {f"MiniGrid-{task}-v0" for task in TASKS}


def test_pixels_are_the_agents_view() -> None:
    env = make_vector("minigrid/MemoryS9", 2, 0, options=MinigridOptions(pixels=True))
    codes = make_vector("minigrid/MemoryS9", 2, 0)
    image, _ = env.reset()
    codes.reset()
    assert image in env.observation_space
    assert (image.shape, image.dtype) == ((2, 3, 56, 56), np.uint8)
    make_encoder(env.single_observation_space.shape, "impala", 16)
    engine = engine_of("MemoryS9")
    engine.reset(seed=engine_seeds(0, "train", 1)[0])
    for action in (LEFT, FORWARD, RIGHT, FORWARD):
        image, *rest, _ = env.step(np.full(2, action))
        _, *others, _ = codes.step(np.full(2, action))
        np.testing.assert_array_equal(rest, others)
        engine.step(action)
        np.testing.assert_array_equal(image[0], engine.unwrapped.get_pov_render(8).transpose(2, 0, 1))


@pytest.mark.parametrize("task", TASKS)
def test_the_vector_is_the_engines_one_by_one(task: str) -> None:
    """Observations, rewards and ends, across resets, of engines made, seeded and reset by hand."""
    env = make_vector(f"minigrid/{task}", 3, 5, split="test", options=MinigridOptions(max_episode_steps=60))
    engines = [engine_of(task) for _ in range(3)]
    seeds = engine_seeds(5, "test", 3)
    expected = [engine.reset(seed=seed)[0] for engine, seed in zip(engines, seeds, strict=True)]
    observation, _ = env.reset()
    choose = np.random.default_rng(0)
    terminations = truncations = 0
    for _ in range(250):
        for shown, codes in zip(observation, expected, strict=True):
            assert_shows(shown, codes)
        actions = choose.choice(7, size=3, p=[0.1, 0.1, 0.6, 0.05, 0.05, 0.05, 0.05])
        observation, reward, terminated, truncated, info = env.step(actions)
        for i, engine in enumerate(engines):
            expected[i], paid, terminal, truncation, _ = engine.step(int(actions[i]))
            truncation |= engine.unwrapped.step_count == 60
            assert (reward[i], terminated[i], truncated[i]) == (paid, terminal, truncation)
            terminations, truncations = terminations + terminal, truncations + truncation
            if terminal or truncation:
                assert Signals.of(info).has_final[i]
                assert_shows(Signals.of(info).final_observation[i], expected[i])
                expected[i], _ = engine.reset()
    assert terminations
    assert truncations


def assert_shows(shown: np.ndarray, codes: dict[str, Any]) -> None:
    """What MiniGrid's dictionary says, and nothing else."""
    fields = shown[:-4].reshape(7, 7, 20)
    parts = (fields[..., :11], fields[..., 11:17], fields[..., 17:])
    np.testing.assert_array_equal(np.stack([part.argmax(-1) for part in parts], -1), codes["image"])
    assert shown[-4:].argmax() == codes["direction"]
    assert shown.sum() == np.count_nonzero(shown) == 7 * 7 * 3 + 1


def test_an_episode_is_truncated_after_five_times_the_area() -> None:
    env = make_vector("minigrid/MemoryS7", 2, 0)
    env.reset()
    for step in range(1, 246):
        _, reward, terminated, truncated, _ = env.step(np.full(2, LEFT))
        assert not terminated.any()
        assert not reward.any()
        assert truncated.all() == truncated.any() == (step == 245)


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_returns_are_those_of_the_straight_way(task: str) -> None:
    """To the right end, by who knows it, and to the wrong one, in the engine itself."""
    engine = engine_of(task)
    maze = engine.unwrapped
    returns = {True: [], False: []}
    engine.reset(seed=0)
    for episode in range(160):
        right = episode % 4 > 0
        engine.reset()
        goal_x, goal_y = maze.success_pos if right else maze.failure_pos
        turn = LEFT if goal_y < maze.agent_pos[1] else RIGHT
        way = [FORWARD] * int(goal_x - maze.agent_pos[0]) + [turn, FORWARD]
        *before, last = [engine.step(action) for action in way]
        assert not any(terminated or reward for _, reward, terminated, _, _ in before)
        assert last[2]
        returns[right].append(last[1])
    assert not any(returns[False])
    scores = find_task(f"minigrid/{task}").reference_scores()
    assert scores is not None
    assert abs(np.mean(returns[True]) - scores.high) < 4 * np.std(returns[True]) / np.sqrt(120)
    assert scores.low == scores.high / 2


def test_one_seed_is_one_run_and_another_is_another() -> None:
    def run(seed: int, split: str = "train", num_envs: int = 4) -> np.ndarray:
        env = make_vector("minigrid/MemoryS13Random", num_envs, seed, split=split)
        actions = np.random.default_rng(0).integers(3, size=(60, 8))[:, :num_envs]
        return np.stack([env.reset()[0], *(env.step(action)[0] for action in actions)])

    np.testing.assert_array_equal(run(3), run(3))
    np.testing.assert_array_equal(run(3), run(3, num_envs=6)[:, :4])
    assert (run(3) != run(4)).any()
    assert (run(3) != run(3, split="test")).any()


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="pixels is 1"):
        make_vector("minigrid/MemoryS7", 1, 0, options=MinigridOptions(pixels=1))
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(MissingPackage, match=r"pip install 'r2ac\[minigrid\]'$"):
        make_vector("minigrid/MemoryS7", 1, 0)
