"""Several learners in processes of their own, connected by gloo on loopback: together they are one learner."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import Collective, CollectiveBroken, Learner, LearnerConfig, ProcessGroup, Rollout, SingleLearner

SIZE, ACTIONS, HIDDEN, STEPS, STREAMS, UPDATES = 3, 4, 5, 4, 6, 6
SPOILT = 3
"""The update in whose batch one rollout is not finite."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A training that one learner and several make."""

    gradient: str
    dtype: torch.dtype
    spoilt_stream: int | None = None
    optimiser: str = "rmsprop"
    normalised: bool = False
    algorithm: str = "vtrace"


CASES = {
    "rtrl": Case("rtrl", torch.float64),
    "rtrl, float32": Case("rtrl", torch.float32),
    "tbptt": Case("tbptt", torch.float64, optimiser="adam"),
    "tbptt, float32": Case("tbptt", torch.float32),
    "ppo": Case("rtrl", torch.float64, algorithm="ppo"),
    "rewards normalised": Case("rtrl", torch.float64, normalised=True),
    "not finite at the first": Case("rtrl", torch.float64, spoilt_stream=0),
    "not finite at the last": Case("rtrl", torch.float64, spoilt_stream=STREAMS - 1),
}


def make_rollout(sequence: int, spoilt_stream: int | None) -> Rollout[np.ndarray]:
    """Rollout ``sequence`` of all streams, with episodes that begin within it. Stream 1 loses one on its way."""
    rng = np.random.default_rng(sequence)
    rollout = Rollout(
        observation=rng.normal(size=(STEPS + 1, STREAMS, SIZE)),
        reward=3 * rng.normal(size=(STEPS + 1, STREAMS)).astype(np.float32),
        is_first=rng.random((STEPS + 1, STREAMS)) < 0.15,
        action=rng.integers(0, ACTIONS, (STEPS, STREAMS)),
        behaviour_logits=rng.normal(size=(STEPS, STREAMS, ACTIONS)).astype(np.float32),
        first_state=rng.normal(size=(STREAMS, HIDDEN)).astype(np.float32),
        stream=np.arange(STREAMS),
        sequence=np.full(STREAMS, sequence) + (sequence > 1) * (np.arange(STREAMS) == 1),
        weights_version=np.zeros(STREAMS, dtype=np.int64),
    )
    if spoilt_stream is not None and sequence == SPOILT:
        rollout.reward[2, spoilt_stream] = np.nan
    return rollout


def train(case: Case, collective: Collective) -> dict[str, Any]:
    """What a learner holds after some updates from its share of the streams, and what it measured."""
    torch.manual_seed(5)
    torch.set_num_threads(1)
    own = STREAMS // collective.size
    config = AgentConfig(
        case.gradient,  # type: ignore[arg-type]
        hidden_size=HIDDEN,
        encoder="mlp",
        encoder_features=7,
        normalise_rewards=case.normalised,
        normalise_observations=case.normalised,
    )
    agent = Agent(ObservationSpec((SIZE,), DiscreteActions(ACTIONS)), config).to(case.dtype)
    settings = LearnerConfig(
        algorithm=case.algorithm,  # type: ignore[arg-type]
        optimiser=case.optimiser,  # type: ignore[arg-type]
        learning_rate=0.02,
        max_gradient_norm=5.0,
        n_epochs=2,
        target_kl=0.05,
        rtrl_metrics_every=1,
    )
    learner = Learner(agent, settings, own, 10**4, collective)
    metrics: list[dict[str, Tensor]] = []
    for sequence in range(UPDATES):
        rollout = make_rollout(sequence, case.spoilt_stream).columns(own * collective.rank, own * (collective.rank + 1))
        rollout = replace(rollout, stream=np.arange(own), observation=rollout.observation.astype(str(case.dtype)[6:]))
        metrics.append(learner.update(rollout))
    carry = learner.carries.fetch(torch.arange(own), torch.zeros(own, dtype=torch.bool), torch.zeros(own, HIDDEN))
    sensitivities = (carry.traces[0].weight, carry.traces[0].vectors) if carry.traces else ()
    return {
        "weights": [parameter.detach().clone() for parameter in agent.parameters()],
        "optimiser": [value for of_one in learner.optimiser.state.values() for value in of_one.values()],
        "carries": [carry.state, *sensitivities],
        "metrics": [torch.stack(list(each.values())) for each in metrics],
        "means": learner.read_metrics(),
        "counts": (learner.env_steps, learner.updates, learner.skipped_updates),
        "resets": learner.carries.resets,
    }


