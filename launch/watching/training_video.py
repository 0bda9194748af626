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
from r2ac.launch.watching.episodes import Scene

MOST_STEPS = 200
"""Of an episode that is filmed; training stands still meanwhile."""
_FPS = 15
_SIDE = 160  # pixels, of the smaller side of an enlarged image, or nearly so


@dataclass(frozen=True)
class Gif:
    """An animated GIF; ``size`` is its width and height."""

    data: bytes
    size: tuple[int, int]
    frames: int


def film_episode(agent: Agent, task: str, options: Any, seed: int, max_steps: int = MOST_STEPS) -> Gif:
    """Play an episode of the training's kind with the agent as it is, in this process, of at most ``max_steps`` steps,
    and film what it is shown. Neither the agent nor the random state of torch, Python and numpy changes."""
    # Not before there is a film: matplotlib takes long to import.
    from r2ac.launch.watching.pictures import newest_image, recent_vectors, write_gif

    scene = Scene(task, options, seed, "train", max_steps)
    # The environments that are learned from, in this process too, may draw from these.
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with closing(scene.env()) as env:
            (episode,) = scene.play(agent, env, 1)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    if episode.observations.ndim == 2:
        vectors, firsts = episode.observations.T, episode.is_first.tolist()
        pictures = [recent_vectors(vectors, step, firsts) for step in range(len(episode))]
    else:
        images = [newest_image(observation, scene.stacked) for observation in episode.observations]
        scale = max(1, round(_SIDE / min(images[0].shape[:2])))
        pictures = [Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)) for image in images]
    file = io.BytesIO()
    write_gif(iter(pictures), file, _FPS)
    return Gif(file.getvalue(), pictures[0].size, len(pictures))
