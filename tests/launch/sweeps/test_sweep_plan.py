"""What a sweep trains is known, and checked, before anything starts."""

from pathlib import Path

import pytest

from r2ac.launch.runtime.errors import RunDirectoryError
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.sweeps.results import write_description
from r2ac.launch.sweeps.sweep_plan import SweepPlan, make_plan, read_plan
from r2ac.launch.sweeps.sweep_settings import SweepSettings

RATE = "learning-rate=loguniform(1e-4,1e-2)"


def plan_of(folder: Path, *vary: str, flags: tuple[str, ...] = (), **settings: object) -> SweepPlan:
    return make_plan("memory/tmaze", flags, SweepSettings(**{"vary": vary, "sweep_dir": folder, **settings}))  # type: ignore[arg-type]


def test_every_trial_is_an_ordinary_training_in_a_folder_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "seed=1,2", "gradient=rtrl,tbptt", RATE, flags=("--hidden-size", "8"), trials=2)
    assert [trial.name for trial in plan.trials] == [f"trial-{i:02}" for i in range(1, 9)]
    for trial in plan.trials:
        assert trial.config.run_dir == tmp_path / trial.name
        assert trial.config.agent.hidden_size == 8
        assert trial.config.seed == trial.settings["seed"]
        assert trial.config.agent.gradient == trial.settings["gradient"]
        assert trial.config.learner.learning_rate == trial.settings["learning-rate"]


def test_switches_can_be_varied(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "cuda-graph=true,false")
    assert [trial.config.learner.cuda_graph for trial in plan.trials] == [True, False]
    with pytest.raises(ConfigError, match="must be true or false"):
        plan_of(tmp_path, "cuda-graph=1,2")


def test_algorithms_that_are_varied_come_with_their_settings(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "algorithm=vtrace,ppo", flags=("--streams-per-actor", "70"))
    assert [trial.config.batch_size for trial in plan.trials] == [64, 70]
    assert [trial.config.learner.baseline_cost for trial in plan.trials] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("vary", "settings", "sentence"),
    [
        ((), {}, "nothing is varied"),
        (("learning-rat=1e-3,1e-4",), {}, "no flag --learning-rat"),
        (("run-dir=a,b",), {}, "the same for every trial"),
        (("hidden-size=8,16",), {}, "is given and varied"),
        (("learning-rate=1e-3,-1",), {}, "learning-rate is -1.0"),
        (("discount=uniform(1.5,2)",), {"trials": 1}, "discount is 1"),
        (("batch-size=1000",), {}, "batch-size is 1000"),
        (("seed=1,2",), {"trials": 3}, "nothing that is varied is random"),
        ((RATE,), {"trials": -1}, "--trials is -1"),
        ((RATE,), {"metric": "episode_retrun"}, "--metric is episode_retrun"),
        ((RATE,), {"perturb_every": 5}, "--perturb-every is for --scheduler pbt"),
        ((RATE,), {"scheduler": "pbt", "trials": 1}, "at least 2 trials"),
        ((RATE,), {"scheduler": "pbt", "quantile": 0.6}, "--quantile is 0.6"),
        ((RATE,), {"scheduler": "pbt", "perturb_factor": 1.0}, "--perturb-factor is 1.0"),
        ((RATE,), {"scheduler": "pbt", "resample": 1.5}, "--resample is 1.5"),
        ((RATE,), {"sweep_dir": Path("s3://bucket/sweep")}, "--sweep-dir is s3:/bucket/sweep, but it must be a folder"),
        ((RATE,), {"scheduler": "pbt", "perturb_every": 10**9}, "less than the steps of a trial"),
        ((RATE,), {"scheduler": "pbt", "bounds": ("learning-rate=1e-3,1",)}, "but draws lie between"),
        ((RATE,), {"scheduler": "pbt", "bounds": ("learning-rate=-1,1",)}, "learning-rate is -1.0"),
        ((RATE,), {"scheduler": "pbt", "bounds": ("entropy-cost=0,1",)}, "no number of that name"),
        ((RATE,), {"scheduler": "pbt", "bounds": ("learning-rate",)}, "NAME=LOW,HIGH"),
        ((RATE, "rollout-length=4,8"), {"scheduler": "pbt"}, "only seed can be one"),
        ((RATE, "rollout-length=randint(4,8)"), {"scheduler": "pbt"}, "only these can change"),
        (("seed=1,2,3",), {"scheduler": "pbt"}, "has nothing to change"),
    ],
)
def test_what_cannot_be_swept_is_told(
    tmp_path: Path, vary: tuple[str, ...], settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_of(tmp_path / "sweep", *vary, flags=("--hidden-size=8",), **settings)
    assert not (tmp_path / "sweep").exists()


def test_a_metric_without_reference_scores_is_refused(tmp_path: Path) -> None:
    settings = SweepSettings(vary=("seed=1,2",), sweep_dir=tmp_path / "sweep", metric="capped_normalised_return")
    with pytest.raises(ConfigError, match="memory/copy has no reference scores in training: take episode_return"):
        make_plan("memory/copy", ("--curriculum",), settings)
    assert make_plan("memory/copy", (), settings).trials


def test_a_value_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--rollout-length: '1.* is no whole number"):
        plan_of(tmp_path, "rollout-length=uniform(1,2)", trials=1)


def test_a_population_has_lines_enough_to_compare_and_bounds(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, RATE, "entropy-cost=uniform(0,0.1)", "seed=1,2",
        scheduler="pbt", perturb_every=20_000, bounds=("entropy-cost=0,1",),
    )  # fmt: skip
    assert plan.bounds == {"learning-rate": (1e-4, 1e-2), "entropy-cost": (0, 1)}
    assert list(plan.perturbed) == ["learning-rate", "entropy-cost"]
    assert {trial.config.log_interval for trial in plan.trials} == {1500}


def test_a_sweep_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RATE, "seed=1,2", flags=("--hidden-size", "8"), trials=3, sweep_seed=4)
    write_description(plan)
    assert read_plan(tmp_path, lambda settings: settings) == plan


def test_what_is_no_sweep_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a sweep"):
        read_plan(tmp_path, lambda settings: settings)
    (tmp_path / "sweep.json").write_text('{"task": "memory/tmaze"}')
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_plan(tmp_path, lambda settings: settings)
