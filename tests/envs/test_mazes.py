"""The T-mazes in which the agent walks: the published rules written out again, what chance and memory earn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from r2ac.envs import InvalidOption, Signals, find_task, make_vector
from r2ac.envs.memory import MemoryOptions

SMALL = MemoryOptions(corridor_length=5, corridors=3)
RANDOM = replace(SMALL, random_lengths=True)
MAZES = [("passive_tmaze", SMALL), ("active_tmaze", SMALL), ("endless_tmaze", SMALL), ("endless_tmaze", RANDOM)]


class OneMaze:
    """The rules of Ni et al.'s T-maze for one agent, on a grid: x from the oracle on, y -1, 0 or 1."""

    moves = ((1, 0), (0, 1), (-1, 0), (0, -1))

    def __init__(self, length: int, oracle: int, goal: int) -> None:
        self.length, self.oracle, self.goal = length, oracle, goal
        self.x, self.y, self.time, self.was_at_oracle = oracle, 0, 0, False

    def observation(self) -> list[float]:
        if self.x == 0:
            shown, self.was_at_oracle = (0 if self.was_at_oracle else self.goal), True
            return [0, shown]
        return [1, self.y] if self.x == self.oracle + self.length else [0, 0]

    def step(self, action: int) -> tuple[list[float], float, bool]:
        x, y = self.x + self.moves[action][0], self.y + self.moves[action][1]
        end = self.oracle + self.length
        if (y == 0 and 0 <= x <= end) or (abs(y) == 1 and x == end):
            self.x, self.y = x, y
        self.time += 1
        if self.time == self.length + 2 * self.oracle + 1:
            return self.observation(), float(self.y == self.goal), True
        return self.observation(), -1.0 / self.length if self.x < self.time - self.oracle else 0.0, False


class OneEndlessMaze:
    """The rules of the endless T-maze for one agent whose lengths and cues (1 left, 2 right) are known."""

    def __init__(self, longest: int, lengths: Sequence[int], cues: Sequence[int]) -> None:
        self.longest, self.lengths, self.cues = longest, lengths, cues
        self.corridor = self.x = self.time = 0

    def observation(self) -> list[float]:
        cue = self.cues[self.corridor] if self.x == 0 else 0
        here = self.x == self.lengths[self.corridor]
        return [self.x / self.longest, float(cue == 1), float(cue == 2), float(here)]

    def step(self, action: int) -> tuple[float, bool, bool]:
        self.time += 1
        reward, terminated = 0.0, False
        if self.x < self.lengths[self.corridor]:
            if action == 0:
                self.x += 1
            else:
                reward = -0.01
        elif action == self.cues[self.corridor]:
            reward, terminated = 1.0, self.corridor == len(self.cues) - 1
            if not terminated:
                self.corridor, self.x = self.corridor + 1, 0
        else:
            reward, terminated = -1.0, True
        return reward, terminated, not terminated and self.time == 6 * (self.longest + 1) * len(self.cues)


def cues_of(task: str, options: MemoryOptions, streams: int, episodes: int) -> np.ndarray:
    """The cues [episodes,N] of a walked maze, read by going left: episodes do not depend on actions."""
    env = make_vector(f"memory/{task}", streams, 1, options=options)
    seen, cues = env.reset()[0], np.zeros((episodes, streams), dtype=int)
    for episode in range(episodes):
        over = np.zeros(streams, dtype=bool)
        while not over.any():
            cues[episode] += seen[:, 1].astype(int)
            seen, _, over, _, _ = env.step(np.full(streams, 2))
    return cues


def corridors_of(options: MemoryOptions, streams: int, steps: int) -> list[list[tuple[int, int]]]:
    """(length, cue) of all corridors of each stream of an endless maze, read by solving it."""
    env = make_vector("memory/endless_tmaze", streams, 1, options=options)
    seen, found = env.reset()[0], [[(0, 0)] for _ in range(streams)]
    for _ in range(steps):
        actions = np.zeros(streams, dtype=int)
        for stream, row in enumerate(seen):
            length, cue = found[stream].pop()
            cue = int(row[1:3].argmax()) + 1 if row[0] == 0 else cue
            actions[stream] = cue if row[3] else 0
            found[stream] += [(length, cue), (0, 0)] if row[3] else [(length + 1, cue)]
        seen = env.step(actions)[0]
    return found


