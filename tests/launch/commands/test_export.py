"""Exported agents act as ours do, whole episodes long."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import make_vector
from r2ac.kernels import CELLS
from r2ac.launch.cli import main
from r2ac.launch.evaluation.play import Decision, play
from r2ac.launch.rollouts.inference.policies import StepInput
from r2ac.launch.runs.loading import TrainedAgent

Capture = pytest.CaptureFixture[str]
Step = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
PAGE = Path(__file__).parents[3] / "docs" / "deployment.md"
ACTING = "gym/tests.acting_envs:acting/"
SMALL = ["--num-actors=0", "--streams-per-actor=2", "--batch-size=2", "--rollout-length=5", "--total-steps=40"]
SMALL += ["--hidden-size=6"]


def train(run: Path, task: str, *flags: str) -> None:
    words = {word.partition("=")[0]: word for word in (*SMALL, *flags)}.values()
    assert main(["train", task, *words, "--run-dir", str(run)]) == 0


def onnx_step(file: Path) -> Step:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def torch_step(file: Path) -> Step:
    module = torch.export.load(file).module()

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    return step


def check_acts_alike(run: Path, step: Step, streams: int = 3, steps: int = 40, start: Sequence[int] | int = 0) -> None:
    """Plays with the greedy actions of ``step``, each with its own memory, and compares all numbers. Those of ``step``
    count from ``start`` on."""
    trained = TrainedAgent.load(run)
    task = trained.training.task
    with closing(make_vector(task, streams, 7, split="test", options=trained.training.env)) as env:
        agent = trained.agent(ObservationSpec.of(env), torch.device("cpu"), task)
        ours = torch.zeros(streams, agent.core.state_size)
        theirs = ours.numpy()

        def act(seen: StepInput) -> Decision:
            nonlocal ours, theirs
            inputs = seen.tensors(torch.device("cpu"))
            found = step({**{name: each.numpy() for name, each in inputs.items()}, "state": theirs})
            wanted = agent.step(state=ours, **inputs)
            logits = wanted.logits.numpy()
            action = agent.actions.to_env(agent.actions.choose(logits, None))
            found["action"] = found["action"] - np.array(start, found["action"].dtype)
            assert set(found) == {"logits", "action", "value", "next_state"}
            for name, value in (("logits", logits), ("value", wanted.value), ("next_state", wanted.state)):
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["action"], action, rtol=1e-5, atol=1e-5)
            assert found["action"].dtype == action.dtype
            ours, theirs = wanted.state, found["next_state"]
            return Decision(found["action"])

        played = list(islice(play(env, act), steps))
    assert sum(int(each.is_first.sum()) for each in played) > streams


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_masks_normalised_observations_and_layers_of_several_cells(kind: str, tmp_path: Path) -> None:
    flags = ["--mask-from-info", "--normalise-observations", "--normalise-rewards", "--core=mixed:elstm+rotation"]
    train(tmp_path / "run", f"{ACTING}TellingInfo-v0", *flags, "--layers=2", "--readout=mlp", "--readout-skip")
    file = tmp_path / "deep" / {"torch": "agent.pt2", "onnx": "agent.onnx"}[kind]
    assert main(["export", str(tmp_path / "run"), f"--{kind}", str(file)]) == 0
    check_acts_alike(tmp_path / "run", torch_step(file) if kind == "torch" else onnx_step(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("memory/tmaze", f"--core=mixed:{'+'.join(CELLS)}", "--hidden-size=24"),
        ("memory/tmaze", "--pixels", "--encoder=impala"),
        ("memory/tmaze", "--pixels", "--encoder=patch", "--layers=2", "--layer-gradient=full", "--layer-norm"),
        (f"{ACTING}Wheel-v0", "--squash-actions", "--core=lstm"),
        (f"{ACTING}Steering-v0", "--action-deviation=state-dependent", "--core=gru", "--layers=2"),
        (f"{ACTING}Masked-v0", "--encoder=none", "--core=feedforward"),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_every_core_encoder_and_kind_of_action(flags: tuple[str, ...], tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "agent.onnx"
    train(run, *flags)
    assert main(["export", str(run), "--onnx", str(file)]) == 0
    check_acts_alike(run, onnx_step(file), steps=130, start=3 if "Masked" in flags[0] else 0)


@pytest.mark.parametrize(
    ("name", "start", "names"),
    [("Masked-v0", 3, ["3", "4", "5", "6"]), ("Gamepad-v0", [1, 5], ["0: 1", "0: 2", "0: 3", "1: 5", "1: 6"])],
)
def test_actions_are_as_the_environment_itself_takes_them(
    name: str, start: list[int] | int, names: list[str], tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "agent.pt2"
    train(run, f"{ACTING}{name}")
    assert main(["export", str(run), "--torch", str(file)]) == 0
    check_acts_alike(run, torch_step(file), start=start)
    extra = {"r2ac": ""}
    torch.export.load(file, extra_files=extra)
    about = json.loads(extra["r2ac"])["actions"]
    assert (about["start"], about["names"]) == (start, names)


def test_the_page_runs_an_agent_without_r2ac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    page = PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    for command in re.findall(r"^    r2ac (.*)$", page, re.MULTILINE):
        words = command.split()
        assert main([*words, *(["--total-steps=2000", "--hidden-size=6"] if words[0] == "train" else [])]) == 0
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert programs
    for program in programs:
        assert "import r2ac" not in program
        found: dict[str, Any] = {}
        exec(program, found)
        assert found["steps"] > 5
    about = json.loads(found["about"])
    assert (about["task"], about["actions"]["names"]) == ("gym/CartPole-v1", ["0", "1"])
    assert about["inputs"]["observation"] == {"shape": ["streams", 4], "dtype": "float32"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--onnx FILE or --torch FILE"]),
        (["--onnx", "agent.pb"], ["--onnx is agent.pb", ".onnx"]),
        (["--torch", "agent.pt"], ["--torch is agent.pt", ".pt2"]),
        (["--torch", "s3://bucket/agent.pt2"], ["--torch is s3://bucket/agent.pt2", "a path of this machine"]),
        (["--torch", "{run}/config.json/agent.pt2"], ["cannot be written"]),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    flags: list[str], words: list[str], finished_run: Path, capsys: Capture
) -> None:
    assert main(["export", str(finished_run), *(flag.format(run=finished_run) for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_a_missing_package_is_named(finished_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: Any) -> None:
    monkeypatch.setattr("r2ac.launch.commands.exported.find_spec", lambda name: None)
    assert main(["export", str(finished_run), "--onnx", str(tmp_path / "agent.onnx")]) == 2
    assert "--onnx needs onnx and onnxscript, not installed here: pip install 'r2ac[export]'" in capsys.readouterr().err
