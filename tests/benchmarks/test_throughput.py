"""The benchmark of the whole system: every method is measured, one that fails is told, and the ceiling is right."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from r2ac.envs.procgen_engine import ENVPOOL, PACKAGE

Modules = Callable[[str], ModuleType]
METHODS = ["system", "turns", "environment", "inference", "learner"]
SIZES = ["--actors", "2", "--streams", "2", "--batch", "3", "--length", "4", "--seconds", "0.2"]


def figures_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("throughput-*-quick.json")
    assert path.with_suffix(".png").stat().st_size > 0
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


@pytest.mark.slow
def test_a_small_run_measures_the_system_and_its_parts(
    module: Modules, run_benchmark: Callable[..., str], tmp_path: Path
) -> None:
    printed = run_benchmark("throughput", *SIZES, "--methods", *METHODS)
    figures = figures_of(tmp_path)
    (row,) = figures["throughput"]
    assert row["failures"] == {}
    assert set(row["steps_per_second"]) == set(METHODS)
    assert min(row["steps_per_second"].values()) > 0
    speeds = {method: each[0] for method, each in row["steps_per_second_of_rounds"].items()}
    b, i, c = (speeds[name] for name in ("environment", "inference", "learner"))
    # All on one core.
    assert row["ceiling"] == pytest.approx(1 / (1 / b + 1 / i + 1 / c))
    assert row["ratios"]["system over ceiling"] == pytest.approx(speeds["system"] / row["ceiling"])
    assert row["ratios"]["system over RLlib"] is None
    (turns,) = row["turns_of_rounds"]
    assert min(turns.values()) >= 0
    # Actors of two streams may not keep up.
    waits = turns["learner_wait"] > module("throughput").MOST_WAIT
    unknown = [goal["verdict"] == "not measured" for goal in figures["goals"]]
    assert unknown == [False, True, waits, waits, True]
    assert row["ratios"]["system over learner, in turn"] == (
        None if waits else pytest.approx(turns["rtrl_ms"] / turns["system_ms"])
    )
    assert row["more"]["system"].keys() >= {"learner_wait", "policy_lag"}
    assert "| memory/tmaze | 2x2, B=3, T=4, none, N=16 |" in printed


@pytest.mark.parametrize("task", ["procgen/chaser", "atari/Breakout"])
def test_images_have_the_encoder_that_was_asked_for(module: Modules, task: str) -> None:
    benchmark = module("throughput")
    _, options = benchmark.parse(["--encoder", "impala", "--threads", "2"])
    setting = benchmark.make_setting(task, options, "cpu")
    assert (setting.encoder, setting.hidden, setting.length, setting.batch) == ("impala", 256, 50, 32)
    assert (setting.actors, setting.streams, setting.seconds) == (1, 32, 20)
    assert module("throughput_setting").read_setting(argparse.ArgumentParser(), setting.flags())[0] == setting


def test_the_ceiling_of_shared_cores_adds_core_seconds_up(module: Modules) -> None:
    """4 cores. Environment: 2 actors make 2000 a second, so 1 ms. Inference: 1 ms. Learner: 1000 on 4 cores, so 4 ms,
    but 2 ms on one thread. So 4 ms of core time a step, and 3 without inference."""
    parts = module("throughput_ceiling").Parts(2000, 1000, 1000, 500, actors=2, cores=4, shared=True)
    assert parts.ceiling() == pytest.approx(1000)
    assert parts.ceiling(with_inference=False) == pytest.approx(4 / 0.003)
    assert parts.slower_side == 1000


def test_the_ceiling_of_all_cores_is_the_harmonic_sum(module: Modules) -> None:
    """b = 6000, i = 2 x 1500, c = 2000: 1/b + 1/i + 1/c = 1/1000."""
    parts = module("throughput_ceiling").Parts(6000, 1500, 2000, 1000, actors=2, cores=2, shared=True)
    assert parts.ceiling() == pytest.approx(1000)


def test_the_slower_side_of_the_best_split(module: Modules) -> None:
    make = module("throughput_ceiling").Parts
    # Two cores, one each: acting costs 1/2000 + 1/1000 s of a core, 667 steps/s; the learner 500.
    assert make(2000, 1000, 600, 500, actors=1, cores=2, shared=True).split() == pytest.approx(500)
    assert make(2000, 1000, 900, 800, actors=1, cores=2, shared=True).split() == pytest.approx(2000 / 3)
    # Four cores, three actors, 1 ms of a core each step: with one core for the learner 300 against 3000; with two 600
    # against 2000; with three 900 against 1000, the best.
    parts = make(6000, 2000, 2000, 300, actors=3, cores=4, shared=True)
    assert parts.split() == pytest.approx(900)
    assert make(4000, 1000, 500, 100, actors=4, cores=4, shared=False).split() == pytest.approx(500)


def test_the_ceiling_with_a_learner_elsewhere_is_the_slower_side(module: Modules) -> None:
    make = module("throughput_ceiling").Parts
    # 8 actors on 4 cores: 1 ms each for environment and inference.
    assert make(4000, 1000, 9000, 100, actors=8, cores=4, shared=False).ceiling() == pytest.approx(2000)
    assert make(4000, 1000, 1500, 100, actors=8, cores=4, shared=False).ceiling() == pytest.approx(1500)


def test_ratios_are_medians_of_the_rounds_that_have_both(module: Modules) -> None:
    ratio = module("throughput_ceiling").median_ratio
    assert ratio([2.0, 9.0, 40.0, None], [1.0, 3.0, 10.0, 5.0]) == 3
    assert ratio([1.0, None], [None, 1.0]) is None


def test_the_start_of_a_run_does_not_count(module: Modules) -> None:
    """The lines of 100 steps take 10 s at the start and 1 s from then on."""
    times = [10.0, 20.0, 30.0, *range(31, 61)]
    lines = [{"env_steps": 100 * k, "wall_time": t, "policy_lag/mean": t} for k, t in enumerate(times)]
    figures = module("throughput_system").steady(lines, leave_out=0.4)
    assert figures == {"steps_per_second": pytest.approx(100), "policy_lag": pytest.approx(45.5)}
    assert module("throughput_system").steady(lines[:2])["steps_per_second"] == pytest.approx(10)


def test_updates_of_the_system_and_on_noise_take_turns(module: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of the system takes 1 s, and 10 s before it after others on noise, which take 0.2 and 0.1 s."""
    turns, now, after_noise = module("throughput_turns"), 0.0, False
    made: list[str] = []

    def run(kind: str) -> None:
        nonlocal now, after_noise
        made.append(kind)
        now += {"rtrl": 0.2, "tbptt": 0.1}.get(kind, 11 if after_noise else 1)
        after_noise = kind != "system"

    monkeypatch.setattr(turns, "noise_updates", lambda _, gradient: (None, lambda: run(gradient)))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)
    update = turns.Turns(None, lambda _: run("system"), lambda: 7 + now / 4)
    assert update.block == 5
    made.clear()
    for _ in range(3 * (turns.SKIPPED + 5) + 1):
        update(None)
    of_system = ["system"] * (turns.SKIPPED + 5)
    once, again = of_system + ["tbptt"] * 5 + ["rtrl"] * 5, of_system + ["rtrl"] * 5 + ["tbptt"] * 5
    assert made == once + again + once + ["system"]
    assert update.seconds == 3 * [pytest.approx({"system": 1, "rtrl": 0.2, "tbptt": 0.1})]
    update.seconds[0]["system"] = 99
    expected = {"steps_per_second": 640, "system_ms": 1000, "rtrl_ms": 200, "tbptt_ms": 100, "learner_wait": 0.25}
    assert update.summary(steps=640) == pytest.approx(expected)


