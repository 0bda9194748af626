"""POPGym by the real engine."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from r2ac.agents import ActionSpec
from r2ac.envs import SUITES, MissingPackage, Signals, find_task, make_vector
from r2ac.envs.popgym import PopgymOptions
from r2ac.envs.seeding import engine_seeds

pytest.importorskip("popgym")
gymnasium = pytest.importorskip("gymnasium")

TASKS = [task.short_name for task in SUITES["popgym"].tasks]


def returns_of(task: str, policy, episodes: int, num_envs: int = 16, seed: int = 0) -> np.ndarray:
    """Returns of whole episodes [episodes * num_envs] of policy(observations of the episode, stream) -> action."""
    env = make_vector(f"popgym/{task}", num_envs, seed)
    observation, _ = env.reset()
    seen = [[one] for one in observation]
    total, finished = np.zeros(num_envs), [[] for _ in range(num_envs)]
    while min(map(len, finished)) < episodes:
        actions = np.array([policy(history, stream) for stream, history in enumerate(seen)])
        observation, reward, terminated, truncated, _ = env.step(actions)
        total += reward
        for stream in range(num_envs):
            if terminated[stream] or truncated[stream]:
                finished[stream].append(total[stream])
                total[stream], seen[stream] = 0.0, []
            seen[stream].append(observation[stream])
    return np.concatenate([returns[:episodes] for returns in finished])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_shows_float32_vectors_with_the_previous_action(task: str) -> None:
    env = make_vector(f"popgym/{task}", 2, 0)
    space: Any = env.single_action_space
    last = np.full(2, space.n - 1) if isinstance(space, Discrete) else np.ones((2, 1), np.float32)
    observation, _ = env.reset()
    for _ in range(4):
        assert observation in env.observation_space
        assert (observation.ndim, observation.dtype) == (2, np.float32)
        observation, reward, terminated, truncated, _ = env.step(last)
        assert (reward.shape, terminated.dtype, truncated.dtype) == ((2,), np.bool_, np.bool_)
        assert (observation[~(terminated | truncated), -1] == 1).all(), "the previous action was the last"


def test_every_task_of_popgym_is_listed() -> None:
    assert {f"popgym-{task}-v0" for task in TASKS} == {id for id in gymnasium.registry if id.startswith("popgym-")}


@pytest.mark.parametrize("task", ["BattleshipEasy", "MineSweeperEasy", "ConcentrationEasy", "CountRecallEasy"])
def test_the_vector_is_the_engines_one_by_one(task: str) -> None:
    """Observations, rewards and ends, across resets, of engines made, seeded and reset by hand."""
    env = make_vector(f"popgym/{task}", 3, 11, options=PopgymOptions(previous_action=False))
    engines = [gymnasium.make(f"popgym-{task}-v0") for _ in range(3)]
    space = engines[0].observation_space
    flat = gymnasium.spaces.utils.flatten
    expected = [engine.reset(seed=seed)[0] for engine, seed in zip(engines, engine_seeds(11, "train", 3), strict=True)]
    observation, _ = env.reset()
    choose = np.random.default_rng(0)
    ends = 0
    for _ in range(230):
        np.testing.assert_array_equal(observation, [flat(space, one) for one in expected])
        actions = choose.integers(env.single_action_space.n, size=3)
        observation, reward, terminated, truncated, info = env.step(actions)
        for i, (engine, action) in enumerate(zip(engines, actions, strict=True)):
            sizes = getattr(engine.action_space, "nvec", None)
            taken = int(action) if sizes is None else np.array(divmod(int(action), int(sizes[1])))
            expected[i], paid, terminal, truncation, _ = engine.step(taken)
            assert (reward[i], terminated[i], truncated[i]) == (paid, terminal, truncation)
            if terminal or truncation:
                ends += 1
                np.testing.assert_array_equal(Signals.of(info).final_observation[i], flat(space, expected[i]))
                expected[i], _ = engine.reset()
    assert ends >= 3


def test_one_seed_is_one_run_and_another_is_another() -> None:
    def run(seed: int, split: str = "train", num_envs: int = 4) -> np.ndarray:
        env = make_vector("popgym/RepeatPreviousEasy", num_envs, seed, split=split)
        actions = np.zeros(num_envs, dtype=np.int64)
        return np.stack([env.reset()[0], *(env.step(actions)[0] for _ in range(120))])

    np.testing.assert_array_equal(run(3), run(3))
    np.testing.assert_array_equal(run(3), run(3, num_envs=6)[:, :4])
    assert (run(3) != run(4)).any()
    assert (run(3) != run(3, split="test")).any()
    assert len(np.unique(run(3).swapaxes(0, 1), axis=0)) == 4, "the streams differ"


def previous_action(task: str) -> list[list[float]]:
    env = make_vector(f"popgym/{task}", 1, 0)
    actions = env.single_action_space.n
    shown = [env.reset()[0][0, -actions:]]
    shown += [env.step(np.array([action]))[0][0, -actions:] for action in (2, 1)]
    return [vector.nonzero()[0].tolist() for vector in shown]


def test_the_previous_action_is_shown_and_can_be_left_out() -> None:
    assert previous_action("MultiarmedBanditEasy") == [[], [2], [1]]
    env = make_vector("popgym/BattleshipEasy", 1, 0)
    assert env.single_observation_space.shape == (2 + 64,)
    env = make_vector("popgym/BattleshipEasy", 1, 0, options=PopgymOptions(previous_action=False))
    assert env.single_observation_space.shape == (2,)


def recall_previous(history: list[np.ndarray], stream: int) -> int:
    return int(history[max(len(history) - 4, 0)][:4].argmax())


def recall_first(history: list[np.ndarray], stream: int) -> int:
    return int(history[0][:4].argmax())


def recite_backwards(history: list[np.ndarray], stream: int) -> int:
    said = sum(1 for observation in history if observation[0] == 1) - 1
    return int(history[51 - max(said, 0)][2:6].argmax()) if len(history) >= 52 else 0


def count(history: list[np.ndarray], stream: int) -> int:
    asked = int(history[-1][2:4].argmax())
    return int(sum(observation[asked] for observation in history))


@pytest.mark.parametrize(
    ("task", "policy"),
    [
        ("RepeatPreviousEasy", recall_previous),
        ("RepeatFirstEasy", recall_first),
        ("AutoencodeEasy", recite_backwards),
        ("CountRecallEasy", count),
    ],
)
def test_perfect_memory_earns_the_best_return(task: str, policy) -> None:
    best = find_task(f"popgym/{task}").reference_scores()
    assert best is not None
    np.testing.assert_allclose(returns_of(task, policy, episodes=2, num_envs=4), best.high)


@pytest.mark.parametrize(
    ("task", "episodes"),
    [
        ("RepeatFirstEasy", 8),
        ("CountRecallHard", 4),
        ("PositionOnlyCartPoleEasy", 20),
        ("NoisyPositionOnlyCartPoleHard", 20),
        ("PositionOnlyPendulumHard", 40),
        ("MultiarmedBanditEasy", 6),
        ("HigherLowerEasy", 8),
        ("BattleshipEasy", 8),
        ("ConcentrationHard", 5),
        ("MineSweeperEasy", 40),
        ("MineSweeperHard", 20),
    ],
)
def test_random_actions_earn_the_random_return(task: str, episodes: int) -> None:
    actions, random = ActionSpec.of(make_vector(f"popgym/{task}", 1, 0).single_action_space), np.random.default_rng(0)
    returns = returns_of(task, lambda history, stream: actions.at_random(random, 1, None)[0], episodes)
    scores = find_task(f"popgym/{task}").reference_scores()
    assert scores is not None
    assert abs(returns.mean() - scores.low) < 4 * returns.std() / np.sqrt(len(returns))


def test_scores_are_normalised() -> None:
    for task in SUITES["popgym"].tasks:
        scores = task.reference_scores()
        assert scores is not None
        assert scores.low < scores.high <= 1.0
        assert task.frames_per_step() == 1


def test_a_missing_engine_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "popgym", None)
    with pytest.raises(MissingPackage, match=r"pip install 'r2ac\[popgym\]'$"):
        make_vector("popgym/RepeatFirstEasy", 1, 0)


def test_listing_the_tasks_loads_no_engine() -> None:
    code = (
        "import sys\nfrom r2ac.envs import SUITES\n"
        "for suite in SUITES.values(): suite.tasks, suite.missing()\n"
        "print(sorted({'popgym', 'minigrid', 'pygame'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
