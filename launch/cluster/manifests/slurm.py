"""A batch script for Slurm: `ray symmetric-run` makes one cluster of Ray of the nodes of a job, and trains on it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from r2ac.launch.cluster.manifests.resources import Training, check_at_least, check_text
from r2ac.launch.cluster.manifests.templates import render
from r2ac.launch.settings.config import ConfigError


@dataclass(frozen=True)
class SlurmOptions:
    """Write a Slurm batch script that trains on TASK. Give the task first, and any flag of r2ac train TASK beside
    these."""

    output: Path | None = None
    """File to write; standard output if not given."""
    name: str = ""
    """Of the job; from the task, the seed and the time if not given."""
    nodes: int | None = None
    """Nodes of the job; as many as hold all rollout actors and learners if not given."""
    cpus_per_node: int = 16
    """The most CPUs that the job asks for on a node."""
    gpus_per_node: int | None = None
    """GPUs of each node; as many as the learners need if not given (none without --device cuda)."""
    time: str = "24:00:00"
    """Time limit, as Slurm writes it. A training that reaches it saves a checkpoint and is queued again."""
    warning_seconds: int = 180
    """Seconds before the time limit, or before it is preempted, at which a training saves."""
    partition: str = ""
    """Partition; the default one if not given."""
    account: str = ""
    """Account; the default one if not given."""
    venv: Path = Path(sys.prefix)
    """Virtual environment that holds r2ac with the extra `cluster`, on a file system that all nodes share."""


def slurm_manifest(training: Training, options: SlurmOptions) -> str:
    """The batch script. Raises ConfigError for options that are not allowed, or nodes that are too few."""
    check_at_least(options, "nodes", "cpus_per_node")
    check_at_least(options, "gpus_per_node", least=0)
    check_at_least(options, "warning_seconds", least=10)
    time = r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}"
    check_text("time", options.time, time, "such as 90 (minutes), 24:00:00 or 2-12:00:00")
    for name in ("partition", "account"):
        value = getattr(options, name)
        check_text(name, value, r"([A-Za-z0-9][A-Za-z0-9_.,-]*)?", "letters, digits and the signs _ . , -")
    needs = training.needs
    most = max(options.cpus_per_node, needs.learner_cpus)
    # The driver is a learner where there are no others.
    learners = max(needs.learners, 1)
    nodes = needs.nodes(learners, most) if options.nodes is None else options.nodes
    total = needs.actors + learners * needs.learner_cpus
    # No node is asked for fewer CPUs than its learners take.
    cpus = max(math.ceil(total / nodes), math.ceil(learners / nodes) * needs.learner_cpus)
    if cpus > most:
        raise ConfigError(
            f"--nodes is {nodes}, but {needs.actors} actors and the learners need {total} CPUs, and --cpus-per-node is "
            f"{options.cpus_per_node}: raise one of the two"
        )
    gpus = math.ceil(needs.gpus / nodes) if options.gpus_per_node is None else options.gpus_per_node
    reserved = 0 if needs.learners else needs.learner_cpus
    return render(
        "slurm.sh.j2", training=training, options=options, nodes=nodes, cpus=cpus, gpus=gpus, learner_cpus=reserved
    )
