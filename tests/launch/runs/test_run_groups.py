"""Which runs belong together, of which task they are and what they are called."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from r2ac.envs.memory import MemoryOptions
from r2ac.launch.runs.run_groups import (
    differing_fields,
    group_label,
    group_runs,
    runs_of,
    tasks_of,
    unnamed_differences,
)
from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.presets import preset


def make_config(path: Path, task: str = "memory/tmaze", seed: int = 1, gradient: str = "rtrl", **more: Any) -> Path:
    path.mkdir(parents=True)
    config = {"task": task, "seed": seed, "agent": {"gradient": gradient}, **more, "run_dir": str(path)}
    (path / "config.json").write_text(json.dumps(config))
    return path


def make_events(path: Path, tag: str = "charts/episodic_return") -> Path:
    with SummaryWriter(str(path)) as writer:
        writer.add_scalar(tag, 1.0, 1)
    return path


def test_seeds_of_one_setting_are_one_group(tmp_path: Path) -> None:
    runs = [
        make_config(tmp_path / f"{gradient}{seed}", seed=seed, gradient=gradient)
        for seed in (1, 2, 3)
        for gradient in ("rtrl", "tbptt")
    ]
    rtrl, tbptt = group_runs(runs)
    assert rtrl.runs == tuple(runs[0::2])
    assert tbptt.runs == tuple(runs[1::2])
    assert rtrl.seeds == (1, 2, 3)
    assert differing_fields([[rtrl, tbptt]]) == ["agent.gradient"]
    assert group_label(rtrl, ["agent.gradient"]) == "gradient=rtrl"


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = make_config(tmp_path / "run")
    (group,) = group_runs([run, tmp_path / "." / "run" / ".." / "run", str(run)])
    assert group.runs == (run,)


def test_the_number_of_actors_is_a_difference(tmp_path: Path) -> None:
    runs = [make_config(tmp_path / str(n), num_actors=n) for n in (1, 2)]
    assert differing_fields([group_runs(runs)]) == ["num_actors"]


def test_what_comes_with_an_algorithm_is_no_other_difference(tmp_path: Path) -> None:
    runs = []
    for algorithm, learning_rate in (("vtrace", None), ("ppo", 0.1), ("ppo", 0.2)):
        config = preset("memory/tmaze", algorithm=algorithm)
        learner = replace(config.learner, learning_rate=learning_rate or config.learner.learning_rate)
        runs.append(tmp_path / f"{algorithm}{learning_rate}")
        runs[-1].mkdir()
        (runs[-1] / "config.json").write_text(json.dumps(replace(config, learner=learner).to_json()))
    vtrace, one, other = group_runs(runs)
    assert differing_fields([[vtrace, one]]) == ["learner.algorithm", "total_steps"]
    every = differing_fields([[vtrace, one]], of_algorithms=True)
    hidden = [name.split(".")[-1] for name in every if name not in ("learner.algorithm", "total_steps")]
    assert {"input_scale", "readout", "learning_rate"} <= set(hidden)
    note = unnamed_differences([vtrace, one], [[vtrace, one]])
    assert note == f"{len(hidden)} other settings differ, too: {', '.join(hidden)}"
    assert "learning_rate" not in unnamed_differences([vtrace, one], [[vtrace, one, other]])
    assert unnamed_differences([one, other], [[one, other]]) == ""
    assert differing_fields([[vtrace, one, other]]) == ["learner.algorithm", "learner.learning_rate", "total_steps"]


@pytest.mark.parametrize(
    ("task", "settings", "differing"),
    [
        ("atari/Breakout", {"hidden_size": 512, "readout": "mlp"}, ["agent.hidden_size", "agent.readout"]),
        ("memory/parity", {"input_scale": 1.0}, []),
    ],
)
def test_what_comes_with_an_algorithm_is_that_of_the_suite(
    task: str, settings: dict[str, Any], differing: list[str], tmp_path: Path
) -> None:
    for name, algorithm in (("a", "vtrace"), ("b", "ppo")):
        config = preset(task, algorithm=algorithm)
        config = replace(config, agent=replace(config.agent, **settings) if name == "b" else config.agent)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_json()))
    expected = ["learner.algorithm", *differing, *(["total_steps"] if task == "memory/parity" else [])]
    assert sorted(differing_fields([group_runs([tmp_path / "a", tmp_path / "b"])])) == sorted(expected)


def test_labels_name_only_what_differs_within_a_panel(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"learner": {"rate": 1, "rollout_length": 10}, "env": {"rate": 5}},
        {"learner": {"rate": 2, "rollout_length": 10}, "env": {"rate": 6}},
        {"learner": {"rate": 2, "rollout_length": 10}, "env": {"rate": 6}, "agent": {"gradient": "rtrl", "size": 3}},
    ]
    runs = [make_config(tmp_path / str(i), **more) for i, more in enumerate(settings)]
    # Another task always has other settings; alone in its panel, it needs no label for them.
    runs.append(make_config(tmp_path / "other", task="atari/Breakout", learner={"rollout_length": 50}))
    groups = group_runs(runs)
    names = differing_fields([groups[:3], groups[3:]])
    assert sorted(names) == ["agent.size", "env.rate", "learner.rate"]
    assert group_label(groups[2], ["learner.rate", "env.rate", "agent.size"]) == "learner.rate=2, env.rate=6, size=3"
    assert group_label(groups[0], ["agent.size"]) == "size=unset"


def test_options_are_not_compared_between_tasks(tmp_path: Path) -> None:
    runs = [
        make_config(tmp_path / "one", task="procgen/chaser", env={"levels": 500}),
        make_config(tmp_path / "all", task="procgen", env={"levels": 200}, rollout_length=5),
        make_config(tmp_path / "few", task="procgen/chaser", env={"levels": 10}),
    ]
    groups = group_runs(runs)
    assert differing_fields([groups[:2]]) == ["rollout_length"]
    assert differing_fields([groups]) == ["env.levels", "rollout_length"]


def test_the_tasks_of_a_run() -> None:
    assert tasks_of("memory/tmaze") == ("memory/tmaze",)
    assert tasks_of("atari/Breakout,atari/Qbert") == ("atari/Breakout", "atari/Qbert")
    assert len(tasks_of("dmlab-30")) == 30
    assert tasks_of("lost/task,lost/other") == ("lost/task", "lost/other")


def test_a_directory_stands_for_the_runs_in_it(tmp_path: Path) -> None:
    names = ["atari-Breakout", "atari-Qbert"]
    runs = [make_config(tmp_path / "suite" / name, task=name.replace("-", "/")) for name in reversed(names)]
    (tmp_path / "suite" / "empty").mkdir()
    (tmp_path / "suite" / "suite.json").write_text("{}")
    assert [group.runs for group in group_runs([tmp_path / "suite"])] == [(runs[1],), (runs[0],)]


def test_a_directory_holds_runs_at_any_depth(tmp_path: Path) -> None:
    names = ["alone", "memory-copy/a", "memory-tmaze/b", "memory-tmaze/sweep/c"]
    runs = [make_config(tmp_path / name) for name in names]
    make_config(tmp_path / ".hidden" / "run")
    make_config(runs[0] / "within")
    (tmp_path / "memory-tmaze" / "back").symlink_to(tmp_path)
    assert runs_of(tmp_path) == runs
    (tmp_path / "memory-tmaze" / "link").symlink_to(runs[0])
    assert tmp_path / "memory-tmaze" / "link" in runs_of(tmp_path)
    assert runs_of(tmp_path / "none") == []


def test_runs_of_cleanrl_are_grouped_by_their_names(tmp_path: Path) -> None:
    names = [
        "Qbert{}__ppo_atari__1__1700000001",
        "Qbert{}__ppo_atari__2__1700009999",
        "Qbert{}__ppo__lstm__1__1700000001",
    ]
    runs = [make_events(tmp_path / name.format("NoFrameskip-v4")) for name in names]
    ppo, lstm = group_runs(runs)
    assert (ppo.runs, ppo.seeds, ppo.name, ppo.task) == (tuple(runs[:2]), (1, 2), "ppo_atari", "atari/Qbert")
    assert (lstm.runs, lstm.name) == ((runs[2],), "ppo__lstm")
    assert group_label(ppo, ["agent.gradient"]) == "ppo_atari"


def test_one_name_in_two_folders_is_two_groups(tmp_path: Path) -> None:
    runs = [make_events(tmp_path / folder / "CartPole-v1__ppo__1__17") for folder in "ab"]
    assert [group.name for group in group_runs(runs)] == [str(tmp_path / "a" / "ppo"), str(tmp_path / "b" / "ppo")]


@pytest.mark.parametrize(
    ("environment", "task"),
    [
        ("BreakoutNoFrameskip-v4", "atari/Breakout"),
        ("Breakout-v5", "atari/Breakout"),
        ("CartPole-v1", "gym/CartPole-v1"),
        ("starpilot", "procgen/starpilot"),
        ("MiniGrid-MemoryS7-v0", "minigrid/MemoryS7"),
        ("popgym-RepeatPreviousEasy-v0", "popgym/RepeatPreviousEasy"),
        ("LunarLander-v3", "LunarLander-v3"),
    ],
)
def test_the_environment_of_another_program_has_the_name_of_the_task(
    tmp_path: Path, environment: str, task: str
) -> None:
    (group,) = group_runs([make_events(tmp_path / f"{environment}__ppo__1__17")])
    assert group.task == task


def test_an_environment_is_the_task_of_a_run_beside_it(tmp_path: Path) -> None:
    runs = [
        make_events(tmp_path / "LunarLander-v3__ppo__1__17"),
        make_config(tmp_path / "run", task="gym/LunarLander-v3"),
    ]
    assert [group.task for group in group_runs(runs)] == ["gym/LunarLander-v3"] * 2


def test_a_run_that_tells_no_task_has_that_of_all_others(tmp_path: Path) -> None:
    ppo = make_events(tmp_path / "PPO_1", "rollout/ep_rew_mean")
    (alone,) = group_runs([ppo])
    assert (alone.task, alone.name, alone.seeds) == ("", "PPO_1", (None,))
    one = make_config(tmp_path / "one")
    assert [group.task for group in group_runs([ppo, one])] == ["memory/tmaze", "memory/tmaze"]
    two = make_config(tmp_path / "two", task="memory/copy")
    assert [group.task for group in group_runs([ppo, one, two])] == ["", "memory/tmaze", "memory/copy"]


def test_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="missing does not exist"):
        group_runs([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="empty is not a run directory"):
        group_runs([tmp_path / "empty"])
    run = make_config(tmp_path / "run")
    (run / "config.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"config\.json of .*run names no task"):
        group_runs([run])
    (run / "config.json").write_text('{"task": "mem')
    with pytest.raises(RunDirectoryError, match="is not valid JSON"):
        group_runs([run])


def test_where_and_how_a_run_executes_is_no_difference(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"video_minutes": 5.0, "transport": "ray", "profile": "", "inference": "worker"},
        {"video_minutes": 0.0, "transport": "auto", "inference_workers": 2, "inference_device": "cuda"},
        {"stall_seconds": 9.0, "log": ("mlflow",), "learner": {"cuda_graph": False}, "env": {"step_timeout": 5.0}},
        {"max_policy_lag": 40},
        {"stream_groups": 2},
    ]
    runs = [make_config(tmp_path / str(seed), seed=seed, **more) for seed, more in enumerate(settings)]
    groups = group_runs(runs)
    assert [group.seeds for group in groups] == [(0, 1, 2), (3,), (4,)]
    assert differing_fields([groups]) == ["max_policy_lag", "stream_groups"]


def test_a_run_from_before_a_setting_has_its_default(tmp_path: Path) -> None:
    new = TrainConfig("memory/tmaze", MemoryOptions(corridor_length=20)).to_json()
    old = json.loads(json.dumps(new))
    for part, name in ((old, "max_policy_lag"), (old["agent"], "chrono_steps"), (old["env"], "pixels")):
        del part[name]
    runs = [make_config(tmp_path / "new", **new), make_config(tmp_path / "old", **{**old, "seed": 2})]
    (group,) = group_runs(runs)
    assert group.seeds == (1, 2)
    other = make_config(tmp_path / "other", **{**new, "max_policy_lag": 40})
    groups = group_runs([*runs, other])
    assert [group_label(group, differing_fields([groups])) for group in groups] == [
        "max_policy_lag=0",
        "max_policy_lag=40",
    ]


def test_a_run_that_cannot_be_read_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    good, bad = (make_config(tmp_path / name) for name in ("good", "bad"))
    (bad / "config.json").write_text("{")
    left_out: list[str] = []
    (group,) = group_runs([bad, tmp_path / "missing", good, bad], left_out)
    assert group.runs == (good,)
    assert len(left_out) == 2
    assert "bad/config.json is damaged" in left_out[0]
    assert "missing does not exist" in left_out[1]
