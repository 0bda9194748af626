"""A video of whole episodes of a trained agent, and a picture of what it remembers."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import find_task, make_vector
from r2ac.envs.suite import missing_modules
from r2ac.launch.evaluation.evaluate import evaluation_path
from r2ac.launch.evaluation.evaluation_progress import EpisodeProgress
from r2ac.launch.runs.loading import choose_device
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.watching.action_names import action_names
from r2ac.launch.watching.episode_video import Film, draw_film
from r2ac.launch.watching.episodes import PlayedEpisode, Player, play
from r2ac.launch.watching.memory_analysis import CueMemory, NoCues, cue_groups, cue_memory
from r2ac.launch.watching.memory_plot import EXTENSIONS, draw_cue_memory, draw_states, life_text
from r2ac.launch.watching.pictures import check_output
from r2ac.launch.watching.watch import TrainedAgent
from r2ac.launch.watching.watch_config import WatchConfig

_TABLE_UNITS = 8


def watch_run(config: WatchConfig, console: Console) -> None:
    """Play, write the video and the picture, and tell what was found. What is played follows from the settings alone.

    Raises:
        RunError, CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage.
    """
    config.check()
    trained = TrainedAgent.load(config.run)
    task = config.task or trained.training.tasks[0].name
    trained.check_plays(task)
    folder = evaluation_path(config.run).parent
    usual = "episodes.gif" if missing_modules("imageio_ffmpeg") else "episodes.mp4"
    video, picture = config.output or folder / usual, config.memory_output or folder / "memory.png"
    check_output(video)
    check_output(picture, EXTENSIONS)

    env = _make(config, trained, task, 1)
    try:
        spec = ObservationSpec.of(env)
        agent = trained.agent(spec, choose_device(config.device), task)
        names = action_names(task, env)
        # First: a decision step that no episode has is refused before a video is made.
        memory = _memory(config, trained, task, agent, spec)
        with EpisodeProgress(console, task) as progress:
            player, limit = _player(config, agent, 1), find_task(task).killed_after(trained.training.env)
            episodes = play(player, env, config.episodes, config.max_steps, progress.update, limit)
    finally:
        env.close()
    manner = "most probable actions" if config.greedy else "sampled actions"
    about = f"{trained.label}, {manner}, seed {config.seed}, split {config.split}"
    film = Film(tuple(episodes), task, about, names, getattr(trained.training.env, "frame_stack", 1))
    draw_film(film, video, config.fps)

    rows: list[tuple[str, object]] = [("player", about), *_played(episodes)]
    if agent.core.state_size == 0:
        print_table(console, task, [*rows, ("memory", f"none: {memory}")], {"video": video})
        return
    paths = {"video": video, "memory": picture}
    if isinstance(memory, str):
        draw_states(episodes, f"{task}: {about}", memory, picture)
        print_table(console, task, [*rows, ("cues", f"none: {memory}")], paths)
    else:
        draw_cue_memory(memory, f"{task}: {about}", picture)
        print_table(console, task, [*rows, *_told(memory)], paths)
        console.print(_table(memory))


def _make(config: WatchConfig, trained: TrainedAgent, task: str, streams: int) -> VectorEnv:
    return make_vector(task, streams, config.seed, split=config.split, options=trained.training.env)


def _player(config: WatchConfig, agent: Agent, streams: int) -> Player:
    return Player(agent, streams, np.random.default_rng(config.seed), config.greedy)


def _memory(
    config: WatchConfig, trained: TrainedAgent, task: str, agent: Agent, spec: ObservationSpec
) -> CueMemory | str:
    """What whole episodes say about the memory of their cues, or why there is nothing to say.

    Raises:
        ConfigError: for a decision step beyond an episode's end.
    """
    if agent.core.state_size == 0:
        return "the core is feed-forward"
    if len(spec.shape) == 3 and find_task(task).suite.name != "memory":
        return "the first image of an episode is no cue"
    try:
        return cue_memory(_cue_episodes(config, trained, task, agent), config.decision_step, config.seed)
    except NoCues as why:
        return str(why)


def _cue_episodes(config: WatchConfig, trained: TrainedAgent, task: str, agent: Agent) -> list[PlayedEpisode]:
    """One episode of each of many streams, if their first observations are cues.

    Raises:
        NoCues: if they are not, before any is played.
    """
    env = _make(config, trained, task, config.memory_episodes)
    try:
        cue_groups(env.reset()[0])
    finally:
        env.close()
    # An environment is reset once.
    env = _make(config, trained, task, config.memory_episodes)
    try:
        player, limit = _player(config, agent, env.num_envs), find_task(task).killed_after(trained.training.env)
        return play(player, env, env.num_envs, config.max_steps, step_timeout=limit)
    finally:
        env.close()


def _played(episodes: list[PlayedEpisode]) -> list[tuple[str, object]]:
    """How many episodes and steps, and the returns."""
    returns = ", ".join(
        f"{episode.rewards.sum():,.6g}" + ("" if episode.complete else " (cut off)") for episode in episodes[:10]
    )
    more = ", …" if len(episodes) > 10 else ""
    return [("episodes", len(episodes)), ("steps", sum(map(len, episodes))), ("returns", returns + more)]


def _told(memory: CueMemory) -> list[tuple[str, object]]:
    """How often the state names the cue, at five steps from the first to the last and at the decision."""
    last = len(memory.accuracy) - 1
    steps = sorted({round(last * part / 4) for part in range(5)})
    named = ", ".join(f"step {step}: {100 * memory.accuracy[step]:.0f} %" for step in steps)
    more = "; …" if len(memory.labels) > 4 else ""
    when = "last step" if memory.decision_step is None else f"step {memory.decision_step}"
    return [
        ("cues", f"{len(memory.labels)} in {len(memory.cues)} episodes ({'; '.join(memory.labels[:4])}{more})"),
        ("cue named", f"{named} (chance {100 / len(memory.labels):.0f} %)"),
        ("at decision", f"{100 * memory.decision_accuracy:.0f} % ({when})"),
    ]


def _table(memory: CueMemory) -> Table:
    """The units that tell the cues apart best."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("unit", "separation", "spread", "half-life in steps"):
        table.add_column(name, justify="right", no_wrap=True)
    for unit in memory.order[:_TABLE_UNITS]:
        numbers = f"{memory.separation[unit]:.4f}", f"{memory.spread[unit]:.3f}"
        table.add_row(str(unit), *numbers, life_text(memory.half_lives[unit]))
    return table
