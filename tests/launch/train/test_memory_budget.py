"""The memory that a run will hold: against counting by hand, and against what really lies there."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.launch.cli import main
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.runs.loading import make_agent
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.presets import preset
from r2ac.launch.train import learn
from r2ac.launch.train.memory_budget import (
    ACTOR_BYTES,
    DMLAB_ENGINE_BYTES,
    RAY_BYTES,
    Available,
    MemoryBudget,
    available_memory,
    check_fits,
    memory_budget,
    memory_text,
    print_budget,
    saved_for_backward,
)
from r2ac.learner import Learner, LearnerConfig
from tests.own_core import add_own_core

CPU = torch.device("cpu")
TMAZE, ATARI = (
    ObservationSpec((3,), DiscreteActions(4)),
    ObservationSpec((4, 84, 84), DiscreteActions(18)),
)
SMALL = AgentConfig(hidden_size=8, encoder="none")
PLENTY = Available(machine=10**12, shared=10**12, device=10**12)


def tmaze(**settings: Any) -> TrainConfig[Any]:
    """3 actors with 2 rollouts in flight, each of 5 steps of 4 streams; batches of 6."""
    small = {"num_actors": 3, "streams_per_actor": 4, "batch_size": 6, "rollout_length": 5, "agent": SMALL}
    return replace(preset("memory/tmaze", algorithm="vtrace"), **{**small, **settings})


def budget_of(config: TrainConfig[Any], spec: ObservationSpec = TMAZE) -> MemoryBudget:
    return memory_budget(config, spec, CPU)


def sizes(budget: MemoryBudget) -> dict[str, int]:
    return {part.name: part.nbytes for part in budget.parts}


def test_a_small_run_to_the_byte() -> None:
    budget = budget_of(tmaze())
    # 6 observations of 3 numbers with reward and is_first; 5 actions with 4 logits; cell; 3 numbers. Batches of 6
    # streams, actors of 4; each array in whole lines of 64 bytes.
    stream = (6 * 12, 6 * 4, 6, 5 * 8, 5 * 16, 8 * 4, 8, 8, 8)
    batch, rollout = (sum(-(-streams * size // 64) * 64 for size in stream) for streams in (6, 4))
    # Input of 3 features and the reward: D = 4, N = 8.
    weights = 4 * (2 * 8 * 4 + 2 * 8 + 2 * 8 + 8 * (4 + 8) + 8 + 8 * 4 + 4 + 8 + 1)
    found = sizes(budget)
    # Weights, gradients, Adam's two means; weights and means once more. The steps' number of 9 arrays, twice.
    assert found.pop("weights, gradients and optimiser") == (1 + 1 + 2 + 1 + 2) * weights + 2 * 9 * 4
    assert found.pop("activations of an update") > 0
    assert found == {
        "one sensitivity for each of 12 streams": 4 * 12 * (2 * 8 * 4 + 2 * 2 * 8 + 8),
        "3 batches": 3 * batch,
        "queue of 6 rollouts": 6 * rollout,
        "weights for the actors": 3 * weights,
        "3 rollout actors (roughly)": 3 * ACTOR_BYTES,
        "Ray (roughly)": RAY_BYTES,
    }
    assert budget.total("shared") == 0
    # The learner is on the CPU: what it holds is this machine's.
    assert budget.total("machine", "shared") == sum(part.nbytes for part in budget.parts)


def test_a_refresh_keeps_rollouts_of_all_streams() -> None:
    config = tmaze(learner=LearnerConfig(refresh_every=10, refresh_rollouts=4))
    # Of 12 streams: 6 observations of 3 numbers with reward and is_first, the cell, the stream's number.
    kept = {"4 rollouts of each stream": 4 * 12 * (6 * 12 + 6 * 4 + 6 + 8 * 4 + 8)}
    assert sizes(budget_of(config)) == sizes(budget_of(tmaze(learner=LearnerConfig()))) | kept


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("agent", [AgentConfig(), AgentConfig(gradient="tbptt"), AgentConfig(core="feedforward")])
def test_the_learner_holds_what_was_said(agent: AgentConfig, storage: Any) -> None:
    config = replace(
        preset("atari/Breakout"), agent=agent, learner=LearnerConfig(sensitivity_storage=storage, optimiser="adam")
    )
    made = make_agent(ATARI, agent, 1, CPU)
    budget = budget_of(config, ATARI)
    learner = Learner(made, config.learner, config.num_streams, config.total_steps)
    carries, weights, *_ = (part.nbytes for part in budget.of("device"))
    assert carries == learner.carries.nbytes()
    state = sum(value.nbytes for each in learner.optimiser.state.values() for value in each.values())
    assert weights == 3 * sum(weight.nbytes for weight in made.parameters()) + 2 * state
    if agent == AgentConfig() and storage == "float32":
        # 48 streams, K = 2, N = 256, D = 257: matrices, two vectors for each gate, cells.
        assert carries == 4 * 48 * (2 * 256 * 257 + 2 * 2 * 256 + 256)


def places(**settings: Any) -> dict[str, str]:
    """Where all but the learner's own lies."""
    return {part.name.split(" (")[0]: part.place for part in budget_of(tmaze(**settings)).parts[3:]}


