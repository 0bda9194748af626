"""Separation, accuracy and half-lives are those of slow and simple computations, on cells made by hand."""

import math

import numpy as np
import pytest

from r2ac.launch.settings.config import ConfigError
from r2ac.launch.watching.episodes import PlayedEpisode
from r2ac.launch.watching.memory_analysis import (
    RESOLUTION,
    NoCues,
    carried,
    cue_groups,
    cue_labels,
    cue_memory,
    half_lives,
    nearest_mean_accuracy,
    separation,
)


def episode(
    observations: np.ndarray, cells: np.ndarray, jacobians: np.ndarray, complete: bool = True, first: object = (0,)
) -> PlayedEpisode:
    steps = len(cells)
    is_first = np.isin(np.arange(steps), first)
    nothing, chosen = np.zeros(steps), np.zeros((steps, 1), int)
    own = (is_first, nothing.astype(int), nothing, nothing, np.ones((steps, 1)), chosen, cells, jacobians)
    return PlayedEpisode(complete, observations, *own)


def latch(cue: int, steps: int, noise: float, random: np.random.Generator) -> PlayedEpisode:
    """Unit 0 holds the cue, unit 1 forgets half of it a step, unit 2 is noise, unit 3 a constant."""
    observations = np.eye(3, dtype=np.float32)[np.where(np.arange(steps) == 0, cue, 2)]
    sign, t = 2.0 * cue - 1, np.arange(steps)
    held, faded = np.full(steps, 0.5 * sign), 0.5 * sign * 0.5**t
    cells = np.stack([held, faded, 0 * t, 0 * t + 0.3], axis=1) + noise * random.standard_normal((steps, 4))
    cells[:, 2] = 0.4 * random.standard_normal(steps)
    return episode(observations, cells.astype(np.float32), np.tile([1.0, 0.5, 0.9, 0.0], (steps, 1)))


def latches(count: int = 40, steps: int = 12, noise: float = 0.01) -> list[PlayedEpisode]:
    random = np.random.default_rng(0)
    return [latch(i % 2, steps, noise, random) for i in range(count)]


def test_separation_is_the_share_of_the_variance_that_the_cue_explains() -> None:
    random = np.random.default_rng(1)
    cues = np.array([0] * 5 + [1] * 9 + [2] * 6)
    states = random.standard_normal((20, 7)) + cues[:, None] * np.linspace(0, 2, 7)
    share, spread = separation(states, cues, noise=0.5)
    for unit in range(7):
        x = states[:, unit]
        explained = sum((x[cues == cues[i]].mean() - x.mean()) ** 2 for i in range(20)) / 20
        total = sum((value - x.mean()) ** 2 for value in x) / 20
        assert share[unit] == pytest.approx(explained / (total + 0.25))
        assert spread[unit] == pytest.approx(math.sqrt(explained))
    assert (np.diff(share[[0, 3, 6]]) > 0).all()


def test_separation_at_its_ends_and_in_the_middle() -> None:
    cues = np.array([0, 0, 1, 1])
    # Means -1 and 1: B = 1. Beside noise of 1, or a variance of 1 within the cues, the cue explains a half.
    states = np.array([[-1, 0.2, -2, 0], [-1, 0.2, 0, 0], [1, 0.2, 0, 1e-9], [1, 0.2, 2, 1e-9]])
    np.testing.assert_allclose(separation(states, cues, noise=1e-9)[0][[0, 2]], [1, 0.5])
    np.testing.assert_allclose(separation(states, cues, noise=1.0)[0], [0.5, 0, 1 / 3, 0], atol=1e-12)
    np.testing.assert_allclose(separation(states, cues)[0], [1, 0, 0.5, 0], atol=1e-3)
    np.testing.assert_allclose(separation(states, cues)[1], [1, 0, 1, 5e-10], atol=1e-15)


@pytest.mark.parametrize("distance", [0.0, 0.7, 30.0])
def test_the_nearest_mean_leaves_each_episode_out(distance: float) -> None:
    random = np.random.default_rng(2)
    cues = random.permutation(np.array([0] * 6 + [1] * 10 + [2] * 4))
    states = random.standard_normal((20, 3)) + distance * cues[:, None]
    right = 0
    for i in range(20):
        others = np.arange(20) != i
        means = [states[others & (cues == cue)].mean(axis=0) for cue in range(3)]
        right += int(np.argmin([np.linalg.norm(states[i] - mean) for mean in means]) == cues[i])
    assert nearest_mean_accuracy(states, cues) == right / 20
    assert right == 20 if distance > 10 else right < 20


