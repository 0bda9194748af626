"""The commands train, evaluate and plot as functions, and trained agents, for programs and notebooks.

    import r2ac

    run = r2ac.train("memory/tmaze", seed=2, total_steps=200_000)
    [result] = r2ac.evaluate(run, episodes=100)
    r2ac.plot(run, output="curves.png")
    agent = r2ac.load(run)

Settings are named as the flags are, with underscores, and as the fields of config.json. What a user can mend raises
ValueError (a missing package ImportError) with the sentence that the command line prints; RuntimeError is what fails
later. Progress goes to standard output. Signal handlers, random generators and what is set in torch (threads, precision
of products, the current GPU) are at the end as they were. Calls on other threads than the main one work, too; on this
Ctrl-C, or a notebook's stop, saves first and then raises KeyboardInterrupt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from r2ac.launch.evaluation.evaluate import Evaluation
    from r2ac.launch.evaluation.loaded_agent import LoadedAgent

__all__ = ["evaluate", "load", "plot", "train"]


def train(task: str | None = None, *, resume: Path | str | None = None, **settings: Any) -> Path | str:
    """Train an agent on a ``task``, such as "memory/tmaze" (several of one suite are separated by commas), or go on
    with the run ``resume``; ``settings`` are the flags of ``r2ac train``. Returns the run's directory, or its URL."""
    with _settings_kept() as console:
        from r2ac.launch.settings.config import ConfigError, require
        from r2ac.launch.settings.flags import flag_words, training_config
        from r2ac.launch.settings.places import is_url, local_place
        from r2ac.launch.train.resume import continued_config
        from r2ac.launch.train.start import new_path
        from r2ac.launch.train.train import train as run_training

        if (task is None) == (resume is None):
            given = "nothing is" if task is None else f"task={task!r} and resume={str(resume)!r} are"
            raise ConfigError(f"r2ac.train takes a task, such as memory/tmaze, or resume=RUN, but {given} given")
        if not isinstance(resume, Path | str | None):
            raise ConfigError(f"resume is {resume!r}, but it must be the path or URL of a run")
        if not isinstance(task, str | None):
            raise ConfigError(
                f"a task is one string, several joined by commas: 'memory/tmaze,memory/chain', not {task!r}"
            )
        url = str(settings.pop("run_dir")) if is_url(str(settings.get("run_dir"))) else None
        words = flag_words(settings)
        if task is None:
            place = local_place(str(resume))
            config = continued_config(place, words)
            opened: AbstractContextManager[Path | str] = nullcontext(place if is_url(place) else Path(place))
        else:
            config = training_config(task, words)
            config.check()
            opened = nullcontext(url) if url else new_path(config)
        require(config.max_failures == 0, "max_failures", config.max_failures, "0 here: the command line starts again")
        with opened as at:
            stopped = run_training(config, at, task is not None, console)
    if stopped:
        raise KeyboardInterrupt(f"the training was stopped; r2ac.train(resume={str(at)!r}) goes on")
    return at


def evaluate(*runs: Path | str, **settings: Any) -> list[Evaluation]:
    """Play whole episodes with the agents of ``runs`` (run directories, folders of such, checkpoints or URLs) and write
    evaluation.json and evaluation.md of each; ``settings`` are the flags of ``r2ac evaluate``. Returns what the file
    holds of each checkpoint, task and split; interrupted, the same call goes on."""
    with _settings_kept() as console, _local(runs, "evaluate", console) as paths:
        from r2ac.launch.commands.evaluate import evaluate_arguments, evaluate_runs
        from r2ac.launch.settings.flags import flag_words

        parsed = evaluate_arguments([*paths, *flag_words(settings)])
        plan, received = evaluate_runs(parsed, console)
    if received is not None:
        raise KeyboardInterrupt("the evaluation was stopped; the same call goes on")
    if plan.failures:
        bad_input = all(failure.bad_input for failure in plan.failures)
        raise (ValueError if bad_input else RuntimeError)("; ".join(failure.sentence for failure in plan.failures))
    return [row.evaluation for row in plan.results]


def plot(*runs: Path | str, **settings: Any) -> Path:
    """Draw the learning curves of ``runs``; ``settings`` are the flags of ``r2ac plot``. Returns the path of the
    picture or table."""
    with _settings_kept() as console, _local(runs, "plot", console) as paths:
        from r2ac.launch.commands.plot import PlotArguments, plot_curves
        from r2ac.launch.settings.flags import flag_words
        from r2ac.launch.settings.parser import parse

        parsed = parse(PlotArguments, "r2ac plot", [*paths, *flag_words(settings)])
        left_out: list[str] = []
        written = plot_curves(parsed, left_out)
    if left_out:
        raise ValueError(f"{'; '.join(left_out)}; the others are drawn in {written}")
    return written


def load(run: Path | str, *, greedy: bool = False, seed: int = 0, device: str = "cpu") -> LoadedAgent:
    """The agent of a run (its newest checkpoint), of a checkpoint or of a URL, ready to act in one or several streams.
    Actions are drawn from its policy by ``seed``, or with ``greedy`` the most probable ones."""
    with _settings_kept() as console, _local([run], "evaluate", console) as paths:
        from r2ac.launch.evaluation.loaded_agent import LoadedAgent
        from r2ac.launch.settings.places import local_path

        return LoadedAgent(local_path(paths[0]), greedy, seed, device)


@contextmanager
def _local(runs: Sequence[Path | str], command: str, console: Console) -> Iterator[list[str]]:
    """The paths of runs; copies of those at URLs, to which goes back what is written."""
    from r2ac.launch.runs.local_copies import local_copies
    from r2ac.launch.settings.config import ConfigError

    for run in runs:
        if not isinstance(run, Path | str):
            raise ConfigError(f"{run!r} is no path or URL of a run; each run is an argument of its own")
    with local_copies([command, *map(str, runs)], console) as words:
        yield words[1:]


@contextmanager
def _settings_kept() -> Iterator[Console]:
    """The console for a call, which leaves the process's settings as they were."""
    import random

    python = random.getstate()  # imports draw from it, too
    import numpy as np
    import torch
    from rich.console import Console

    numpy, threads = np.random.get_state(), torch.get_num_threads()
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    gpus = list(range(torch.cuda.device_count()))
    gpu = torch.cuda.current_device() if gpus else None
    try:
        with torch.random.fork_rng(devices=gpus):
            yield Console(force_jupyter=False, highlight=False, emoji=False, width=120)
    finally:
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
        if gpu is not None:
            torch.cuda.set_device(gpu)
