"""The command line: finds the command, and turns what goes wrong into one sentence and an exit code."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from itertools import takewhile

from rich.console import Console

from r2ac.launch.runtime.output import print_failures, safe_output
from r2ac.launch.runtime.supervisor import TRY_AGAIN, exit_code, restarts

USAGE = """\
Train, evaluate and plot recurrent actor-critics with exact real-time recurrent learning.

usage: r2ac COMMAND …

  r2ac train TASK [--flags]            train an agent, e.g. r2ac train memory/tmaze --seed 2
  r2ac train TASK,TASK,… [--flags]     train one agent on several tasks; dmlab-30 and the like name lists
  r2ac train --suite LIST [--flags]    train an agent on each task of a list in turn, e.g. --suite procgen
  r2ac train --resume RUN [--flags]    go on with an interrupted run, or with a list
  r2ac submit TASK [--flags]           the same training as a job of a running Ray cluster; also --suite and --resume
  r2ac jobs COMMAND [JOB]              list, status, logs, follow, stop or fetch submitted trainings
  r2ac cluster KIND TASK [--flags]     a file that trains on a cluster: KIND is kuberay, slurm or autoscaler
  r2ac sweep TASK --vary NAME=VALUES … train with many seeds or settings, or as one population, and rank them
  r2ac evaluate RUN_OR_CHECKPOINT …    play whole episodes, by default on seeds that no training uses; --suite LIST
                                       chooses the tasks, --protocol paper the published way
  r2ac plot RUN …                      draw learning curves, or write them as a table
  r2ac watch RUN [--flags]             a video of whole episodes, and what the agent remembers
  r2ac inspect RUN …                   what RTRL adds to the gradient, and how far back it reaches
  r2ac report RUN … [--baseline RUN …] curves, evaluations and statistics of runs on one page (HTML)
  r2ac export RUN --onnx FILE          the agent with its memory as a file that acts without r2ac; --torch for PyTorch
  r2ac reproduce [NAME] [--flags]      list the experiments of the study, or make one: trainings, results, its page
  r2ac push RUN hf://USER/NAME         the run with a model card on the Hugging Face Hub; commands read hf://… too
  r2ac bench TASK [--flags]            how many actors, streams and threads are fast on this machine
  r2ac envs [SUITE | SUITE/TASK]       every suite and task, what is seen there, and whether it can run here
  r2ac envs --watch TASK [--flags]     a picture or video of what an agent sees, of a random or a trained one
  r2ac envs --check gym/ID [--flags]   whether an environment of your own is in order, and what r2ac makes of it

r2ac COMMAND --help lists the flags of a command, r2ac train TASK --help those of a task with its preset.
"""

COMMANDS = (
    *("train", "submit", "jobs", "cluster", "sweep", "evaluate"),
    *("plot", "watch", "inspect", "report", "reproduce", "export", "push", "bench", "envs"),
)
"""Each is the function ``<name>_command`` of the module ``commands.<name>``, which is imported when it is needed."""


REPEATED = ("--vary", "--bounds", "--env", "--with-module")
"""Flags that are given once for each of their values."""


class _Notices(logging.Handler):
    """Prints what is logged as the sentences of the command line are printed."""

    def emit(self, record: logging.LogRecord) -> None:
        print_failures([record.getMessage()])


@safe_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2 for bad input, with one sentence; 1 for a run that failed)."""
    # That they are compiled takes long enough to be said.
    kernels = logging.getLogger("r2ac.kernels")
    kernels.handlers = [_Notices(logging.INFO)]
    kernels.setLevel(logging.INFO)
    kernels.propagate = False
    # A file has no width: tables need not be cut to that of a terminal.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        console.print(USAGE, markup=False, end="", soft_wrap=True)
        return 0 if words else 2
    if words[0] == "--version":
        console.print(f"r2ac {version('r2ac')}")
        return 0
    if words[0] not in COMMANDS:
        print_failures([f"there is no command {words[0]!r}; the commands are {', '.join(COMMANDS)}"])
        return 2
    if (sentence := _given_twice(words)) is not None:
        print_failures([sentence])
        return 2
    try:
        from r2ac.launch.runs.local_copies import local_copies

        module = import_module(f"r2ac.launch.commands.{words[0]}")
        command: Callable[[Sequence[str], Console], int] = getattr(module, f"{words[0]}_command")
        with local_copies(words, console) as local:
            return exit_code(command(local[1:], console))
    except KeyboardInterrupt:
        print_failures(["interrupted by Ctrl-C"])
        return 130
    except SystemExit as error:
        # Ray's own handler of SIGTERM, while it starts, exits with the bare number.
        if error.code == signal.SIGTERM:
            return 128 + signal.SIGTERM
        raise
    except Exception as error:
        return _failed(error)


def _given_twice(words: Sequence[str]) -> str | None:
    """A sentence where a flag is given twice, also as --flag and --no-flag: the parser would take the last without a
    word. None where none is."""
    before: dict[str, str] = {}
    own = takewhile(lambda word: word != "--", words)
    for flag in (word.partition("=")[0].replace("_", "-") for word in own if word.startswith("--")):
        name = flag.replace("--no-", "--", 1)
        if name in before and name not in REPEATED:
            how = "twice" if before[name] == flag else f"beside {before[name]}"
            return f"{flag} is given {how}: a flag is given once, with all its values"
        before[name] = flag
    return None


def _failed(error: Exception) -> int:
    """Print what went wrong; returns the exit code. An unexpected error is raised again, or printed and retried."""
    from r2ac.envs import InvalidOption, MissingPackage, UnknownTask
    from r2ac.launch.cluster.connect import ConnectionFailed
    from r2ac.launch.runtime.errors import RunError, with_details_kept
    from r2ac.launch.settings.config import ConfigError
    from r2ac.launch.settings.flags import with_flag

    # What the user can mend: one sentence and exit code 2.
    if isinstance(error, UnknownTask | InvalidOption | MissingPackage | ConfigError | RunError):
        print_failures([with_flag(str(error))])
        return 2
    if isinstance(error, ConnectionFailed):
        print_failures([str(error)])
        # A cluster that was there when the training began may come back.
        return TRY_AGAIN if restarts() else 2
    # Who raises one of these has imported torch.
    from r2ac.kernels import UnknownKernels
    from r2ac.launch.train.summary import RUN_FAILURES, failure_code
    from r2ac.learner.checkpoint import CheckpointError

    if isinstance(error, CheckpointError | UnknownKernels):
        print_failures([str(error)])
        return 2
    if isinstance(error, RUN_FAILURES):
        print_failures([with_details_kept(error)])
        return exit_code(failure_code(error))
    if restarts() is None:
        raise error
    # An unexpected error, such as one of a GPU: the supervisor tries again.
    traceback.print_exception(error)
    return TRY_AGAIN
