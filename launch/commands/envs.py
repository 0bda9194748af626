"""``r2ac envs``: what there is, and what an agent sees of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from rich.console import Console

from r2ac.envs import SUITES, Split, find_task
from r2ac.launch.commands.env_tables import print_overview, print_suites, print_task
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import check_ranges, flag_value, parse_with_options, take_flag
from r2ac.launch.settings.parser import parse
from r2ac.launch.settings.places import local_path
from r2ac.launch.settings.presets import preset_options


@dataclass(frozen=True)
class EnvsArguments:
    """Show every suite and task, what an agent sees and does there, whether it can run here, and if not, what to
    install. What an agent sees, as a picture: r2ac envs --watch TASK [--flags]. Whether an environment of your own is
    in order: r2ac envs --check gym/ID [--flags]"""

    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[SUITE | TASK]")] = None
    """A suite or a task to describe, such as atari or atari/Breakout."""
    short: bool = False
    """Tell about the suites in a few lines each, without a line for each task."""


EnvOptions = TypeVar("EnvOptions")


@dataclass(frozen=True)
class WatchArguments(Generic[EnvOptions]):
    """Write a picture or a video of what an agent sees, with its actions and rewards."""

    env: EnvOptions
    agent: Path | None = None
    """Run directory or checkpoint of the agent that plays; uniformly random actions if not given."""
    greedy: bool = False
    """Let the agent take its most probable action instead of drawing from its policy."""
    steps: int | None = None
    """Steps to play; if not given, 48 for a picture and 240 for a video."""
    seed: int = 0
    """Seeds the environment and what is drawn."""
    split: Split = "train"
    """Which episodes to play: train, or test (held out)."""
    output: Path | None = None
    """The contact sheet (.png) or video (.gif, or .mp4 where imageio-ffmpeg is installed); <suite>-<task>.png in this
    folder if not given."""
    fps: int = 15
    """Steps that a video shows in a second."""


@dataclass(frozen=True)
class CheckArguments(Generic[EnvOptions]):
    """Play some steps of an environment of your own and tell what r2ac makes of its spaces, infos, ends, rewards, speed
    and seeds, and what Gymnasium's own checker says."""

    env: EnvOptions
    steps: int = 100
    """Steps to play, of uniformly random actions."""
    seed: int = 0
    """Seeds the environment and the actions."""


def envs_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac envs [SUITE | SUITE/TASK] [--short]``, ``--watch TASK [--flags]`` or ``--check TASK [--flags]``; 1 where
    --check found something wrong."""
    rest = list(arguments)
    checked = take_flag(rest, "--check")
    if checked is not None:
        return _check(checked, rest, console)
    watched = take_flag(rest, "--watch")
    if watched is not None:
        return _watch(watched, rest, console)
    parsed = parse(EnvsArguments, "r2ac envs", rest)
    if parsed.name is not None:
        suite = SUITES.get(parsed.name.rstrip("/"))
        if suite is None:
            print_task(console, find_task(parsed.name))
        else:
            print_suites(console, [suite])
    elif parsed.short:
        print_overview(console)
    else:
        print_suites(console, list(SUITES.values()))
    return 0


def _check(task: str, arguments: list[str], console: Console) -> int:
    suite, _, name = task.partition("/")
    if suite != "gym":
        raise ConfigError(
            f"--check is {task}, but it must be an environment of your own, such as gym/my_module:MyEnv-v0"
        )
    options = preset_options(task)
    prog = f"r2ac envs --check {task}"
    parsed = parse_with_options(CheckArguments, prog, arguments, CheckArguments(options), task)
    check_ranges(parsed, {"steps": (1, 100_000), "seed": (0, 2**31 - 1)})
    from r2ac.launch.commands.env_check import check_environment

    findings = check_environment(name, parsed.env, parsed.seed, parsed.steps)
    rows = [(each.about, f"{'WRONG: ' if each.wrong else ''}{each.text}") for each in findings]
    print_table(console, f"{task}: {parsed.steps} steps", rows)
    wrong = list(dict.fromkeys(each.about for each in findings if each.wrong))
    if wrong:
        print_failures([f"{task} is not in order, see {', '.join(wrong)}"])
    return 1 if wrong else 0


def _watch(task: str, arguments: list[str], console: Console) -> int:
    options, agent = preset_options(task, take_flag(arguments, "--preset")), flag_value(arguments, "--agent")
    trained = None
    if agent is not None:
        from r2ac.launch.runs.loading import TrainedAgent

        trained = TrainedAgent.load(local_path(agent))
        # It is shown what it was trained with, unless flags say otherwise.
        trained.check_plays(task)
        options = trained.training.env
    prog = f"r2ac envs --watch {task}"
    parsed = parse_with_options(WatchArguments, prog, arguments, WatchArguments(options), task)
    check_ranges(parsed, {"steps": (1, 100_000), "seed": (0, 2**64 - 1), "fps": (1, 50)})
    from r2ac.launch.watching.episodes import Scene
    from r2ac.launch.watching.pictures import check_output, draw
    from r2ac.launch.watching.watch import record

    output = parsed.output or Path(re.sub(r"[^\w.-]+", "-", task) + ".png")
    check_output(output)
    steps = parsed.steps or (48 if output.suffix.lower() == ".png" else 240)
    scene = Scene(task, parsed.env, parsed.seed, parsed.split, steps, parsed.greedy)
    recording = record(scene, trained)
    draw(recording, output, parsed.fps)
    ended = sum(moment.is_first for moment in recording.moments) - 1
    rewards = sum(moment.reward for moment in recording.moments)
    rows: list[tuple[str, object]] = [("player", recording.player), ("steps", steps), ("episodes ended", ended)]
    print_table(console, task, [*rows, ("rewards", f"{rewards:,.6g}")], {"written": output})
    return 0
