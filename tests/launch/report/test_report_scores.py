"""Whose results a report compares, and with which."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r2ac.launch.evaluation.evaluate import EvaluatedEpisode, Evaluation
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.evaluation.results_file import EvaluationFile
from r2ac.launch.report.aggregates import aggregate_section
from r2ac.launch.report.scores import compare, eval_setting, improvements, newest_results, transferred_results
from r2ac.launch.report.study import Study, differing_settings, read_study
from r2ac.launch.report.throughput import total
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.presets import preset


def make_run(folder: Path, task: str, returns: dict[int, float], seed: int = 1, **settings: Any) -> Path:
    """A run with results of its checkpoints: env_steps -> return of each episode."""
    config = preset(task)
    settings = {"agent": replace(config.agent, **settings), "seed": seed}
    config = replace(config, **settings)
    name = f"{task.replace('/', '-')}-{config.label}-{config.agent.hidden_size}-{seed}"
    run = folder / name
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config.to_json()))
    put(run, config, task, returns)
    return run


def put(
    run: Path, config: TrainConfig[Any], task: str, returns: dict[int, float], protocol: str = "default", **changes: Any
) -> None:
    with EvaluationFile(run / "evaluation.json") as file:
        for steps, value in returns.items():
            how = EvaluationConfig(episodes=2, seeds=1, **changes)
            result = Evaluation(run / f"{steps}", f"{steps:064d}", steps, task, config.env, how, config, protocol)
            file.put(result.with_seed([EvaluatedEpisode(0, value + d, 7, False) for d in (-0.1, 0.1)]))


def only_results(study: Study) -> list[Any]:
    (results,) = newest_results(study).values()
    return results


def test_the_newest_checkpoint_speaks_for_its_run(tmp_path: Path) -> None:
    make_run(tmp_path, "memory/tmaze", {200: 0.7, 1000: 0.9, 300: 1.0})
    (result,) = only_results(read_study([tmp_path]))
    assert (result.evaluation.env_steps, result.evaluation.mean_return) == (1000, pytest.approx(0.9))


def test_settings_of_the_evaluation_are_kept_apart_the_fullest_first(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "memory/tmaze", {100: 0.9}, seed) for seed in (1, 2)]
    put(runs[0], preset("memory/tmaze"), "memory/tmaze", {100: 0.8}, split="train")
    put(runs[0], preset("memory/tmaze"), "memory/tmaze", {101: 1.0}, greedy=True, split="train")
    results = newest_results(read_study(runs))
    assert [len(own) for own in results.values()] == [2, 1, 1]
    assert [str(setting) for setting in results][:2] == [
        "protocol default, split test, sampled actions",
        "protocol default, split train, sampled actions",
    ]
    assert all(eval_setting(result.evaluation) == setting for setting, own in results.items() for result in own)


def test_of_equally_many_results_those_on_held_out_episodes_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, "memory/tmaze", {})
    for protocol, split in (("default", "train"), ("paper", "test")):
        put(run, preset("memory/tmaze"), "memory/tmaze", {100: 0.9}, protocol, split=split)
    assert [setting.split for setting in newest_results(read_study([run]))] == ["test", "train"]


def test_other_tasks_than_those_trained_on_count_in_no_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path, "memory/tmaze", {100: 0.9})
    put(run, preset("memory/tmaze"), "memory/parity", {100: 0.1})
    study = read_study([run])
    assert [result.task for result in only_results(study)] == ["memory/tmaze"]
    assert [result.task for result in transferred_results(study)] == ["memory/parity"]


def test_configurations_are_compared_on_the_tasks_that_all_of_them_have(tmp_path: Path) -> None:
    for seed, value in ((1, 0.9), (2, 0.7)):
        make_run(tmp_path, "memory/tmaze", {100: value}, seed)
        make_run(tmp_path, "memory/tmaze", {100: 0.6}, seed, gradient="tbptt")
    make_run(tmp_path, "memory/parity", {100: 1.0})
    results = only_results(read_study([tmp_path]))
    comparison = compare(results)
    assert comparison is not None
    assert (comparison.tasks, comparison.left_out) == (("memory/tmaze",), ("memory/parity",))
    by_name = {c.name: by_task["memory/tmaze"] for c, by_task in comparison.scores.items()}
    assert by_name == {"gradient=rtrl": pytest.approx((0.8, 0.4)), "gradient=tbptt": pytest.approx((0.2, 0.2))}
    (improvement,) = improvements(comparison)
    assert (improvement.ours.name, improvement.estimate.value) == ("gradient=rtrl", 1.0)


def test_configurations_without_a_shared_task_are_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "memory/tmaze", {100: 0.9})
    make_run(tmp_path, "memory/parity", {100: 0.9}, gradient="tbptt")
    study = read_study([tmp_path])
    ((setting, results),) = newest_results(study).items()
    assert compare(results) is None
    (block,) = aggregate_section(setting, results).blocks
    assert "no task with reference scores that all evaluated configurations share" in str(block)


def test_many_configurations_are_compared_with_a_baseline_only(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "memory/tmaze", {100: 0.5 + size / 100}, hidden_size=size) for size in range(1, 6)]
    comparison = compare(only_results(read_study(runs)))
    assert comparison is not None
    assert improvements(comparison) == []
    comparison = compare(only_results(read_study(runs[1:], baseline=runs[:1])))
    assert comparison is not None
    pairs = {(each.ours.name, each.theirs.name) for each in improvements(comparison)}
    assert pairs == {(f"hidden_size={size}", "hidden_size=1 (baseline)") for size in range(2, 6)}


def test_agents_are_told_apart_even_where_they_share_no_task(tmp_path: Path) -> None:
    make_run(tmp_path, "memory/tmaze", {100: 0.9})
    make_run(tmp_path, "memory/parity", {100: 0.9}, gradient="tbptt")
    assert {c.name for c in read_study([tmp_path]).configurations} == {"gradient=rtrl", "gradient=tbptt"}


def test_what_a_task_brings_with_it_makes_no_other_configuration(tmp_path: Path) -> None:
    make_run(tmp_path, "memory/key_to_door", {100: 0.9})
    make_run(tmp_path, "popgym/RepeatFirstEasy", {100: 0.0})
    (configuration,) = read_study([tmp_path]).configurations
    assert (configuration.name, configuration.tasks) == ("ppo rtrl", ("memory/key_to_door", "popgym/RepeatFirstEasy"))
    # Budgets differ; the delay is an option that popgym does not have.
    differing = differing_settings(configuration.groups)
    assert "total_steps" in differing
    assert "env.delay" not in differing


@pytest.mark.parametrize(("counts", "result"), [([], 0), ([0, 0], 0), ([1, 3, 3], 3), ([2, 5, 0, 1], 6), ([4, 1], 5)])
def test_a_counter_that_begins_anew_goes_on(counts: list[float], result: int) -> None:
    assert total(counts) == result
