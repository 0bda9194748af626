"""The bandits: what an arm pays, what is shown, and that the computed optimum is the optimum."""

from functools import cache
from itertools import product

import numpy as np
import pytest

from r2ac.envs import InvalidOption, Signals, find_task, make_vector
from r2ac.envs.bandit import best_return
from r2ac.envs.memory import MemoryOptions


def play(arms: int, pulls: int, policy, streams: int = 2000, episodes: int = 5) -> np.ndarray:
    """Returns [episodes, N] of ``policy(rewards [N,K], pulls [N,K])`` -> actions [N]."""
    env = make_vector("memory/bandit", streams, 0, options=MemoryOptions(arms=arms, pulls=pulls))
    seen, returns = env.reset()[0], np.zeros((episodes, streams))
    for episode in range(episodes):
        counts = np.zeros((2, streams, arms))
        assert not seen.any()
        for step in range(1, pulls + 1):
            actions = policy(*counts)
            seen, reward, terminated, truncated, info = env.step(actions)
            assert terminated.all() == terminated.any() == (step == pulls)
            assert not truncated.any()
            shown = Signals.of(info).final_observation if step == pulls else seen
            assert shown is not None
            np.testing.assert_array_equal(shown[:, :arms].argmax(axis=1), actions)
            assert (shown[:, :arms].sum(axis=1) == 1).all()
            np.testing.assert_array_equal(shown[:, arms], reward)
            counts[:, np.arange(streams), actions] += reward, np.ones(streams)
            returns[episode] += reward
    return returns


def close(returns: np.ndarray, mean: float) -> bool:
    return abs(returns.mean() - mean) < 3.5 * returns.std() / np.sqrt(returns.size)


def test_random_pulls_earn_the_lower_score() -> None:
    choose = np.random.default_rng(0)
    returns = play(3, 6, lambda won, pulled: choose.integers(3, size=len(won)))
    assert returns.size == 10_000
    scores = find_task("memory/bandit").reference_scores(MemoryOptions(arms=3, pulls=6))
    assert scores is not None
    assert scores.low == 3
    assert close(returns, scores.low)


def test_an_arm_pays_with_a_probability_that_stays_for_an_episode_and_is_uniform() -> None:
    returns = play(2, 30, lambda won, pulled: np.zeros(len(won), dtype=np.int64))
    # A uniform probability makes each number of rewards equally likely.
    counts = np.bincount(returns.astype(int).ravel(), minlength=31)
    assert (abs(counts - 10_000 / 31) < 5 * np.sqrt(10_000 / 31)).all()


@cache
def value(arms: int, left: int, seen: tuple[tuple[int, int], ...]) -> float:
    """The optimum by the definition: arms told apart, nothing left out."""
    if left == 0:
        return 0.0

    def pull(arm: int, paid: int) -> float:
        s, f = seen[arm]
        after = (*seen[:arm], (s + paid, f + 1 - paid), *seen[arm + 1 :])
        return value(arms, left - 1, after)

    chances = [(s + 1) / (s + f + 2) for s, f in seen]
    return max(p * (1 + pull(arm, 1)) + (1 - p) * pull(arm, 0) for arm, p in enumerate(chances))


@pytest.mark.parametrize(("arms", "pulls"), [*product((2, 3), (1, 2, 3, 5)), (4, 4)])
def test_the_best_return_is_the_optimum(arms: int, pulls: int) -> None:
    assert best_return(arms, pulls) == pytest.approx(value(arms, pulls, ((0, 0),) * arms), rel=1e-12)


def test_the_best_return_is_earned_by_the_best_agent() -> None:
    assert best_return(2, 2) == pytest.approx(13 / 12, rel=1e-12)
    # With two pulls the arm of the highest mean is the best one.
    returns = play(2, 2, lambda won, pulled: ((won + 1) / (pulled + 2)).argmax(axis=1))
    assert close(returns, 13 / 12)


def test_where_the_optimum_takes_too_long_there_are_no_scores() -> None:
    assert find_task("memory/bandit").reference_scores(MemoryOptions(arms=10, pulls=100)) is None
    assert make_vector("memory/bandit", 2, 0, options=MemoryOptions(arms=10, pulls=100)).reset()[0].shape == (2, 11)


@pytest.mark.parametrize(("options", "named"), [({"arms": 1}, "arms is 1"), ({"pulls": 0}, "pulls is 0")])
def test_a_bad_option_is_named(options: dict, named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        make_vector("memory/bandit", 1, 0, options=MemoryOptions(**options))
