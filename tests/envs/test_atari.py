"""Atari by the real engine."""

import numpy as np
import pytest

from r2ac.envs import find_task, make_vector
from r2ac.envs.atari import AtariOptions

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


def test_an_episode_starts_after_up_to_30_no_ops_and_fire_where_the_game_knows_it() -> None:
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
    assert infos[50]["_final_obs"].all()
    assert (infos[50]["final_obs"][:, -1] != observations[50][:, -1]).any(axis=(1, 2)).all()
    assert "final_obs" not in infos[49]
    assert "final_obs" not in infos[51]


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


def test_one_seed_is_one_game_and_another_is_another() -> None:
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
