"""What the command line says of an interruption, and before what takes long."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r2ac.launch.cli import main


def test_an_interrupted_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("r2ac.launch.commands.plot.parse", interrupt)
    assert main(["plot", "run"]) == 130
    assert capsys.readouterr().err == "r2ac: interrupted by Ctrl-C\n"


def test_kernels_that_are_compiled_are_announced(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $# = 1 ] && echo version 1\n")
    compiler.chmod(0o755)
    changed = {"CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path)}
    program = "import sys; from r2ac.launch.cli import main; sys.exit(main())"
    flags = ["--num-actors", "0", "--total-steps", "100", "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-c", program, "train", "memory/tmaze", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | changed)
    assert result.stderr.startswith("r2ac: compiling the C++ kernels for this machine, once")
