"""A trial of a sweep, without Ray: how it stops, goes on, copies another and fails."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r2ac.launch.runs.metrics import read_metrics
from r2ac.launch.settings.flags import training_config
from r2ac.launch.sweeps.results import result_of
from r2ac.launch.sweeps.sweep_plan import make_plan
from r2ac.launch.sweeps.sweep_settings import SweepSettings
from r2ac.launch.sweeps.trial import Record, Trial, TrialReport, mean_of
from r2ac.learner.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint

FLAGS = "--num-actors 0 --streams-per-actor 8 --batch-size 8 --rollout-length 5 --hidden-size 8 --corridor-length 4"
STEPS, EVERY = 2000, 600


def trial_at(folder: Path, rate: float = 1e-3, seed: int = 1, every: int = EVERY, **learner: float) -> Trial:
    config = training_config("memory/tmaze", FLAGS.split())
    config = replace(config, seed=seed, run_dir=folder, total_steps=STEPS, log_steps=40)
    config = replace(config, learner=replace(config.learner, **learner))  # type: ignore[arg-type]
    return Trial(folder.name, config, {"learning-rate": rate}, "episode_return", False, every)


def newest(folder: Path) -> Checkpoint:
    return load_checkpoint(latest_checkpoint(folder / "checkpoints"))


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def saved(trial: Trial, folder: Path) -> Path:
    folder.mkdir()
    trial.save(folder)
    return folder


def test_without_a_population_a_trial_trains_to_its_end(tmp_path: Path) -> None:
    trial = trial_at(tmp_path / "a", every=0)
    report = trial.report(timeout=60)
    assert report.done
    assert (report.env_steps, report.generation, report.copies, report.failure) == (STEPS, 0, 0, None)
    lines = [line for line in read_metrics(tmp_path / "a") if line.get("episode_return") is not None]
    assert report.score == pytest.approx(mean_of(read_metrics(tmp_path / "a")[-10:], "episode_return"))
    assert lines
    assert "population/copies" not in lines[-1]


def test_a_trial_tells_how_far_it_is_while_it_trains_and_saves_when_it_is_stopped(tmp_path: Path) -> None:
    config = replace(trial_at(tmp_path / "a")._config, total_steps=10**7)
    trial = Trial("a", config, {"learning-rate": 1e-3}, "episode_return", False)
    while not (report := trial.report(timeout=0.2)).env_steps:
        assert not report.done
    assert not report.done
    trial.stop()
    assert 0 < newest(tmp_path / "a").counters["env_steps"] < 10**7
    steps = newest(tmp_path / "a").counters["env_steps"]
    again = Trial("a", replace(config, total_steps=int(steps) + 400), {"learning-rate": 1e-3}, "episode_return", False)
    report = again.report(timeout=60)
    assert report.done
    assert report.env_steps == steps + 400


def test_a_member_stops_at_each_comparison_and_goes_on(tmp_path: Path) -> None:
    trial = trial_at(tmp_path / "a")
    reports = [trial.report(timeout=60) for _ in range(4)]
    assert [(report.generation, report.done) for report in reports] == [(1, False), (2, False), (3, False), (3, True)]
    assert [report.env_steps for report in reports] == [600, 1200, 1800, STEPS]
    steps = [line["env_steps"] for line in read_metrics(tmp_path / "a")]
    assert steps == sorted(set(steps))


def test_a_copy_takes_weights_optimiser_and_settings_and_keeps_its_own_steps(tmp_path: Path) -> None:
    donor, member = trial_at(tmp_path / "donor", seed=1), trial_at(tmp_path / "member", seed=2)
    donor.report(timeout=60)
    donor.report(timeout=60)
    member.report(timeout=60)
    before = newest(tmp_path / "member")
    folder = saved(donor, tmp_path / "handed")

    copied = trial_at(tmp_path / "member", rate=1.25e-3, seed=2)
    copied.load(folder)
    taken, given = newest(tmp_path / "member"), newest(tmp_path / "donor")
    assert same_tensors(taken.model, given.model)
    assert not same_tensors(taken.model, before.model)
    states = [checkpoint.optimiser["state"] for checkpoint in (taken, given)]
    assert all(same_tensors(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert taken.counters["env_steps"] == before.counters["env_steps"] == 600
    assert given.counters["env_steps"] == 1200
    assert taken.counters["stream_resets"] == before.counters["stream_resets"] + 8
    copy = Record.read(tmp_path / "member").copies[-1]
    assert (copy.donor, copy.donor_env_steps, copy.env_steps) == ("donor", 1200, 600)
    assert copy.settings == {"learning-rate": 1.25e-3}
    # A sweep that is killed here goes on with these, too.
    vary = ("seed=1,2", "learning-rate=loguniform(1e-4,1e-2)")
    plan = make_plan("memory/tmaze", (), SweepSettings(vary=vary, sweep_dir=tmp_path, scheduler="pbt"))
    member_now = result_of(plan, replace(plan.trials[0], name="member"))
    assert member_now.last_settings["learning-rate"] == 1.25e-3

    report = copied.report(timeout=60)
    assert report.copies == 1
    lines = read_metrics(tmp_path / "member")
    steps = [line["env_steps"] for line in lines]
    assert steps == sorted(set(steps))
    own, others = (
        [line for line in lines if line["env_steps"] <= 600],
        [line for line in lines if line["env_steps"] > 600],
    )
    assert {line["learner/stream_resets"] for line in own} == {0}
    assert {line["learner/stream_resets"] for line in others} == {8}
    assert {line["population/copies"] for line in others} == {1}
    assert {line["population/learning_rate"] for line in others} == {1.25e-3}
    # The schedule is that of the member's own steps.
    assert others[0]["learner/learning_rate"] == pytest.approx(1.25e-3 * (1 - others[0]["env_steps"] / STEPS))
    assert json.loads((tmp_path / "member" / "config.json").read_text())["learner"]["learning_rate"] == 1.25e-3


def test_the_same_copy_is_taken_once_and_ones_own_checkpoint_is_none(tmp_path: Path) -> None:
    donor, member = trial_at(tmp_path / "donor"), trial_at(tmp_path / "member", seed=2)
    donor.report(timeout=60)
    member.report(timeout=60)
    folder = saved(donor, tmp_path / "handed")
    for _ in range(2):
        trial_at(tmp_path / "member", seed=2).load(folder)
    assert newest(tmp_path / "member").counters["stream_resets"] == 8
    weights = newest(tmp_path / "donor").model
    trial_at(tmp_path / "donor").load(folder)
    assert not Record.read(tmp_path / "donor").copies
    assert same_tensors(newest(tmp_path / "donor").model, weights)


def test_the_score_after_a_copy_is_of_the_new_weights_alone(tmp_path: Path) -> None:
    donor, member = trial_at(tmp_path / "donor"), trial_at(tmp_path / "member", seed=2)
    donor.report(timeout=60)
    member.report(timeout=60)
    copied = trial_at(tmp_path / "member", seed=2)
    copied.load(saved(donor, tmp_path / "handed"))
    score = copied.report(timeout=60).score
    since = [line for line in read_metrics(tmp_path / "member") if line["env_steps"] > 600]
    assert score == pytest.approx(mean_of(since[-10:], "episode_return"))


def diverging(folder: Path) -> Trial:
    return trial_at(folder, rate=1e30, max_skipped_updates=1)


def test_a_trial_that_diverges_is_told_and_has_ended(tmp_path: Path) -> None:
    config = replace(diverging(tmp_path / "a")._config)
    report = Trial("a", config, {"learning-rate": 1e30}, "episode_return", False).report(timeout=60)
    assert report.done
    assert report.failure is not None
    assert "diverged" in report.failure
    assert report.score == -math.inf
    assert Record.read(tmp_path / "a").failure == report.failure


def test_a_member_that_diverges_waits_for_a_copy_and_goes_on(tmp_path: Path) -> None:
    donor, member = trial_at(tmp_path / "donor"), diverging(tmp_path / "member")
    donor.report(timeout=60)
    report = member.report(timeout=60)
    assert (report.done, report.generation, report.score) == (False, 1, -math.inf)
    assert report.env_steps < EVERY
    copied = trial_at(tmp_path / "member")
    copied.load(saved(donor, tmp_path / "handed"))
    reports: list[TrialReport] = []
    while not reports or not reports[-1].done:
        reports.append(copied.report(timeout=60))
    assert [one.generation for one in reports] == [2, 3, 3]
    assert reports[-1].env_steps == STEPS
    assert all(math.isfinite(one.score) for one in reports)
    assert Record.read(tmp_path / "member").failure is None


def test_what_may_not_come_again_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_at(tmp_path / "a")
    trial.report(timeout=60)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr("r2ac.launch.train.learn.open_rollouts", fail)
    with pytest.raises(OSError, match="no such device"):
        trial.report(timeout=60)


def test_the_mean_leaves_out_lines_without_the_metric() -> None:
    assert mean_of([{"a": 1.0}, {"b": 5.0}, {"a": 2.0}, {"a": None}], "a") == 1.5
    assert math.isnan(mean_of([{"b": 1.0}], "a"))