def mostly(choose: np.random.Generator, preferred: np.ndarray, actions: int) -> np.ndarray:
    """The preferred action of each stream, at times a random one."""
    return np.where(choose.random(len(preferred)) < 0.9, preferred, choose.integers(actions, size=len(preferred)))


@pytest.mark.parametrize("oracle", [0, 1])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_walked_maze_is_the_published_one(oracle: int, length: int) -> None:
    streams, choose, episodes = 32, np.random.default_rng(length), 30
    task, options = ("passive_tmaze", "active_tmaze")[oracle], MemoryOptions(corridor_length=length)
    env = make_vector(f"memory/{task}", streams, 1, options=options)
    seen, solved, shown = env.reset()[0], 0, set()
    for cues in cues_of(task, options, streams, episodes).tolist():
        mazes, over = [OneMaze(length, oracle, cue) for cue in cues], False
        np.testing.assert_array_equal(seen, [maze.observation() for maze in mazes])
        leaves = choose.random() < 0.5
        while not over:
            shown |= {(maze.x, row[1]) for maze, row in zip(mazes, seen.tolist(), strict=True)}
            wished = [2 if leaves and maze.time == 0 else 1 if maze.x == oracle + length else 0 for maze in mazes]
            actions = mostly(choose, np.array(wished), 4)
            seen, reward, terminated, truncated, info = env.step(actions)
            expected = [maze.step(int(action)) for maze, action in zip(mazes, actions, strict=True)]
            over = terminated.any()
            np.testing.assert_array_equal(reward, [each[1] for each in expected])
            np.testing.assert_array_equal(terminated, [each[2] for each in expected])
            assert not truncated.any()
            after = Signals.of(info).final_observation if over else seen
            np.testing.assert_array_equal(after, [each[0] for each in expected])
        solved += int(reward.sum())
    assert solved > 20
    assert {(0, cue) for cue in (-1.0, 0.0, 1.0)} <= shown


