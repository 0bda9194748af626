"""Gymnasium ids by the real engines, and by one small engine of which every number is known."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

from r2ac.envs import InvalidOption, MissingPackage, Signals, UnknownTask, find_task, make_vector
from r2ac.envs.gym import GymOptions
from r2ac.envs.seeding import engine_seeds


class Counter(gymnasium.Env):
    """Shows the number of its steps, pays it, ends after `length` of them; actions are 5, 6 and 7."""

    def __init__(self, shape: tuple[int, ...] = (2,), dtype: type = np.int16, length: int = 7, start: int = 5) -> None:
        self.observation_space = Box(0, 100, shape, dtype)
        self.action_space = Discrete(3, start=start)
        self.length = length
        self.steps = 0

    def _show(self) -> np.ndarray:
        return np.full(self.observation_space.shape, self.steps, self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.steps += 1
        self.taken = int(action)
        return self._show(), float(self.steps), self.steps == self.length, False, {}


class Grid(Counter):
    """The same with actions of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = MultiDiscrete([2, 3])


for name, arguments in {
    "Counter": {},
    "LastAxis": {"shape": (5, 6, 3), "dtype": np.uint8},
    "FirstAxis": {"shape": (3, 6, 5), "dtype": np.uint8},
    "Grey": {"shape": (5, 6), "dtype": np.uint8},
    "Floats": {"shape": (5, 6, 3), "dtype": np.float32},
    "Channels": {"shape": (5, 6, 7), "dtype": np.uint8},
}.items():
    gymnasium.register(id=f"r2ac-test/{name}-v0", entry_point=Counter, kwargs=arguments)
gymnasium.register(id="r2ac-test/Limited-v0", entry_point=Counter, max_episode_steps=4)
gymnasium.register(id="r2ac-test/Grid-v0", entry_point=Grid)


def episode_of(task: str, steps: int, **options: int):
    """First entry of each observation, rewards, terminated, truncated of one stream, as lists."""
    env = make_vector(f"gym/r2ac-test/{task}-v0", 1, 0, options=GymOptions(**options))
    shown, rest = [env.reset()[0][0].tolist()], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(np.array([1]))
        shown.append(observation[0].tolist())
        rest.append((float(reward[0]), bool(terminated[0]), bool(truncated[0])))
    return shown, *map(list, zip(*rest, strict=True))


def test_the_step_that_ends_an_episode_shows_the_next_one() -> None:
    shown, rewards, terminated, truncated = episode_of("Counter", 15)
    assert shown == [[step % 7.0] * 2 for step in range(16)]
    assert rewards == [1, 2, 3, 4, 5, 6, 7] * 2 + [1]
    assert terminated == [step % 7 == 0 for step in range(1, 16)]
    assert not any(truncated)
    env = make_vector("gym/r2ac-test/Counter-v0", 2, 0)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset()
    for _ in range(7):
        *_, info = env.step(np.array([0, 2]))
    signals = Signals.of(info)
    assert signals.final_observation.tolist() == [[7, 7], [7, 7]]
    assert signals.has_final.tolist() == [True, True]
    assert [one.unwrapped.taken for one in env.unwrapped.envs] == [5, 7], "actions are numbered from 0"  # type: ignore[attr-defined]


def test_a_time_limit_is_truncation() -> None:
    shown, rewards, terminated, truncated = episode_of("Limited", 8)
    assert shown == [[step % 4] * 2 for step in range(9)]
    assert rewards == [1, 2, 3, 4] * 2
    assert not any(terminated)
    assert truncated == [False, False, False, True] * 2


def test_an_action_is_repeated_until_the_end() -> None:
    shown, rewards, terminated, _ = episode_of("Counter", 6, action_repeat=3)
    assert shown == [[0] * 2, [3] * 2, [6] * 2, [0] * 2, [3] * 2, [6] * 2, [0] * 2]
    assert rewards == [1 + 2 + 3, 4 + 5 + 6, 7] * 2
    assert terminated == [False, False, True] * 2
    assert find_task("gym/CartPole-v1").frames_per_step(GymOptions(action_repeat=3)) == 3


def test_frames_are_stacked_oldest_first_and_not_across_episodes() -> None:
    shown, *_ = episode_of("Counter", 8, frame_stack=3)
    assert shown[0] == [0, 0] * 3
    assert shown[2] == [0, 0, 1, 1, 2, 2]
    assert shown[6] == [4, 4, 5, 5, 6, 6]
    assert shown[7] == [0, 0] * 3
    assert shown[8] == [0, 0, 0, 0, 1, 1]
    both, *_ = episode_of("Counter", 3, frame_stack=2, action_repeat=3)
    assert both == [[0] * 4, [0, 0, 3, 3], [3, 3, 6, 6], [0] * 4]


