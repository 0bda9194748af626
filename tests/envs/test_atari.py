"""Atari by the real engine."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from r2ac.envs import InvalidOption, Signals, Spaces, find_task, make_vector
from r2ac.envs.atari import PRESETS, AtariOptions

pytest.importorskip("ale_py")


def play(task: str, seed: int, *, split: str = "train", steps: int = 60, num_envs: int = 2, **options):
    """Observations [steps+1,N,...], rewards, terminated and truncated [steps,N], infos, under fixed random actions."""
    env = make_vector(task, num_envs, seed, split=split, options=AtariOptions(threads=2, **options))
    observation, info = env.reset()
    choose = np.random.default_rng(0)
    observations, infos, rest = [observation], [info], []
    for _ in range(steps):
        actions = choose.integers(env.single_action_space.n, size=num_envs)
        observation, reward, terminated, truncated, info = env.step(actions)
        observations.append(observation)
        infos.append(info)
        rest.append((reward, terminated, truncated))
    env.close()
    rewards, terminated_all, truncated_all = (np.stack(column) for column in zip(*rest, strict=True))
    return np.stack(observations), rewards, terminated_all, truncated_all, infos


def test_the_preset_has_the_paper_s_shapes() -> None:
    env = make_vector("atari/Breakout", 3, 0)
    assert (env.single_observation_space.shape, env.single_observation_space.dtype) == ((4, 84, 84), np.uint8)
    assert env.single_action_space.n == 18
    observation, _ = env.reset()
    assert (observation.shape, observation.dtype) == ((3, 4, 84, 84), np.uint8)
    observation, reward, terminated, truncated, _ = env.step(np.zeros(3, dtype=np.int64))
    assert (observation.shape, observation.dtype) == ((3, 4, 84, 84), np.uint8)
    assert (reward.shape, reward.dtype) == ((3,), np.float32)
    assert (terminated.dtype, truncated.dtype) == (np.bool_, np.bool_)
    env.close()


def test_options_reach_the_engine() -> None:
    env = make_vector(
        "atari/Breakout", 1, 0, options=AtariOptions(full_action_space=False, frame_stack=2, image_size=64)
    )
    assert env.single_action_space.n == 4
    assert env.reset()[0].shape == (1, 2, 64, 64)
    env.close()


@pytest.mark.parametrize("repeat", [1, 4])
def test_a_step_takes_the_action_repeat_in_frames(repeat: int) -> None:
    *_, infos = play("atari/MsPacman", 0, steps=10, action_repeat=repeat)
    frames = np.stack([info["frame_number"] for info in infos])
    assert (np.diff(frames, axis=0) == repeat).all()


@pytest.mark.parametrize(("most", "fire", "expected"), [(0, False, {0}), (2, False, {0, 1, 2}), (2, True, {1, 2})])
def test_no_ops_and_fire(most: int, fire: bool, expected: set[int]) -> None:
    env = make_vector("atari/Breakout", 6, 0, options=AtariOptions(max_noops=most, fire_on_reset=fire))
    assert set(env.reset()[1]["episode_frame_number"].tolist()) == expected
    env.close()


def test_an_observation_is_the_maximum_of_the_last_two_frames() -> None:
    settings: dict[str, Any] = {"frame_stack": 1, "max_noops": 0, "fire_on_reset": False}
    steps, frames = (
        make_vector("atari/SpaceInvaders", 1, 0, options=AtariOptions(action_repeat=repeat, **settings))
        for repeat in (4, 1)
    )
    steps.reset()
    frames.reset()
    far_from_maximum, far_from_last = [], []
    for action in np.random.default_rng(0).integers(18, size=(60, 1)):
        observation, reward, *_ = steps.step(action)
        seen = [frames.step(action)[:2] for _ in range(4)]
        assert reward == sum(paid for _, paid in seen)
        shown = observation.astype(int)
        # The two are scaled down after the maximum, here before it: pixels differ by rounding.
        far_from_maximum.append(np.abs(shown - np.maximum(seen[2][0], seen[3][0])).mean())
        far_from_last.append(np.abs(shown - seen[3][0]).mean())
    steps.close()
    frames.close()
    assert max(far_from_maximum) < 0.02
    assert max(far_from_last) > 5 * max(far_from_maximum)


def test_an_episode_starts_after_up_to_30_no_ops_and_fire() -> None:
    *_, infos = play("atari/Breakout", 0, steps=1, num_envs=16)
    starts = infos[0]["episode_frame_number"]
    assert starts.min() >= 1
    assert starts.max() <= 31
    assert len(set(starts.tolist())) > 8
    *_, infos = play("atari/Breakout", 0, steps=1, max_noops=0, fire_on_reset=False)
    assert (infos[0]["episode_frame_number"] == 0).all()


def test_rewards_are_the_game_s_own() -> None:
    _, rewards, *_ = play("atari/MsPacman", 0, steps=150)
    assert rewards.max() >= 10.0


def test_the_step_that_ends_an_episode_shows_the_next_one() -> None:
    observations, _, terminated, truncated, infos = play(
        "atari/Breakout", 3, steps=60, num_envs=3, max_episode_frames=200
    )
    assert not terminated.any()
    assert truncated.sum(axis=0).tolist() == [1, 1, 1]
    assert truncated[49].all(), "200 frames are 50 steps of 4"
    assert (infos[50]["episode_frame_number"] <= 31).all(), "the observation beside the end is a first one"
    signals = Signals.of(infos[50])
    assert signals.has_final.all()
    assert (signals.final_observation[:, -1] != observations[50][:, -1]).any(axis=(1, 2)).all()
    assert Signals.of(infos[49]).final_observation is Signals.of(infos[51]).final_observation is None


def test_an_episode_is_a_game_not_a_life() -> None:
    _, _, terminated, truncated, infos = play("atari/Breakout", 0, steps=600, num_envs=2)
    lives = np.stack([info["lives"] for info in infos])
    assert not truncated.any()
    assert terminated.any()
    for step, stream in zip(*np.nonzero(terminated), strict=True):
        assert lives[step + 1, stream] == 5, "a new game"
        assert lives[step, stream] == 1, "from the last life"
    lost = (np.diff(lives, axis=0) < 0) & ~terminated
    assert lost.any()


def test_a_life_is_an_episode_of_the_same_game() -> None:
    """The very same games; only what is called their end differs."""
    setting = {"seed": 3, "steps": 480, "num_envs": 2, "frame_stack": 1, "image_size": 42}
    observations, rewards, ends, cut, infos = play("atari/Breakout", **setting, max_episode_frames=700)
    seen, paid, life_ends, life_cut, life_infos = play(
        "atari/Breakout", **setting, max_episode_frames=700, episodic_life=True
    )
    np.testing.assert_array_equal(seen, observations)
    np.testing.assert_array_equal(paid, rewards)
    np.testing.assert_array_equal(life_cut, cut)
    lives = np.stack([info["lives"] for info in infos])
    lost = (np.diff(lives, axis=0) < 0) & ~ends
    assert cut.any()
    assert ends.any()
    assert lost.sum() > 4
    np.testing.assert_array_equal(life_ends, ends | lost)
    signals = [Signals.of(info) for info in life_infos[1:]]
    np.testing.assert_array_equal(np.stack([each.game_over for each in signals]), ends | cut)
    for t, each in enumerate(signals):
        assert (each.final_observation is not None) == (life_ends | cut)[t].any()
        for stream in np.flatnonzero((life_ends | cut)[t]):
            assert each.has_final[stream]
            last = seen[t + 1, stream] if lost[t, stream] else Signals.of(infos[t + 1]).final_observation[stream]
            np.testing.assert_array_equal(each.final_observation[stream], last)


def test_colour_is_three_channels_an_observation_oldest_first() -> None:
    setting = {"seed": 1, "steps": 60, "frame_stack": 2, "max_episode_frames": 200}
    grey, rewards, *_, grey_infos = play("atari/MsPacman", **setting)
    colour, colour_rewards, *_, infos = play("atari/MsPacman", **setting, colour=True)
    assert (colour.shape, colour.dtype) == ((61, 2, 6, 84, 84), np.uint8)
    np.testing.assert_array_equal(colour_rewards, rewards)
    np.testing.assert_array_equal(colour[1:40, :, :3], colour[:39, :, 3:])
    luma = np.tensordot(colour[:, :, 3:].astype(float), [0.299, 0.587, 0.114], axes=(2, 0))
    assert np.abs(luma - grey[:, :, 1]).mean() < 3
    final, grey_final = (Signals.of(each[50]).final_observation for each in (infos, grey_infos))
    assert final.shape == (2, 6, 84, 84)
    final = np.tensordot(final[:, 3:].astype(float), [0.299, 0.587, 0.114], axes=(1, 0))
    assert np.abs(final - grey_final[:, 1]).mean() < 3
    env = make_vector("atari/MsPacman", 2, 0, options=AtariOptions(colour=True, frame_stack=1))
    assert env.reset()[0].shape == env.observation_space.shape == (2, 3, 84, 84)
    env.close()


def test_the_presets_are_what_their_sources_say() -> None:
    assert PRESETS["paper"] == AtariOptions()
    assert PRESETS["machado2018"] == AtariOptions(
        action_repeat=4,
        full_action_space=True,
        sticky_actions=0.25,
        max_noops=0,
        fire_on_reset=False,
        episodic_life=False,
        max_episode_frames=108_000,
    )
    assert dict(find_task("atari/Pong").suite.presets) == PRESETS


def test_sticky_actions_are_the_only_chance_in_machado2018() -> None:
    def positions(seed: int, **options: float) -> np.ndarray:
        chosen = replace(PRESETS["machado2018"], threads=2, frame_stack=1, **options)
        env = make_vector("atari/Freeway", 2, seed, options=chosen)
        observations = [env.reset()[0]]
        assert (env.reset()[1]["episode_frame_number"] == 0).all()
        actions = np.arange(60) % 3
        observations += [env.step(np.full(2, [0, 2, 5][action]))[0] for action in actions]
        env.close()
        return np.stack(observations)

    sticky, plain = positions(0), positions(0, sticky_actions=0.0)
    assert (sticky[:, 0] != sticky[:, 1]).any(), "the streams have chances of their own"
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    np.testing.assert_array_equal(plain, positions(1, sticky_actions=0.0))


@pytest.mark.parametrize(
    "options", [{}, {"colour": True}, {"frame_stack": 1, "image_size": 60, "full_action_space": False}]
)
def test_the_spaces_are_told_without_the_engine(options: dict[str, int]) -> None:
    task, chosen = find_task("atari/Breakout"), AtariOptions(**options)
    env = make_vector(task.name, 1, 0, options=chosen)
    space, actions = env.single_observation_space, env.single_action_space.n
    env.close()
    told = task.spaces(chosen)
    assert told == Spaces(space.shape, str(space.dtype), actions if chosen.full_action_space else None)


@pytest.mark.parametrize("name", ["colour", "episodic_life", "full_action_space", "fire_on_reset"])
def test_switches_are_true_or_false(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name} is 1, but it must be True or False"):
        find_task("atari/Pong").checked_options(AtariOptions(**{name: 1}))


def test_one_seed_is_one_game_and_another_is_another() -> None:
    @functools.cache
    def starts(seed: int, split: str = "train", num_envs: int = 3) -> list[int]:
        *_, infos = play("atari/Breakout", seed, split=split, steps=1, num_envs=num_envs)
        return infos[0]["frame_number"].tolist()

    observations, rewards, *_ = play("atari/MsPacman", 7, steps=40)
    observations_again, rewards_again, *_ = play("atari/MsPacman", 7, steps=40)
    np.testing.assert_array_equal(observations, observations_again)
    np.testing.assert_array_equal(rewards, rewards_again)
    assert starts(7) == starts(7, num_envs=4)[:3]
    assert starts(7) != starts(8)
    assert starts(7) != starts(7, split="test")
    assert starts(2**100) != starts(2**100 + 1)
    assert len(set(starts(7))) > 1, "the streams differ"


def test_every_listed_game_has_a_rom_and_every_single_player_rom_is_listed() -> None:
    from ale_py.registration import rom_id_to_name
    from ale_py.roms import get_all_rom_ids

    listed = {task.short_name for task in find_task("atari/Pong").suite.tasks}
    assert listed == {rom_id_to_name(rom) for rom in get_all_rom_ids()} - {"Combat", "Joust", "MazeCraze", "Warlords"}
