"""Evaluation: how many episodes, whose, by which actions, and what is written about them."""

import hashlib
import json
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from r2ac.agents import AgentConfig, ObservationSpec
from r2ac.envs import Signals, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.cli import main
from r2ac.launch.evaluation import evaluate as evaluate_module
from r2ac.launch.evaluation.evaluate import Evaluation, evaluation_path, play_seed
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.runs.loading import TrainedAgent, find_checkpoint, make_agent
from r2ac.launch.settings.config import TrainConfig, config_from_json
from r2ac.learner.checkpoint import CheckpointError, checkpoint_path, load_checkpoint, save_checkpoint
from tests.playing import evaluated

SMALL = EvaluationConfig(episodes=7, seeds=3, num_envs=3, device="cpu")


def played(path: Path, **changes: Any) -> Evaluation:
    return evaluated(path, replace(SMALL, **changes))


def returns(evaluation: Evaluation) -> list[float]:
    return [episode.episode_return for episode in evaluation.episodes]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with heads so large that the policy is no coin."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    path = find_checkpoint(copy)
    checkpoint = load_checkpoint(path)
    checkpoint.model["policy.weight"][:] = torch.tensor([[1.0], [-1.0]])
    checkpoint.model["policy.bias"][:] = torch.tensor([0.5, 0.0])
    save_checkpoint(path, checkpoint)
    return copy


def test_every_seed_plays_its_episodes_and_they_are_reported(run: Path) -> None:
    evaluation = played(run)
    assert Counter(episode.seed for episode in evaluation.episodes) == {0: 7, 1: 7, 2: 7}
    assert {(episode.length, episode.truncated) for episode in evaluation.episodes} == {(5, False)}
    steps = list(play_seed(TrainedAgent.load(run), evaluation, 0))
    assert steps[-1].episodes == evaluation.episodes[:7]
    assert [step.played for step in steps] == [0] * 4 + [3] * 5 + [6] * 5 + [7], "when they end"


@pytest.mark.parametrize("num_envs", [1, 4, 25])
def test_the_number_of_environments_does_not_change_how_many_episodes_count(run: Path, num_envs: int) -> None:
    evaluation = played(run, num_envs=num_envs, episodes=6, seeds=2)
    assert Counter(episode.seed for episode in evaluation.episodes) == {0: 6, 1: 6}


@pytest.mark.parametrize("episodes", [1, 5, 8])
def test_returns_are_those_of_each_environments_first_episodes(run: Path, episodes: int) -> None:
    """Greedy play, replayed step by step; the first environments play one episode more where it does not divide."""
    config = config_from_json(load_checkpoint(find_checkpoint(run)).config, run)
    num_envs = min(3, episodes)
    env = make_vector(config.task, num_envs, 0, split="test", options=config.env)
    agent = make_agent(ObservationSpec.of(env), config.agent, 1, torch.device("cpu"))
    agent.load_state_dict(load_checkpoint(find_checkpoint(run)).model)
    by_stream: list[list[float]] = [[] for _ in range(num_envs)]
    observation, _ = env.reset()
    reward, is_first, cell = np.zeros(num_envs), np.ones(num_envs, dtype=bool), torch.zeros(num_envs, 8)
    for _ in range(5 * 8):
        inputs = (torch.from_numpy(observation), torch.from_numpy(reward).float(), torch.from_numpy(is_first))
        output = agent.step(*inputs, cell)
        cell = output.state
        observation, reward, terminated, truncated, _ = env.step(output.logits.argmax(dim=1).numpy())
        is_first = terminated | truncated
        for i in np.flatnonzero(is_first):
            by_stream[i].append(float(reward[i]))
    shares = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    expected = Counter(value for values, share in zip(by_stream, shares, strict=True) for value in values[:share])
    assert Counter(returns(played(run, episodes=episodes, seeds=1, greedy=True))) == expected


def test_greedy_takes_the_most_probable_action_and_sampling_draws(run: Path) -> None:
    path = find_checkpoint(run)
    checkpoint = load_checkpoint(path)
    # Whatever it sees, the agent prefers up, but only a little: greedily it is right exactly when the cue was up.
    checkpoint.model["policy.weight"][:] = 0
    checkpoint.model["policy.bias"][:] = torch.tensor([0.2, 0.0])
    save_checkpoint(path, checkpoint)
    greedy, again = played(run, episodes=40, greedy=True), played(run, episodes=40, greedy=True)
    sampled = played(run, episodes=40)
    assert greedy.episodes == again.episodes
    assert played(run, episodes=40).episodes == sampled.episodes
    assert returns(greedy) != returns(sampled)
    checkpoint.model["policy.bias"][:] = torch.tensor([0.0, 0.2])
    save_checkpoint(path, checkpoint)
    # The other action, greedily, is right exactly where the first was wrong.
    assert returns(played(run, episodes=40, greedy=True)) == [1 - value for value in returns(greedy)]


