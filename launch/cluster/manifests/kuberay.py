"""A KubeRay RayJob: a cluster of Ray for one training on Kubernetes, which is gone when the training has ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from r2ac.launch.cluster.manifests.resources import Needs, Training, check_at_least, check_workers
from r2ac.launch.cluster.manifests.yaml_text import to_yaml
from r2ac.launch.runs.storage import is_url
from r2ac.launch.settings.config import ConfigError

MOUNT = "/mnt/r2ac"
"""Where the volume of the run directories lies in every pod."""
_SCRIPTS = "/etc/r2ac"
_PID_FILE = "/tmp/r2ac.pid"
_QUANTITY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_GRACE = 120
"""Seconds that a pod gets to save a checkpoint before it is killed."""


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

    def check(self) -> None:
        """Raise ConfigError for the first option that is not allowed."""
        if not self.image or re.search(r"\s", self.image):
            raise ConfigError(f"--image is {self.image!r}, but it must be the name of an image, without spaces")
        check_at_least({name: getattr(self, name) for name in ("cpus_per_worker", "gpus_per_worker", "gib_per_cpu")})
        check_at_least({"keep_minutes": self.keep_minutes}, 0)
        if not _CLAIM.fullmatch(self.claim):
            raise ConfigError(f"--claim is {self.claim!r}, but it must be lower-case letters, digits, dashes and dots")
        if self.create_claim and not _QUANTITY.fullmatch(self.create_claim):
            raise ConfigError(f"--create-claim is {self.create_claim!r}, but it must be a size such as 50Gi")


def kuberay_run_dir(run_dir: str) -> str:
    """Where the run lies in the pods; a relative directory is one of the volume.

    Raises:
        ConfigError: for a directory that is gone with its pod.
    """
    path = PurePosixPath(MOUNT) / run_dir
    if not is_url(run_dir) and (not path.is_relative_to(MOUNT) or ".." in path.parts or path == PurePosixPath(MOUNT)):
        raise ConfigError(f"--run-dir is {run_dir}, but it must lie below {MOUNT}: the rest of a pod is lost with it")
    return run_dir if is_url(run_dir) else str(path)


def kuberay_manifest(training: Training, options: KubeRayOptions, ray_version: str) -> str:
    """The YAML: the script of the training (a ConfigMap), the RayJob, and the claim where it is asked for.

    The script is a file of its own so that no word of it is ever read by another shell, or expanded by Kubernetes.

    Raises:
        ConfigError: for options that are not allowed.
    """
    options.check()
    job, comments = _ray_job(training, options, ray_version)
    parts = [_HEADER.format(name=training.name)]
    if options.create_claim:
        parts.append(to_yaml(_claim(options), _CLAIM_COMMENTS))
    parts += [to_yaml(_script(training), _SCRIPT_COMMENTS), to_yaml(job, comments)]
    return parts[0] + "---\n".join(parts[1:])


def _claim(options: KubeRayOptions) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": options.claim},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": options.create_claim}},
        },
    }


def _script(training: Training) -> dict[str, Any]:
    script = f'set -e\n{training.choose_command()}echo "$$" > {_PID_FILE}\nexec "$@"\n'
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": training.name},
        "data": {"train.sh": script},
    }


def _ray_job(training: Training, options: KubeRayOptions, ray_version: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The RayJob and its comments."""
    needs = training.needs
    groups = [_cpu_group(training, options)]
    if needs.gpus:
        groups.append(_gpu_group(training, options))
    # A driver that learns on a GPU is itself placed on a GPU worker.
    learns_there = needs.gpus and not needs.learners
    on_gpu = {"entrypointNumCpus": needs.learner_cpus, "entrypointNumGpus": 1} if learns_there else {}
    head_cpus = 1 + needs.driver_cpus
    cluster = {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": 300},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod("ray-head", training, options, head_cpus, gpus=0),
        },
        "workerGroupSpecs": groups,
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": training.name},
        "spec": {
            "entrypoint": f"sh {_SCRIPTS}/train.sh",
            **on_gpu,
            "backoffLimit": needs.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60 * options.keep_minutes,
            "rayClusterSpec": cluster,
        },
    }
    return job, {**_JOB_COMMENTS, **(_GPU_COMMENTS if needs.gpus else {}), **(_ON_GPU_COMMENTS if on_gpu else {})}


def _cpu_group(training: Training, options: KubeRayOptions) -> dict[str, Any]:
    needs: Needs = training.needs
    cpus = needs.worker_cpus(options.cpus_per_worker)
    enough = needs.workers(cpus)
    least = enough if options.min_workers is None else options.min_workers
    most = max(enough, least) if options.max_workers is None else options.max_workers
    check_workers(least, most)
    return {
        "groupName": "cpu",
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": _pod("ray-worker", training, options, cpus, gpus=0),
    }


