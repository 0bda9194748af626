"""``r2ac export``: a trained agent as a file that acts without r2ac."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError, require
from r2ac.launch.settings.parser import parse


@dataclass(frozen=True)
class ExportArguments:
    """Write the agent of a run as a file that acts without r2ac: one step of any number of streams, to which the state
    of the memory goes in and from which the new one comes out."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory (its newest checkpoint) or checkpoint."""
    onnx: Path | None = None
    """The file for ONNX Runtime and others, .onnx; needs the packages onnx and onnxscript."""
    torch: Path | None = None
    """The file for torch.export.load, .pt2."""


def export_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac export RUN_OR_CHECKPOINT --onnx FILE`` and ``--torch FILE``."""
    parsed = parse(ExportArguments, "r2ac export", arguments)
    outputs = {"onnx": parsed.onnx, "torch": parsed.torch}
    files = {name: path for name, path in outputs.items() if path is not None}
    if not files:
        raise ConfigError("r2ac export needs a file to write: --onnx FILE or --torch FILE")
    for name, ending in (("onnx", ".onnx"), ("torch", ".pt2")):
        require(name not in files or files[name].suffix == ending, name, outputs[name], f"a name that ends in {ending}")
    from r2ac.launch.commands.exported import export_agent

    metadata = export_agent(parsed.run, files)
    shapes = (f"{name} [{', '.join(map(str, each['shape']))}]" for name, each in metadata["inputs"].items())
    rows = [("agent", metadata["agent"]), ("task", metadata["task"]), ("inputs", ", ".join(shapes))]
    print_table(console, "exported agent", [*rows, ("outputs", ", ".join(metadata["outputs"]))], files)
    return 0
