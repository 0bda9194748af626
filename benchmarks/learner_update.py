"""What exact RTRL costs in the learner's whole update, with the paper's three presets.

    python benchmarks/learner_update.py                  the table and the plot, in about 10 minutes on 2 CPU cores
    python benchmarks/learner_update.py --all-lengths    every rollout length of the paper
    python benchmarks/learner_update.py --encoder-precision bfloat16 --matmul-precision high

An update is all of ``Learner.update``: the batch's way to the device, encoder, core, V-trace, losses, backward pass,
clipping, optimiser. Needs torch with NumPy, and triton on a GPU; the plot needs matplotlib, and is left out without it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import _path  # noqa: F401
import numpy as np
import torch
from core_table import check_gradients, make_cases
from measure import Run, release_memory, rotating, sets_beyond_cache, take_turns
from methods import LEAN, LSTM, RTRL, TBPTT, make_core
from report import (
    COLOURS,
    Column,
    Goal,
    Row,
    count,
    header,
    make_parser,
    open_device,
    own_columns,
    print_goals,
    print_header,
    print_table,
    scaled,
    write_files,
)

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.kernels import GATES
from r2ac.learner import Learner, LearnerConfig, Rollout

METHODS = (LEAN, RTRL, TBPTT, LSTM)
FEATURES = 256
WORD_IDS = 20
COPY = "copy of S"
ROUNDS = {"cpu": 6, "cuda": 20}
# On a GPU the first updates of a learner run as they are, and then one is captured.
WARM_UP = {"cpu": 1, "cuda": 6}


@dataclass(frozen=True)
class Preset:
    """What the paper trains on a suite (Irie et al. 2024, section 4 and appendix A)."""

    image: tuple[int, ...]
    """[C, H, W], or [D] for vectors."""
    hidden: int
    actions: int
    frames: int
    """Frames of a step."""
    length: int
    """T of the default run."""
    lengths: tuple[int, ...]
    """All T of the paper."""


PRESETS = {
    "dmlab": Preset((3, 72, 96), 512, 9, 4, 100, (10, 50, 100)),
    "procgen": Preset((3, 64, 64), 256, 15, 1, 50, (5, 50)),
    "atari": Preset((4, 84, 84), 256, 18, 4, 50, (50,)),
}
QUICK = {name: Preset((p.image[0], 16, 16), 16, p.actions, p.frames, 3, (2, 3)) for name, p in PRESETS.items()}


def synthetic_rollout(
    steps: int, batch: int, preset: Preset, state_size: int, seed: int = 2, words: int = 0
) -> Rollout[np.ndarray]:
    """A rollout of noise, with instructions of so many words."""
    random = np.random.default_rng(seed)
    shown = (steps + 1, batch, *preset.image)
    is_image = len(preset.image) == 3
    return Rollout(
        observation=random.integers(0, 256, shown, np.uint8) if is_image else random.random(shown, np.float32),
        reward=random.standard_normal((steps + 1, batch), dtype=np.float32),
        is_first=random.random((steps + 1, batch)) < 0.01,
        action=random.integers(0, preset.actions, (steps, batch)),
        behaviour_logits=random.standard_normal((steps, batch, preset.actions), dtype=np.float32),
        first_state=np.zeros((batch, state_size), dtype=np.float32),
        stream=np.arange(batch),
        sequence=np.zeros(batch, dtype=np.int64),
        weights_version=np.zeros(batch, dtype=np.int64),
        instruction=random.integers(0, WORD_IDS, (steps + 1, batch, words)).astype(np.int32) if words else None,
    )


class Update:
    """A learner whose core is trained by one of METHODS; a call makes one update from a batch of noise."""

    def __init__(
        self, method: str, preset: Preset, steps: int, batch: int, config: LearnerConfig, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        spec = ObservationSpec(preset.image, DiscreteActions(preset.actions))
        agent = Agent(spec, AgentConfig(hidden_size=preset.hidden, encoder_features=FEATURES))
        agent.core = make_core(method, agent.core.input_size, preset.hidden, torch.device("cpu"))
        self.learner = Learner(agent.to(device), config, num_streams=batch, total_steps=10**12)
        self._rollout = synthetic_rollout(steps, batch, preset, agent.core.state_size)

    def __call__(self) -> None:
        self._rollout.sequence[:] = self.learner.carries.next_sequence
        self.learner.update(self._rollout)


def measure_update(
    name: str, preset: Preset, steps: int, options: argparse.Namespace, config: LearnerConfig, device: torch.device
) -> Row:
    """One row: every method with one preset at one rollout length."""
    release_memory(device)
    batch, inputs = options.batch, FEATURES + 1
    check_gradients(make_cases((LEAN, RTRL), batch, min(steps, 5), preset.hidden, inputs, 1, device))
    updates = {method: Update(method, preset, steps, batch, config, device) for method in METHODS}
    for update in updates.values():
        for _ in range(WARM_UP[device.type]):
            update()
        update.learner.check()
    size = batch * GATES * preset.hidden * inputs
    sets = sets_beyond_cache(4 * size, device)
    source, target = torch.ones(2, sets, size, device=device)
    runs: dict[str, Run] = {**updates, COPY: rotating(lambda number: target[number].copy_(source[number]), sets)}
    times = take_turns(runs, options.rounds, device)
    for method, update in updates.items():
        if update.learner.skipped_updates:
            warnings.warn(f"{name}, {method}: updates were skipped, because they were not finite", stacklevel=1)
    return {
        "preset": name,
        "N": preset.hidden,
        "T": steps,
        "seconds": times.medians(),
        "steps_per_second": steps * batch / times.median(RTRL),
        "frames_per_second": preset.frames * steps * batch / times.median(RTRL),
        "ratios": {
            "step by step over RTRL": times.ratio(LEAN, RTRL),
            "RTRL over TBPTT": times.ratio(RTRL, TBPTT),
            "RTRL over LSTM": times.ratio(RTRL, LSTM),
            "extra over copy": times.difference(RTRL, TBPTT) / times.median(COPY),
        },
        "extra_seconds": times.difference(RTRL, TBPTT),
    }


def time_column(method: str) -> Column:
    """Milliseconds of an update."""
    return Column(f"{method}, ms", lambda row: 1e3 * row["seconds"][method], ",.2f")


COLUMNS = [
    *own_columns("preset", "N", "T"),
    *map(time_column, (*METHODS, COPY)),
    Column("speed-up", lambda row: row["ratios"]["step by step over RTRL"], ".2f"),
    Column("over TBPTT", lambda row: row["ratios"]["RTRL over TBPTT"], ".3f"),
    Column("over LSTM", lambda row: row["ratios"]["RTRL over LSTM"], ".3f"),
    Column("more than TBPTT, ms", lambda row: scaled(row["extra_seconds"], 1e3), ",.2f"),
    Column("the same, copies of S", lambda row: row["ratios"]["extra over copy"], ",.1f"),
    Column("steps/s", lambda row: row["steps_per_second"], ",.0f"),
    Column("frames/s", lambda row: row["frames_per_second"], ",.0f"),
]
NOTE = """The core is trained step by step, a rollout at a time or by TBPTT, or is torch's LSTM with TBPTT, another
cell. Ratios, steps/s and frames/s are those of RTRL, a rollout at a time. What it takes more than TBPTT is told in
copies of S, too: one is the least that RTRL must cost."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """The arguments, with the defaults of the device where nothing was said."""
    parser = make_parser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--all-lengths", action="store_true", help="every rollout length of the paper")
    parser.add_argument("--batch", type=count, help="streams of an update, 32 by default")
    parser.add_argument("--encoder-precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no-cuda-graph", action="store_true", help="on a GPU, launch every kernel from Python")
    options = parser.parse_args(arguments)
    device = open_device(parser, options)
    options.rounds = options.rounds or (2 if options.quick else ROUNDS[device.type])
    options.batch = options.batch or (2 if options.quick else 32)
    return options, device


def draw(figure: Any, figures: Row) -> None:
    """The time of each update, in units of TBPTT's."""
    axes = figure.subplots()
    rows, width = figures["update"], 0.8 / len(METHODS)
    for i, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
        places = [number + (i - (len(METHODS) - 1) / 2) * width for number in range(len(rows))]
        heights = [row["seconds"][method] / row["seconds"][TBPTT] for row in rows]
        bars = axes.bar(places, heights, width, label=method, color=colour)
        axes.bar_label(bars, [f"{1e3 * row['seconds'][method]:,.0f} ms" for row in rows], fontsize="x-small")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [f"{row['preset']}, T={row['T']}" for row in rows])
    axes.set(ylabel="time of an update, TBPTT = 1")
    axes.margins(y=0.1)
    figure.legend(ncols=len(METHODS), loc="outside lower center")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options, device = parse(arguments)
    config = LearnerConfig(
        encoder_precision=options.encoder_precision,
        matmul_precision=options.matmul_precision,
        cuda_graph=not options.no_cuda_graph,
    )
    head = header(device, options)
    on_gpu = device.type == "cuda"
    graph = f", {'with' if config.cuda_graph else 'without'} CUDA graph" if on_gpu else ""
    settings = f"B={options.batch}, D={FEATURES + 1}, encoder in {config.encoder_precision}{graph}"
    print_header(head, f"{settings}, {options.rounds} rounds")
    presets = QUICK if options.quick else PRESETS
    rows = [
        measure_update(name, presets[name], steps, options, config, device)
        for name in options.presets
        for steps in (presets[name].lengths if options.all_lengths else [presets[name].length])
    ]
    print_table("The whole update", COLUMNS, rows, NOTE)
    goals = [
        Goal(f"update, {row['preset']}, T={row['T']}: over TBPTT", row["ratios"]["RTRL over TBPTT"], 1.05, False)
        for row in rows
    ]
    print_goals(goals)
    settings_of = {"settings": settings, "rounds": options.rounds, "cuda_graph": on_gpu and config.cuda_graph}
    write_files("learner_update", options, {**head, **settings_of, "update": rows}, goals, draw)


if __name__ == "__main__":
    main()
