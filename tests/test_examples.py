"""Every example runs, with a small budget."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = {
    "copy_task.py": ("--steps 1000", "% right", ()),
    "recurrent_ppo.py": ("--total-steps 13000", "success", ()),
    "recurrent_ppo.py --core gru": ("--total-steps 13000", "success", ()),
    "sb3_policy.py": ("--total-steps 2048 --cell mingru", "success", ("sb3_contrib",)),
    "torchrl_module.py": ("--total-steps 4000", "success", ("torchrl",)),
}
"""Its flags, what it prints, and what it needs beside r2ac."""


def test_every_example_is_run() -> None:
    assert {words.split()[0] for words in RUNS} == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS)
def test_an_example_runs(words: str) -> None:
    flags, printed, needs = RUNS[words]
    for module in needs:
        if find_spec(module) is None:
            pytest.skip(f"{words} needs {module}: pip install 'r2ac[examples]'")
    name, *more = words.split()
    done = subprocess.run(
        [sys.executable, name, *more, *flags.split()],
        cwd=EXAMPLES,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


@pytest.mark.parametrize("name", [words for words in RUNS if " " not in words])
def test_a_cell_that_is_not_there_is_one_sentence(name: str) -> None:
    if any(find_spec(module) is None for module in RUNS[name][2]):
        pytest.skip(f"{name} needs {', '.join(RUNS[name][2])}")
    flag = "--core" if name == "recurrent_ppo.py" else "--cell"
    done = subprocess.run([sys.executable, name, flag, "nope"], cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'nope'" in done.stderr
    assert "Traceback" not in done.stderr
