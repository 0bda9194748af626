"""The RayJob: a strict model of the fields that we write, KubeRay's own rules, and the resource definition itself where
it is at hand (R2AC_KUBERAY_CRD names the file ray.io_rayjobs.yaml of KubeRay)."""

import copy
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2ac.launch.cluster.manifests.kuberay import MOUNT, KubeRayOptions, kuberay_manifest, kuberay_run_dir
from r2ac.launch.cluster.manifests.resources import Training
from r2ac.launch.settings.config import ConfigError

MakeTraining = Callable[..., Training]
# Whatever a process can be told.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
OPTIONS = KubeRayOptions(image="example.org/r2ac:1")
NEEDS = [{}, {"actors": 100, "gpus": 1}, {"actors": 32, "learners": 4, "gpus": 4}, {"actors": 32, "learners": 4}]

# The fields of ray.io/v1 and v1 that we write, with their types; those of REQUIRED must be there. As the resource
# definitions of KubeRay 1.5.1, 1.6.2 and 1.7.0 and the reference of Kubernetes say. {"*": type}: any keys.
QUANTITIES = {"*": str}
POD = {
    "spec": {
        "terminationGracePeriodSeconds": int,
        "containers": [
            {
                "name": str,
                "image": str,
                "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
                "env": [{"name": str, "value": str}],
                "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
                "lifecycle": {"preStop": {"exec": {"command": [str]}}},
            }
        ],
        "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "configMap": {"name": str}}],
    }
}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "entrypointNumCpus": (int, float),
        "entrypointNumGpus": (int, float),
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"idleTimeoutSeconds": int},
            "headGroupSpec": {"rayStartParams": {"*": str}, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": {"*": str},
                    "template": POD,
                }
            ],
        },
    },
}
REQUIRED = {
    "": ("apiVersion", "kind", "metadata", "spec"),
    "spec.rayClusterSpec": ("headGroupSpec",),
    "spec.rayClusterSpec.headGroupSpec": ("template",),
    "spec.rayClusterSpec.workerGroupSpecs": ("groupName", "minReplicas", "maxReplicas", "template"),
}


def faults(value: Any, model: Any, path: str = "") -> list[str]:
    """What of a document is not as the model has it: unknown fields, wrong types, missing fields."""
    if isinstance(model, dict):
        if not isinstance(value, dict):
            return [f"{path} is no mapping"]
        found = [f"{path}.{name} is missing" for name in REQUIRED.get(path, ()) if name not in value]
        for key, part in value.items():
            expected = model.get(key, model.get("*"))
            here = f"{path}.{key}".strip(".")
            found += [f"{here} is unknown"] if expected is None else faults(part, expected, here)
        return found
    if isinstance(model, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [fault for part in value for fault in faults(part, model[0], path)]
    right = isinstance(value, model) and (model is bool or not isinstance(value, bool))
    return [] if right else [f"{path} is {value!r}"]


def documents(training: Training, options: KubeRayOptions = OPTIONS) -> dict[str, Any]:
    """The documents by their kinds."""
    found = list(yaml.safe_load_all(kuberay_manifest(training, options, "2.60.0")))
    return {document["kind"]: document for document in found}


def breaks_a_rule(job: dict[str, Any]) -> list[str]:
    """What KubeRay's operator would refuse, beyond the types (its validation.go)."""
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    found = []
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"]) or len(job["metadata"]["name"]) > 47:
        found.append("the name")
    if spec["ttlSecondsAfterFinished"] < 0 or not spec["shutdownAfterJobFinishes"]:
        found.append("the time to live")
    if spec["backoffLimit"] < 0:
        found.append("the limit of retries")
    version = tuple(map(int, cluster["rayVersion"].split(".")[:2]))
    if cluster["authOptions"]["mode"] != "token" or version < (2, 52):
        found.append("token authentication")
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"replicas of {group['groupName']}")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        named = {volume["name"] for volume in pod["volumes"]}
        if {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} != named:
            found.append("mounts without a volume")
    return found


