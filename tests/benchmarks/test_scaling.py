"""The estimate for many nodes: what stops the system, and that it is read from what was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Modules = Callable[[str], ModuleType]
TASK = "memory/tmaze"
SETTING = {
    "task": TASK,
    "actors": 1,
    "streams": 4,
    "batch": 4,
    "length": 5,
    "encoder": "none",
    "hidden": 8,
    "features": 8,
    "device": "cpu",
    "threads": 1,
    "seconds": 1.0,
}


def test_the_smallest_limit_stops_the_system(module: Modules) -> None:
    scaling = module("scaling")
    rates = scaling.Rates(actor=100.0, learner=5000.0, hand_overs=1000.0, store_bytes=1e9)
    work = scaling.Work(8, 10, 16, 50.0, 4000.0, 1000.0, 1, 2)

    def row(nodes: int, learners: int = 1, network: float = 1e9) -> dict[str, object]:
        found: dict[str, object] = scaling.estimate(rates, work, scaling.Cluster(nodes, 4, network, learners))
        return found

    assert (row(1)["stops"], row(1)["steps_per_second"]) == ("actors", 400)
    assert (row(20)["stops"], row(20)["steps_per_second"]) == ("learners", 5000)
    assert (row(20, learners=2)["stops"], row(20, learners=2)["steps_per_second"]) == ("actors", 8000)
    # A learner sends 4000 bytes to each of 100 nodes for each 160 steps.
    slow = row(100, network=1e6)
    assert (slow["stops"], slow["steps_per_second"]) == ("weights out", pytest.approx(1e6 * 160 / (4000 * 100)))
    # 20 nodes x 4 cores x 8 streams, two rollouts in flight each, 16 an update.
    assert row(20)["lag"] == 80
    assert row(20)["sensitivities_gb"] == pytest.approx(640 * 1000 / 1e9)
    assert row(20)["useful_nodes"] == pytest.approx(12.5)


@pytest.mark.slow
def test_it_reads_what_was_measured(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    speeds = {"environment": 3000.0, "inference": 6000.0, "learner": 10.0}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"throughput": [{"task": TASK, "setting": SETTING, "steps_per_second": speeds}]}))
    run_benchmark("scaling", "--results", str(results), "--cores", "3")
    (path,) = tmp_path.glob("scaling-*-quick.json")
    rows = json.loads(path.read_text())["scaling"]
    assert [row["nodes"] for row in rows] == [1, 10, 100, 1000]
    assert [row["allowed"]["actors"] for row in rows] == pytest.approx([6000.0, 6e4, 6e5, 6e6])
    assert {row["stops"] for row in rows[:1]} == {"learners"}
    assert rows[0]["rates"]["hand_overs"] > 0
