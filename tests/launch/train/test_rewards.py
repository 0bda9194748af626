"""What is done to rewards and ends: learned from, said at the start, kept in the run, refused where it cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from r2ac.agents import DiscreteActions, ObservationSpec
from r2ac.launch.cli import main
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.config import ConfigError, config_from_json
from r2ac.launch.settings.presets import preset
from r2ac.learner.checkpoint import latest_checkpoint, load_checkpoint

Capture = pytest.CaptureFixture[str]
TrainTiny = Callable[..., Path]
QUICKLY = ["--learning-rate", "0.1"]
AS_IN_THE_PAPER = ["--reward-clip", "1", "--no-normalise-rewards", "--no-bootstrap-at-time-limits"]


def train(name: str, run: Path, steps: int, *flags: str) -> Path:
    words = ["train", f"gym/tests.paying_envs:{name}-v0", "--num-actors", "0", "--streams-per-actor", "16"]
    words += ["--batch-size", "16", "--hidden-size", "16", "--total-steps", str(steps), "--run-dir", str(run)]
    assert main([*words, *flags]) == 0
    return run


def test_a_large_reward_is_preferred_to_many_small_ones(tmp_path: Path) -> None:
    """Clipped to 1, five small ones are worth more."""
    run = train("Prices", tmp_path / "run", 4000, *QUICKLY)
    assert read_metrics(run)[-1]["episode_return"] > 95
    clipped = train("Prices", tmp_path / "clipped", 4000, *QUICKLY, *AS_IN_THE_PAPER)
    assert read_metrics(clipped)[-1]["episode_return"] < 10


def value_at_the_start(run: Path) -> float:
    """In the environment's rewards."""
    agent = TrainedAgent.load(run).agent(ObservationSpec((2,), DiscreteActions(2)), torch.device("cpu"), "gym/test")
    zeros = torch.zeros(1, agent.core.state_size)
    value = agent.step(torch.zeros(1, 2), torch.zeros(1), torch.ones(1, dtype=torch.bool), zeros).value
    return float(value if agent.rewards.deviation is None else value * agent.rewards.deviation)


def test_a_time_limit_ends_the_return_or_does_not(tmp_path: Path) -> None:
    """Each step pays 1, the discount is 0.8: 1 / (1 - 0.8) = 5 where returns go on after 5 steps, else 3.36."""
    flags = (*QUICKLY, "--discount", "0.8")
    goes_on = train("Limited", tmp_path / "goes-on", 8000, *flags)
    assert value_at_the_start(goes_on) == pytest.approx(5, rel=0.1)
    ended = train("Limited", tmp_path / "ended", 8000, *flags, "--no-bootstrap-at-time-limits")
    assert value_at_the_start(ended) == pytest.approx(3.36, rel=0.1)


def moments(run: Path) -> list[float]:
    return load_checkpoint(latest_checkpoint(run / "checkpoints")).model["rewards.moments"].tolist()


def test_the_start_says_what_is_done_and_a_resumed_run_goes_on_with_it(tmp_path: Path, capsys: Capture) -> None:
    run = train("Limited", tmp_path / "run", 1600)
    said = (
        "rewards: divided by the running deviation of the discounted return and then clipped to [-10, 10] in the "
        "losses and in the core's input; a time limit does not end the return"
    )
    assert said in capsys.readouterr().out.splitlines()
    values = json.loads((run / "config.json").read_text())
    assert (values["agent"]["reward_clip"], values["agent"]["normalise_rewards"]) == (10.0, True)
    assert values["bootstrap_at_time_limits"] is True
    assert config_from_json(values, run).to_json() == values
    assert moments(run)[0] == pytest.approx(1600, abs=1e-3), "a return for each step"

    assert main(["train", "--resume", str(run), "--total-steps", "3200"]) == 0
    assert said in capsys.readouterr().out.splitlines()
    assert moments(run)[0] == pytest.approx(3200, abs=1e-3)
    # The values of a run are on the scale of its rewards.
    for flags in (["--reward-clip", "none"], ["--no-normalise-rewards"]):
        assert main(["train", "--resume", str(run), "--total-steps", "4800", *flags]) == 2
        assert f"{flags[0]} is " in capsys.readouterr().err
    assert read_metrics(run)[-1]["learner/reward_deviation"] == pytest.approx(moments(run)[2] ** 0.5)


def test_evaluations_report_the_returns_of_the_environment(tmp_path: Path) -> None:
    run = train("Limited", tmp_path / "run", 160)
    assert main(["evaluate", str(run), "--episodes", "2", "--seeds", "1"]) == 0
    (result,) = json.loads((run / "evaluation.json").read_text())["results"]
    assert result["seed_means"] == [5.0]


def test_the_papers_suites_begin_as_in_the_paper(train_tiny: TrainTiny, tmp_path: Path, capsys: Capture) -> None:
    for task in ("dmlab/rooms_watermaze", "memory/tmaze", "minigrid/MemoryS7", "popgym/RepeatPreviousEasy"):
        config = preset(task, algorithm="vtrace")
        assert (config.agent.reward_clip, config.agent.normalise_rewards) == (1.0, False)
        assert not config.bootstrap_at_time_limits
    run = train_tiny(tmp_path / "run", {"--total-steps": 40})
    said = "rewards: clipped to [-1, 1] in the losses and in the core's input; a time limit ends the return"
    assert said in capsys.readouterr().out.splitlines()
    # Runs from before know nothing of it, and were so.
    values = json.loads((run / "config.json").read_text())
    del values["agent"]["reward_clip"], values["agent"]["normalise_rewards"], values["bootstrap_at_time_limits"]
    assert config_from_json(values, run).agent.reward_clip == 1.0


@pytest.mark.parametrize("bound", ["0.0", "-1.0", "inf", "nan"])
def test_a_bound_is_above_zero_and_finite(bound: str, tmp_path: Path, capsys: Capture) -> None:
    words = ["train", "memory/tmaze", "--num-actors", "0", "--run-dir", str(tmp_path / "run"), "--reward-clip", bound]
    assert main(words) == 2
    assert f"--reward-clip is {bound}, but it must be above 0 and finite, or none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rewards_may_stay_as_they_are() -> None:
    config = config_from_json(
        {**preset("memory/tmaze").to_json(), "agent": {"reward_clip": "none"}}, Path("config.json")
    )
    config.check()
    assert config.rewards_and_ends().startswith("rewards: as they are; ")
    for wrong in ("off", True, None):
        with pytest.raises(ConfigError, match="reward_clip"):
            config_from_json({**preset("memory/tmaze").to_json(), "agent": {"reward_clip": wrong}}, Path("config.json"))


@pytest.mark.parametrize("task", ["procgen/chaser", "dmlab/rooms_watermaze"])
def test_engines_that_never_show_the_last_observation_are_refused_the_bootstrap(
    task: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["train", task, "--bootstrap-at-time-limits", "--run-dir", str(tmp_path / "run")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--bootstrap-at-time-limits is not possible" in error
    assert "last observation" in error
    assert not (tmp_path / "run").exists()