@pytest.mark.parametrize("options", [SMALL, RANDOM, MemoryOptions(corridor_length=1, corridors=1)])
def test_an_endless_maze_follows_its_rules(options: MemoryOptions) -> None:
    streams, steps, choose = 8, 600, np.random.default_rng(0)
    env = make_vector("memory/endless_tmaze", streams, 1, options=options)
    corridors = [iter(each) for each in corridors_of(options, streams, 6 * steps)]

    def new(stream: int) -> OneEndlessMaze:
        lengths, cues = zip(*(next(corridors[stream]) for _ in range(options.corridors)), strict=True)
        return OneEndlessMaze(options.corridor_length, lengths, cues)

    seen, ended, lengths = env.reset()[0], np.zeros(3, dtype=int), set()
    mazes = [new(stream) for stream in range(streams)]
    for time in range(steps):
        np.testing.assert_array_equal(seen, np.array([maze.observation() for maze in mazes], dtype=np.float32))
        lengths |= {length for maze in mazes for length in maze.lengths}
        right = [maze.cues[maze.corridor] if maze.x == maze.lengths[maze.corridor] else 0 for maze in mazes]
        # In some periods nobody walks, so that the limit is met.
        actions = np.full(streams, 1) if time % 300 > 150 else mostly(choose, np.array(right), 3)
        seen, reward, terminated, truncated, info = env.step(actions)
        expected = [maze.step(int(action)) for maze, action in zip(mazes, actions, strict=True)]
        for ours, theirs in zip((reward, terminated, truncated), zip(*expected, strict=True), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        ended += [(terminated & (reward == 1)).sum(), (terminated & (reward == -1)).sum(), truncated.sum()]
        final = Signals.of(info).final_observation
        for stream in np.flatnonzero(terminated | truncated).tolist():
            assert final is not None
            np.testing.assert_array_equal(final[stream], np.float32(mazes[stream].observation()))
            mazes[stream] = new(stream)
    assert (ended > 0).all()
    assert lengths == (set(range(1, 6)) if options.random_lengths else {options.corridor_length})


def returns_of(task: str, options: MemoryOptions, policy: Any, streams: int = 2000, episodes: int = 5) -> np.ndarray:
    """Of the first episodes of each stream, [episodes * streams]; ``policy(observation, first, actions)``."""
    env = make_vector(f"memory/{task}", streams, 3, options=options)
    observation, first = env.reset()[0], np.ones(streams, dtype=bool)
    found, running = np.full((episodes, streams), np.nan), np.zeros(streams)
    count = np.zeros(streams, dtype=int)
    while (count < episodes).any():
        actions = policy(observation, first, int(env.single_action_space.n))  # type: ignore[attr-defined]
        observation, reward, terminated, truncated, _ = env.step(actions)
        running, first = running + reward, terminated | truncated
        ended = np.flatnonzero(first & (count < episodes))
        found[count[ended], ended] = running[ended]
        running[first], count = 0, count + first
    return found.ravel()


@pytest.mark.parametrize(("task", "options"), MAZES)
def test_the_lower_score_is_what_random_actions_earn(task: str, options: MemoryOptions) -> None:
    choose = np.random.default_rng(4)
    returns = returns_of(task, options, lambda seen, first, actions: choose.integers(actions, size=len(seen)))
    scores = find_task(f"memory/{task}").reference_scores(options)
    assert scores is not None
    assert returns.size == 10_000
    assert abs(returns.mean() - scores.low) < 3.5 * returns.std() / np.sqrt(returns.size)


class Walker:
    """Walks to the cue and to the junction, and turns as the last cue says, or always in one direction."""

    def __init__(self, task: str, remembers: bool) -> None:
        self.task, self.remembers = task, remembers
        self.turn = np.arange(0)

    def __call__(self, seen: np.ndarray, first: np.ndarray, actions: int) -> np.ndarray:
        if self.turn.size == 0:
            self.turn = np.ones(len(seen), dtype=np.int64)
        if self.task == "endless_tmaze":
            cue, junction = seen[:, 2] - seen[:, 1], seen[:, 3] > 0
            self.turn = np.where(cue == 0, self.turn, np.where(cue > 0, 2, 1)) if self.remembers else self.turn
            return np.where(junction, self.turn, 0)
        cue, junction = np.where(seen[:, 0] == 0, seen[:, 1], 0), seen[:, 0] > 0
        self.turn = np.where(cue == 0, self.turn, np.where(cue > 0, 1, 3)) if self.remembers else self.turn
        back = first & (self.task == "active_tmaze")
        return np.where(junction, self.turn, np.where(back, 2, 0))


@pytest.mark.parametrize(("task", "options"), [*MAZES, ("passive_tmaze", MemoryOptions(corridor_length=60))])
def test_memory_earns_the_best_return_and_walking_without_it_a_mean_that_is_known(
    task: str, options: MemoryOptions
) -> None:
    scores = find_task(f"memory/{task}").reference_scores(options)
    assert scores is not None
    assert (returns_of(task, options, Walker(task, True), streams=100, episodes=2) == scores.high).all()
    blind = returns_of(task, options, Walker(task, False), streams=1000, episodes=2)
    known = 0.0 if task == "endless_tmaze" else 0.5
    assert abs(blind.mean() - known) < 3.5 * blind.std() / np.sqrt(blind.size)


def test_long_corridors() -> None:
    assert find_task("memory/passive_tmaze").episode_steps(MemoryOptions(corridor_length=1500)) == 1501
    assert find_task("memory/active_tmaze").episode_steps(MemoryOptions(corridor_length=1500)) == 1503
    assert find_task("memory/endless_tmaze").episode_steps() is None
    for length in (3, 1500):
        scores = find_task("memory/passive_tmaze").reference_scores(MemoryOptions(corridor_length=length))
        assert scores is not None
        on_time = sum(4.0**-t for t in range(1, length + 1))
        assert scores.low == pytest.approx(-(length - on_time) / length + 4.0 ** -(length + 1), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("passive_tmaze", {"corridor_length": 0}, "corridor_length is 0"),
        ("endless_tmaze", {"corridors": 0}, "corridors is 0"),
        ("endless_tmaze", {"random_lengths": 1}, "random_lengths is 1"),
        ("active_tmaze", {"pixels": True}, "must be False with active_tmaze"),
    ],
)
def test_a_bad_option_is_named(task: str, options: dict, named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        make_vector(f"memory/{task}", 1, 0, options=MemoryOptions(**options))