def test_where_things_lie() -> None:
    shared = {
        "3 batches": "machine",
        "queue of 2 rollouts": "machine",
        "weights for the actors": "machine",
        "1 rollout actor": "machine",
        "Ray": "machine",
    }
    assert places(num_actors=1, batch_size=4) == shared
    through_ray = places(num_actors=1, batch_size=4, transport="ray")
    assert through_ray == {
        **shared,
        "queue of 2 rollouts": "shared",
        "weights for the actors": "shared",
    }
    assert places(num_actors=0, batch_size=4) == {"2 batches": "machine", "queue of 2 rollouts": "machine"}
    workers = places(num_actors=1, batch_size=4, inference="worker", inference_workers=2)
    assert workers == {**shared, "2 inference workers": "machine"}
    elsewhere = places(ray_address="10.0.0.1:6379")
    assert set(elsewhere.values()) == {"machine", "cluster"}
    assert [name for name, place in elsewhere.items() if place == "machine"] == ["3 batches"]


def test_images_are_bytes_and_instructions_words() -> None:
    # All arrays but is_first are whole lines of 64 bytes; it takes half a line more.
    image = RolloutLayout(50, 32, ATARI, 256).nbytes()
    config = replace(preset("atari/Breakout"), rollouts_in_flight=3, streams_per_actor=32)
    assert image == 32 * (51 * (4 * 84 * 84 + 4 + 1) + 50 * (8 + 18 * 4) + 256 * 4 + 3 * 8) + 32
    assert sizes(budget_of(config, ATARI))["queue of 6 rollouts"] == 6 * image
    # Final observations beside them, and half a line more of bools again.
    limited = sizes(budget_of(replace(config, bootstrap_at_time_limits=True), ATARI))["queue of 6 rollouts"]
    assert limited == 6 * (image + 32 * 50 * (4 * 84 * 84 + 1))
    spec = replace(ATARI, instruction_length=16, instruction_ids=100)
    assert sizes(budget_of(config, spec))["queue of 6 rollouts"] == 6 * (image + 32 * 51 * 16 * 4)


def test_each_stream_of_dmlab_has_an_engine() -> None:
    config = replace(tmaze(), task="dmlab/rooms_watermaze")
    assert sizes(budget_of(config))["12 DMLab engines (roughly)"] == 12 * DMLAB_ENGINE_BYTES


