"""The course of an episode: what was seen, what was done and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from r2ac.launch.report.svg import BLUE, INK, ORANGE, drawn, inline_svg, new_figure
from r2ac.launch.watching.episodes import PlayedEpisode

_MOST_COLUMNS = 300
"""Of a heat map; longer episodes show every few steps."""
_MOST_NAMES = 18
_GREEN = "#009E73"


@drawn()
def draw_episode(episode: PlayedEpisode, names: Sequence[str], stacked: int, label: str) -> Markup:
    """Over the steps: the observed features where they are a vector (of ``stacked`` ones the newest), the probabilities
    of the actions by their ``names`` with those taken, or continuous actions as lines, and the value estimate
    with the rewards."""
    choices = episode.probabilities.shape[1]
    heights = [min(max(0.5, 0.13 * choices), 2.0) if choices else 0.9, 0.9]
    features = None
    if episode.observations.ndim == 2:
        features = episode.observations[:, -(episode.observations.shape[1] // stacked) :].T
        heights.insert(0, min(max(0.5, 0.1 * len(features)), 2.0))
    figure, panels = new_figure(sum(heights) + 0.35 * len(heights) + 0.3, len(heights), heights)
    if features is not None:
        _heat_map(panels[0], features / (np.abs(features).max() or 1.0))
        panels[0].set_ylabel("feature")
        panels[0].yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _draw_actions(panels[-2], episode, names)
    _draw_values(panels[-1], episode)
    panels[-1].set_xlabel("step")
    panels[-1].set_xlim(-0.5, len(episode) - 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return inline_svg(figure, label)


def _heat_map(axes: Axes, values: NDArray[np.floating]) -> None:
    """Values [rows, S] in [-1, 1] as colours that let the page shine through where they are 0."""
    every = -(-values.shape[1] // _MOST_COLUMNS)
    shown = values[:, ::every]
    colours = np.where((shown >= 0)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    pixels = np.concatenate([colours, np.abs(shown)[..., None]], axis=2)
    extent = (-0.5, values.shape[1] - 0.5, len(values) - 0.5, -0.5)
    axes.imshow(pixels, aspect="auto", interpolation="none", extent=extent)


def _draw_actions(axes: Axes, episode: PlayedEpisode, names: Sequence[str]) -> None:
    if not episode.probabilities.size:
        axes.plot(range(len(episode)), episode.actions, lw=1.2, marker="o" if len(episode) == 1 else "")
        axes.set_ylabel("action")
        return
    _heat_map(axes, episode.probabilities.T)
    size = float(np.clip(120 / len(episode), 1.0, 3.5))
    axes.plot(range(len(episode)), episode.chosen, "o", color=ORANGE, ms=size, mew=0)
    if len(names) <= _MOST_NAMES:
        axes.set_yticks(range(len(names)), names, fontsize=8)
    else:
        axes.set_ylabel("action")


def _draw_values(axes: Axes, episode: PlayedEpisode) -> None:
    steps = np.arange(len(episode))
    axes.plot(steps, episode.values, color=INK, lw=1.2, marker="o" if len(steps) == 1 else "")
    paid = np.flatnonzero(episode.rewards)
    colours = [_GREEN if reward > 0 else ORANGE for reward in episode.rewards[paid]]
    axes.vlines(paid, 0, episode.rewards[paid], color=colours, lw=2.0)
    axes.set_ylabel("value")
    axes.grid(axis="y")
