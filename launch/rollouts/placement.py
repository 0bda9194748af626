"""Where in a Ray cluster rollout actors and inference workers run, as options of Ray, which does the rest."""

from __future__ import annotations

from typing import Any

from r2ac.launch.cluster.connect import gpu_share, require_gpus


def actor_options(ray: Any, here: bool) -> dict[str, Any]:
    """Of a rollout actor: one CPU, on any node, or where actors share memory with this process on its node.

    Without accelerators Ray spreads them over the nodes. Where some nodes have accelerators its default prefers those
    that have none: those are filled half first, one after another, then evenly, and only then the others.
    """
    has_accelerators = ray.cluster_resources().get("GPU", 0) > 0
    return {"num_cpus": 1, **_strategy(ray, here, "DEFAULT" if has_accelerators else "SPREAD")}


def worker_options(ray: Any, here: bool, device: str, workers: int) -> dict[str, Any]:
    """Of an inference worker on a device, cpu or cuda: a CPU, or a share of a GPU where there are more ``workers`` than
    GPUs. Workers that share memory with this process, ``here``, take what they find there. Raises ConnectionFailed
    where there is no GPU, and none will come by itself."""
    if here:
        return {"num_cpus": 0, **_strategy(ray, here, "DEFAULT")}
    if device == "cpu":
        return {"num_cpus": 1, **_strategy(ray, here, "SPREAD")}
    require_gpus(ray, f"--inference-device {device}")
    share = gpu_share(free_gpus(ray) or ray.cluster_resources().get("GPU", workers), workers)
    return {"num_cpus": 0, "num_gpus": share, **_strategy(ray, here, "SPREAD")}


def free_gpus(ray: Any) -> int:
    """Whole GPUs that are not reserved; learners reserve theirs before workers are placed."""
    return int(ray.available_resources().get("GPU", 0))


def _strategy(ray: Any, here: bool, otherwise: str) -> dict[str, Any]:
    context = ray.get_runtime_context()
    if context.get_placement_group_id() and context.should_capture_child_tasks_in_placement_group:
        # A task of a sweep has its places reserved.
        return {}
    if not here:
        return {"scheduling_strategy": otherwise}
    if len(ray.nodes()) == 1:
        return {}
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)}
