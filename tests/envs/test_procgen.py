"""ProcGen by the real engine."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.envs import find_task, make_vector, procgen_engine
from r2ac.envs.procgen import GAMES, ProcgenOptions, level_range
from r2ac.envs.procgen_engine import ENVPOOL, PACKAGE
from r2ac.envs.suite import missing_modules

if (_missing := find_task("procgen/chaser").suite.missing()) is not None:
    pytest.skip(_missing, allow_module_level=True)

NO_OP = 4
shows_levels = pytest.mark.skipif(PACKAGE is ENVPOOL, reason="EnvPool does not show which levels it plays")


def play(task: str, seed: int, *, split: str = "train", steps: int = 60, num_envs: int = 4, **options):
    """Observations [steps+1,N,...], rewards, terminated and truncated [steps,N], levels [steps+1,N]."""
    env = make_vector(task, num_envs, seed, split=split, options=ProcgenOptions(threads=2, **options))
    observation, _ = env.reset()
    choose = np.random.default_rng(0)
    observations, levels, rest = [observation], [env.unwrapped.level_seeds()], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(choose.integers(15, size=num_envs))
        observations.append(observation)
        levels.append(env.unwrapped.level_seeds())
        rest.append((reward, terminated, truncated))
    env.close()
    rewards, terminated_all, truncated_all = (np.stack(column) for column in zip(*rest, strict=True))
    return np.stack(observations), rewards, terminated_all, truncated_all, np.stack(levels)


@pytest.mark.parametrize("game", GAMES)
def test_every_game_runs_with_the_paper_s_shapes(game: str) -> None:
    env = make_vector(f"procgen/{game}", 3, 0)
    assert (env.single_observation_space.shape, env.single_observation_space.dtype) == ((3, 64, 64), np.uint8)
    assert env.single_action_space.n == 15
    observation, _ = env.reset()
    assert observation in env.observation_space
    observation, reward, terminated, truncated, _ = env.step(np.zeros(3, dtype=np.int64))
    assert observation in env.observation_space
    assert (reward.shape, reward.dtype) == ((3,), np.float32)
    assert (terminated.dtype, truncated.dtype) == (np.bool_, np.bool_)
    env.close()


@shows_levels
def test_the_step_that_ends_an_episode_shows_the_next_level() -> None:
    observations, rewards, terminated, truncated, levels = play("procgen/chaser", 0, steps=400, num_envs=8)
    assert terminated.any()
    assert not truncated.any()
    changed = levels[1:] != levels[:-1]
    assert (changed <= terminated).all(), "a level lasts until its episode ends"
    assert changed.sum() >= 0.9 * terminated.sum(), "another of the 500 levels comes with the end, not after it"
    step, stream = np.argwhere(changed)[0]
    jump = np.abs(np.diff(observations[:, stream].astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert jump[step] > 3 * np.median(jump)
    assert rewards.max() > 0.0


def test_a_time_out_is_truncation() -> None:
    env = make_vector("procgen/leaper", 4, 0)
    env.reset()
    for step in range(1, 502):
        _, _, terminated, truncated, _ = env.step(np.full(4, NO_OP))
        assert not terminated.any()
        assert truncated.all() == truncated.any() == (step == 500)
    env.close()


@shows_levels
def test_levels_of_the_two_splits() -> None:
    *_, train_levels = play("procgen/bigfish", 1, steps=300, num_envs=16)
    *_, test_levels = play("procgen/bigfish", 1, split="test", steps=300, num_envs=16)
    *_, other_levels = play("procgen/bigfish", 2, split="test", steps=300, num_envs=16)
    assert train_levels.min() >= 0
    assert train_levels.max() < 500
    for seed, levels in ((1, test_levels), (2, other_levels)):
        first = 2**30 + 200 * seed
        assert first <= levels.min()
        assert levels.max() < first + 200
        assert len(np.unique(levels)) > 16
    *_, all_levels = play("procgen/bigfish", 1, steps=50, num_envs=16, num_levels=0)
    assert 500 < all_levels.max() < 2**30


@given(
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 2**30 - 1),
    st.integers(0, 2**30),
    st.integers(1, 10_000),
)
def test_no_test_level_is_a_training_level(train_seed: int, test_seed: int, start: int, count: int, tests: int) -> None:
    options = ProcgenOptions(start_level=start, num_levels=min(count, 2**30 - start), test_levels=tests)
    first, number = level_range(train_seed, "train", options)
    first_test, number_test = level_range(test_seed, "test", options)
    assert number >= 1
    assert first == start
    assert first + number <= first_test
    assert number_test == tests
    assert first_test + number_test <= 2**31 - 1
    next_test, _ = level_range(test_seed + 1, "test", options)
    assert abs(next_test - first_test) >= tests


@shows_levels
def test_one_seed_is_one_game_and_another_is_another() -> None:
    once = play("procgen/coinrun", 3)
    again = play("procgen/coinrun", 3)
    for left, right in zip(once, again, strict=True):
        np.testing.assert_array_equal(left, right)
    other = play("procgen/coinrun", 4)
    assert (once[-1][0] != other[-1][0]).any()
    assert len(set(once[-1][0].tolist())) > 1, "the streams differ"


@shows_levels
def test_reset_begins_new_episodes_and_a_seed_returns_to_old_ones() -> None:
    env = make_vector("procgen/coinrun", 8, 0)
    first, _ = env.reset()
    levels = env.unwrapped.level_seeds()
    assert (env.reset()[0] != first).any(), "a second reset is a new episode"
    assert (env.unwrapped.level_seeds() != levels).any()
    seeded, _ = env.reset(seed=9)
    env.step(np.full(8, NO_OP))
    np.testing.assert_array_equal(env.reset(seed=9)[0], seeded)
    env.close()


@shows_levels
def test_exploration_mode_has_one_level() -> None:
    *_, levels = play("procgen/maze", 0, steps=5, distribution_mode="exploration")
    assert np.unique(levels).tolist() == [158988835]


def test_the_engine_leaves_no_trace_in_the_interpreter() -> None:
    code = (
        "import sys\n"
        "before = list(sys.path)\n"
        "from r2ac.envs import make_vector\n"
        "make_vector('procgen/maze', 1, 0).reset()\n"
        "print(sys.path == before, [name for name in sys.modules if name.split('.')[0] == 'gym'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True []", done.stderr


def test_threads_do_not_change_what_is_computed() -> None:
    actions = np.random.default_rng(0).integers(15, size=(60, 5))
    envs = [make_vector("procgen/starpilot", 5, 3, options=ProcgenOptions(threads=threads)) for threads in (1, 2, 0)]
    seen = [[env.reset()[0], *(env.step(row)[:3] for row in actions)] for env in envs]
    for env in envs:
        env.close()
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)


def test_envpool_plays_the_same_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all games, across resets; leaper and maze time out. It is the engine of Pythons without another."""
    if PACKAGE is ENVPOOL or missing_modules(*ENVPOOL.modules):
        pytest.skip(f"needs a second engine: {ENVPOOL.remedy}")
    options = ProcgenOptions(distribution_mode="easy", num_levels=1, start_level=7, threads=1)
    for game in GAMES:
        with monkeypatch.context() as patched:
            one = make_vector(f"procgen/{game}", 2, 0, options=options)
            patched.setattr("r2ac.envs.procgen.PACKAGE", ENVPOOL)
            other = make_vector(f"procgen/{game}", 2, 0, options=options)
        assert one.single_observation_space == other.single_observation_space
        assert one.single_action_space == other.single_action_space
        # Stream 1 does nothing, until leaper and maze time out; stream 0 plays.
        actions = np.stack([np.random.default_rng(1).integers(15, size=520), np.full(520, NO_OP)], axis=1)
        seen, also_seen = one.reset()[0], other.reset()[0]
        for step, action in enumerate(actions):
            # The engines bring different versions of Qt, which draw turned sprites a little differently.
            assert (seen != also_seen).mean() < 0.1, (game, step)
            seen, *rest, _ = one.step(action)
            also_seen, *also, _ = other.step(action)
            for ours, theirs in zip(rest, also, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{game}, step {step}")
        one.close()
        other.close()


def test_envpool_without_libraries_of_the_system_is_an_import_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procgen_engine, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"libQt5Core\.so\.5: cannot open shared object file"):
        ENVPOOL.load()
