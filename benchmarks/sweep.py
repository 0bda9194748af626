"""Many ways to cut the pass over the sensitivities into programs on a GPU, beside the one that the kernel chooses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from measure import as_graph, release_memory, rotating, take_turns
from pass_table import PassInputs
from report import Column, Row, own_columns

if TYPE_CHECKING:
    from r2ac.kernels.triton_sensitivity import Tiles

# Rows, columns and warps.
SHAPES = [(32, 64, 4), (64, 32, 4), (64, 64, 4), (64, 64, 8), (128, 32, 4), (128, 64, 4), (128, 64, 8), (64, 128, 8)]
STAGES, SPLITS, PRODUCTS = (2, 3), (1, 2, 4, 8), (16, 32)
TOLERANCE = 2e-3


@torch.no_grad()
def measure_sweep(
    batch: int,
    steps: int,
    hidden: int,
    inputs: int,
    rounds: int,
    device: torch.device,
    own_splits: bool = False,
    goes_on: Callable[[], bool] = lambda: True,
) -> list[Row]:
    """Rows, fastest first: the time of every way that compiles and is right, and which of them is the kernel's.

    Args:
        batch, steps, hidden, inputs: B, T, N and D.
        rounds: number of measurements of each way.
        device: a GPU.
        own_splits: whether to try ways with the kernel's own number of groups of streams alone.
        goes_on: asked before each way but the first, which is the kernel's own; false ends the sweep.
    """
    from r2ac.kernels import triton_sensitivity as kernel

    release_memory(device)
    own = kernel.tiles(batch, 2 * hidden, inputs, steps)
    products = (1,) if own.steps == 1 else PRODUCTS
    groups = (own.splits,) if own_splits else SPLITS
    ways = {
        kernel.Tiles(rows, columns, product_steps, splits, warps, stages)
        for (rows, columns, warps), product_steps, splits, stages in product(SHAPES, products, groups, STAGES)
        if splits <= batch
    }
    given = PassInputs.draw(batch, steps, hidden, inputs, device)
    measured = [_measure(given, own, rounds, device)]
    measured += [_measure(given, way, rounds, device) for way in sorted(ways - {own}, key=repr) if goes_on()]
    rows = sorted(filter(None, measured), key=itemgetter("seconds"))
    common = {"B": batch, "N": hidden, "T": steps}
    return [{**common, "rank": i + 1, "own": row["tiles"] == vars(own), **row} for i, row in enumerate(rows)]


def _measure(given: PassInputs, way: Tiles, rounds: int, device: torch.device) -> Row | None:
    """None where the way does not compile (too many registers or too much shared memory) or is wrong."""
    from r2ac.kernels.triton_sensitivity import sensitivity_pass_

    try:
        if max(given.errors(lambda *arguments: sensitivity_pass_(*arguments, tiles=way))) > TOLERANCE:
            print(f"wrong: {way}", flush=True)
            return None
    except Exception as error:  # Triton raises errors of many kinds for what a GPU cannot hold
        print(f"left out: {way}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", flush=True)
        return None
    run = rotating(lambda number: sensitivity_pass_(*given.arguments(number), tiles=way), given.sets)
    graph = as_graph(run, given.sets)
    name = "way"
    times = take_turns({name: graph or run}, rounds, device, {name: given.sets if graph else 1})
    return {"tiles": vars(way), "seconds": times.median(name)}


SWEEP_COLUMNS = [
    *own_columns("B", "N", "T", "rank"),
    Column("rows x inputs", lambda row: f"{row['tiles']['rows']} x {row['tiles']['inputs']}"),
    Column("steps", lambda row: row["tiles"]["steps"]),
    Column("splits", lambda row: row["tiles"]["splits"]),
    Column("warps", lambda row: row["tiles"]["warps"]),
    Column("stages", lambda row: row["tiles"]["stages"]),
    Column("ms", lambda row: 1e3 * row["seconds"], ".4f"),
    Column("", lambda row: "chosen" if row["own"] else ""),
]