def test_seeds_and_splits_play_different_episodes(run: Path) -> None:
    tested, trained = played(run, episodes=40, greedy=True), played(run, episodes=40, greedy=True, split="train")
    assert returns(tested) != returns(trained)
    by_seed = {tuple(e.episode_return for e in tested.episodes if e.seed == seed) for seed in range(3)}
    assert len(by_seed) == 3


def test_mean_deviation_and_normalised_return(run: Path) -> None:
    evaluation = played(run)
    means = [np.mean([e.episode_return for e in evaluation.episodes if e.seed == seed]) for seed in range(3)]
    assert evaluation.seed_means == pytest.approx(means)
    assert evaluation.mean_return == pytest.approx(np.mean(means))
    assert evaluation.std_return == pytest.approx(np.std(means, ddof=1))
    assert evaluation.normalised_return == pytest.approx((np.mean(means) - 0.5) / 0.5)
    assert played(run, seeds=1).std_return is None


def test_evaluation_json_tells_all(run: Path) -> None:
    config = config_from_json(json.loads((run / "config.json").read_text()), run)
    flags = ["--episodes", "4", "--seeds", "2", "--num-envs", "2", "--greedy"]
    assert main(["evaluate", str(run), *flags]) == 0
    written = json.loads((run / "evaluation.json").read_text())
    assert (written["format"], written["format_version"], written["means"]) == ("r2ac evaluation", 2, [])
    (result,) = written["results"]
    expected = played(run, episodes=4, seeds=2, num_envs=2, greedy=True)
    assert result["episodes"] == [asdict(episode) for episode in expected.episodes]
    assert result["task"] == "memory/tmaze"
    assert result["checkpoint"] == str(find_checkpoint(run))
    assert result["sha256"] == hashlib.sha256(find_checkpoint(run).read_bytes()).hexdigest()
    assert result["env_steps"] == 2000
    assert (result["protocol"], result["changed"]) == ("default", ["episodes", "seeds", "greedy"])
    assert result["evaluation"] == {
        "episodes": 4,
        "seeds": 2,
        "greedy": True,
        "split": "test",
        "num_envs": 2,
        "device": "cpu",
    }
    assert config_from_json(result["training"], run) == config
    assert result["environment"] == result["training"]["env"]
    assert len(result["episodes"]) == 8
    assert set(result["episodes"][0]) == {"seed", "episode_return", "length", "truncated"}
    assert result["mean_return"] == statistics.mean(e["episode_return"] for e in result["episodes"])
    assert result["complete"] is True
    assert set(result["versions"]) == {"r2ac", "torch", "numpy", "gymnasium"}
    assert abs(datetime.now(UTC) - datetime.fromisoformat(result["date"])) < timedelta(minutes=5)


def test_a_run_is_its_newest_checkpoint(run: Path) -> None:
    newest = find_checkpoint(run)
    older = checkpoint_path(newest.parent, 1000)
    checkpoint = load_checkpoint(newest)
    save_checkpoint(older, replace(checkpoint, counters={**checkpoint.counters, "env_steps": 1000}))
    assert played(run).env_steps == 2000
    assert played(newest).episodes == played(run).episodes
    evaluation = played(older)
    assert evaluation.env_steps == 1000
    assert evaluation.checkpoint == older


