"""Pictures of what an agent remembers: cell states over the steps of episodes, by cue where there are cues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from r2ac.launch.watching.episodes import PlayedEpisode
from r2ac.launch.watching.memory_analysis import CueMemory, carried, half_lives
from r2ac.launch.watching.pictures import GREY, INK, LINE, save_figure

EXTENSIONS = (".png", ".svg", ".pdf")
# Okabe and Ito's palette, its yellow replaced by a grey: it is too pale for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c8c8c")
_STATES = LinearSegmentedColormap.from_list("states", ["#D55E00", "#FFFFFF", "#0072B2"])
_WIDTH = 12.0  # inches
_COLUMNS, _TOP_UNITS, _MOST_EPISODES = 3, 6, 3


def draw_cue_memory(memory: CueMemory, title: str, output: Path | IO[bytes]) -> None:
    """The units that tell the cues apart best, the mean states of all units by cue, how well the state as a whole names
    the cue, and half-lives. Raises RunError if it cannot be written."""
    figure = Figure(figsize=(_WIDTH, 11.5), layout="constrained", facecolor="white")
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=[4.6, 3.4, 3.0], hspace=0.03).ravel()
    when = "the last step" if memory.decision_step is None else f"step {memory.decision_step}"
    note = f"{len(memory.cues)} episodes; a cue is the first observation of an episode"
    figure.suptitle(f"{title}\n{note}", x=0.01, ha="left", fontsize=12, color=INK)
    _draw_units(top, memory, f"The units that tell the cues apart best at {when}: mean ± std over episodes")
    _draw_cues(middle, memory)
    left, right = bottom.subplots(1, 2, width_ratios=[1.3, 1])
    _draw_accuracy(left, memory)
    _draw_separation(right, memory, when)
    save_figure(figure, output, dpi=150)


def draw_states(episodes: Sequence[PlayedEpisode], title: str, why: str, output: Path | IO[bytes]) -> None:
    """The states of all units over the steps of the first episodes, and half-lives, without cues; ``why`` there are
    none is part of the picture. Raises RunError if it cannot be written."""
    shown = episodes[:_MOST_EPISODES]
    lives = half_lives(carried(episodes))
    order = np.argsort(-lives, kind="stable")
    figure = Figure(figsize=(_WIDTH, 2.6 * len(shown) + 4.0), layout="constrained", facecolor="white")
    figure.suptitle(f"{title}\nWithout cues: {why}", x=0.01, ha="left", fontsize=12, color=INK)
    *panels, below = figure.subplots(len(shown) + 1, 1, height_ratios=[*[1.0] * len(shown), 1.1]).tolist()
    largest = max(float(np.abs(episode.cells).max()) for episode in shown) or 1.0
    for number, (axes, episode) in enumerate(zip(panels, shown, strict=True), start=1):
        image = _heat_map(axes, episode.cells[:, order].T, largest)
        name = f"Episode {number}" + ("" if episode.complete else ", cut off")
        _name(axes, name, "step", "unit, by half-life")
    figure.colorbar(image, ax=panels, label="state c", fraction=0.03, pad=0.01)
    _draw_half_lives(below, lives[order], max(len(episode) for episode in episodes))
    save_figure(figure, output, dpi=150)


def _draw_units(figure: SubFigure, memory: CueMemory, title: str) -> None:
    best = memory.order[:_TOP_UNITS]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels = figure.subplots(-(-len(best) // _COLUMNS), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    steps = np.arange(memory.states.shape[1])
    for unit, axes in zip(best, panels.ravel(), strict=False):
        for cue, label in enumerate(memory.labels):
            own = memory.states[memory.cues == cue, :, unit]
            mean, deviation, colour = own.mean(axis=0), own.std(axis=0), _COLOURS[cue]
            axes.plot(steps, mean, color=colour, lw=1.8, label=label, marker="o" if len(steps) < 8 else "")
            axes.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
        _mark_decision(axes, memory)
        what = f"separation {memory.separation[unit]:.3f}, half-life {life_text(memory.half_lives[unit])}"
        _name(axes, f"Unit {unit}", "step", "state c", what)
        axes.label_outer()
    for unused in panels.ravel()[len(best) :]:
        unused.remove()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 4), frameon=False, fontsize=9.5)


def _draw_cues(figure: SubFigure, memory: CueMemory) -> None:
    figure.suptitle("Mean state of all units, by separation", x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels = figure.subplots(1, len(memory.labels), sharey=True, squeeze=False)[0]
    means = [memory.states[memory.cues == cue].mean(axis=0) for cue in range(len(memory.labels))]
    largest = max(float(np.abs(mean).max()) for mean in means) or 1.0
    for cue, axes in enumerate(panels):
        image = _heat_map(axes, means[cue][:, memory.order].T, largest)
        _name(axes, "", "step", "unit, best first" if cue == 0 else "")
        axes.set_title(memory.labels[cue], loc="left", fontsize=9.5, color=_COLOURS[cue], fontweight="bold")
    figure.colorbar(image, ax=panels.tolist(), label="state c", fraction=0.04, pad=0.01)


def _draw_accuracy(axes: Axes, memory: CueMemory) -> None:
    steps = np.arange(len(memory.accuracy))
    axes.plot(steps, memory.accuracy, color=_COLOURS[0], lw=1.8, marker="o" if len(steps) < 8 else "")
    _dashed(axes, 1 / len(memory.labels), "chance")
    _mark_decision(axes, memory)
    axes.set_ylim(-0.03, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _name(axes, "The cue named from the state", "step", "episodes", "nearest mean of a cue, leave-one-out")


def _draw_separation(axes: Axes, memory: CueMemory, when: str) -> None:
    """Half-life and separation of every unit; an infinite half-life stands at the right end."""
    lives = memory.half_lives
    finite = lives[np.isfinite(lives) & (lives > 0)]
    low, high = (finite.min(), finite.max()) if len(finite) else (1.0, 10.0)
    end = 3 * high
    x = np.where(np.isinf(lives), end, np.maximum(lives, low))
    axes.plot(x, memory.separation, "o", color=_COLOURS[0], alpha=0.6, markersize=5, markeredgewidth=0)
    if np.isinf(lives).any():
        axes.axvline(end, color=GREY, lw=1.0, ls=(0, (4, 3)), zorder=1)
        axes.text(end, 0.5, "infinite", rotation=90, ha="right", va="center", fontsize=9, color=GREY)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.05)
    _name(axes, "Who remembers", "half-life in steps", "separation", f"at {when}")


def _draw_half_lives(axes: Axes, lives: np.ndarray, length: int) -> None:
    """Half-lives, the longest first, beside the length of the longest episode; infinite ones stand at the top."""
    known = np.where(np.isnan(lives), 0.0, lives)
    finite = known[np.isfinite(known) & (known > 0)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 1.0)
    top = 3 * max(high, length)
    axes.plot(np.where(np.isinf(known), top, np.maximum(known, low)), ".", color=_COLOURS[0], markersize=6)
    _dashed(axes, length, "longest\nepisode")
    if np.isinf(known).any():
        _dashed(axes, top, "infinite")
    axes.set_yscale("log")
    axes.margins(x=0.01)
    _name(axes, "Half-life", "unit, by half-life", "steps")


def _heat_map(axes: Axes, states: np.ndarray, largest: float) -> AxesImage:
    """States [N, S]: white is 0."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return axes.imshow(states, aspect="auto", interpolation="nearest", cmap=_STATES, vmin=-largest, vmax=largest)


def _mark_decision(axes: Axes, memory: CueMemory) -> None:
    axes.set_xlim(-0.5, len(memory.accuracy) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if memory.decision_step is not None:
        axes.axvline(memory.decision_step, color=GREY, lw=1.0, ls=":", zorder=1)


def _dashed(axes: Axes, y: float, text: str) -> None:
    axes.axhline(y, color=GREY, lw=1.0, ls=(0, (4, 3)), zorder=1)
    axes.annotate(
        text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points", va="center",
        fontsize=9, color=GREY, annotation_clip=False,
    )  # fmt: skip


def _name(axes: Axes, title: str, x: str, y: str, note: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    if note:
        axes.set_title(note, loc="right", fontsize=8.5, color=GREY)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor="#404040")


def life_text(half_life: float) -> str:
    """``12.3``, ``infinite``, or ``unknown`` where there was no step to measure it in."""
    return "unknown" if np.isnan(half_life) else "infinite" if np.isinf(half_life) else f"{half_life:,.3g}"
