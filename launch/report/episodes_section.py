"""Episodes of the agents of a study: what they saw and did, and what they remember."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import EngineFailed, MissingPackage, UnknownTask, find_task
from r2ac.launch.evaluation.plan import BAD_INPUT
from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.episode_figure import draw_episode
from r2ac.launch.report.format import capitalised, clean, counted
from r2ac.launch.report.study import Configuration, Study
from r2ac.launch.runs.loading import TrainedAgent, choose_device
from r2ac.launch.runs.run_groups import RunGroup
from r2ac.launch.runtime.progress import short_count
from r2ac.launch.train.resume import newest_step
from r2ac.launch.watching.action_names import action_names, taken_text
from r2ac.launch.watching.episodes import PlayedEpisode, Scene
from r2ac.launch.watching.memory_analysis import NoCues, cue_groups, cue_memory
from r2ac.launch.watching.memory_plot import draw_cue_memory
from r2ac.launch.watching.pictures import newest_image, signed

_SEED = 0
_MOST_AGENTS = 8
_MOST_STEPS = 1000
_FRAMES = 12
_LARGEST = 160
"""Dots of a picture, in height and width."""
_CUE_EPISODES = 64
_PICTURE_BYTES = 200_000


@dataclass(frozen=True)
class PlayedAgent:
    trained: TrainedAgent
    agent: Agent
    scene: Scene
    action_names: tuple[str, ...]
    episode: PlayedEpisode


def episode_section(
    study: Study, left_out: list[str] | None = None, watch: Callable[[int, int], None] = lambda played, total: None
) -> Section:
    """One episode of the newest checkpoint of the first run of each group; or why it cannot be played, of which
    ``left_out`` gets what is no missing checkpoint, engine or task. ``watch`` is called with the number of groups that
    have played, and of all that are to play."""
    groups = [(configuration, group) for configuration in study.configurations for group in configuration.groups]
    how = (
        f"One episode of the newest checkpoint of the first run of each configuration on each task: sampled actions, "
        f"split test, seed {_SEED}, at most {_MOST_STEPS:,} steps."
    )
    blocks: list[Markup] = [html.text(how)]
    watched = groups[:_MOST_AGENTS]
    for number, (configuration, group) in enumerate(watched):
        watch(number, len(watched))
        blocks += _group_blocks(configuration, group, left_out)
    watch(len(watched), len(watched))
    if len(groups) > _MOST_AGENTS:
        rest = len(groups) - _MOST_AGENTS
        blocks.append(html.text(f"{counted(rest, 'more agent')} could be watched with r2ac watch RUN.", "missing"))
    return Section("episodes", "Episodes", blocks)


def play_newest(run: Path) -> PlayedAgent:
    """One episode of the newest checkpoint of ``run``, on the first task that it was trained on. Raises RunError,
    CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage, EngineFailed."""
    trained = TrainedAgent.load(run)
    scene = Scene(trained.training.tasks[0].name, trained.training.env, _SEED, max_steps=_MOST_STEPS)
    with closing(scene.env()) as env:
        agent = trained.agent(ObservationSpec.of(env), choose_device("auto"), scene.task)
        names = tuple(map(clean, action_names(scene.task, env)))
        (episode,) = scene.play(agent, env, 1)
    return PlayedAgent(trained, agent, scene, names, episode)


def _group_blocks(configuration: Configuration, group: RunGroup, left_out: list[str] | None) -> list[Markup]:
    title = f"{configuration.name}, {group.task}" if group.task else configuration.name
    heading = html.heading(title)
    if group.name is not None:
        return [heading, html.text("A run of another program has no checkpoint that can play here.", "missing")]
    try:
        played = play_newest(group.runs[0])
        memory, without = _memory(played)
    except (*BAD_INPUT, EngineFailed) as error:
        missing = isinstance(error, MissingPackage | UnknownTask) or newest_step(group.runs[0]) is None
        if left_out is not None and not missing:
            left_out.append(f"no episode of {group.runs[0]}: {error}")
        return [heading, html.text(f"No episode: {error!s}.", "missing")]
    episode = played.episode
    ended = "ended" if episode.complete else "cut off"
    outcome = (
        f"{group.runs[0]!s} after {short_count(played.trained.env_steps)} steps of training: return "
        f"{episode.rewards.sum():,.6g} in {counted(len(episode), 'step')}, {ended}."
    )
    blocks: list[Markup] = [heading, html.text(outcome)]
    if episode.observations.ndim == 4:
        blocks.append(html.contact_sheet(_frames(played)))
    shown = f"Observations, actions and value estimates of an episode on {played.scene.task}: {outcome}"
    svg = draw_episode(episode, played.action_names, played.scene.stacked, shown)
    title = f"One episode of {played.scene.task}"
    blocks.append(html.figures([html.figure(svg, title, _how_to_read(played)), *memory]))
    return [*blocks, *without]


def _how_to_read(played: PlayedAgent) -> str:
    seen = "Observed features (blue above 0, orange below); " if played.episode.observations.ndim == 2 else ""
    done = "probabilities of the actions (darker: more probable; dots: taken)"
    if not played.episode.probabilities.size:
        done = "actions"
    rest = f"{done}; value estimate, and rewards as bars"
    return capitalised(f"{seen}{rest}.")


def _frames(played: PlayedAgent) -> list[tuple[bytes, str, tuple[str, ...]]]:
    """A dozen steps at even distances, as the agent saw them: picture, alternative text, lines below it."""
    episode = played.episode
    pictures = []
    for step in dict.fromkeys(np.linspace(0, len(episode) - 1, _FRAMES).round().astype(int).tolist()):
        image = Image.fromarray(newest_image(episode.observations[step], played.scene.stacked))
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
        reward = float(episode.rewards[step])
        action = taken_text(played.action_names, episode.chosen[step], episode.actions[step])
        paid = (f"reward {signed(reward)}",) if reward else ()
        lines = (f"step {step}", action, f"value {episode.values[step]:.3g}", *paid)
        pictures.append((_png(image), f"Observation of {played.scene.task} at step {step}", lines))
    return pictures


def _memory(played: PlayedAgent) -> tuple[tuple[Markup, ...], tuple[Markup, ...]]:
    """What is remembered of the cue, in the suite whose episodes are short enough to play many; else why not."""
    if find_task(played.scene.task).suite.name != "memory" or played.agent.core.state_size == 0:
        return (), ()
    try:
        episodes = played.scene.first_episodes(played.agent, _CUE_EPISODES, look=cue_groups)
        memory = cue_memory(episodes, None, _SEED)
    except NoCues as why:
        return (), (html.text(f"There is no picture of what is remembered: {why}.", "missing"),)
    outcome = (
        f"At the last step the cell state names the cue of {100 * memory.decision_accuracy:.0f} % of "
        f"{len(memory.cues)} episodes; by chance it would be {100 / len(memory.labels):.0f} %."
    )
    alt = f"Cell states by cue, how well they name it, and half-lives of the units. {outcome}"
    file = io.BytesIO()
    draw_cue_memory(memory, f"{played.scene.task}: {played.trained.training.label} agent", file)
    with Image.open(file) as image:
        png = _png(image.convert("RGB"), _PICTURE_BYTES)
    return (html.wide_picture(png, alt, outcome),), ()


def _png(image: Image.Image, most_bytes: int | None = None) -> bytes:
    """The picture as a file; of at most so many bytes, with fewer colours and then fewer dots where it must be."""
    for attempt in range(100):
        few = image.quantize(256, dither=Image.Dither.NONE) if attempt else image
        file = io.BytesIO()
        few.save(file, "PNG", optimize=True)
        if most_bytes is None or len(file.getvalue()) <= most_bytes:
            break
        if attempt:
            image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
    return file.getvalue()
