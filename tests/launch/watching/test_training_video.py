"""Videos of an agent that learns."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.envs import EnvironmentFailed, find_task, make_vector
from r2ac.envs.gym import GymOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.watching.training_video import MOST_STEPS, film_episode
from tests.playing import episodes_of


def agent_for(task: str, options: object) -> Agent:
    env = make_vector(task, 1, 0, options=options)
    spec = ObservationSpec.of(env)
    env.close()
    return Agent(spec, AgentConfig(hidden_size=8, encoder_features=8))


def frames_of(data: bytes) -> list[np.ndarray]:
    """Those that differ from the one before: an encoder may leave the others out."""
    with Image.open(io.BytesIO(data)) as video:
        frames = []
        for number in range(video.n_frames):
            video.seek(number)
            frames.append(np.asarray(video.convert("RGB")))
    return frames


def test_an_episode_of_vectors_is_filmed_from_its_first_step_to_its_last() -> None:
    options = MemoryOptions(corridor_length=6)
    agent = agent_for("memory/tmaze", options)
    gif = film_episode(agent, "memory/tmaze", options, seed=3)
    assert gif.frames == 7
    frames = frames_of(gif.data)
    assert 1 < len(frames) <= 7
    assert frames[0].shape == (gif.size[1], gif.size[0], 3)


def test_a_long_episode_is_cut_off() -> None:
    options = MemoryOptions(corridor_length=300)
    agent = agent_for("memory/tmaze", options)
    assert film_episode(agent, "memory/tmaze", options, seed=3).frames == MOST_STEPS
    assert film_episode(agent, "memory/tmaze", options, seed=3, max_steps=4).frames == 4


def test_a_step_that_does_not_return_ends_the_film_and_not_the_training() -> None:
    task = "gym/tests.stuck_envs:Stuck-v0"
    agent = agent_for(task, GymOptions())
    with pytest.raises(EnvironmentFailed, match=r"failed in step 1: TimeoutError: not back after 0\.2 s"):
        film_episode(agent, task, GymOptions(step_timeout=0.2), seed=3)


def test_the_environments_that_are_learned_from_draw_as_if_nothing_was_filmed() -> None:
    task = "gym/tests.odd_envs:Lottery-v0"
    agent = agent_for(task, GymOptions())
    draws = []
    for filmed in (False, True):
        random.seed(5)
        np.random.seed(5)
        if filmed:
            film_episode(agent, task, GymOptions(), seed=3)
        draws.append((random.random(), np.random.random()))
    assert draws[0] == draws[1]


def test_the_same_seed_films_the_same_and_torchs_random_state_stays() -> None:
    options = MemoryOptions(corridor_length=6)
    agent = agent_for("memory/tmaze", options)
    weights, state = torch.nn.utils.parameters_to_vector(agent.parameters()).clone(), torch.get_rng_state()
    one, again = (film_episode(agent, "memory/tmaze", options, seed=3) for _ in range(2))
    assert one == again
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.nn.utils.parameters_to_vector(agent.parameters()), weights)


def test_an_episode_of_images_shows_what_the_agent_is_shown() -> None:
    task = "procgen/maze"
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    options = find_task(task).suite.options()
    agent = agent_for(task, options)
    gif = film_episode(agent, task, options, seed=3, max_steps=5)
    assert gif.frames == 5
    assert gif.size == (128, 128)
    env = make_vector(task, 1, 3, split="train", options=options)
    (episode,) = episodes_of(agent, env, 1, 5, seed=3)
    env.close()
    shown = np.moveaxis(episode.observations[0], 0, 2).repeat(2, axis=0).repeat(2, axis=1)
    # A GIF has 256 colours.
    assert np.abs(frames_of(gif.data)[0].astype(int) - shown).mean() < 8