@pytest.mark.parametrize(
    ("spec", "agent", "precision"),
    [
        (TMAZE, AgentConfig(hidden_size=32), "float32"),
        (TMAZE, AgentConfig(hidden_size=32, gradient="tbptt"), "float32"),
        (TMAZE, AgentConfig(hidden_size=32, core="gru"), "float32"),
        (TMAZE, AgentConfig(hidden_size=32, core="own"), "float32"),
        (TMAZE, AgentConfig(hidden_size=32, readout="mlp", readout_skip=True, layer_norm=True), "float32"),
        (ObservationSpec((3, 36, 40), DiscreteActions(5)), AgentConfig(hidden_size=32), "float32"),
        (ObservationSpec((3, 36, 40), DiscreteActions(5)), AgentConfig(hidden_size=32), "bfloat16"),
        (
            ObservationSpec((3, 36, 40), DiscreteActions(5)),
            AgentConfig(encoder="nature", core="feedforward"),
            "float32",
        ),
        (
            ObservationSpec((3, 36, 40), DiscreteActions(5), instruction_length=6, instruction_ids=50),
            AgentConfig(),
            "float32",
        ),
    ],
)
def test_the_estimate_is_that_of_an_update_of_numbers(
    spec: ObservationSpec, agent: AgentConfig, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_own_core(monkeypatch)
    config = tmaze(agent=agent, learner=LearnerConfig(encoder_precision=precision), rollout_length=11, batch_size=7)
    estimate = sizes(budget_of(config, spec))["activations of an update"]
    learner = Learner(Agent(spec, agent), config.learner, config.num_streams, 1)
    saved = saved_for_backward(learner, spec, steps=11, batch=7)
    # Four arrays of 77 observations at least, the largest three times more for what the update works on.
    assert estimate == pytest.approx(sum(saved) + 3 * max(saved), rel=0.05)


def test_an_update_in_minibatches_holds_the_activations_of_one() -> None:
    learner = LearnerConfig(algorithm="ppo")
    whole, part = (
        sizes(budget_of(tmaze(learner=replace(learner, num_minibatches=count), batch_size=12))) for count in (1, 4)
    )
    assert part.pop("activations of an update") == pytest.approx(whole.pop("activations of an update") / 4, rel=0.05)
    assert part == whole, "one sensitivity for each stream, however many passes"


def test_eligibility_traces_are_of_each_stream_and_parameter() -> None:
    learner = LearnerConfig(algorithm="stream")
    found = sizes(budget_of(tmaze(learner=learner, rollout_length=1, batch_size=12, rollouts_in_flight=1)))
    parameters = 2 * 8 * 4 + 2 * 8 + 2 * 8 + 8 * (4 + 8) + 8 + 8 * 4 + 4 + 8 + 1
    assert found["eligibility traces"] == 3 * 12 * 4 * parameters
    assert "eligibility traces" not in sizes(budget_of(tmaze()))


def test_what_is_saved_is_what_the_formulas_say() -> None:
    # Without an encoder the core's input alone is of the size of its D = 4; N = 8, A = 4, T B = 21.
    learner = Learner(Agent(TMAZE, SMALL), LearnerConfig(), 3, 1)
    saved = sum(saved_for_backward(learner, TMAZE, steps=7, batch=3))
    # x, projection of two gates, cells, o and h, also of the step after the rollout; gradients by logits and values.
    least = 4 * 24 * (4 + 16 + 8 + 8 + 8) + 4 * 21 * (4 + 1)
    assert least <= saved <= 1.5 * least


def test_precision_of_the_encoder_and_frozen_encoders_count() -> None:
    spec = ObservationSpec((3, 36, 40), DiscreteActions(5))
    config = replace(preset("atari/Breakout"), rollout_length=5, batch_size=8)
    low = replace(config, learner=replace(config.learner, encoder_precision="bfloat16"))
    still = replace(config, freeze_encoder=True)
    full, half, frozen = (sizes(budget_of(each, spec))["activations of an update"] for each in (config, low, still))
    assert 0.3 * full < half < 0.8 * full
    assert frozen < 0.2 * full


def test_the_random_state_stays_as_it_is() -> None:
    random = torch.get_rng_state()
    budget_of(preset("atari/Breakout"), ATARI)
    assert torch.equal(torch.get_rng_state(), random)


def test_what_fits_to_the_byte_is_not_refused() -> None:
    budget = budget_of(tmaze(transport="ray"))
    check_fits(budget, Available())
    machine = budget.total("machine", "shared")
    shared = budget.total("shared")
    check_fits(budget, Available(machine, shared))
    for small in (Available(machine - 1, shared), Available(machine, shared - 1)):
        with pytest.raises(ConfigError):
            check_fits(budget, small)


def refusal(budget: MemoryBudget, available: Available) -> str:
    with pytest.raises(ConfigError) as refused:
        check_fits(budget, available)
    return str(refused.value)


@pytest.fixture(scope="module")
def many_streams() -> MemoryBudget:
    """Sensitivities of 3 million streams, 13,312 bytes each. Told beforehand: nothing of it is allocated."""
    agent = AgentConfig(hidden_size=256, encoder="none")
    return budget_of(tmaze(streams_per_actor=10**6, agent=agent, transport="ray"))


def test_a_machine_that_is_too_small(many_streams: MemoryBudget) -> None:
    # The queue: 6 million rollouts of one stream, of 1270 bytes.
    assert refusal(many_streams, replace(PLENTY, machine=16 * 10**9)) == (
        "this run needs 48.7 GB of memory on this machine, but 16 GB are free; the largest part is one sensitivity for "
        "each of 3000000 streams (39.9 GB): lower --streams-per-actor, --num-actors or --hidden-size, or store them "
        "with --sensitivity-storage bfloat16"
    )


def test_shared_memory_that_is_too_small(many_streams: MemoryBudget) -> None:
    assert refusal(many_streams, replace(PLENTY, shared=64 * 2**20)) == (
        "this run needs 7.62 GB of shared memory (/dev/shm), but 67.1 MB are free; the largest part is queue of 6 "
        "rollouts (7.62 GB): lower --rollout-length, --streams-per-actor, --num-actors or --rollouts-in-flight"
    )


def test_a_gpu_that_is_too_small(many_streams: MemoryBudget) -> None:
    on_gpu = replace(many_streams, device="cuda:0")
    sentence = refusal(on_gpu, replace(PLENTY, device=24 * 10**9))
    assert sentence.startswith("this run needs 39.9 GB of memory on cuda:0, but 24 GB are free; the largest part is")
    # What lies there is not asked of the machine.
    check_fits(on_gpu, replace(PLENTY, machine=16 * 10**9))


def test_activations_that_are_too_large() -> None:
    sentence = refusal(budget_of(preset("atari/Breakout"), ATARI), replace(PLENTY, machine=10**9))
    assert sentence.endswith(": lower --rollout-length or --batch-size, or take --encoder nature")


def test_an_agent_that_does_not_fit_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def made(*_: object) -> None:
        raise AssertionError("the agent was made")

    monkeypatch.setattr(learn, "make_agent", made)
    monkeypatch.setattr(learn, "available_memory", lambda device: Available(machine=20 * 10**9))
    for units, needed in (("100_000", "284 GB"), ("1e6", "28 TB"), ("100B", "does not fit")):
        command = ["train", "memory/tmaze", "--num-actors", "0", "--run-dir", str(tmp_path / "run")]
        assert main([*command, "--hidden-size", units]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), needed in said, "hidden" in said) == (1, True, True), said
    assert list(tmp_path.iterdir()) == []


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:    8000 kB\n"}


