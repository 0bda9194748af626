"""The commands as functions: what they return, what they raise, and that they leave the process as it was."""

import json
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import r2ac
from r2ac.envs import make_vector
from r2ac.launch.runs.run_directory import RunDirectory

TINY: dict[str, Any] = {"num_actors": 0, "streams_per_actor": 4, "rollout_length": 5, "hidden_size": 8}
TINY |= {"corridor_length": 4, "total_steps": 400}
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def process_settings() -> dict[str, Any]:
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "torch threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        "random": random.getstate(),
    }


@pytest.fixture
def _left_as_it_was() -> Iterator[None]:
    torch.set_num_threads(2)
    before = process_settings()
    yield
    assert process_settings() == before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = r2ac.train("memory/tmaze", run_dir=tmp_path_factory.mktemp("api") / "run", seed=3, **TINY)
    assert isinstance(path, Path)
    return path


def elsewhere(call: Callable[[], Any]) -> Any:
    """What a call returns on another thread than the main one."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("_left_as_it_was")
@pytest.mark.parametrize("here", [True, False], ids=["main thread", "another thread"])
def test_a_run_is_trained_goes_on_is_evaluated_and_drawn(here: bool, tmp_path: Path, capsys: Any) -> None:
    call: Callable[[Callable[[], Any]], Any] = (lambda each: each()) if here else elsewhere
    run = call(lambda: r2ac.train("memory/tmaze", run_dir=tmp_path / "run", output_gate=False, **TINY))
    assert run == tmp_path / "run"
    assert "100%" in capsys.readouterr().out
    config = RunDirectory(run).read_config()
    assert (config["agent"]["output_gate"], config["env"]["corridor_length"]) == (False, 4)
    assert call(lambda: r2ac.train(resume=run, total_steps=600)) == run
    assert RunDirectory(run).read_config()["total_steps"] == 600
    [result] = call(lambda: r2ac.evaluate(run, episodes=4, seeds=2, num_envs=2, workers=0))
    assert (result.env_steps, len(result.episodes)) == (600, 8)
    [on_file] = json.loads((run / "evaluation.json").read_text())["results"]
    assert on_file["mean_return"] == result.mean_return
    assert call(lambda: r2ac.plot(run, output=tmp_path / "curves.csv", x="frames")) == tmp_path / "curves.csv"
    assert (tmp_path / "curves.csv").stat().st_size > 0


@pytest.mark.usefixtures("_left_as_it_was")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: r2ac.train("memory/tmaz"), ["memory/tmaze"]),
        (lambda run: r2ac.train("memory/tmaze", sed=3), ["--sed"]),
        (lambda run: r2ac.train("memory/tmaze", hidden_size="wide"), ["hidden-size", "'wide'", "whole number"]),
        (lambda run: r2ac.train("memory/tmaze", batch_size=1000), ["--batch-size is 1000"]),
        (lambda run: r2ac.train("memory/tmaze", layer_gradient="full", **TINY), ["layer_gradient is full"]),
        (lambda run: r2ac.train("memory/tmaze", run_dir=run, **TINY), ["already holds a run"]),
        (lambda run: r2ac.train("memory/tmaze", max_failures=2, **TINY), ["--max-failures is 2"]),
        (lambda run: r2ac.train(), ["a task", "resume=RUN"]),
        (lambda run: r2ac.train(["memory/tmaze"]), ["one string", "['memory/tmaze']"]),  # type: ignore[arg-type]
        (lambda run: r2ac.evaluate([run]), ["no path or URL of a run", "an argument of its own"]),  # type: ignore[arg-type]
        (lambda run: r2ac.train(resume=[run]), ["resume is [", "path or URL"]),  # type: ignore[arg-type]
        (lambda run: r2ac.train(resume=run / "lost"), ["lost does not exist"]),
        (lambda run: r2ac.evaluate(run, run / "lost", workers=0, episodes=1, seeds=1), ["lost does not exist"]),
        (lambda run: r2ac.plot(run, metric="happiness"), ["happiness"]),
        (lambda run: r2ac.load(run / "lost"), ["lost does not exist"]),
        (lambda run: r2ac.load(run, seed=-1), ["seed is -1"]),
        (lambda run: r2ac.load(run, greedy="no"), ["greedy is 'no'"]),  # type: ignore[arg-type]
        (lambda run: r2ac.load(run).act([0, float("nan"), 0, 0]), ["observation must hold finite numbers", "nan"]),
        (lambda run: r2ac.load(run).act([0] * 4, float("inf")), ["reward must hold finite numbers", "inf"]),
    ],
)
def test_bad_input_raises_an_ordinary_error_of_one_sentence(
    call: Callable[[Path], Any], words: list[str], run: Path, capsys: Any
) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        call(run)
    assert all(word in str(raised.value) for word in words)
    assert capsys.readouterr().err == ""


def test_a_loaded_agent_acts_in_one_stream_as_in_several(run: Path) -> None:
    one, several = r2ac.load(run, greedy=True), r2ac.load(str(run), greedy=True)
    env = make_vector("memory/tmaze", 3, 5, options=one.trained.training.env)
    observation, reward, over = env.reset()[0], np.zeros(3), np.zeros(3, bool)
    for step in range(9):
        if over[0]:
            one.reset()
        actions = several.act(observation, reward, over)
        alone = one.act(observation[0], float(reward[0]))
        assert actions.shape == (3,)
        assert (alone.shape, alone) == ((), actions[0]), step
        observation, reward, terminated, truncated, _ = env.step(actions)
        over = terminated | truncated
    env.close()
    with pytest.raises(ValueError, match=r"observation has the shape \[2, \d+\], but with 3 streams it must have"):
        several.act(observation[:2])
    with pytest.raises(ValueError, match="action_mask is given, but this agent has none"):
        several.act(observation, action_mask=np.ones((3, 2)))
    several.reset()
    with pytest.raises(ValueError, match=r"but with 2 streams it must have \[2, (\d+)\], or \[\1\] for one stream"):
        several.act([1, 2])
    assert several.act(observation[:2]).shape == (2,)


def test_actions_are_drawn_by_the_seed(run: Path) -> None:
    observation = np.zeros((50, *r2ac.load(run).spec.shape))
    first, again, other = (r2ac.load(run, seed=seed).act(observation).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_ctrl_c_saves_and_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from r2ac.launch.runs.metrics import MetricsWriter

    write = MetricsWriter.write

    def write_and_interrupt(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(MetricsWriter, "write", write_and_interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"r2ac.train\(resume='.*run'\) goes on"):
        r2ac.train("memory/tmaze", run_dir=tmp_path / "run", **TINY | {"total_steps": "1e6", "log_steps": 100})
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))


def test_the_import_brings_nothing_along() -> None:
    found = "{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)"
    code = f"import sys; before = set(sys.modules); import r2ac; print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'r2ac'}\n"


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "total_steps=200_000" in program
    found: dict[str, Any] = {}
    exec(program.replace("total_steps=200_000", "total_steps=10_000"), found)
    assert found["returns"].shape == (4,)
