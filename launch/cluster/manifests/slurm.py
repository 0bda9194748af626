"""A batch script for Slurm: `ray symmetric-run` makes one cluster of Ray of the nodes of a job, and trains on it."""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from r2ac.launch.cluster.manifests.resources import Training, check_at_least
from r2ac.launch.settings.config import ConfigError

_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,-]*")


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
    """How long before the time limit, or before it is preempted, a training is told to save."""
    partition: str = ""
    """Partition; the default one if not given."""
    account: str = ""
    """Account; the default one if not given."""
    venv: Path = Path(sys.prefix)
    """Virtual environment that holds r2ac with the extra `cluster`, on a file system that all nodes share."""

    def check(self) -> None:
        """Raise ConfigError for the first option that is not allowed."""
        check_at_least({"nodes": 1 if self.nodes is None else self.nodes, "cpus_per_node": self.cpus_per_node})
        check_at_least({"gpus_per_node": self.gpus_per_node or 0}, 0)
        check_at_least({"warning_seconds": self.warning_seconds}, 10)
        if not _TIME.fullmatch(self.time):
            raise ConfigError(f"--time is {self.time!r}, but it must be such as 90 (minutes), 24:00:00 or 2-12:00:00")
        for name in ("partition", "account"):
            value = getattr(self, name)
            if value and not _WORD.fullmatch(value):
                raise ConfigError(f"--{name} is {value!r}, but it must be letters, digits and the signs _ . , -")


def slurm_manifest(training: Training, options: SlurmOptions) -> str:
    """The batch script.

    Raises:
        ConfigError: for options that are not allowed, or nodes that are too few.
    """
    options.check()
    needs = training.needs
    most = max(options.cpus_per_node, needs.learner_cpus)
    nodes = needs.equal_nodes(most) if options.nodes is None else options.nodes
    total = needs.actors + needs.learning_cpus
    # No node is asked for fewer CPUs than its learners take, the first node's being the driver's where it learns.
    cpus = max(math.ceil(total / nodes), math.ceil(max(needs.learners, 1) / nodes) * needs.learner_cpus)
    reserved = 0 if needs.learners else needs.learner_cpus
    if cpus > most:
        raise ConfigError(
            f"--nodes is {nodes}, but {needs.actors} actors and the learners need {total} CPUs, and --cpus-per-node is "
            f"{options.cpus_per_node}: raise one of the two"
        )
    gpus = math.ceil(needs.gpus / nodes) if options.gpus_per_node is None else options.gpus_per_node
    directives = {
        "job-name": training.name,
        "output": "%x-%j.log",
        "open-mode": "append",
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus,
        **({"gpus-per-node": gpus} if gpus else {}),
        "time": options.time,
        "signal": f"B:TERM@{options.warning_seconds}",
        **{name: value for name in ("partition", "account") if (value := getattr(options, name))},
    }
    header = "".join(f"#SBATCH --{name}={value}\n" for name, value in directives.items())
    return "".join(
        [
            _ABOUT,
            header,
            _EXCLUSIVE,
            f"\n# CHANGE: load the modules that the nodes want here, such as: module load cuda\n"
            f"venv={shlex.quote(str(options.venv))}\n"
            f"# CPUs of the first node that the learner keeps for itself.\n"
            f"learner_cpus={reserved}\n",
            _BEFORE,
            training.choose_command(),
            _AFTER,
        ]
    )


_ABOUT = """\
#!/bin/bash
# A training on a Slurm cluster, written by r2ac cluster slurm.
#   sbatch FILE            begins; the same again after an end goes on from the last checkpoint
#   squeue --me
#   scancel --signal=TERM --batch JOB        saves a checkpoint and queues the job again
#   scancel JOB            ends
# CHANGE: nodes, CPUs, GPUs and time, as the cluster has them; all nodes are alike, so that each of them gets the GPUs.
"""
_EXCLUSIVE = """\
#SBATCH --requeue
# Whole nodes: at its end `ray symmetric-run` stops every Ray of yours on its nodes.
#SBATCH --exclusive
"""
_BEFORE = """\

set -euo pipefail
source "$venv/bin/activate"

# CHANGE: a directory that all nodes share. The token in it lets in whoever knows it, and is gone with the job.
state="$HOME/.r2ac/slurm-$SLURM_JOB_ID"
(umask 077 && mkdir -p "$state" && python -c 'import secrets; print(secrets.token_hex(32))' > "$state/token")
trap 'rm -rf -- "$state"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_USAGE_STATS_ENABLED=0
# Nodes that read Python from a shared file system need minutes to start.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

# On one node Ray listens on loopback only. The ports of its workers and of outgoing connections lie elsewhere.
head=127.0.0.1
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${hosts%%$'\n'*}
else
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
fi
export RAY_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 10000))"

# A new training, or, where the run directory holds a checkpoint, one that goes on.
"""
_AFTER = """\

# At SIGTERM the driver, which runs on this node, saves a checkpoint and ends.
stopping=
interrupted=
stop() {
    stopping=1
    interrupted=1
    if [ -s "$state/driver" ]; then
        kill -TERM "$(cat "$state/driver")" || true
    else
        kill -TERM "$step" || true
    fi
}

node='
cpus=$SLURM_CPUS_PER_TASK
if [ "$SLURM_NODEID" -eq 0 ]; then cpus=$((cpus - $1)); fi
shift
exec ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \\
    --num-cpus "$cpus" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- "$@"'
driver='echo "$$" > "$0"; exec "$@"'
srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \\
    bash -c "$node" node "$learner_cpus" bash -c "$driver" "$state/driver" "$@" &
step=$!
trap stop TERM

# A signal interrupts the wait; the end of the step does not.
while true; do
    code=0
    interrupted=
    wait "$step" || code=$?
    if [ -z "$interrupted" ]; then break; fi
done

# `ray symmetric-run` ends with 0 where Ray did not start.
if [ "$code" -eq 0 ] && [ ! -s "$state/driver" ]; then
    echo "Ray did not start, so that nothing was trained; its words stand above" >&2
    code=1
fi

# Told to stop while the job runs on (a time limit, or a preemption): the job goes on later. A job that was cancelled,
# or that Slurm itself queues again, is left alone.
if [ -n "$stopping" ] && [ "$code" -ne 0 ] &&
    [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