def test_available_is_what_the_machine_and_its_control_groups_leave(tmp_path: Path) -> None:
    assert available_memory(CPU, tmp_path) == Available()
    assert available_memory(CPU, write(tmp_path, MEMINFO)).machine == 8_192_000
    # Version 2: the group has no limit, the one around it has.
    group = {
        "proc/self/cgroup": "0::/jobs/one\n",
        "sys/fs/cgroup/jobs/one/memory.max": "max\n",
        "sys/fs/cgroup/jobs/one/memory.current": "100\n",
        "sys/fs/cgroup/jobs/memory.max": "5000000\n",
        "sys/fs/cgroup/jobs/memory.current": "2000000\n",
        "sys/fs/cgroup/jobs/memory.stat": "anon 1500000\ninactive_file 300000\n",
    }
    assert available_memory(CPU, write(tmp_path, group)).machine == 3_300_000


@pytest.mark.parametrize(("limit", "free"), [("4000000", 3_500_000), ("9223372036854771712", 8_192_000)])
def test_control_groups_of_version_1(tmp_path: Path, limit: str, free: int) -> None:
    # The path is the host's, which the container does not see.
    group = {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{limit}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "700000\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 200000\n",
    }
    assert available_memory(CPU, write(tmp_path, {**MEMINFO, **group})).machine == free


def test_this_machine_has_memory() -> None:
    available = available_memory(CPU)
    if Path("/proc/meminfo").exists():
        assert available.machine is not None
        assert available.machine > 10**6
    assert available.device is None


def test_the_lines_name_every_part() -> None:
    budget = budget_of(tmaze(transport="ray"))
    console = Console(file=io.StringIO(), width=200)
    print_budget(console, budget)
    assert isinstance(console.file, io.StringIO)
    title, *lines = console.file.getvalue().splitlines()
    assert title == "memory that the run will hold"
    assert [line.split("  ")[1] for line in lines] == [
        "learner on cpu",
        "other processes and batches",
        "Ray's objects (/dev/shm)",
    ]
    assert len({line.index(":") for line in lines}) == 1
    for part in budget.parts:
        assert sum(f"{part.name} {memory_text(part.nbytes)}" in line for line in lines) == 1


def test_bytes_in_words() -> None:
    texts = {0: "0 kB", 48: "0.048 kB", 25_509_888: "25.5 MB", 999_999: "1 MB", 3_440_000_000: "3.44 GB"}
    assert {number: memory_text(number) for number in texts} == texts