@pytest.mark.parametrize("needs", NEEDS, ids=["cpu", "gpu in the driver", "gpu learners", "cpu learners"])
def test_the_job_is_one_that_kuberay_takes(make_training: MakeTraining, needs: dict[str, int]) -> None:
    job = documents(make_training(**needs))["RayJob"]
    assert (job["apiVersion"], faults(job, RAY_JOB), breaks_a_rule(job)) == ("ray.io/v1", [], [])


def test_the_model_finds_faults(make_training: MakeTraining) -> None:
    job = documents(make_training())["RayJob"]
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    del group["groupName"]
    group["minReplicas"] = "1"
    job["spec"]["entryPoint"] = "x"
    path = "spec.rayClusterSpec.workerGroupSpecs"
    assert faults(job, RAY_JOB) == [
        f"{path}.groupName is missing",
        f"{path}.minReplicas is '1'",
        "spec.entryPoint is unknown",
    ]


def strict(schema: Any) -> Any:
    """A schema of Kubernetes for which unknown fields are faults, not dropped in silence."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(part) for key, part in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.skipif("R2AC_KUBERAY_CRD" not in os.environ, reason="R2AC_KUBERAY_CRD names no ray.io_rayjobs.yaml")
def test_the_resource_definition_takes_every_job(make_training: MakeTraining) -> None:
    import jsonschema  # type: ignore[import-untyped]

    definition = yaml.safe_load(Path(os.environ["R2AC_KUBERAY_CRD"]).read_text())
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    schema = strict(copy.deepcopy(version["schema"]["openAPIV3Schema"]))
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    for needs in NEEDS:
        job = documents(make_training(**needs))["RayJob"]
        assert [error.message for error in validator.iter_errors(job)] == []
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    assert [error.message for error in validator.iter_errors(job)] != []


def group(job: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"] if group["groupName"] == name)
    return found


def limits(group: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return found


def test_actors_get_workers_within_bounds(make_training: MakeTraining) -> None:
    options = KubeRayOptions(image="i", cpus_per_worker=8, min_workers=2, max_workers=20)
    job = documents(make_training(actors=100, learner_cpus=3), options)["RayJob"]
    workers = group(job, "cpu")
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 2, 20)
    assert limits(workers) == {"cpu": "8", "memory": "18Gi"}
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    # The learner is the driver's, on the head, where no actor runs.
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert (limits(head)["cpu"], head["rayStartParams"]) == ("4", {"num-cpus": "0"})
    assert len(job["spec"]["rayClusterSpec"]["workerGroupSpecs"]) == 1


def test_all_actors_have_a_cpu_if_no_bounds_are_given(make_training: MakeTraining) -> None:
    workers = group(documents(make_training(actors=100))["RayJob"], "cpu")
    assert (workers["minReplicas"], workers["maxReplicas"]) == (13, 13)


def test_a_driver_that_learns_on_a_gpu_runs_where_it_is(make_training: MakeTraining) -> None:
    spec = documents(make_training(gpus=1, learner_cpus=4))["RayJob"]["spec"]
    assert (spec["entrypointNumCpus"], spec["entrypointNumGpus"]) == (4, 1)
    assert limits(spec["rayClusterSpec"]["workerGroupSpecs"][1])["nvidia.com/gpu"] == "1"
    assert limits(spec["rayClusterSpec"]["workerGroupSpecs"][1])["cpu"] == "5"


def test_learners_on_gpus_share_workers(make_training: MakeTraining) -> None:
    options = KubeRayOptions(image="i", gpus_per_worker=2)
    job = documents(make_training(learners=4, gpus=4), options)["RayJob"]
    learners = group(job, "gpu")
    assert (learners["minReplicas"], learners["maxReplicas"]) == (2, 2)
    assert limits(learners)["nvidia.com/gpu"] == "2"
    assert "entrypointNumGpus" not in job["spec"]


def test_the_claim_is_written_only_where_it_is_asked_for(make_training: MakeTraining) -> None:
    assert set(documents(make_training())) == {"ConfigMap", "RayJob"}
    options = KubeRayOptions(image="i", claim="mine", create_claim="50Gi")
    claim = documents(make_training(), options)["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "mine"
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(words=st.lists(TEXT, max_size=3))
def test_the_script_gives_the_training_its_words(
    make_training: MakeTraining, tmp_path: Path, programs: Callable[..., Path], words: list[str]
) -> None:
    tools = programs({"python": "printf '%s\\0' \"$@\" > words"})
    found = documents(make_training(flags=("$(HOME)", *words), run_dir="r"))
    # Nothing of them is where Kubernetes or another shell would read them.
    assert found["RayJob"]["spec"]["entrypoint"] == "sh /etc/r2ac/train.sh"
    script = found["ConfigMap"]["data"]["train.sh"].replace("/tmp/r2ac.pid", "pid")
    variables = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh"], input=script.encode(), cwd=tmp_path, env=variables, check=True)
    expected = ["-m", "r2ac.launch", "train", "memory/tmaze", "$(HOME)", *words, "--run-dir", "r", "--ray-address"]
    assert (tmp_path / "words").read_text().split("\0")[:-2] == expected


@pytest.mark.parametrize("run_dir", ["/tmp/run", "..", "../x", "a/../../b", ".", MOUNT])
def test_a_run_that_would_be_lost_with_its_pod_is_refused(run_dir: str) -> None:
    with pytest.raises(ConfigError, match="must lie below /mnt/r2ac"):
        kuberay_run_dir(run_dir)


def test_runs_lie_on_the_volume() -> None:
    assert kuberay_run_dir("runs/a") == "/mnt/r2ac/runs/a"
    assert kuberay_run_dir("/mnt/r2ac/x") == "/mnt/r2ac/x"
    assert kuberay_run_dir("s3://bucket/a") == "s3://bucket/a"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "a b"}, "--image is 'a b'"),
        ({"image": ""}, "--image is ''"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker is 0"),
        ({"claim": "A"}, "--claim is 'A'"),
        ({"create_claim": "50"}, "--create-claim is '50'"),
        ({"keep_minutes": -1}, "--keep-minutes is -1"),
        ({"min_workers": 3, "max_workers": 1}, "--max-workers is 1"),
    ],
)
def test_options_that_cannot_be_are_named(make_training: MakeTraining, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        kuberay_manifest(make_training(), KubeRayOptions(**{"image": "i", **changes}), "2.60.0")


def test_a_pod_that_has_to_go_waits_for_the_driver_to_save(make_training: MakeTraining, tmp_path: Path) -> None:
    pods = documents(make_training())["RayJob"]["spec"]["rayClusterSpec"]
    hook = pods["headGroupSpec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    hook = [word.replace("/tmp/r2ac.pid", "pid") for word in hook]
    # Where no driver runs there is nothing to wait for.
    subprocess.run(hook, cwd=tmp_path, check=True, timeout=60)
    driver = "echo $$ > new; mv new pid; trap 'sleep 0.5; echo > saved; exit' TERM; while true; do sleep 0.1; done"
    with subprocess.Popen(["bash", "-c", f"bash -c {shlex.quote(driver)} & wait"], cwd=tmp_path):
        for _ in range(600):
            if (tmp_path / "pid").exists():
                break
            time.sleep(0.1)
        subprocess.run(hook, cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "saved").exists()


def test_comments_stand_above_what_they_are_about(make_training: MakeTraining) -> None:
    lines = [line.strip() for line in kuberay_manifest(make_training(gpus=1), OPTIONS, "2.60.0").splitlines()]
    below = {line: lines[number + 1] for number, line in enumerate(lines) if line.startswith("# ")}
    assert below["# Learners."] == "- groupName: gpu"
    assert below["# CHANGE: memory, where observations are large."] == "resources:"
    assert below["# The driver learns: it runs on a GPU worker, and these are kept for it."] == "entrypointNumCpus: 1"
    assert lines.count("# CHANGE: the same image in every group.") == 1
