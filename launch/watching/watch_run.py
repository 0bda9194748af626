"""A video of whole episodes of a trained agent, and a picture of what it remembers."""

from __future__ import annotations

from contextlib import closing

from rich.console import Console
from rich.table import Column, Table

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import find_task
from r2ac.envs.suite import missing_modules
from r2ac.launch.evaluation.evaluation_progress import EpisodeProgress
from r2ac.launch.runs.loading import TrainedAgent, choose_device, folder_of
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.watching.action_names import action_names
from r2ac.launch.watching.episode_video import Film, draw_film
from r2ac.launch.watching.episodes import PlayedEpisode, Scene
from r2ac.launch.watching.memory_analysis import CueMemory, NoCues, cue_groups, cue_memory
from r2ac.launch.watching.memory_plot import EXTENSIONS, draw_cue_memory, draw_states, life_text
from r2ac.launch.watching.pictures import check_output
from r2ac.launch.watching.watch_config import WatchConfig

_TABLE_UNITS = 8


def watch_run(config: WatchConfig, console: Console) -> None:
    """Play, write the video and the picture, and print what was found. What is played follows from the settings alone.
    Raises RunError, CheckpointError, ConfigError, UnknownTask, InvalidOption, MissingPackage."""
    config.check()
    trained = TrainedAgent.load(config.run)
    task = config.task or trained.training.tasks[0].name
    trained.check_plays(task)
    scene = Scene(task, trained.training.env, config.seed, config.split, config.max_steps, config.greedy)
    folder = folder_of(config.run)
    usual = "episodes.gif" if missing_modules("imageio_ffmpeg") else "episodes.mp4"
    video, picture = config.output or folder / usual, config.memory_output or folder / "memory.png"
    check_output(video)
    check_output(picture, EXTENSIONS)

    with closing(scene.env()) as env:
        spec = ObservationSpec.of(env)
        agent = trained.agent(spec, choose_device(config.device), task)
        names = action_names(task, env)
        # First: a decision step that no episode has is refused before a video is made.
        memory = _memory(config, scene, agent, spec)
        with EpisodeProgress(console, task) as progress:
            episodes = scene.play(agent, env, config.episodes, progress.update)
    actions = "most probable actions" if config.greedy else "sampled actions"
    about = f"{trained.label}, {actions}, seed {config.seed}, split {config.split}"
    draw_film(Film(tuple(episodes), task, about, names, scene.stacked), video, config.fps)

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
        print_table(console, task, [*rows, *_cue_rows(memory)], paths)
        console.print(_table(memory))


def _memory(config: WatchConfig, scene: Scene, agent: Agent, spec: ObservationSpec) -> CueMemory | str:
    """What whole episodes say about the memory of their cues, or why there is nothing to say. Raises ConfigError for a
    decision step beyond an episode's end."""
    if agent.core.state_size == 0:
        return "the core is feed-forward"
    if len(spec.shape) == 3 and find_task(scene.task).suite.name != "memory":
        return "the first image of an episode is no cue"
    try:
        episodes = scene.first_episodes(agent, config.memory_episodes, look=cue_groups)
        return cue_memory(episodes, config.decision_step, config.seed)
    except NoCues as why:
        return str(why)


def _played(episodes: list[PlayedEpisode]) -> list[tuple[str, object]]:
    returns = ", ".join(
        f"{episode.rewards.sum():,.6g}" + ("" if episode.complete else " (cut off)") for episode in episodes[:10]
    )
    more = ", …" if len(episodes) > 10 else ""
    return [("episodes", len(episodes)), ("steps", sum(map(len, episodes))), ("returns", returns + more)]


def _cue_rows(memory: CueMemory) -> list[tuple[str, object]]:
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
    names = ("unit", "separation", "spread", "half-life in steps")
    headers = (Column(name, justify="right", no_wrap=True) for name in names)
    table = Table(*headers, box=None, padding=(0, 1), pad_edge=False)
    for unit in memory.order[:_TABLE_UNITS]:
        numbers = f"{memory.separation[unit]:.4f}", f"{memory.spread[unit]:.3f}"
        table.add_row(str(unit), *numbers, life_text(memory.half_lives[unit]))
    return table
