"""A YAML for Ray's cluster launcher (`ray up`): a head, and workers that come and go, in a cloud or on own machines."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from r2ac.launch.cluster.manifests.resources import Training, check_at_least, check_workers
from r2ac.launch.cluster.manifests.yaml_text import to_yaml
from r2ac.launch.settings.config import ConfigError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
_TOKEN = "~/.ray/auth_token"
_SOURCE = "r2ac-source"


@dataclass(frozen=True)
class _Machines:
    """Machine types of a cloud, and what the driver's, a CPU worker's and a GPU worker's is by default."""

    region: str
    head: str
    cpu: str
    gpu: str
    client: str
    """What Ray asks the cloud for machines with."""


_MACHINES = {
    "aws": _Machines("us-west-2", "m6i.xlarge", "m6i.4xlarge", "g5.2xlarge", "boto3>=1.4.8"),
    "gcp": _Machines("us-west1", "n2-standard-4", "n2-standard-16", "g2-standard-8", "google-api-python-client==1.7.8"),
}


@dataclass(frozen=True)
class AutoscalerOptions:
    """Write a YAML for `ray up` that makes a cluster for a training on TASK. Give the task first, and any flag of r2ac
    train TASK beside these."""

    provider: Literal["aws", "gcp", "local"] = "aws"
    """Where the machines are; local: machines of your own that ssh reaches."""
    output: Path | None = None
    """File to write; standard output if not given."""
    name: str = ""
    """Of the cluster; from the task, the seed and the time if not given."""
    min_workers: int | None = None
    """CPU workers to begin with; as many as hold all rollout actors if not given."""
    max_workers: int | None = None
    """The most CPU workers; as many as hold all rollout actors if not given."""
    cpus_per_worker: int = 16
    """CPUs of a CPU worker, as its machine type has them."""
    gpus_per_worker: int = 1
    """GPUs of a machine with GPUs, as its type has them; there is one where --device says cuda."""
    idle_minutes: int = 5
    """A worker that has been idle for so long is given back."""
    region: str = ""
    """Region of the cloud; us-west-2 (aws) or us-west1 (gcp) if not given."""
    project: str = ""
    """Project (gcp)."""
    head_type: str = ""
    """Machine type of the head, where the driver runs without a GPU."""
    cpu_type: str = ""
    """Machine type of CPU workers."""
    gpu_type: str = ""
    """Machine type of those that learn on GPUs."""
    image: str = ""
    """Container image (aws, gcp); Ray's own of the installed versions of Ray and Python if not given."""
    head_ip: str = ""
    """The machine where the driver runs (local)."""
    worker_ips: str = ""
    """The machines of the workers, separated by commas (local)."""
    ssh_user: str = "ubuntu"
    """User whom ssh logs in as."""
    package: str = ""
    """What pip installs on each machine: a folder or wheel here, an address, or a requirement; the source folder that
    r2ac is installed from if not given."""

    @property
    def workers(self) -> list[str]:
        """The machines of the workers, one by one."""
        return [host.strip() for host in self.worker_ips.split(",")] if self.worker_ips else []

    def check(self) -> None:
        """Raise ConfigError for the first option that is not allowed."""
        check_at_least({name: getattr(self, name) for name in ("cpus_per_worker", "gpus_per_worker", "idle_minutes")})
        if self.provider == "local" and not self.head_ip:
            raise ConfigError("--provider local needs --head-ip: the machine where the driver runs")
        if self.provider != "local" and (self.head_ip or self.worker_ips):
            raise ConfigError(f"--head-ip and --worker-ips are for --provider local, but it is {self.provider}")
        if self.provider == "gcp" and not self.project:
            raise ConfigError("--provider gcp needs --project: the project that pays")
        for host in [*([self.head_ip] if self.head_ip else []), *self.workers]:
            if not _HOST.fullmatch(host):
                raise ConfigError(f"{host!r} is not the name or address of a machine (--head-ip, --worker-ips)")
        if not _USER.fullmatch(self.ssh_user):
            raise ConfigError(f"--ssh-user is {self.ssh_user!r}, but it must be the name of a user")


def autoscaler_manifest(training: Training, options: AutoscalerOptions, ray_version: str) -> str:
    """The YAML.

    Raises:
        ConfigError: for options that are not allowed, or a package that is not there.
    """
    options.check()
    if options.provider == "local":
        cluster, comments = _own_machines(options)
        ray = '"$HOME"/r2ac-venv/bin/'
    else:
        cluster, comments = _cloud(training, options, ray_version)
        ray = ""
    files, package = _package(options.package)
    document = {
        "cluster_name": training.name,
        **cluster,
        "idle_timeout_minutes": options.idle_minutes,
        "file_mounts": {_TOKEN: _TOKEN, **files},
        "rsync_exclude": ["/.git", "/.venv", "/runs", "/build", "__pycache__"],
        **_commands(training, options, package, ray),
    }
    about = _HEADER.format(job=_job_command(ray))
    return about + to_yaml(document, {**_COMMENTS, **comments})


