"""The benchmark of the whole update: complete figures, on a machine that has torch and NumPy alone."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

Modules = Callable[[str], ModuleType]
ABSENT = ("ray", "gymnasium", "safetensors", "tyro", "rich", "tensorboard", "matplotlib")
# The finder of the installed package goes, too.
BARE = f"""import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [entry for entry in sys.path if "editable" not in entry]
"""


@pytest.mark.slow
def test_a_small_run_reports_every_preset_with_torch_alone(run_benchmark: Callable[..., str], tmp_path: Path) -> None:
    printed = run_benchmark("learner_update", "--all-lengths", "--rounds", "1", before=BARE)
    (path,) = tmp_path.glob("learner_update-*-quick.json")
    figures = json.loads(path.read_text())
    assert {"device", "versions", "kernels", "matmul_precision", "date", "command"} <= figures.keys()
    presets = [(row["preset"], row["T"]) for row in figures["update"]]
    assert presets == [(name, steps) for name in ("dmlab", "procgen", "atari") for steps in (2, 3)]
    for row in figures["update"]:
        assert row["seconds"].keys() == {"step by step", "rollout at a time", "TBPTT", "LSTM, TBPTT", "copy of S"}
        assert min(row["seconds"].values()) > 0
        assert {"step by step over RTRL", "RTRL over TBPTT", "RTRL over LSTM"} <= row["ratios"].keys()
    assert figures["update"][0]["frames_per_second"] == pytest.approx(4 * figures["update"][0]["steps_per_second"])
    assert len(figures["goals"]) == len(presets)
    assert "| atari | 16 | 3 |" in printed
    assert "No plot was drawn: matplotlib is not installed." in printed


def test_the_presets_are_the_papers(module: Modules) -> None:
    presets = module("learner_update").PRESETS
    assert {name: (p.image, p.hidden, p.actions, p.length, p.lengths) for name, p in presets.items()} == {
        "dmlab": ((3, 72, 96), 512, 9, 100, (10, 50, 100)),
        "procgen": ((3, 64, 64), 256, 15, 50, (5, 50)),
        "atari": ((4, 84, 84), 256, 18, 50, (50,)),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--presets", "chess"], "invalid choice: 'chess'"),
        (["--batch", "-1"], "'-1' is not a whole number of at least 1"),
        (["--encoder-precision", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_arguments_end_with_code_2_and_a_reason(
    module: Modules, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        module("learner_update").main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_wrong_method_is_found_before_it_is_timed(module: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    methods, benchmark = module("methods"), module("learner_update")

    def does_nothing(*_: Tensor) -> None:
        pass

    monkeypatch.setattr(methods, "lean_advance", does_nothing)
    options = argparse.Namespace(batch=2, rounds=1)
    preset, config, cpu = benchmark.QUICK["atari"], benchmark.LearnerConfig(), torch.device("cpu")
    with pytest.raises(SystemExit, match="step by step: the gradient of input_weight is off by"):
        benchmark.measure_update("atari", preset, 2, options, config, cpu)