def test_nothing_is_said_in_turn_where_the_learner_waits(module: Modules) -> None:
    benchmark = module("throughput")
    _, options = benchmark.parse(["--threads", "2"])
    setting = benchmark.make_setting("memory/tmaze", options, "cpu")
    said = [{"system_ms": 4.0, "rtrl_ms": 3.0, "tbptt_ms": 2.0, "learner_wait": wait} for wait in (0.01, 0.5)]
    for count, ratio in ((1, 0.75), (2, 0.75)):
        ratios = benchmark.summary(setting, {"turns": [1.0] * count}, {"turns": said[:count]})["ratios"]
        assert (ratios["system over learner, in turn"], ratios["RTRL over TBPTT, in turn"]) == (ratio, 0.75)
    assert (
        benchmark.summary(setting, {"turns": [1.0]}, {"turns": said[1:]})["ratios"]["RTRL over TBPTT, in turn"] is None
    )
    with pytest.raises(benchmark.MethodFailed, match="GPU"):
        benchmark.measure_method("turns", benchmark.make_setting("memory/tmaze", options, "cuda"), "")


def test_a_method_that_fails_is_told_and_the_rest_goes_on(
    module: Modules, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = tmp_path / "python"
    nothing.write_text("#!/bin/sh\necho RLlib is not here\nexit 3\n")
    nothing.chmod(0o755)
    arguments = ["--quick", "--device", "cpu", "--threads", "1", *SIZES, "--rounds", "2", "--methods", "rllib"]
    module("throughput").main([*arguments, "inference", "--rllib-python", str(nothing), "--output-dir", str(tmp_path)])
    (row,) = figures_of(tmp_path)["throughput"]
    assert row["failures"] == {"rllib": "ended with exit code 3: RLlib is not here"}
    assert row["steps_per_second_of_rounds"]["rllib"] == [None, None]
    assert row["steps_per_second"]["inference"] > 0
    assert "memory/tmaze, rllib was not measured: ended with exit code 3: RLlib is not here" in capfd.readouterr().out


def test_a_script_that_takes_too_long_is_ended_with_its_children(module: Modules, tmp_path: Path) -> None:
    setting = module("throughput_setting")
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"
    with (tmp_path / "log").open("w+b") as log:
        with pytest.raises(setting.MethodFailed, match="did not end within 1 s"):
            setting.run_json([sys.executable, "-c", f"{code}; import time; time.sleep(60)"], log, 1)
        child = setting.last_line(log)
    # A killed process that waits for a core is there until it gets one.
    for _ in range(200):
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False).stdout
        if state.strip()[:1] in ("", "Z"):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} is still there: {state}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds is 0.0, but it must be above 0"),
        (["--actors", "2", "--streams", "4", "--batch", "9"], "--batch is 9, but 2 actors have 8 streams together"),
        (["--tasks", "chess/blitz"], "chess"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_reason(
    module: Modules, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        module("throughput").main(["--output-dir", str(tmp_path), *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_rllib_steps_the_same_environments(module: Modules) -> None:
    """Images come channels first, as the encoder reads them."""
    benchmark = module("rllib_impala")
    for task, shape in (("memory/tmaze", (4,)), ("procgen/chaser", (3, 64, 64))):
        if module("throughput").find_task(task).suite.missing() is None and (shape == (4,) or PACKAGE is not ENVPOOL):
            env = benchmark.make_environment(task, 1)
            assert env.observation_space.shape == env.reset()[0].shape == shape


def test_rllib_is_measured(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    lacking = [name for name in ("tree", "lz4", "ormsgpack", "pandas", "pyarrow", "pydantic") if not find_spec(name)]
    if lacking:
        pytest.skip(f"RLlib lacks {', '.join(lacking)}")
    run_benchmark("throughput", *SIZES, "--methods", "rllib")
    (row,) = figures_of(tmp_path)["throughput"]
    assert row["failures"] == {}
    assert row["steps_per_second"]["rllib"] > 0