def test_a_checkpoint_alone_is_enough(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "agent.safetensors"
    alone.parent.mkdir()
    shutil.copy(find_checkpoint(run), alone)
    expected = played(run)
    shutil.rmtree(run)
    evaluation = played(alone)
    assert evaluation.episodes == expected.episodes
    assert main(["evaluate", str(alone), "--episodes", "3"]) == 0
    assert (alone.parent / "evaluation.json").is_file()


def test_the_evaluation_of_a_runs_checkpoint_is_written_into_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = find_checkpoint(run)
    assert evaluation_path(path) == run.resolve() / "evaluation.json"
    monkeypatch.chdir(path.parent)
    assert evaluation_path(Path(path.name)) == run.resolve() / "evaluation.json"


def test_evaluation_changes_nothing_else_in_the_run(run: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = contents()
    assert main(["evaluate", str(run), "--episodes", "3"]) == 0
    after = contents()
    assert after.pop(run / "evaluation.json")
    assert after.pop(run / "evaluation.md")
    assert after == before


def test_several_runs_each_get_their_evaluation(
    run: Path, train_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = train_tiny(tmp_path / "other", {"--gradient": "tbptt", "--seed": 2})
    capsys.readouterr()
    assert main(["evaluate", str(run), str(other), "--episodes", "3", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "rtrl" in printed
    assert "tbptt" in printed
    assert (run / "evaluation.json").is_file()
    assert (other / "evaluation.json").is_file()


def test_a_task_that_the_agent_cannot_read_is_named(run: Path) -> None:
    assert played(run).episodes == evaluated(run, SMALL, "memory/tmaze").episodes
    with pytest.raises(CheckpointError, match=r"cannot play memory/copy, which has observations \[5\] and 4 actions"):
        evaluated(run, SMALL, "memory/copy")


class Fragile(VectorEnv):
    """Tells each stream which action pays, by instruction; episodes last 4 steps, and stream 1 loses its engine in the
    third step of its first one, after a reward of 100."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Box(0, 1, (4,), np.float32), Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_instruction_space = MultiDiscrete([9, 9, 9], dtype=np.int32)
        self.words = np.zeros((num_envs, 3), dtype=np.int32)
        self.seen: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.engine_restarts = 0
        self._ages, self._steps = np.zeros(num_envs, dtype=np.int64), 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, signals = self._show()
        return observation, signals.info()

    def _show(self) -> tuple[np.ndarray, Signals]:
        self.words = np.random.default_rng(self._steps).integers(1, 9, (self.num_envs, 3), dtype=np.int32)
        self.seen.append(self.words.copy())
        return np.zeros((self.num_envs, 4), np.float32), Signals(instruction=self.words)

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.actions.append(actions)
        self._steps += 1
        self._ages += 1
        terminated = self._ages == 4
        failed = (np.arange(self.num_envs) == 1) & (self._steps == 3)
        self.engine_restarts += int(failed.sum())
        rewards = np.where(failed, 0.0, 1.0) + 100.0 * ((np.arange(self.num_envs) == 1) & (self._steps == 2))
        self._ages[terminated | failed] = 0
        observation, signals = self._show()
        return observation, rewards, terminated, failed, replace(signals, engine_failed=failed).info()


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> list[Fragile]:
    made: list[Fragile] = []

    def make(task: str, num_envs: int, *args: object, **options: object) -> VectorEnv:
        made.append(Fragile(num_envs))
        return made[-1]

    monkeypatch.setattr(evaluate_module, "make_vector", make)
    return made


def test_what_is_lost_with_an_engine_is_played_again(fragile: list[Fragile]) -> None:
    evaluation, trained = instructed(episodes=5, num_envs=3)
    played = list(play_seed(trained, evaluation, seed=0))
    together = played[-1].episodes
    assert together is not None
    assert [step.engines_lost for step in played[:4]] == [0, 0, 1, 1]
    recorded = evaluation.with_seed(together, played[-1].engines_lost).with_seed([], 2)
    assert recorded.to_json()["engines_lost"] == 3
    assert [(e.episode_return, e.length, e.truncated) for e in together] == [(4.0, 4, False)] * 5


def test_the_agent_reads_the_instruction_of_each_step(fragile: list[Fragile]) -> None:
    evaluation, trained = instructed(episodes=6, num_envs=3, greedy=True)
    for _ in play_seed(trained, evaluation, seed=0):
        pass
    (env,) = fragile
    agent = make_agent(ObservationSpec.of(env), evaluation.training.agent, 1, torch.device("cpu"))
    agent.load_state_dict(trained.model)
    cell, nothing = torch.zeros(3, 4), torch.zeros(3, 4)
    ages = np.zeros(3, dtype=np.int64)
    for step, (words, actions) in enumerate(zip(env.seen[:-1], env.actions, strict=True)):
        reward = torch.full((3,), 1.0 if step else 0.0)
        reward[1] = {2: 101.0, 3: 0.0}.get(step, float(reward[1]))
        output = agent.step(nothing, reward, torch.from_numpy(ages == 0), cell, torch.from_numpy(words))
        cell = output.state
        np.testing.assert_array_equal(actions, output.logits.argmax(dim=1).numpy())
        ages = (ages + 1) % 4
        ages[1] = 0 if step == 2 else ages[1]
    assert len({tuple(actions) for actions in env.actions}) > 1


def instructed(**changes: Any) -> tuple[Evaluation, TrainedAgent]:
    """An evaluation of an agent that reads instructions, and the agent."""
    training = TrainConfig("memory/tmaze", MemoryOptions(), agent=AgentConfig(hidden_size=4, encoder="none"))
    agent = make_agent(ObservationSpec.of(Fragile(1)), training.agent, 1, torch.device("cpu"))
    model = {name: 3 * tensor for name, tensor in agent.state_dict().items()}
    config = replace(SMALL, **changes)
    evaluation = Evaluation(Path("agent"), "0", 0, "memory/tmaze", training.env, config, training)
    return evaluation, TrainedAgent(Path("agent"), 0, training, model)
