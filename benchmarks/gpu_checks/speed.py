"""How fast the kernels and the paper's updates are, beside the goals of docs/performance.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from core_table import core_columns, core_goals, measure_core
from learner_update import PRESETS, QUICK, WARM_UP, Preset, Update
from measure import Run, release_memory, take_turns
from methods import LEAN, RTRL, TBPTT
from pass_table import PASS_COLUMNS, measure_pass, pass_goals, time_runs
from report import Column, Goal, Row, own_columns, print_table
from sweep import SWEEP_COLUMNS, measure_sweep

from gpu_checks.session import Session
from r2ac.learner import LearnerConfig, use_matmul_precision

INPUTS = 257
SIZES = [(32, 100, 512), (256, 100, 1024), (32, 1, 512), (32, 10, 512), (32, 50, 256)]
"""B, T and N: first those that the goals name."""
QUICK_SIZES = [(2, 3, 8)]
FORWARD, BACKWARD, BACKWARD_TBPTT, PROJECTION = (
    "forward scan",
    "backward scan, RTRL",
    "backward scan, TBPTT",
    "projection",
)
LOW = "RTRL, bfloat16 and TF32"
SCAN_COLUMNS = [
    *own_columns("B", "N", "T"),
    *(
        Column(f"{name}, us", lambda row, name=name: 1e6 * row["seconds"][name], ",.1f")
        for name in (FORWARD, BACKWARD, BACKWARD_TBPTT, PROJECTION)
    ),
]


def measure_roofline(session: Session) -> None:
    """The pass beside a copy of as many bytes, the scans, and the recurrence by every method; then other tiles."""
    rounds = 1 if session.quick else 7
    inputs = 9 if session.quick else INPUTS
    sizes = QUICK_SIZES if session.quick else SIZES
    tables: dict[str, list[Row]] = {"pass": [], "scans": [], "recurrence": [], "tiles": []}
    for _, (batch, steps, hidden) in session.each({f"B={b}, T={t}, N={n}": (b, t, n) for b, t, n in sizes}):
        with session.case(f"pass, B={batch}, T={steps}, N={hidden}"):
            at = batch, steps, hidden, inputs, rounds, session.device
            tables["pass"].append(measure_pass(*at, compiles=False))
            tables["scans"].append(_measure_scans(*at))
    print_table("The pass", PASS_COLUMNS, tables["pass"])
    print_table("The scans", SCAN_COLUMNS, tables["scans"])
    goals = [goal for goal in pass_goals(tables["pass"], session.on_gpu) if "fused" not in goal.text]
    longest = [size for size in sizes if size[1] == max(steps for _, steps, _ in sizes)]
    for _, (batch, steps, hidden) in session.each({f"recurrence, B={b}, N={n}": (b, t, n) for b, t, n in longest}):
        with session.case(f"recurrence, B={batch}, T={steps}, N={hidden}"):
            at = batch, steps, hidden, inputs, rounds, session.device
            tables["recurrence"].append(measure_core(*at, output_gate=False, methods=(LEAN, RTRL, TBPTT)))
    for form in ("plain", "graph") if session.on_gpu else ("plain",):
        print_table(f"The recurrence, {form}", core_columns(form), tables["recurrence"])
    session.goals += goals + core_goals("recurrence", tables["recurrence"], session.on_gpu)
    if session.on_gpu:
        for batch, steps, hidden in longest:
            if session.has_time():
                with session.case(f"tiles, B={batch}, N={hidden}"):
                    at = batch, steps, hidden, inputs, 3, session.device
                    tables["tiles"] += measure_sweep(*at, own_splits=True, goes_on=session.has_time)
        best = [row for row in tables["tiles"] if row["rank"] <= 5 or row["own"]]
        print_table("Other tiles: the five fastest and the kernel's own", SWEEP_COLUMNS, best)
    for name, rows in tables.items():
        session.record(name, rows)


@torch.no_grad()
def _measure_scans(batch: int, steps: int, hidden: int, inputs: int, rounds: int, device: torch.device) -> Row:
    """The parts of the recurrence beside the pass, each on its own."""
    from r2ac.kernels import kernels_for

    release_memory(device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device)

    kernels = kernels_for(normal(1))
    scans = kernels.scans("elstm")
    is_first = torch.zeros(steps, batch, dtype=torch.bool, device=device)
    given = normal(steps, batch, 2, hidden), normal(2, hidden), normal(2, hidden), normal(batch, hidden), is_first
    operands = normal(steps, batch, hidden), *given[:3], scans.forward(*given), *given[3:]
    x, weight = normal(steps, batch, inputs), normal(2 * hidden, inputs)
    runs: dict[str, Run] = {
        FORWARD: lambda: scans.forward(*given),
        BACKWARD: lambda: scans.reverse(*operands, True),
        BACKWARD_TBPTT: lambda: scans.reverse(*operands, False),
        PROJECTION: lambda: torch.nn.functional.linear(x, weight),
    }
    times = time_runs(runs, dict.fromkeys(runs, 4), rounds, device)
    return {"B": batch, "N": hidden, "T": steps, "seconds": times.medians()}


PRESET_COLUMNS = [
    *own_columns("preset", "method"),
    Column("ms", lambda row: 1e3 * row["seconds"], ",.2f"),
    Column("over TBPTT", lambda row: row["over TBPTT"], ".3f"),
    Column("steps/s", lambda row: row["steps_per_second"], ",.0f"),
    Column("frames/s", lambda row: row["frames_per_second"], ",.0f"),
]


def measure_presets(session: Session) -> None:
    """The paper's presets: an update by RTRL, by TBPTT, and in lower precision; what an update's kernels are."""
    rows: list[Row] = []
    profiles: dict[str, Any] = {}
    for name, preset in session.each({"dmlab": QUICK["dmlab"]} if session.quick else PRESETS):
        with session.case(name):
            rows += _measure_preset(session, name, preset, profiles)
    print_table("Updates of the paper's presets", PRESET_COLUMNS, rows)
    session.record("presets", rows)
    session.record("kernels of an update", profiles)
    for row in (row for row in rows if row["method"] == RTRL):
        session.goals.append(Goal(f"update, {row['preset']}: over TBPTT", row["over TBPTT"], 1.05, False))
        if row["preset"] == "dmlab":
            session.goals.append(Goal("update, dmlab: frames/s", row["frames_per_second"], 100_000, True))


def _measure_preset(session: Session, name: str, preset: Preset, profiles: dict[str, Any]) -> list[Row]:
    device, batch = session.device, 2 if session.quick else 32
    config = LearnerConfig()
    low = replace(config, encoder_precision="bfloat16", matmul_precision="high")
    rows: list[Row] = []
    # RTRL and TBPTT in turns; no more than two learners at a time, each of which keeps an update's memory.
    for settings in ({RTRL: config, TBPTT: config}, {LOW: low}):
        release_memory(device)
        updates = {
            method: Update(TBPTT if method == TBPTT else RTRL, preset, preset.length, batch, settings[method], device)
            for method in settings
        }
        for method, update in updates.items():
            # A captured update keeps the precision that it was captured in.
            use_matmul_precision(settings[method].matmul_precision)
            for _ in range(WARM_UP[device.type]):
                update()
            skipped = update.learner.skipped_updates
            session.expect(f"{name}, {method}: {skipped} updates skipped", skipped == 0)
            if session.on_gpu:
                session.expect(f"{name}, {method}: captured", update.learner.captured)
        times = take_turns(updates, 1 if session.quick else 8, device)
        if RTRL in updates and session.on_gpu and session.has_time():
            with session.case(f"{name}: kernels of an update"):
                profiles[name] = _kernels_of(updates[RTRL])
                for each in profiles[name][:8]:
                    session.note(f"{name}: {each['ms']:8.3f} ms {each['count']:4d} x {each['kernel']}")
        steps = preset.length * batch
        rows += [
            {
                "preset": name,
                "method": method,
                "seconds": times.median(method),
                "over TBPTT": times.ratio(method, TBPTT),
                "steps_per_second": steps / times.median(method),
                "frames_per_second": preset.frames * steps / times.median(method),
                "reserved_bytes": torch.cuda.memory_reserved(device) if session.on_gpu else None,
            }
            for method in updates
        ]
        # Before the next are made.
        del update
        updates.clear()
    use_matmul_precision("highest")
    return rows


def _kernels_of(update: Update) -> list[Row]:
    """The kernels of one update, those that take longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        update()
        update.learner.check()
    found = sorted(trace.key_averages(), key=lambda each: -each.device_time_total)
    return [{"kernel": each.key[:80], "ms": each.device_time_total / 1e3, "count": each.count} for each in found[:20]]
