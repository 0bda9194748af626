"""``r2ac evaluate``: whole episodes of trained agents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from r2ac.envs import Split
from r2ac.launch.runtime.output import print_failures
from r2ac.launch.runtime.stop_signals import StopSignals
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import parse, require_runs

if TYPE_CHECKING:
    from r2ac.launch.evaluation.plan import EvaluationPlan
    from r2ac.launch.evaluation.session import EvaluationSession


@dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes with trained agents, by default on seeds that no training uses, and write what was found into
    evaluation.json and evaluation.md of each run. Interrupted, the same command goes on with what is missing."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run directories (their newest checkpoint), checkpoints, or directories that hold runs (all of them)."""
    suite: str | None = None
    """Tasks to play, by their names or that of a list (atari-57, dmlab-30, memory), each agent those of its own suite;
    if not given, the tasks that it was trained on."""
    protocol: Literal["default", "paper", "machado2018"] = "default"
    """How to play, where the flags below say nothing else. default: 3 x 100 episodes, split test. paper (Irie et al.
    2024), greedy: DMLab 3 x 100; ProcGen 200 on training levels, 3 x 200 on unseen ones; Atari 5 x 30 with no-ops.
    machado2018: Atari, 3 x 100 with sticky actions and without no-ops."""
    episodes: int | None = None
    """Episodes for each seed; the protocol's if not given."""
    seeds: int | None = None
    """Evaluation seeds, the protocol's if not given; with split test none is ever used in training."""
    split: Split | None = None
    """Which episodes to play: test (held out), or train (as in training; with ProcGen, on the training levels); the
    protocol's if not given."""
    greedy: bool = False
    """Take the most probable action instead of drawing from the policy."""
    num_envs: int = 25
    """Environments stepped together. Each engine of DMLab is a process of 200 to 400 MB."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; 0: none but the task's own limit; as in training if not given."""
    step_timeout: float | None = None
    """Seconds after which a Ray task whose environments do not return from a step is given up (DMLab: the engine is
    replaced); 0: never; as in training if not given."""
    stall_seconds: float = 60.0
    """Seconds without a step after which the progress line says which seed stands still."""
    device: str = "auto"
    """Where the agents run: cpu; cuda: each Ray task gets a share of a GPU; auto: the CPU, or with --workers 0 the GPU
    where there is one."""
    workers: int | None = None
    """Ray tasks side by side, each with one core; 0: this process, without Ray; as many as there are cores if not
    given, or this process where that is quick. The numbers are the same."""
    ray_address: str = "local"
    """Ray cluster to join; local starts Ray on this machine, reachable from this machine only."""
    output: Path | None = None
    """A folder for evaluation.json and evaluation.md of all that is evaluated, for runs that may not be written; those
    of each run are written into it if not given. The same command goes on with what is there."""
    fresh: bool = False
    """Begin anew: what is on file for the same checkpoints, tasks, splits and protocol does not count."""


def evaluate_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac evaluate RUN_OR_CHECKPOINT … [--flags]``.

    Returns:
        0 where everything has been evaluated, 1 where a part failed, 2 where nothing could be evaluated for bad input,
        128 + the signal's number where one came.
    """
    parsed = parse(EvaluateArguments, "r2ac evaluate", arguments)
    from r2ac.launch.evaluation.plan import make_plan
    from r2ac.launch.evaluation.protocols import PROTOCOLS, Settings
    from r2ac.launch.evaluation.session import EvaluationSession
    from r2ac.launch.evaluation.workers import Workers

    # What a protocol prescribes is the default of the flags.
    default = EvaluateArguments(protocol=parsed.protocol, greedy=PROTOCOLS[parsed.protocol].greedy)
    parsed = parse(EvaluateArguments, "r2ac evaluate", arguments, default)
    require_runs(parsed.runs, "evaluate")
    _check(parsed)
    device = _device(parsed)
    settings = Settings(
        PROTOCOLS[parsed.protocol],
        episodes=parsed.episodes,
        seeds=parsed.seeds,
        split=parsed.split,
        greedy=parsed.greedy,
        num_envs=parsed.num_envs,
        device=device,
        max_episode_steps=parsed.max_episode_steps,
        step_timeout=parsed.step_timeout,
    )
    plan = make_plan(parsed.runs, parsed.suite, settings, parsed.output)
    workers = Workers(parsed.workers, parsed.ray_address, gpu=device.startswith("cuda"))
    with ExitStack() as stack:
        session = stack.enter_context(EvaluationSession(plan, console, parsed.fresh))
        signals = stack.enter_context(StopSignals())
        session.play(workers, signals, parsed.stall_seconds)
    session.print_results()
    return _exit_code(plan, session, signals)


def _check(arguments: EvaluateArguments) -> None:
    for name in ("episodes", "seeds", "num_envs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, but it must be at least 1")
    if not arguments.stall_seconds > 0:
        raise ConfigError(f"--stall-seconds is {arguments.stall_seconds}, but it must be above 0")
    if arguments.workers is not None and arguments.workers < 0:
        raise ConfigError(f"--workers is {arguments.workers}, but it must be at least 0")


def _device(arguments: EvaluateArguments) -> str:
    """Where the agents run. Raises ConfigError for a device that is not there, or that Ray cannot hand out."""
    here = arguments.workers == 0
    if arguments.device == "auto" and not here:
        return "cpu"
    from r2ac.launch.runs.loading import choose_device

    device = choose_device(arguments.device)
    if device.index is not None and not here:
        remedy = "--device cuda, or --workers 0 for this process"
        raise ConfigError(f"--device is {arguments.device}, but Ray hands out the GPUs: {remedy}")
    return str(device)


def _exit_code(plan: EvaluationPlan, session: EvaluationSession, signals: StopSignals) -> int:
    """Says what failed, each in one sentence."""
    print_failures(failure.sentence for failure in plan.failures)
    if signals.received is not None:
        return 128 + signals.received
    if not plan.failures:
        return 0
    return 1 if session.results or not all(failure.bad_input for failure in plan.failures) else 2
