"""Trainings, evaluations and videos of environments that show and say odd things."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from r2ac.agents import AgentConfig, ObservationSpec
from r2ac.envs import Signals, make_vector
from r2ac.envs.gym import GymOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.cli import main
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.rollouts import rollout_actor
from r2ac.launch.rollouts.rollout_actor import ActorConfig, Collected, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.loading import make_agent
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.watching.episodes import Scene
from r2ac.launch.watching.watch import record
from r2ac.learner.checkpoint import latest_checkpoint, load_checkpoint
from tests.playing import episodes_of, evaluated

ODD = "gym/tests.odd_envs:"
AGENT = AgentConfig(hidden_size=4, encoder="none")


def train(name: str, run: Path, seed: int = 1) -> int:
    flags = {"num-actors": 0, "streams-per-actor": 4, "batch-size": 4, "rollout-length": 5, "hidden-size": 4}
    flags |= {"total-steps": 400, "log-steps": 100, "seed": seed, "run-dir": run}
    return main(["train", f"{ODD}{name}-v0", *(f"--{flag}={value}" for flag, value in flags.items())])


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(latest_checkpoint(run / "checkpoints")).model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain") / "run"
    assert train("Plain", run) == 0
    return run


def test_returns_are_those_of_the_environment_whatever_its_infos_say(plain: Path, tmp_path: Path) -> None:
    assert train("OddInfos", tmp_path / "run") == 0
    rows = read_metrics(tmp_path / "run")
    assert {row["episode_return"] for row in rows} == {1.0}
    assert all(3 <= row["episode_length"] <= 8 for row in rows)
    config = EvaluationConfig(episodes=5, seeds=1, num_envs=2, device="cpu")
    episodes = evaluated(plain, config, f"{ODD}OddInfos-v0").episodes
    assert [(episode.episode_return, 3 <= episode.length <= 8) for episode in episodes] == [(1.0, True)] * 5


@pytest.mark.parametrize("name", ["NanObservation", "InfReward", "BeginsWithNan"])
def test_what_is_not_finite_ends_a_command_with_one_sentence(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert train(name, tmp_path / "run") != 0
    sentence = f"{ODD}{name}-v0 {'pays inf' if 'Reward' in name else 'shows nan'} in step "
    assert sentence in capsys.readouterr().err.replace("\n", " ")
    command = ["evaluate", str(plain), "--suite", f"{ODD}{name}-v0", "--episodes", "2", "--seeds", "1"]
    assert main([*command, "--device", "cpu", "--workers", "0"]) != 0
    assert sentence in capsys.readouterr().err.replace("\n", " ")


def test_one_seed_is_one_training_and_one_evaluation_where_an_environment_draws_from_what_is_global(
    tmp_path: Path,
) -> None:
    def trained(name: str, seed: int) -> tuple[Any, ...]:
        run = tmp_path / name
        assert train("Lottery", run, seed) == 0
        config = EvaluationConfig(episodes=6, seeds=2, num_envs=2, device="cpu")
        evaluation = evaluated(run, config)
        return weights_of(run), evaluation.episodes

    (first, played), (again, played_again), (other, _) = trained("first", 1), trained("again", 1), trained("other", 2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert played == played_again
    assert len({episode.episode_return for episode in played}) > 1
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_actors_and_restarted_actors_draw_other_numbers() -> None:
    def shown(index: int, incarnation: int) -> bytes:
        config = ActorConfig(f"{ODD}Lottery-v0", GymOptions(), AGENT, 1, 3, 2, index, incarnation)
        return rollout_of(config).rollout.observation.tobytes()  # type: ignore[union-attr]

    assert shown(0, 0) == shown(0, 0)
    assert len({shown(0, 0), shown(1, 0), shown(0, 1)}) == 3


class OneSetOfArrays(VectorEnv):
    """Counts its steps; with `reuse` it writes what it hands over into the same arrays again and again."""

    def __init__(self, num_envs: int, reuse: bool) -> None:
        self.num_envs, self.reuse, self.steps = num_envs, reuse, 0
        self.single_observation_space, self.single_action_space = Box(0, 999, (2,), np.float32), Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.arrays = self._new()

    def _new(self) -> list[np.ndarray]:
        flags = [np.zeros(self.num_envs, bool) for _ in range(3)]
        return [np.zeros((self.num_envs, 2), np.float32), np.zeros(self.num_envs, np.float32), *flags]

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self._show()[0], {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps += 1
        *arrays, game_over = self._show()
        return *arrays, Signals(game_over=game_over).info()  # type: ignore[return-value]

    def _show(self) -> list[np.ndarray]:
        arrays = self.arrays if self.reuse else self._new()
        numbers = (self.steps, self.steps, self.steps % 3 == 0, self.steps % 7 == 0, self.steps % 6 == 0)
        for array, number in zip(arrays, numbers, strict=True):
            array[:] = number
        return arrays


def rollout_of(config: ActorConfig) -> Collected:
    actor = RolloutActor(config)
    agent = make_agent(actor.spec, AGENT, 1, torch.device("cpu"))
    values = torch.nn.utils.parameters_to_vector(agent.parameters()).detach().numpy()
    collected = [actor.collect(Weights(1, values), number) for number in range(3)]
    actor.close()
    return collected[-1]


def test_an_engine_that_writes_into_one_set_of_arrays_is_read_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_that_is_seen(reuse: bool) -> tuple[Any, ...]:
        def make(task: str, num_envs: int, *_: Any, **__: Any) -> VectorEnv:
            return OneSetOfArrays(num_envs, reuse)

        monkeypatch.setattr(rollout_actor, "make_vector", make)
        monkeypatch.setattr("r2ac.launch.watching.episodes.make_vector", make)
        collected = rollout_of(ActorConfig("memory/tmaze", MemoryOptions(), AGENT, 1, 4, 2, 0))
        rollout = collected.rollout
        assert rollout is not None
        env = OneSetOfArrays(2, reuse)
        agent = make_agent(ObservationSpec.of(env), AGENT, 1, torch.device("cpu"))
        episodes = episodes_of(agent, env, 4, 40)
        moments = record(Scene("memory/tmaze", MemoryOptions(), 0, "train", max_steps=9), None).moments
        return (
            *(rollout.observation.tolist(), rollout.reward.tolist(), rollout.is_first.tolist(), collected.episodes),
            [{name: np.asarray(value).tolist() for name, value in vars(episode).items()} for episode in episodes],
            [(moment.observation.tolist(), moment.reward, moment.is_first) for moment in moments],
        )

    assert all_that_is_seen(True) == all_that_is_seen(False)


def test_a_video_of_one_buffer_shows_what_was_seen() -> None:
    env = make_vector(f"{ODD}VectorBuffer-v0", 1, 0)
    agent = make_agent(ObservationSpec.of(env), AGENT, 1, torch.device("cpu"))
    (episode,) = episodes_of(agent, env, 1, 10)
    assert episode.observations[:, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_every_file_of_a_run_is_strict_json(plain: Path) -> None:
    evaluated = ["evaluate", str(plain), "--episodes", "2", "--seeds", "1", "--device", "cpu", "--workers", "0"]
    assert main(evaluated) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    files = [*plain.glob("*.json"), *plain.glob("*.jsonl")]
    assert len(files) >= 3
    for file in files:
        for text in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(text, parse_constant=refuse)
