"""Evaluation: how many episodes, whose, by which actions, and what is written about them."""

import json
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import make_vector
from r2ac.launch.cli import main
from r2ac.launch.config import config_from_json
from r2ac.launch.evaluate import Evaluation, EvaluationConfig, evaluate, write_evaluation
from r2ac.launch.loading import find_checkpoint, make_agent
from r2ac.learner.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint

SMALL = EvaluationConfig(episodes=7, seeds=3, num_envs=3, device="cpu")


def silent(played: int, total: int) -> None:
    """Report nothing."""


def play(path: Path, **changes: Any) -> Evaluation:
    return evaluate(path, replace(SMALL, **changes), silent)


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
    reports: list[tuple[int, int]] = []
    evaluation = evaluate(run, SMALL, lambda played, total: reports.append((played, total)))
    assert Counter(episode.seed for episode in evaluation.episodes) == {0: 7, 1: 7, 2: 7}
    assert {(episode.length, episode.truncated) for episode in evaluation.episodes} == {(5, False)}
    assert reports == [(number, 21) for number in range(1, 22)]


@pytest.mark.parametrize("num_envs", [1, 4, 25])
def test_the_number_of_environments_does_not_change_how_many_episodes_count(run: Path, num_envs: int) -> None:
    evaluation = play(run, num_envs=num_envs, episodes=6, seeds=2)
    assert Counter(episode.seed for episode in evaluation.episodes) == {0: 6, 1: 6}


@pytest.mark.parametrize("episodes", [1, 5, 8])
def test_returns_are_those_of_each_environments_first_episodes(run: Path, episodes: int) -> None:
    """Greedy play, replayed step by step; the first environments play one episode more where it does not divide."""
    config = config_from_json(load_checkpoint(find_checkpoint(run)).config, run)
    num_envs = min(3, episodes)
    env = make_vector(config.task, num_envs, 0, split="test", options=config.env)
    agent = make_agent(ObservationSpec.of(env), config.agent, 1, torch.device("cpu"))
    agent.load_state_dict(load_checkpoint(find_checkpoint(run)).model)
    played: list[list[float]] = [[] for _ in range(num_envs)]
    observation, _ = env.reset()
    reward, is_first, cell = np.zeros(num_envs), np.ones(num_envs, dtype=bool), torch.zeros(num_envs, 8)
    for _ in range(5 * 8):
        inputs = (torch.from_numpy(observation), torch.from_numpy(reward).float(), torch.from_numpy(is_first))
        output = agent.step(*inputs, cell)
        cell = output.cell
        observation, reward, terminated, truncated, _ = env.step(output.logits.argmax(dim=1).numpy())
        is_first = terminated | truncated
        for i in np.flatnonzero(is_first):
            played[i].append(float(reward[i]))
    shares = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    expected = Counter(value for values, share in zip(played, shares, strict=True) for value in values[:share])
    assert Counter(returns(play(run, episodes=episodes, seeds=1, greedy=True))) == expected


def test_greedy_takes_the_most_probable_action_and_sampling_draws(run: Path) -> None:
    path = find_checkpoint(run)
    checkpoint = load_checkpoint(path)
    # Whatever it sees, the agent prefers up, but only a little: greedily it is right exactly when the cue was up.
    checkpoint.model["policy.weight"][:] = 0
    checkpoint.model["policy.bias"][:] = torch.tensor([0.2, 0.0])
    save_checkpoint(path, checkpoint)
    greedy, again = play(run, episodes=40, greedy=True), play(run, episodes=40, greedy=True)
    sampled = play(run, episodes=40)
    assert greedy.episodes == again.episodes
    assert play(run, episodes=40).episodes == sampled.episodes
    assert returns(greedy) != returns(sampled)
    checkpoint.model["policy.bias"][:] = torch.tensor([0.0, 0.2])
    save_checkpoint(path, checkpoint)
    # The other action, greedily, is right exactly where the first was wrong.
    assert returns(play(run, episodes=40, greedy=True)) == [1 - value for value in returns(greedy)]