def wait_for_the_lost(collective: Collective) -> None:
    while True:
        collective.any(False)


def _work(rank: int, size: int, folder: str, cases: dict[str, Case]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", size)
    collective = ProcessGroup(store, rank, size, CPU, timedelta(seconds=60))
    assert collective.gather(rank) == (list(range(size)) if rank == 0 else [])
    assert collective.share({"first": rank}) == {"first": 0}
    assert collective.any(rank == size - 1, False, True) == (True, False, True)
    torch.save({name: train(case, collective) for name, case in cases.items()}, f"{folder}/{rank}.pt")
    # One ends without a word: the others are told, and do not wait for the end of their patience.
    if rank == size - 1:
        os._exit(0)
    with pytest.raises(CollectiveBroken, match="cannot be reached") as caught:
        wait_for_the_lost(collective)
    assert "\n" not in str(caught.value)
    os._exit(0)


Results = list[dict[str, dict[str, Any]]]


def run_learners(size: int, folder: Path, cases: dict[str, Case]) -> Results:
    """Of every learner, every case."""
    # The processes find this module as it is here.
    paths, sys.path[:] = list(sys.path), [str(Path(__file__).parent), *sys.path]
    try:
        mp.spawn(_work, (size, str(folder), cases), nprocs=size)
    finally:
        sys.path[:] = paths
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def two_learners(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_learners(2, tmp_path_factory.mktemp("peers"), CASES)


def close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for mine, other in zip(actual, expected, strict=True):
        relative, absolute = (1e-9, 1e-12) if mine.dtype == torch.float64 else (2e-4, 2e-6)
        torch.testing.assert_close(mine, other, rtol=relative, atol=absolute, equal_nan=True)


def check_they_are_one(results: Results, name: str) -> None:
    """Their updates, and what they hold after them, are those of one learner on the same data."""
    one, several = train(CASES[name], SingleLearner()), [each[name] for each in results]
    for each in several:
        assert each["counts"] == one["counts"] == (UPDATES * STEPS * STREAMS, UPDATES, int("finite" in name))
        # To the bit among themselves.
        for what in ("weights", "optimiser", "metrics"):
            for mine, other in zip(each[what], several[0][what], strict=True):
                assert torch.equal(mine.nan_to_num(), other.nan_to_num())
        close(each["weights"], one["weights"])
        close(each["optimiser"], one["optimiser"])
        close(each["metrics"], one["metrics"])
        assert each["means"].keys() == one["means"].keys()
        for measured, value in one["means"].items():
            tolerance = 1e-8 if CASES[name].dtype == torch.float64 else 1e-3
            assert each["means"][measured] == pytest.approx(value, rel=tolerance, abs=tolerance), measured
    # Each has the carries of its own streams, and nobody those of all.
    held = zip(*(each["carries"] for each in several), strict=True)
    close([torch.cat(parts) for parts in held], one["carries"])
    assert sum(each["resets"] for each in several) == one["resets"] == (1 if "finite" not in name else 1 + STREAMS)


@pytest.mark.parametrize("name", CASES)
def test_two_learners_are_one(two_learners: Results, name: str) -> None:
    check_they_are_one(two_learners, name)


def test_three_learners_are_one(tmp_path: Path) -> None:
    check_they_are_one(run_learners(3, tmp_path, {"rtrl": CASES["rtrl"]}), "rtrl")


def test_the_updates_of_the_cases_are_no_small_ones() -> None:
    """Weights that hardly move, or gradients that are never clipped, would agree for no reason."""
    one = train(CASES["rtrl"], SingleLearner())
    torch.manual_seed(5)
    assert max(norm[-1] for norm in one["metrics"]) > 5.0
    assert one["means"]["rtrl/boundary_norm"] > 0.1
    start = train(replace(CASES["rtrl"], spoilt_stream=0), SingleLearner())["weights"]
    assert not any(torch.equal(mine, other) for mine, other in zip(one["weights"], start, strict=True))
