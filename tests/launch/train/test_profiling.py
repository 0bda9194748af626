"""Profiles of small trainings: what is traced, that shares add up, and that nothing is changed by it."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.agents.scopes import scope
from r2ac.kernels.native_library import missing_reason
from r2ac.launch.rollouts.inference.acting_agent import InferenceStatistics
from r2ac.launch.train.profile_summary import ProfileSummary, percentages
from r2ac.launch.train.profiling import TrainingProfile, update_seconds
from r2ac.learner import Learner, LearnerConfig, Rollout

CPU = torch.device("cpu")
STEPS, BATCH, ACTIONS, HIDDEN = 4, 3, 4, 8
IMAGE, VECTOR = (3, 16, 16), (3,)
SCOPES = {"encoder", "core", "heads", "losses", "backward", "optimiser", "copies", "metrics"}
ACTORS = {"environment": 3.0, "inference": 1.0, "waiting": 4.0}
WORKERS = InferenceStatistics(seconds=2.0, idle=3.0, batches=200, requests=300)


def make_learner(gradient: Any = "rtrl", shape: tuple[int, ...] = IMAGE) -> Learner:
    torch.manual_seed(0)
    agent = Agent(
        ObservationSpec(shape, DiscreteActions(ACTIONS)),
        AgentConfig(gradient, hidden_size=HIDDEN, encoder_features=16),
    )
    return Learner(agent, LearnerConfig(rtrl_metrics_every=2), BATCH, total_steps=10**6)


def make_rollout(shape: tuple[int, ...], sequence: int) -> Rollout[np.ndarray]:
    random = np.random.default_rng(sequence)
    shown = (STEPS + 1, BATCH, *shape)
    return Rollout(
        observation=random.integers(0, 256, shown).astype(np.uint8 if len(shape) == 3 else np.float32),
        reward=random.normal(size=(STEPS + 1, BATCH)).astype(np.float32),
        is_first=random.random((STEPS + 1, BATCH)) < 0.1,
        action=random.integers(0, ACTIONS, (STEPS, BATCH)),
        behaviour_logits=random.normal(size=(STEPS, BATCH, ACTIONS)).astype(np.float32),
        first_state=np.zeros((BATCH, HIDDEN), np.float32),
        stream=np.arange(BATCH),
        sequence=np.full(BATCH, sequence),
        weights_version=np.zeros(BATCH, np.int64),
    )


def train(learner: Learner, shape: tuple[int, ...], profile: TrainingProfile | None, updates: int = 8) -> None:
    """The loop of a training whose process steps the environments itself."""
    phase: Callable[[str], AbstractContextManager[object]] = nullcontext if profile is None else profile.phase
    for number in range(updates):
        with phase("waiting"):
            rollout = make_rollout(shape, number)
            first = (torch.from_numpy(array[0]) for array in (rollout.observation, rollout.reward, rollout.is_first))
            learner.agent.step(*first, torch.zeros(BATCH, HIDDEN))
        with phase("update"):
            learner.update(rollout)
        with phase("publish"):
            pass


def small_profile(folder: Path, **settings: Any) -> TrainingProfile:
    return TrainingProfile(folder, CPU, **{"skip": 3, "most_updates": 4, **settings})


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "profile"


@pytest.fixture(scope="module")
def summary(folder: Path) -> ProfileSummary:
    """Of RTRL with convolutions, written to ``folder``."""
    profile = small_profile(folder)
    train(make_learner(), IMAGE, profile)
    return profile.write(ACTORS, WORKERS, lambda path: path.write_text("[]"))


@pytest.fixture(scope="module")
def trace(folder: Path, summary: ProfileSummary) -> list[dict[str, Any]]:
    """What has a beginning and an end in the trace."""
    with gzip.open(folder / "learner-trace.json.gz", "rt") as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


def test_the_trace_names_the_phases_and_the_parts(trace: list[dict[str, Any]]) -> None:
    counts = Counter(event["name"] for event in trace if event.get("cat") == "user_annotation")
    assert counts.keys() >= SCOPES
    assert counts["update"] == 4
    assert counts["waiting"] >= 3
    assert counts["publish"] >= 3
    assert any(event["name"] == "r2ac::sensitivity_pass_" for event in trace)


def test_the_page_tells_what_inference_workers_did(folder: Path, summary: ProfileSummary) -> None:
    page = (folder / "summary.md").read_text()
    assert "## The inference workers\n\n200 batches, of 1.5 groups of streams in the mean, which took 10.00 ms" in page
    assert "| computing | 40.0 % | 2.000 |" in page
    assert dict(summary.rows())["inference workers"] == "idle 60.0 %, computing 40.0 %"


def test_each_moment_of_the_traced_updates_counts_once(trace: list[dict[str, Any]], summary: ProfileSummary) -> None:
    updates = sum(event["dur"] for event in trace if event["name"] == "update") / 1e6
    assert sum(summary.parts.values()) == pytest.approx(updates, rel=1e-3)
    assert summary.traced == 4
    assert summary.updates == 8


def counted(events: Iterable[FunctionEvent]) -> list[FunctionEvent]:
    """The events as if each took a microsecond of its own beside what it encloses: what takes longer on a busy machine
    hangs on what else runs there."""

    def settle(event: FunctionEvent) -> float:
        event.time_range.end = event.time_range.start + 1 + sum(settle(child) for child in event.cpu_children)
        return event.time_range.elapsed_us()

    events = list(events)
    for event in events:
        if event.cpu_parent is None:
            settle(event)
    return events


def test_convolutions_take_more_than_a_small_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "r2ac.launch.train.profiling.update_seconds",
        lambda events, on_device: update_seconds(counted(events), on_device),
    )
    profile = small_profile(tmp_path)
    train(make_learner(), IMAGE, profile)
    parts = profile.write(ACTORS).parts
    assert parts["encoder forward"] > parts["core forward"]
    assert parts["encoder backward"] > parts["core backward"] > 0
    assert parts["other"] < sum(parts.values()) / 3


def test_what_is_left_of_the_updates_is_named_too(summary: ProfileSummary) -> None:
    expected = {"heads, losses", "optimiser", "copies", "metrics", "sensitivities"}
    assert expected <= {part for part, seconds in summary.parts.items() if seconds > 0}


def test_tbptt_has_no_sensitivities(tmp_path: Path) -> None:
    profile = small_profile(tmp_path)
    train(make_learner("tbptt", VECTOR), VECTOR, profile)
    summary = profile.write(ACTORS)
    assert "sensitivities" not in summary.parts
    assert summary.parts["core backward"] > 0
    assert not (tmp_path / "ray-timeline.json").exists()


def test_the_page_shows_shares_that_add_up(folder: Path, summary: ProfileSummary) -> None:
    page = (folder / "summary.md").read_text()
    assert json.loads((folder / "ray-timeline.json").read_text()) == []
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        shares = [float(line.split("|")[2].removesuffix(" % ")) for line in table.splitlines()[2:]]
        assert sum(shares) == pytest.approx(100, abs=1e-9)
    assert "| waiting | 50.0 % | 4.000 |" in tables[2]
    assert len(page.splitlines()) < 60
    assert [name for name, _ in summary.rows()] == [
        *("learner's loop", "updates", "rollout actors", "inference workers"),
    ]


def test_weights_are_the_same_to_the_bit(tmp_path: Path) -> None:
    profile = small_profile(tmp_path)
    learners = [make_learner(shape=VECTOR) for _ in range(2)]
    for learner, each in zip(learners, (None, profile), strict=True):
        train(learner, VECTOR, each)
    assert profile.write({}) is not None
    for plain, profiled in zip(learners[0].parameters, learners[1].parameters, strict=True):
        assert torch.equal(plain, profiled)


def test_scopes_do_nothing_without_a_profiler() -> None:
    assert scope("encoder") is scope("core")


def test_phases_are_measured(tmp_path: Path) -> None:
    clock = Clock()
    profile = small_profile(tmp_path, clock=clock)
    with profile.phase("waiting"):
        clock.now += 20  # before the first update: not counted
    for _ in range(3):
        with profile.phase("update"):
            clock.now += 3
        with profile.phase("waiting"):
            clock.now += 1
        clock.now += 2
    loop = profile.write({}).loop
    # What follows the last phase belongs to no loop.
    assert loop == pytest.approx({"update": 9, "waiting": 3, "other": 4})


def test_a_run_that_is_too_short_is_not_traced_and_says_so(tmp_path: Path) -> None:
    profile = small_profile(tmp_path)
    train(make_learner(shape=VECTOR), VECTOR, profile, updates=3)
    summary = profile.write(ACTORS)
    assert (summary.traced, summary.parts) == (0, {})
    assert not (tmp_path / "learner-trace.json.gz").exists()
    assert "the first 3 are left out, and the run had 3" in (tmp_path / "summary.md").read_text()


def test_a_run_that_ends_within_the_trace_shows_what_it_has(tmp_path: Path) -> None:
    profile = small_profile(tmp_path)
    train(make_learner(shape=VECTOR), VECTOR, profile, updates=5)
    assert profile.write(ACTORS).traced == 2
    assert (tmp_path / "learner-trace.json.gz").exists()


def test_the_trace_ends_after_some_seconds_and_leaves_no_gap(tmp_path: Path) -> None:
    clock = Clock()
    profile = small_profile(tmp_path, most_seconds=20.0, clock=clock)
    for _ in range(10):
        with profile.phase("update"):
            clock.now += 15
        clock.now += 1
    summary = profile.write({})
    assert summary.traced == 2
    assert summary.loop == {"update": 150, "other": 9}


@pytest.mark.skipif(missing_reason() is not None, reason="there is no C++ compiler")
def test_a_small_agent_has_its_kernels_both_ways(tmp_path: Path) -> None:
    profile, learner = small_profile(tmp_path), make_learner(shape=VECTOR)
    agent = Agent(ObservationSpec(VECTOR, DiscreteActions(ACTIONS)), AgentConfig(encoder="none", hidden_size=HIDDEN))
    train(Learner(agent, learner.config, BATCH, total_steps=10**6), VECTOR, profile)
    parts = profile.write(ACTORS, WORKERS, lambda path: path.write_text("[]")).parts
    assert {"agent forward", "agent backward", "heads, losses"} <= parts.keys()
    assert not parts.keys() & {"core forward", "core backward"}


@pytest.mark.parametrize("products", [{"encoder": 12, "core": 1}, {"encoder": 1, "core": 12}])
def test_a_backward_pass_belongs_to_the_scope_that_it_goes_back_through(products: dict[str, int]) -> None:
    """All parts are products of the same matrix: their kind does not tell them apart."""
    weight = (torch.randn(256, 256) / 16).requires_grad_()
    x = torch.randn(256, 256, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(5):
            with scope("encoder"):
                x.detach() @ weight.detach()  # an agent that acts, outside the updates
            with scope("update"):
                h = x
                for name, count in products.items():
                    with scope(name):
                        for _ in range(count):
                            h = h @ weight
                        h.detach()  # makes no node, and shows the number of the next one
                with scope("losses"):
                    loss = h.square().sum()
                with scope("backward"):
                    loss.backward()
    events = counted(profiler.events())
    parts = update_seconds(events, on_device=False)
    updates = sum(event.cpu_time_total for event in events if event.name == "update") / 1e6
    assert sum(parts.values()) == pytest.approx(updates, rel=1e-6)
    few, many = sorted(products, key=lambda name: products[name])
    assert parts[f"{many} backward"] > 5 * parts[f"{few} backward"] > 0
    assert {"encoder forward", "core forward", "heads, losses"} <= parts.keys()


def test_on_a_gpu_the_time_of_kernels_counts() -> None:
    """Events as a GPU gives them: the backward pass has a thread of its own, and scopes show on the GPU too."""

    def event(name: str, start: int, end: int, kernels: dict[str, int], thread: int = 1, **more: Any) -> FunctionEvent:
        made = FunctionEvent(start, name, thread, start, end, use_device="cuda", **more)
        for kernel, microseconds in kernels.items():
            made.append_kernel(kernel, 0, microseconds)
        return made

    def inside(outer: FunctionEvent, *inner: FunctionEvent) -> list[FunctionEvent]:
        for one in inner:
            outer.append_cpu_child(one)
            one.set_cpu_parent(outer)
        return [outer, *inner]

    node = "autograd::engine::evaluate_function: "
    convolution = event("aten::convolution", 2, 3, {"conv": 300}, sequence_nr=7, fwd_thread=0)
    cells = event("r2ac::elstm_cells", 5, 6, {"scan": 40}, sequence_nr=8, fwd_thread=0)
    encoder, core = event("encoder", 1, 4, {"encoder": 300}), event("core", 5, 7, {"core": 40})
    update = event("update", 0, 10, {"update": 1000})
    back = event(f"{node}CellsBackward", 7, 8, {}, thread=2, sequence_nr=8, fwd_thread=1)
    sensitivities = event("r2ac::sensitivity_pass_", 7, 8, {"pass": 50}, thread=2)
    back_conv = event(f"{node}ConvolutionBackward0", 8, 9, {"dgrad": 200, "wgrad": 100}, 2, sequence_nr=7, fwd_thread=1)
    publish = event("aten::copy_", 20, 21, {"Memcpy DtoH": 500})
    inside(update, encoder, core)
    inside(encoder, convolution)
    inside(core, cells)
    inside(back, sensitivities)
    events = [update, encoder, convolution, core, cells, back, sensitivities, back_conv, publish]
    seconds = update_seconds(events, on_device=True)
    expected = {"encoder forward": 300, "core forward": 40, "sensitivities": 50, "encoder backward": 300}
    assert seconds == pytest.approx({part: us / 1e6 for part, us in expected.items()})


@pytest.mark.parametrize("seconds", [{"a": 1, "b": 1, "c": 1}, {"a": 1e-9, "other": 5.0, "b": 2.0}, {"a": 3.0}])
def test_percentages_add_up(seconds: dict[str, float]) -> None:
    shares = percentages(seconds)
    assert sum(round(10 * share) for share in shares.values()) == 1000
    for name, share in shares.items():
        assert share == pytest.approx(100 * seconds[name] / sum(seconds.values()), abs=0.1)
    assert list(shares)[-1] == "other" or "other" not in shares


def test_percentages_of_nothing_are_none() -> None:
    assert percentages({}) == percentages({"a": 0.0}) == {}


@pytest.mark.parametrize(
    ("loop", "actors", "word"),
    [
        ({"waiting": 5.0, "update": 5.0}, {"environment": 9.0, "waiting": 1.0}, "More --num-actors"),
        ({"waiting": 1.0, "update": 9.0}, {"environment": 4.0, "waiting": 6.0}, "the learner is the bottleneck"),
        ({"waiting": 5.0, "update": 5.0}, {"environment": 4.0, "waiting": 6.0}, "--rollouts-in-flight"),
        ({"waiting": 1.0, "update": 9.0}, {"environment": 9.0, "waiting": 1.0}, "keep pace"),
        ({"waiting": 6.0, "update": 4.0}, {"environment": 9.0, "inference": 1.0}, "with --num-actors 1 or more"),
        ({"update": 9.0}, {"environment": 1.0, "inference": 2.0, "waiting": 0.0}, "--streams-per-actor"),
        ({"update": 5.0, "publish": 5.0}, ACTORS, "--publish-every"),
        ({"update": 5.0, "checkpoint": 5.0}, ACTORS, "--checkpoint-minutes"),
    ],
)
def test_advice_follows_from_the_numbers(loop: dict[str, float], actors: dict[str, float], word: str) -> None:
    summary = ProfileSummary(False, 100, 40, 20, loop, {"encoder forward": 1.0, "core forward": 9.0}, actors)
    assert any(word in sentence for sentence in summary.advice())
    other = replace(summary, loop={"update": 9.9, "waiting": 0.1}, actors={})
    assert not any(word in sentence for sentence in other.advice())


def test_advice_is_of_what_the_algorithm_and_the_trace_have() -> None:
    parts = {"core forward": 4.0, "optimiser": 1.0}
    summary = ProfileSummary(False, 100, 40, 20, {"waiting": 5.0, "update": 5.0}, parts, ACTORS, on_policy=True)
    waits, update = summary.advice()
    assert waits.endswith("they take turns, as the algorithm learns on-policy.")
    assert update.startswith("Of an update: core 80.0 %. ")
    assert "more --streams-per-actor makes" in update
    for other, names in ((summary, False), (replace(summary, timeline=True), True)):
        assert ("ray-timeline.json" in other.markdown()) == names
        assert "learner-trace.json.gz" in other.markdown()


def test_a_profile_on_a_gpu_says_that_it_has_no_cuda_graph(summary: ProfileSummary) -> None:
    assert "CUDA graph" not in summary.markdown()
    assert "CUDA graph" in replace(summary, on_gpu=True).markdown()