def _cloud(training: Training, options: AutoscalerOptions, ray_version: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Provider, container and node types of a cloud, with their comments."""
    needs, machines = training.needs, _MACHINES[options.provider]
    region = options.region or machines.region
    provider: dict[str, Any] = {"type": options.provider, "region": region}
    if options.provider == "gcp":
        provider |= {"availability_zone": f"{region}-a", "project_id": options.project}
    if needs.worker_cpus(options.cpus_per_worker) > options.cpus_per_worker:
        raise ConfigError(
            f"--cpus-per-worker is {options.cpus_per_worker}, but a learner takes {needs.learner_cpus} "
            "(--learner-threads)"
        )
    enough = needs.workers(options.cpus_per_worker)
    least = enough if options.min_workers is None else options.min_workers
    most = max(enough, least) if options.max_workers is None else options.max_workers
    check_workers(least, most)
    gpu_type = options.gpu_type or machines.gpu
    # A driver that learns on a GPU has it on the head, where the run directory is too.
    learns_there = needs.gpus > 0 and needs.learners == 0
    head = gpu_type if learns_there else options.head_type or machines.head
    gpus = options.gpus_per_worker
    nodes: dict[str, Any] = {
        "head": {
            "resources": {"CPU": 0, **({"GPU": gpus} if learns_there else {})},
            "node_config": _node(options.provider, head, learns_there),
        },
        "cpu_worker": {
            "min_workers": least,
            "max_workers": most,
            "resources": {"CPU": options.cpus_per_worker},
            "node_config": _node(options.provider, options.cpu_type or machines.cpu, gpu=False),
        },
    }
    learner_nodes = 0 if learns_there else needs.gpu_nodes(gpus)
    if learner_nodes:
        nodes["gpu_worker"] = {
            "min_workers": learner_nodes,
            "max_workers": learner_nodes,
            "resources": {"CPU": gpus * needs.learner_cpus, "GPU": gpus},
            "node_config": _node(options.provider, gpu_type, gpu=True),
        }
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    cluster = {
        "max_workers": most + learner_nodes,
        "provider": provider,
        "auth": {"ssh_user": options.ssh_user},
        "docker": {
            "image": options.image or f"rayproject/ray:{ray_version}-{python}",
            "container_name": "r2ac",
            "pull_before_run": True,
            # The runs stay on the machine when the container goes.
            "run_options": ['-v "$HOME/r2ac-runs:/home/ray/runs"'],
        },
        "available_node_types": nodes,
        "head_node_type": "head",
        "initialization_commands": ['mkdir -p "$HOME/r2ac-runs"'],
    }
    return cluster, {**_CLOUD_COMMENTS, **(_GPU_COMMENTS if learner_nodes else {})}


def _own_machines(options: AutoscalerOptions) -> tuple[dict[str, Any], dict[str, str]]:
    """Provider of own machines, with its comments. Without a container: what they need is Python and ssh."""
    workers = len(options.workers)
    least = workers if options.min_workers is None else options.min_workers
    most = workers if options.max_workers is None else options.max_workers
    if not 0 <= least <= most <= workers:
        raise ConfigError(
            f"--min-workers is {least} and --max-workers {most}, but --worker-ips names {workers} machines"
        )
    cluster = {
        "min_workers": least,
        "max_workers": most,
        "provider": {"type": "local", "head_ip": options.head_ip, "worker_ips": options.workers},
        "auth": {"ssh_user": options.ssh_user},
    }
    return cluster, _LOCAL_COMMENTS


def _node(provider: str, machine: str, gpu: bool) -> dict[str, Any]:
    """A machine as the cloud's own interface names it. Both kinds of image have Docker, and the driver of the GPU."""
    if provider == "aws":
        disk: dict[str, Any] = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 200, "VolumeType": "gp3"}}
        return {"InstanceType": machine, "BlockDeviceMappings": [disk]}
    family = "common-cu129-ubuntu-2204-nvidia-580" if gpu else "common-cpu"
    image = f"projects/deeplearning-platform-release/global/images/family/{family}"
    disk = {
        "boot": True,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {"diskSizeGb": 200, "sourceImage": image},
    }
    # A machine with a GPU cannot be moved while it runs.
    stays = {"scheduling": [{"onHostMaintenance": "TERMINATE"}]} if gpu else {}
    return {"machineType": machine, "disks": [disk], **stays}


