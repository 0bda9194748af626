"""Where Ray puts rollout actors and inference workers on nodes with and without GPUs (which Ray takes our word for)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from r2ac.launch.cluster.connect import ConnectionFailed, grows
from r2ac.launch.rollouts.placement import actor_options, worker_options
from tests.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Anybody:
    """Tells on which node it is."""

    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()


class Nodes:
    """A Ray cluster on loopback whose head, where this process is, has no CPU."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self.add(num_cpus=0)
        ray.init(address=self._cluster.address, log_to_driver=False)
        self.ray = ray

    def add(self, **resources: int) -> str:
        """Returns the node's id."""
        node = self._cluster.add_node(
            node_ip_address="127.0.0.1", include_dashboard=False, object_store_memory=80_000_000, **resources
        )
        return str(node.node_id)

    def place(self, count: int, options: dict[str, Any]) -> Counter[str]:
        """How many of so many come to lie on each node; they are ended again."""
        actors = [self.ray.remote(Anybody).options(**options).remote() for _ in range(count)]
        places = Counter(self.ray.get([actor.node.remote() for actor in actors], timeout=200))
        for actor in actors:
            self.ray.kill(actor)
        self.wait_for_gpus(self.ray.cluster_resources().get("GPU", 0))
        return places

    def wait_for_gpus(self, free: float) -> None:
        """Until Ray says that so many are free: it is told after a while."""
        wait_until(lambda: self.ray.available_resources().get("GPU", 0) == free, seconds=60)

    def close(self) -> None:
        self.ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            patch.setenv(name, "0")
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.close()


def test_each_on_the_nodes_that_suit_it(nodes: Nodes) -> None:
    ray, plain = nodes.ray, [nodes.add(num_cpus=3) for _ in range(2)]
    assert nodes.place(4, actor_options(ray, here=False)) == dict.fromkeys(plain, 2), "spread"
    # A cluster that has just begun does not yet say whether it has an autoscaler.
    wait_until(lambda: not grows(ray), seconds=60)
    with pytest.raises(ConnectionFailed, match="--inference-device cuda needs 1 GPU, but the Ray cluster has none"):
        worker_options(ray, False, "cuda", 1)

    with_gpus = nodes.add(num_cpus=3, num_gpus=2)
    assert nodes.place(4, actor_options(ray, here=False)).keys() == set(plain), "not where the GPUs are"
    for workers, share in ((1, 1.0), (2, 1.0), (4, 0.5)):
        options = worker_options(ray, False, "cuda", workers)
        assert (options["num_cpus"], options["num_gpus"]) == (0, share)
        assert nodes.place(workers, options) == {with_gpus: workers}

    # A learner has one of the two.
    learner = ray.util.placement_group([{"CPU": 1, "GPU": 1}])
    ray.get(learner.ready(), timeout=60)
    nodes.wait_for_gpus(1)
    assert worker_options(ray, False, "cuda", 2)["num_gpus"] == 0.5
    assert worker_options(ray, False, "cpu", 2)["num_cpus"] == 1
