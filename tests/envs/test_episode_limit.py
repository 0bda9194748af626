"""`max_episode_steps` truncates the episodes of every suite, and shows what was cut off."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from r2ac.envs import SUITES, InvalidOption, Signals, find_task, make_vector
from r2ac.envs.atari import AtariOptions
from r2ac.envs.dmlab import DmlabOptions
from r2ac.envs.gym import GymOptions

DOUBLE = Path(__file__).parent / "dmlab" / "double"
LIMIT = 6
TASKS = [
    "memory/tmaze",
    "memory/copy",
    "popgym/RepeatPreviousEasy",
    "minigrid/MemoryS7",
    "atari/Breakout",
    "procgen/coinrun",
    "dmlab/rooms_watermaze",
    "gym/tests.stuck_envs:Uneven-v0",
]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    name: str = request.param
    suite = SUITES[name.partition("/")[0]]
    if suite.name == "dmlab":
        monkeypatch.syspath_prepend(DOUBLE)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if suite.missing() is not None:
        pytest.skip("the engine is not installed")
    return name


def make(task: str, limit: int, num_envs: int = 3) -> VectorEnv:
    options = find_task(task).suite.options()
    if isinstance(options, DmlabOptions):
        options = replace(options, image_height=24, image_width=32, actions=9, action_repeat=1)
    return make_vector(task, num_envs, 0, options=replace(options, max_episode_steps=limit))


def test_no_episode_is_longer_and_what_is_cut_off_is_shown(task: str) -> None:
    env, free = make(task, LIMIT), make(task, 0)
    drawn = np.random.default_rng(0).integers(2, size=(4 * LIMIT, 3))
    seen, _ = env.reset()
    unlimited, _ = free.reset()
    lengths, first_episode = np.zeros(3, dtype=np.int64), np.ones(3, dtype=bool)
    cuts = 0
    for actions in drawn:
        np.testing.assert_array_equal(seen[first_episode], unlimited[first_episode])
        seen, _, terminated, truncated, info = env.step(actions)
        unlimited, _, free_terminated, *_ = free.step(actions)
        lengths += 1
        cut = truncated & (lengths == LIMIT)
        np.testing.assert_array_equal(cut, (lengths == LIMIT) & ~terminated)
        for stream in np.flatnonzero(cut):
            assert Signals.of(info).has_final[stream]
            if first_episode[stream]:
                np.testing.assert_array_equal(Signals.of(info).final_observation[stream], unlimited[stream])
        cuts += cut.sum()
        over = terminated | truncated
        first_episode &= ~over & ~free_terminated
        lengths[over] = 0
    env.close()
    free.close()
    assert cuts >= 3


def test_streams_that_go_on_see_nothing_of_it(task: str) -> None:
    env, other = make(task, 0), make(task, 0)
    drawn = np.random.default_rng(0).integers(2, size=(12, 3))
    env.reset()
    other.reset()
    for step, actions in enumerate(drawn):
        here, there = env.step(actions), other.step(actions)
        for mine, theirs in zip(here[:4], there[:4], strict=True):
            np.testing.assert_array_equal(mine[[0, 2]], theirs[[0, 2]])
        if step == 5:
            env.reset(options={"reset_mask": np.array([False, True, False])})
    env.close()
    other.close()


def test_an_environment_that_never_ends_is_cut_stream_by_stream() -> None:
    env = make_vector("gym/tests.stuck_envs:Uneven-v0", 4, 0, options=GymOptions(max_episode_steps=4))
    env.reset()
    ends = []
    for _ in range(60):
        _, _, terminated, truncated, info = env.step(np.zeros(4, dtype=np.int64))
        ends += [Signals.of(info).final_observation[i][0] for i in np.flatnonzero(terminated | truncated)]
        assert [Signals.of(info).final_observation[i][0] for i in np.flatnonzero(truncated)] == [4.0] * truncated.sum()
    assert set(ends) == {1.0, 2.0, 3.0, 4.0}


def test_a_whole_game_is_limited_where_episodes_are_lives() -> None:
    if SUITES["atari"].missing() is not None:
        pytest.skip("the engine is not installed")
    env = make_vector("atari/Breakout", 2, 0, options=AtariOptions(episodic_life=True, max_episode_steps=60))
    env.reset()
    ended = np.zeros((60, 2), dtype=bool)
    for step in range(60):
        _, _, terminated, truncated, info = env.step(np.zeros(2, dtype=np.int64))
        ended[step] = terminated
        np.testing.assert_array_equal(Signals.of(info).game_over, np.full(2, step == 59))
    assert ended[:-1].any(), "a life was lost on the way"
    assert truncated.all()
    env.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"max_episode_steps": -1}, "max_episode_steps is -1"), ({"step_timeout": -2.0}, "step_timeout is -2.0")],
)
def test_a_wrong_limit_is_one_sentence(options: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{words}[^\n]*$"):
        make_vector("memory/tmaze", 1, 0, options=replace(find_task("memory/tmaze").suite.options(), **options))
