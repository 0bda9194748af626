"""One step of a trained agent as a program of `torch.export` or ONNX; docs/deployment.md runs such files."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import MissingPackage, make_vector
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.runs.run_directory import json_text
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.watching.action_names import action_names, first_of

METADATA = "r2ac"
"""What the JSON text about the agent is called in both kinds of files."""
OUTPUTS = ("logits", "action", "value", "next_state")


class ExportedStep(nn.Module):
    """One step of B streams: what `Agent.step` computes, and the most probable action as the environment takes it,
    which counts discrete ones from ``start`` on."""

    def __init__(self, agent: Agent, start: Tensor) -> None:
        super().__init__()
        self.agent = agent
        self.start: Tensor | None
        self.register_buffer("start", start if start.any() else None)

    def forward(
        self,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        state: Tensor,
        instruction: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Arguments are those of `Agent.step`; returns `OUTPUTS` by their names."""
        step = self.agent.transition(observation, reward, is_first, state, instruction, action_mask)
        action = step.actions.most_probable(step.logits)
        action = action if self.start is None else action + self.start
        outputs = step.logits, action, step.value, step.state
        return dict(zip(OUTPUTS, outputs, strict=True))


def export_agent(path: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Write the agent of the run or checkpoint at ``path`` into ``files``, by their kinds ("onnx", "torch"); returns
    the metadata that they hold. Raises what `TrainedAgent.load` raises, UnknownTask, MissingPackage, and RunError where
    a file cannot be written."""
    if "onnx" in files and (lacking := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise MissingPackage(f"--onnx needs {' and '.join(lacking)}, not installed here: pip install 'r2ac[export]'")
    trained = TrainedAgent.load(path)
    task = trained.training.tasks[0].name
    with closing(make_vector(task, 1, 0, options=trained.training.env)) as env:
        spec, names, start = ObservationSpec.of(env), action_names(task, env), torch.as_tensor(first_of(env))
    agent = trained.agent(spec, torch.device("cpu"), task).requires_grad_(False)
    inputs = example_inputs(agent, spec, 2)
    metadata = _metadata(trained, agent, inputs, {"names": list(names), "start": start.tolist()})
    with _quiet():
        streams = {name: {0: torch.export.Dim("streams")} for name in inputs}
        program = torch.export.export(ExportedStep(agent, start), (), inputs, dynamic_shapes=streams)
        for kind, file in files.items():
            partial = file.with_name(f".{os.getpid()}.{file.name}")
            with os_errors_as(RunError, f"{file} cannot be written"):
                try:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    (_save_onnx if kind == "onnx" else _save)(program, partial, json_text(metadata))
                    os.replace(partial, file)
                finally:
                    partial.unlink(missing_ok=True)
    return metadata


def example_inputs(agent: Agent, spec: ObservationSpec, streams: int) -> dict[str, Tensor]:
    """Zeros of the shapes and dtypes that a step of the agent takes, by the names of `Agent.step`."""
    dtype = torch.uint8 if len(spec.shape) == 3 else torch.float32
    inputs = {
        "observation": torch.zeros(streams, *spec.shape, dtype=dtype),
        "reward": torch.zeros(streams),
        "is_first": torch.ones(streams, dtype=torch.bool),
        "state": torch.zeros(streams, agent.core.state_size),
    }
    if spec.instruction_length:
        inputs["instruction"] = torch.zeros(streams, spec.instruction_length, dtype=torch.int32)
    if spec.action_masks:
        inputs["action_mask"] = torch.ones(streams, spec.actions.parameters, dtype=torch.bool)
    return inputs


def _metadata(
    trained: TrainedAgent, agent: Agent, inputs: Mapping[str, Tensor], actions: dict[str, Any]
) -> dict[str, Any]:
    packages = ("r2ac", "torch", "numpy", "gymnasium")
    return {
        "task": trained.training.task,
        "environment": asdict(trained.training.env),
        "agent": trained.label,
        "env_steps": trained.env_steps,
        "sha256": trained.sha256,
        "inputs": {
            name: {"shape": ["streams", *each.shape[1:]], "dtype": str(each.dtype).removeprefix("torch.")}
            for name, each in inputs.items()
        },
        "outputs": list(OUTPUTS),
        "actions": {"kind": str(agent.actions), **actions, **asdict(agent.actions)},  # type: ignore[call-overload]
        "versions": {name: version(name) for name in packages},
    }


def _save(program: torch.export.ExportedProgram, file: Path, metadata: str) -> None:
    with open(file, "wb") as opened:
        torch.export.save(program, opened, extra_files={METADATA: metadata})


def _save_onnx(program: torch.export.ExportedProgram, file: Path, metadata: str) -> None:
    exported = torch.onnx.export(program, dynamo=True, output_names=OUTPUTS, verbose=False)
    assert exported is not None
    # A core without memory returns its state as it came, and the exporter then has another name for the input.
    for value, name in zip(exported.model.graph.inputs, program.graph_signature.user_inputs, strict=True):
        value.name = str(name)
    exported.model.metadata_props[METADATA] = metadata
    exported.save(file, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of packages that nobody needs here, and of their own future."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)