def _gpu_group(training: Training, options: KubeRayOptions) -> dict[str, Any]:
    needs: Needs = training.needs
    gpus = min(options.gpus_per_worker, needs.gpus)
    nodes = needs.gpu_nodes(gpus)
    return {
        "groupName": "gpu",
        "replicas": nodes,
        "minReplicas": nodes,
        "maxReplicas": nodes,
        "rayStartParams": {},
        "template": _pod("ray-worker", training, options, gpus * needs.learner_cpus + 1, gpus),
    }


def _pod(container: str, training: Training, options: KubeRayOptions, cpus: int, gpus: int) -> dict[str, Any]:
    """A pod's template. Requests equal limits: Ray takes the limits for what the pod has."""
    resources: dict[str, str] = {"cpu": str(cpus), "memory": f"{options.gib_per_cpu * (cpus + 1)}Gi"}
    if gpus:
        resources["nvidia.com/gpu"] = str(gpus)
    env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_JOB_STOP_WAIT_TIME_S": str(_GRACE)}
    return {
        "spec": {
            "terminationGracePeriodSeconds": _GRACE,
            "containers": [
                {
                    "name": container,
                    "image": options.image,
                    "resources": {"requests": resources, "limits": resources},
                    "env": [{"name": name, "value": value} for name, value in env.items()],
                    "volumeMounts": [
                        {"name": "runs", "mountPath": MOUNT},
                        {"name": "scripts", "mountPath": _SCRIPTS, "readOnly": True},
                    ],
                    "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", _SAVE_FIRST]}}},
                }
            ],
            "volumes": [
                {"name": "runs", "persistentVolumeClaim": {"claimName": options.claim}},
                {"name": "scripts", "configMap": {"name": training.name}},
            ],
        }
    }


# A pod that has to go saves a checkpoint first, if the driver runs there.
_SAVE_FIRST = f"""\
[ -s {_PID_FILE} ] || exit 0
read pid < {_PID_FILE}
kill -TERM "$pid" 2>/dev/null
while kill -0 "$pid" 2>/dev/null; do sleep 1; done
"""
_HEADER = """\
# A training on Kubernetes with KubeRay 1.5.1 or later, written by r2ac cluster kuberay.
#   kubectl apply -f FILE
#   kubectl get rayjob {name}
#   kubectl logs -f job/{name}
#   kubectl delete rayjob {name}
# To delete the job saves a checkpoint first; to apply the file again goes on from it.
"""
_CLAIM_COMMENTS = {
    "kind": "Where the runs are kept. Deleting this file's resources deletes the runs too.",
    "spec": "CHANGE: add storageClassName where the default class cannot be written to by several nodes.",
}
_SCRIPT_COMMENTS = {
    "data": "What the driver runs: a new training, or, where the run directory holds a checkpoint, one that goes on."
}
_GROUP = "spec.rayClusterSpec.workerGroupSpecs"
_CONTAINER = "template.spec.containers.0"
_JOB_COMMENTS = {
    "spec.backoffLimit": "How often a failed training is begun again, with a new cluster, from its last checkpoint.",
    "spec.shutdownAfterJobFinishes": "The pods go when the training has ended; the run directory stays.",
    "spec.rayClusterSpec.rayVersion": "The version in the image.",
    "spec.rayClusterSpec.authOptions": "KubeRay makes a random token, a Secret, and hands it to every pod.",
    "spec.rayClusterSpec.headGroupSpec.rayStartParams": (
        "No rollout actor runs on the head: its CPUs belong to Ray's services and the driver."
    ),
    f"spec.rayClusterSpec.headGroupSpec.{_CONTAINER}.image": "CHANGE: the same image in every group.",
    f"{_GROUP}.0": "Rollout actors, one for each CPU.",
    f"{_GROUP}.0.minReplicas": "CHANGE: bounds of the autoscaler. It adds pods while rollout actors wait for CPUs.",
    f"{_GROUP}.0.{_CONTAINER}.resources": "CHANGE: memory, where observations are large.",
    f"{_GROUP}.0.template.spec.volumes": "CHANGE: any volume that several pods can write to will do, such as NFS.",
}
_GPU_COMMENTS = {
    f"{_GROUP}.1": "Learners.",
    f"{_GROUP}.1.template.spec": "CHANGE: add nodeSelector and tolerations where the cluster's GPU nodes want them.",
}
_ON_GPU_COMMENTS = {"spec.entrypointNumCpus": "The driver learns: it runs on a GPU worker, and these are kept for it."}