def test_half_lives_of_known_decays() -> None:
    tenth = 0.5**0.1
    decays = np.array([0.5, -0.5, tenth, 1.0, 1.02, 0.0])
    np.testing.assert_allclose(half_lives(np.tile(decays, (30, 1))), [1, 1, 10, math.inf, math.inf, 0])
    # The geometric mean counts: after 0.25 and 1, as after 0.5 twice, a quarter is left.
    np.testing.assert_allclose(half_lives(np.array([[0.25, 1.0], [1.0, 0.0]])), [1, 0])
    # What is left after a half-life of steps is a half.
    random = np.random.default_rng(0)
    changing = random.uniform(0.8, 1.1, (1000, 1))
    (life,) = half_lives(changing)
    assert np.prod(changing) ** (life / 1000) == pytest.approx(0.5)
    assert np.isnan(half_lives(np.zeros((0, 2)))).all()


def test_only_steps_that_carry_the_state_on_count() -> None:
    jacobians = np.arange(1.0, 6.0)[:, None]
    one = episode(np.zeros((5, 1)), np.zeros((5, 1)), jacobians, first=(0, 3))
    np.testing.assert_array_equal(carried([one, one])[:, 0], [2, 3, 5, 2, 3, 5])
    np.testing.assert_array_equal(carried([one, one], [range(1, 3), range(3, 5)])[:, 0], [2, 3, 5])


def test_cues_are_the_distinct_first_observations() -> None:
    one_hot = np.eye(4, dtype=np.float32)[[2, 0, 2, 0, 1, 1]]
    np.testing.assert_array_equal(cue_groups(one_hot), [2, 0, 2, 0, 1, 1])
    assert cue_labels(one_hot, cue_groups(one_hot)) == ("feature 0 = 1", "feature 1 = 1", "feature 2 = 1")
    marked = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 0]], dtype=np.float32)
    assert cue_labels(marked, cue_groups(marked)) == ("feature 2 = 1", "feature 2 = 0")
    images = np.zeros((4, 3, 2, 2), dtype=np.uint8)
    images[2:, 0] = 255
    assert cue_groups(images).tolist() == [1, 1, 0, 0]
    assert cue_labels(images, cue_groups(images)) == ("first observation 1", "first observation 2")
    for count, words in ((1, "all begin with the same"), (9, "begin in 9 ways"), (3, "only one of 7 episodes")):
        first = np.eye(10)[np.arange(18) % count if count != 3 else [0, 0, 0, 1, 1, 1, 2]]
        with pytest.raises(NoCues, match=words):
            cue_groups(first)


def test_units_that_hold_the_cue_come_first() -> None:
    memory = cue_memory(latches(), None, 0)
    assert memory.order.tolist()[0] == 0
    assert memory.separation[0] > 0.99
    assert (memory.separation[1:] < 0.2).all()
    np.testing.assert_allclose(memory.half_lives, [math.inf, 1, math.log(2) / -math.log(0.9), 0])
    assert (memory.accuracy == 1).all()
    assert memory.decision_accuracy == 1
    assert memory.accuracy[-1] == memory.decision_accuracy
    early = cue_memory(latches(), 1, 0)
    assert sorted(early.order.tolist()[:2]) == [0, 1], "after one step the second unit still knows"
    np.testing.assert_allclose(early.spread[:2], [0.5, 0.25], atol=0.01)


def test_a_trace_far_below_the_resolution_is_no_memory() -> None:
    """Without noise in the environment, states of one cue are equal, and any difference would tell the cues apart."""
    forgetful = []
    for one in latches(count=200, noise=0.0):
        cells = np.concatenate([one.cells[:, 1:2], np.full((12, 1), 0.3, np.float32)], axis=1)
        forgetful.append(episode(one.observations, cells, one.jacobians[:, :2]))
    memory = cue_memory(forgetful, None, 0)
    assert abs(memory.states[0, -1, 0]) == pytest.approx(0.5 * 0.5**11)
    assert memory.accuracy[0] == 1
    assert abs(memory.decision_accuracy - 0.5) < 0.12
    assert memory.separation[0] < 0.01 < RESOLUTION * 2


def test_episodes_of_different_lengths_are_told_apart_at_their_own_end() -> None:
    random = np.random.default_rng(0)
    episodes = [latch(i % 2, 5 + i % 3, 0.0, random) for i in range(12)]
    cut = [episode(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 4)), complete=False)]
    memory = cue_memory([*episodes, *cut], None, 0)
    assert memory.states.shape == (12, 5, 4)
    ends = np.array([one.cells[-1] for one in episodes])
    np.testing.assert_allclose(memory.separation, separation(ends, memory.cues)[0])
    with pytest.raises(ConfigError, match="--decision-step is 5, but the last step of an episode is 4"):
        cue_memory(episodes, 5, 0)
    with pytest.raises(NoCues, match="no episode ended"):
        cue_memory(cut, None, 0)