def _commands(training: Training, options: AutoscalerOptions, package: str, ray: str) -> dict[str, list[str]]:
    """What is run on the machines. ``ray`` is what stands before the names of the programs."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    machines = _MACHINES.get(options.provider)
    make_venv = f'[ -d "$HOME/r2ac-venv" ] || python{python} -m venv "$HOME/r2ac-venv"'
    script = (
        f'set -e\ncd "$HOME"\n{training.choose_command()}'
        + (f"PATH={ray.rstrip('/')}:$PATH\n" if ray else "")
        + 'export PATH RAY_USAGE_STATS_ENABLED=0\nexec "$@"\n'
    )
    begin = "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_JOB_STOP_WAIT_TIME_S=120; ulimit -n 65536;"
    cpus = " --num-cpus=0" if machines or options.workers else ""
    head = f"{ray}ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml{cpus}"
    worker = f"{ray}ray start --address=$RAY_HEAD_IP:6379"
    return {
        "setup_commands": [*([make_venv] if ray else []), f"{ray}pip install {package}"],
        # Ray itself replaces ~/ in commands for containers.
        "head_setup_commands": [
            *([f"pip install {shlex.quote(machines.client)}"] if machines else []),
            "printf %s " + shlex.quote(script).replace("~", "'\"~\"'") + ' > "$HOME/r2ac-train.sh"',
        ],
        "head_start_ray_commands": [f"{ray}ray stop", f"{begin} {head}"],
        "worker_start_ray_commands": [f"{ray}ray stop", f"{begin} {worker}"],
    }


def _job_command(ray: str) -> str:
    return f'RAY_AUTH_MODE=token {ray}ray job submit --no-wait -- sh "$HOME"/r2ac-train.sh'


def _package(given: str) -> tuple[Mapping[str, str], str]:
    """Files to bring to the machines, and what pip is told to install, quoted.

    Raises:
        ConfigError: where nothing is given and r2ac is not installed from a folder.
    """
    package = given or _installed_from()
    if not package:
        raise ConfigError("--package is missing: the folder, wheel, address or requirement that pip installs r2ac from")
    path = Path(package).expanduser()
    if not path.exists():
        return {}, shlex.quote(package)
    # pip wants the name of a wheel as it is.
    name = _SOURCE if path.is_dir() else path.name
    return {f"~/{name}": str(path.resolve())}, '"$HOME"/' + shlex.quote(f"{name}[cluster]")


def _installed_from() -> str:
    """The folder that r2ac is installed from; empty where it came from elsewhere."""
    # A checkout has an entry of its own, which does not say.
    said = (each.read_text("direct_url.json") for each in distributions(name="r2ac"))
    url = urlsplit(json.loads(next(filter(None, said), "{}")).get("url", ""))
    return unquote(url.path) if url.scheme == "file" else ""


_HEADER = """\
# A cluster of Ray for a training, written by r2ac cluster autoscaler.
#   ray get-auth-token --generate > /dev/null        once: the token in ~/.ray/auth_token
#   ray up -y FILE
#   ray exec FILE '{job}'
# Then: `ray exec FILE "ls runs"`, `ray rsync-down FILE '~/runs/' runs/`, and at the end `ray down -y FILE`.
"""
_COMMENTS = {
    "idle_timeout_minutes": "Minutes after which an idle worker is given back.",
    "file_mounts": "The token that the machines of the cluster know each other by, and what is installed on them.",
    "setup_commands": "CHANGE: what the task's engine needs, such as the extra atari.",
    "head_setup_commands": "What the driver runs: a new training, or, where there is a checkpoint, one that goes on.",
    "head_start_ray_commands": (
        "The head's CPUs belong to the driver. Ray's dashboard listens on the head's loopback only."
    ),
}
_CLOUD_COMMENTS = {
    "max_workers": "CHANGE: bounds of the autoscaler, here of all workers, below of each kind.",
    "provider": "CHANGE: the region, and what else your account wants (subnet, security group, keys).",
    "docker": "CHANGE: an image that holds what the task needs saves each new machine the time to install it.",
    "available_node_types": "CHANGE: machine types, and with them the CPUs and GPUs that they have.",
    "available_node_types.head.node_config": (
        "CHANGE: the machine image (ImageId, sourceImage). Ray's own choice may be old; it needs Docker, and with a\n"
        "GPU its driver with NVIDIA's container toolkit."
    ),
}
_GPU_COMMENTS = {"available_node_types.gpu_worker": "Learners."}
_LOCAL_COMMENTS = {
    "provider": "CHANGE: own machines, which `ray up` reaches with ssh without a password. They need Python and rsync.",
    "auth": "CHANGE: add ssh_private_key where the default key does not open them.",
}
