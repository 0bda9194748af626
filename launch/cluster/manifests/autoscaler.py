"""A YAML for Ray's cluster launcher (`ray up`): a head, and workers that come and go, in a cloud or on own machines."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from r2ac.launch.cluster.manifests.resources import Needs, Training, check_at_least, check_text, worker_bounds
from r2ac.launch.cluster.manifests.templates import render
from r2ac.launch.settings.config import ConfigError

# Of each cloud; the client is the package with which Ray asks it for machines.
_COLUMNS = ("region", "head_type", "cpu_type", "gpu_type", "client")
_DEFAULTS = {
    "aws": ("us-west-2", "m6i.xlarge", "m6i.4xlarge", "g5.2xlarge", "boto3>=1.4.8"),
    "gcp": ("us-west1", "n2-standard-4", "n2-standard-16", "g2-standard-8", "google-api-python-client==1.7.8"),
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


def autoscaler_manifest(training: Training, options: AutoscalerOptions, ray_version: str) -> str:
    """The YAML. Raises ConfigError for options that are not allowed, or a package that is not there."""
    check_at_least(options, "cpus_per_worker", "gpus_per_worker", "idle_minutes")
    local = options.provider == "local"
    if local and not options.head_ip:
        raise ConfigError("--provider local needs --head-ip: the machine where the driver runs")
    if not local and (options.head_ip or options.worker_ips):
        raise ConfigError(f"--head-ip and --worker-ips are for --provider local, but it is {options.provider}")
    if options.provider == "gcp" and not options.project:
        raise ConfigError("--provider gcp needs --project: the project that pays")
    for host in [options.head_ip, *options.workers] if local else []:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?", host):
            raise ConfigError(f"{host!r} is not the name or address of a machine (--head-ip, --worker-ips)")
    check_text("ssh_user", options.ssh_user, r"[A-Za-z_][A-Za-z0-9._-]*", "the name of a user")
    machines = _own_machines(options) if local else _cloud(training.needs, options)
    software = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "ray_version": ray_version}
    software |= _package(options.package)
    return render("autoscaler.yaml.j2", training=training, options=options, local=local, **software, **machines)


def _cloud(needs: Needs, options: AutoscalerOptions) -> dict[str, Any]:
    """The template's values for machines of a cloud. A driver that learns on a GPU has it on the head."""
    cpus, gpus = options.cpus_per_worker, options.gpus_per_worker
    if needs.worker_cpus(cpus) > cpus:
        raise ConfigError(f"--cpus-per-worker is {cpus}, but a learner takes {needs.learner_cpus} (--learner-threads)")
    least, most = worker_bounds(needs.workers(cpus), options.min_workers, options.max_workers)
    defaults = zip(_COLUMNS, _DEFAULTS[options.provider], strict=True)
    chosen = {name: getattr(options, name, "") or default for name, default in defaults}
    head_gpus = gpus if needs.gpus and not needs.learners else 0
    # Name, the fewest and the most, CPUs, GPUs.
    nodes = [("head", 0, 0, 0, head_gpus), ("cpu_worker", least, most, cpus, 0)]
    if needs.gpus and needs.learners:
        learners = needs.gpu_nodes(gpus)
        nodes.append(("gpu_worker", learners, learners, gpus * needs.learner_cpus, gpus))
    return {"nodes": nodes, "most": sum(node[2] for node in nodes), **chosen}


def _own_machines(options: AutoscalerOptions) -> dict[str, Any]:
    """The template's values for own machines, without a container."""
    workers = len(options.workers)
    least, most = (workers if bound is None else bound for bound in (options.min_workers, options.max_workers))
    if not 0 <= least <= most <= workers:
        raise ConfigError(
            f"--min-workers is {least} and --max-workers {most}, but --worker-ips names {workers} machines"
        )
    return {"least": least, "most": most}


def _package(given: str) -> dict[str, Any]:
    """The template's values for r2ac: files to bring to the machines, and the quoted argument of pip. Raises
    ConfigError where nothing is given and r2ac is not installed from a folder."""
    # A checkout has an entry of its own, which does not say.
    said = (each.read_text("direct_url.json") for each in distributions(name="r2ac"))
    source = urlsplit(json.loads(next(filter(None, said), "{}")).get("url", ""))
    package = given or (unquote(source.path) if source.scheme == "file" else "")
    if not package:
        raise ConfigError("--package is missing: the folder, wheel, address or requirement that pip installs r2ac from")
    path = Path(package).expanduser()
    if not path.exists():
        return {"files": {}, "package": shlex.quote(package)}
    # pip wants the name of a wheel as it is.
    name = "r2ac-source" if path.is_dir() else path.name
    installed = '"$HOME"/' + shlex.quote(f"{name}[cluster]")
    return {"files": {f"~/{name}": str(path.resolve())}, "package": installed}
