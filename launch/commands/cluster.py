"""``r2ac cluster``: manifests that start a training on Kubernetes, on Slurm, or on machines of a cloud."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from r2ac.launch.cluster.manifests.autoscaler import AutoscalerOptions, autoscaler_manifest
from r2ac.launch.cluster.manifests.kuberay import KubeRayOptions, kuberay_manifest, kuberay_run_dir
from r2ac.launch.cluster.manifests.resources import Needs, Training, check_name, ray_version
from r2ac.launch.cluster.manifests.slurm import SlurmOptions, slurm_manifest
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import is_flag, replace_flags, take_flag, training_config
from r2ac.launch.settings.parser import parse_known

HELP = """\
usage: r2ac cluster kuberay    TASK --image IMAGE [--flags]   a RayJob for Kubernetes with KubeRay
       r2ac cluster slurm      TASK [--flags]                 a batch script around ray symmetric-run
       r2ac cluster autoscaler TASK [--flags]                 a YAML for ray up: AWS, Google Cloud, own machines

Writes a file that starts the training `r2ac train TASK` on a cluster, with what it needs: a CPU for each rollout actor,
CPUs for the learner (--learner-threads, or 1), GPUs where --device is cuda. Any flag of r2ac train can be given, and is
checked here. Comments in the file say what to change; nothing is started. r2ac cluster KIND --help lists the flags of
a kind. docs/clusters/manifests.md leads from there to a running training.
"""


_KINDS = {"kuberay": KubeRayOptions, "slurm": SlurmOptions, "autoscaler": AutoscalerOptions}


def cluster_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac cluster KIND TASK [--flags]``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(HELP, markup=False, end="", soft_wrap=True)
        return 0 if arguments else 2
    kind, *rest = arguments
    if kind not in _KINDS:
        raise ConfigError(f"there is no manifest for {kind!r}; there are {', '.join(_KINDS)}")
    task = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if not task and not {"-h", "--help"} & set(rest):
        raise ConfigError(f"the task comes first, then the flags, such as r2ac cluster {kind} memory/tmaze --seed 2")
    options, flags = parse_known(_KINDS[kind], f"r2ac cluster {kind} TASK", rest)
    training = read_training(task, flags, kuberay_run_dir if kind == "kuberay" else str, options.name)
    if kind == "kuberay":
        text = kuberay_manifest(training, options, ray_version())
    elif kind == "autoscaler":
        text = autoscaler_manifest(training, options, ray_version())
    else:
        text = slurm_manifest(training, options)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    _write(options.output, text)
    sentence = f"{options.output} is written; its first lines say how to start the training with it"
    console.print(sentence, markup=False, soft_wrap=True)
    return 0


def read_training(
    task: str, arguments: Sequence[str], place: Callable[[str], str], name: str = "", now: datetime | None = None
) -> Training:
    """The training that the flags of r2ac train ask for, checked; ``place`` gives where a run directory lies as the
    nodes see it. An empty ``name`` is made from the task, the agent, the seed and ``now`` (the local time if None).
    Raises ConfigError, UnknownTask and InvalidOption."""
    flags = [_with_dashes(word) for word in arguments]
    for refused, instead in _REFUSED.items():
        if any(is_flag(word, refused) for word in flags):
            raise ConfigError(f"{refused} cannot be given to r2ac cluster: {instead}")
    run_dir = take_flag(flags, "--run-dir")
    config = training_config(task, [*flags, "--ray-address", "auto"])
    config.check()
    if config.num_actors == 0:
        raise ConfigError("--num-actors is 0, but on a cluster it must be at least 1: rollout actors use its nodes")
    preset = take_flag(flags, "--preset")
    name = name or _default_name(config.task, config.label, config.seed, now or datetime.now())
    check_name(name)
    path = place(run_dir or f"runs/{name}")
    if path.startswith("-"):
        raise ConfigError(f"--run-dir is {path!r}, but it must not begin with a dash")
    needs = Needs.of(config)
    if not config.learner_threads:
        # It would else take all cores that it sees, and in a container those are not all its own.
        flags = replace_flags(flags, ["--learner-threads", str(needs.learner_cpus)])
    return Training(task, tuple(flags), preset, path, name, needs)


_REFUSED = {
    "--ray-address": "the manifest says where Ray is",
    "--resume": "the manifest goes on by itself, where its run directory holds a checkpoint",
    "--suite": "it writes one training; give a list of tasks instead, for one agent, or a manifest for each",
}


def _with_dashes(word: str) -> str:
    """A flag as it is written here; the parser takes underscores too."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _default_name(task: str, label: str, seed: int, now: datetime) -> str:
    """Such as ``memory-tmaze-rtrl-seed1-20260101-120000``: the time keeps it apart from other manifests' runs."""
    slug, agent = (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in (task, label))
    end = f"-{agent}-seed{seed}-{now:%Y%m%d-%H%M%S}"
    return slug[: max(47 - len(end), 1)].rstrip("-") + end[-46:]


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise RunError(f"{path} is there already: remove it, or choose another --output")
    with os_errors_as(RunError, f"{path} cannot be written"), open(path, "x", encoding="utf-8") as file:
        file.write(text)