def test_seeds_and_splits_play_different_episodes(run: Path) -> None:
    tested, trained = play(run, episodes=40, greedy=True), play(run, episodes=40, greedy=True, split="train")
    assert returns(tested) != returns(trained)
    by_seed = {tuple(e.episode_return for e in tested.episodes if e.seed == seed) for seed in range(3)}
    assert len(by_seed) == 3


def test_mean_deviation_and_normalised_return(run: Path) -> None:
    evaluation = play(run)
    means = [np.mean([e.episode_return for e in evaluation.episodes if e.seed == seed]) for seed in range(3)]
    assert evaluation.seed_means == pytest.approx(means)
    assert evaluation.mean_return == pytest.approx(np.mean(means))
    assert evaluation.std_return == pytest.approx(np.std(means, ddof=1))
    assert evaluation.normalised_return == pytest.approx((np.mean(means) - 0.5) / 0.5)
    assert play(run, seeds=1).std_return is None


def test_evaluation_json_tells_all(run: Path) -> None:
    config = config_from_json(json.loads((run / "config.json").read_text()), run)
    assert main(["evaluate", str(run), "--episodes", "4", "--seeds", "2", "--num-envs", "2", "--greedy"]) == 0
    written = json.loads((run / "evaluation.json").read_text())
    expected = evaluate(run, EvaluationConfig(episodes=4, seeds=2, num_envs=2, greedy=True), silent)
    assert written == json.loads(json.dumps(expected.to_json()))
    assert written["task"] == "memory/tmaze"
    assert written["checkpoint"] == str(find_checkpoint(run))
    assert written["env_steps"] == 2000
    assert written["evaluation"] == {
        "episodes": 4,
        "seeds": 2,
        "greedy": True,
        "split": "test",
        "num_envs": 2,
        "device": "auto",
    }
    assert config_from_json(written["training"], run) == config
    assert len(written["episodes"]) == 8
    assert set(written["episodes"][0]) == {"seed", "episode_return", "length", "truncated"}
    assert written["mean_return"] == statistics.mean(e["episode_return"] for e in written["episodes"])
    assert set(written["versions"]) == {"r2ac", "torch", "numpy", "gymnasium"}


def test_a_run_is_its_newest_checkpoint(run: Path) -> None:
    newest = find_checkpoint(run)
    older = checkpoint_path(newest.parent, 1000)
    checkpoint = load_checkpoint(newest)
    save_checkpoint(older, replace(checkpoint, counters={**checkpoint.counters, "env_steps": 1000}))
    assert play(run).env_steps == 2000
    assert play(newest).episodes == play(run).episodes
    evaluation = play(older)
    assert evaluation.env_steps == 1000
    assert evaluation.checkpoint == older


def test_a_checkpoint_alone_is_enough(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "agent.safetensors"
    alone.parent.mkdir()
    shutil.copy(find_checkpoint(run), alone)
    expected = play(run)
    shutil.rmtree(run)
    evaluation = play(alone)
    assert evaluation.episodes == expected.episodes
    assert write_evaluation(alone, evaluation) == alone.parent / "evaluation.json"


def test_the_evaluation_of_a_runs_checkpoint_is_written_into_the_run(run: Path) -> None:
    path = find_checkpoint(run)
    assert write_evaluation(path, play(path)) == run / "evaluation.json"


def test_also_where_the_checkpoint_is_named_from_its_own_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_checkpoint(run)
    monkeypatch.chdir(path.parent)
    written = write_evaluation(Path(path.name), play(Path(path.name)))
    assert written.resolve() == (run / "evaluation.json").resolve()


def test_evaluation_changes_nothing_else_in_the_run(run: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before = contents()
    write_evaluation(run, play(run))
    after = contents()
    assert after.pop(run / "evaluation.json")
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