@pytest.mark.parametrize(("task", "channels"), [("LastAxis", 3), ("FirstAxis", 3), ("Grey", 1)])
def test_images_come_with_the_channels_first(task: str, channels: int) -> None:
    size = (6, 5) if task == "FirstAxis" else (5, 6)
    for stack in (1, 4):
        env = make_vector(f"gym/r2ac-test/{task}-v0", 2, 0, options=GymOptions(frame_stack=stack))
        env.reset()
        observation, *_ = env.step(np.zeros(2, dtype=np.int64))
        assert observation in env.observation_space
        assert (observation.shape, observation.dtype) == ((2, channels * stack, *size), np.uint8)
        assert observation[0, :, 0, 0].tolist() == [0] * channels * (stack - 1) + [1] * channels


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_the_vector_is_the_engines_one_by_one(name: str) -> None:
    """Observations, rewards, ends and returns, across resets, of engines made, seeded and reset by hand."""
    env = make_vector(f"gym/{name}", 3, 2**70, split="test")
    engines = [gymnasium.make(name) for _ in range(3)]
    seeds = engine_seeds(2**70, "test", 3)
    expected = np.stack([engine.reset(seed=seed)[0] for engine, seed in zip(engines, seeds, strict=True)])
    observation, _ = env.reset()
    choose = np.random.default_rng(0)
    ends = np.zeros(3)
    for _ in range(210):
        assert observation.dtype == np.float32
        assert observation in env.observation_space
        np.testing.assert_array_equal(observation, expected)
        actions = choose.integers(env.single_action_space.n, size=3)
        observation, reward, terminated, truncated, _ = env.step(actions)
        for i, engine in enumerate(engines):
            expected[i], paid, terminal, truncation, _ = engine.step(int(actions[i]))
            assert (reward[i], terminated[i], truncated[i]) == (paid, terminal, truncation)
            if terminal or truncation:
                ends[i] += 1
                expected[i], _ = engine.reset()
    assert ends.all() == (name != "Acrobot-v1")


def test_one_seed_is_one_run_and_another_is_another() -> None:
    def run(seed: int, split: str = "train", num_envs: int = 3) -> np.ndarray:
        env = make_vector("gym/CartPole-v1", num_envs, seed, split=split)
        return np.stack([env.reset()[0], *(env.step(np.full(num_envs, step % 2))[0] for step in range(60))])

    np.testing.assert_array_equal(run(3), run(3))
    np.testing.assert_array_equal(run(3), run(3, num_envs=5)[:, :3])
    assert (run(3)[0] != run(4)[0]).any()
    assert (run(3)[0] != run(3, split="test")[0]).any()
    assert len(np.unique(run(3)[0], axis=0)) == 3, "the streams differ"


def test_an_id_may_name_the_module_that_registers_it() -> None:
    pytest.importorskip("ale_py")
    env = make_vector("gym/ale_py:ALE/Pong-v5", 2, 0, options=GymOptions(frame_stack=2))
    assert find_task("gym/ale_py:ALE/Pong-v5").name == "gym/ale_py:ALE/Pong-v5"
    observation, _ = env.reset()
    assert (observation.shape, observation.dtype) == ((2, 6, 210, 160), np.uint8)
    env.close()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("gym/CartPol-v1", "'gym/CartPol-v1': .*CartPole"),
        ("gym/CartPole-v7", "`v0`, `v1`"),
        ("gym/CartPole", "No registered env with id: CartPole"),
        ("gym/Nowhere/Env-v0", "Namespace Nowhere not found"),
        ("gym/tests.own_envs:own/Wlak-v1", "tests.own_envs registers own/Walk-v0, own/"),
        ("gym/no_such_module:Env-v0", "No module named 'no_such_module'"),
        ("gym/", "those of gym are named such as gym/CartPole-v1"),
        ("gym/two words", "Malformed environment ID"),
        ("gym/:Env-v0", "Empty module name"),
    ],
)
def test_an_id_that_does_not_exist_is_one_sentence(task: str, said: str) -> None:
    with pytest.raises(UnknownTask, match=said) as error:
        find_task(task)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("gym/r2ac-test/Floats-v0", r"not Box\(0.0, 100.0, \(5, 6, 3\), float32\)"),
        ("gym/r2ac-test/Channels-v0", r"not Box\(0, 100, \(5, 6, 7\), uint8\)"),
    ],
)
def test_an_id_with_other_spaces_is_refused_in_one_sentence(task: str, said: str) -> None:
    with pytest.raises(UnknownTask, match=said) as error:
        make_vector(task, 1, 0)
    assert "\n" not in str(error.value)


def test_a_package_that_an_id_lacks_is_named() -> None:
    with pytest.raises(MissingPackage, match=r"gym/Ant-v2 lacks a package: .*gymnasium-robotics"):
        make_vector("gym/Ant-v2", 1, 0)


@pytest.mark.parametrize(
    ("options", "said"), [({"action_repeat": 0}, "action_repeat is 0"), ({"frame_stack": 1.5}, "frame_stack is 1.5")]
)
def test_a_bad_option_is_named(options: dict, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make_vector("gym/CartPole-v1", 1, 0, options=GymOptions(**options))
