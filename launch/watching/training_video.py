"""A short video of an agent while it learns."""

from __future__ import annotations

import io
import random
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from r2ac.agents import Agent
from r2ac.envs import find_task, make_vector
from r2ac.launch.watching.episodes import PlayedEpisode, Player, play

MOST_STEPS = 200
"""Of an episode that is filmed; training stands still meanwhile."""
_FPS = 15
_SIDE = 160  # pixels, of the smaller side of an enlarged image, or nearly so


@dataclass(frozen=True)
class Gif:
    """An animated GIF."""

    data: bytes
    size: tuple[int, int]
    """Width and height."""
    frames: int


def film_episode(agent: Agent, task: str, options: Any, seed: int, max_steps: int = MOST_STEPS) -> Gif:
    """Play an episode of the training's kind with the agent as it is, in this process, and film what it is shown.

    Neither the agent nor the random state of torch, Python and numpy changes.

    Args:
        agent: on any device.
        task, options, seed: as `make_vector` takes them.
        max_steps: where an episode that lasts longer is cut off.
    """
    # The environments that are learned from, in this process too, may draw from these.
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with closing(make_vector(task, 1, seed, split="train", options=options)) as env:
            limit = find_task(task).killed_after(options)
            episode = play(Player(agent, 1, np.random.default_rng(seed)), env, 1, max_steps, step_timeout=limit)[0]
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    pictures = _pictures(episode, getattr(options, "frame_stack", 1))
    # GIFs are shown by frames of hundredths of a second.
    file, first = io.BytesIO(), pictures[0]
    first.save(file, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / _FPS), loop=0)
    return Gif(file.getvalue(), first.size, len(pictures))


def _pictures(episode: PlayedEpisode, stacked: int) -> list[Image.Image]:
    """A frame a step: an image, enlarged pixel by pixel, or the vectors of the last steps as a heat map."""
    # Here, because matplotlib takes long to import, and most trainings film nothing.
    from r2ac.launch.watching.pictures import newest_image, recent_vectors

    if episode.observations.ndim == 2:
        seen, firsts = episode.observations.T, episode.is_first.tolist()
        return [recent_vectors(seen, step, firsts) for step in range(len(episode))]
    images = [Image.fromarray(newest_image(observation, stacked)) for observation in episode.observations]
    scale = max(1, round(_SIDE / min(images[0].size)))
    return [image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST) for image in images]
