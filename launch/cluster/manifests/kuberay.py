"""A KubeRay RayJob: a cluster of Ray for one training on Kubernetes, which is gone when the training has ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from r2ac.launch.cluster.manifests.resources import Training, check_at_least, check_text, worker_bounds
from r2ac.launch.cluster.manifests.templates import render
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.places import is_url

MOUNT = "/mnt/r2ac"
"""Where the volume of the run directories lies in every pod."""


@dataclass(frozen=True)
class KubeRayOptions:
    """Write a KubeRay RayJob that trains on TASK. Give the task first, and any flag of r2ac train TASK beside these."""

    image: str
    """Container image that holds r2ac with the extra `cluster`, and this version of Ray and Python."""
    output: Path | None = None
    """File to write; standard output if not given."""
    name: str = ""
    """Of the RayJob; from the task, the seed and the time if not given."""
    min_workers: int | None = None
    """CPU workers (pods) to begin with; as many as hold all rollout actors if not given."""
    max_workers: int | None = None
    """The most CPU workers; as many as hold all rollout actors if not given."""
    cpus_per_worker: int = 8
    """CPUs of a CPU worker."""
    gpus_per_worker: int = 1
    """GPUs of a GPU worker; there are GPU workers where --device says cuda."""
    gib_per_cpu: int = 2
    """Memory of every pod, in GiB for each of its CPUs."""
    claim: str = "r2ac-runs"
    """PersistentVolumeClaim for the run directories, which several pods can write to (ReadWriteMany)."""
    create_claim: str = ""
    """Write the claim too, of this size, such as 50Gi; deleting the manifest then deletes the runs with it."""
    keep_minutes: int = 10
    """Minutes for which the pods stay after the end of the training, for a look at their logs."""


def kuberay_run_dir(run_dir: str) -> str:
    """Where the run lies in the pods, below the volume or at a URL; raises ConfigError for any other directory."""
    path = PurePosixPath(MOUNT) / run_dir
    if not is_url(run_dir) and (not path.is_relative_to(MOUNT) or ".." in path.parts or path == PurePosixPath(MOUNT)):
        raise ConfigError(f"--run-dir is {run_dir}, but it must lie below {MOUNT}: the rest of a pod is lost with it")
    return run_dir if is_url(run_dir) else str(path)


def kuberay_manifest(training: Training, options: KubeRayOptions, ray_version: str) -> str:
    """The YAML: the training's script (a ConfigMap), the RayJob, a claim if asked for. Raises ConfigError."""
    check_text("image", options.image, r"\S+", "the name of an image, without spaces")
    check_at_least(options, "cpus_per_worker", "gpus_per_worker", "gib_per_cpu")
    check_at_least(options, "keep_minutes", least=0)
    claim = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
    check_text("claim", options.claim, claim, "lower-case letters, digits, dashes and dots")
    check_text("create_claim", options.create_claim, r"([1-9][0-9]*(Mi|Gi|Ti))?", "a size such as 50Gi")
    needs = training.needs
    cpus, gpus = needs.worker_cpus(options.cpus_per_worker), min(options.gpus_per_worker, needs.gpus)
    least, most = worker_bounds(needs.workers(cpus), options.min_workers, options.max_workers)
    # Name, the fewest and the most pods, CPUs and GPUs of each.
    groups = [("cpu", least, most, cpus, 0)]
    if gpus:
        pods = needs.gpu_nodes(gpus)
        groups.append(("gpu", pods, pods, gpus * needs.learner_cpus + 1, gpus))
    values = {"groups": groups, "ray_version": ray_version, "mount": MOUNT}
    return render("kuberay.yaml.j2", training=training, needs=needs, options=options, **values)
