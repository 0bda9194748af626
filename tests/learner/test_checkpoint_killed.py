"""Checkpoints of a process that is killed while it saves."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch

from r2ac.learner.checkpoint import Checkpoint, checkpoint_path, latest_checkpoint, load_checkpoint, save_checkpoint

# Source, so that the child need not import this file. The checkpoint is large enough for its write to be cut.
SAVE_FOREVER = """
import itertools, torch
from r2ac.learner.checkpoint import Checkpoint, checkpoint_path, prune_checkpoints, save_checkpoint
for step in itertools.count(first):
    model = {"weight": torch.full((1_000_000,), float(step))}
    checkpoint = Checkpoint(model, {}, {"env_steps": step}, torch.get_rng_state(), {})
    save_checkpoint(checkpoint_path(directory, step), checkpoint)
    prune_checkpoints(directory, keep=3)
"""


def kill_while_saving(directory: Path, first: int, pause: float) -> None:
    """Run SAVE_FOREVER until it has saved once, then kill -9 it ``pause`` seconds after it next makes a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["r2ac.learner.checkpoint"])
    child = context.Process(target=exec, args=(SAVE_FOREVER, {"directory": directory, "first": first}), daemon=True)
    child.start()
    deadline = time.monotonic() + 60
    try:
        while not checkpoint_path(directory, first).exists():
            assert child.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        names = set(os.listdir(directory))
        while set(os.listdir(directory)) <= names:
            assert child.is_alive()
            assert time.monotonic() < deadline
        time.sleep(pause)
    finally:
        child.kill()
        child.join()


def test_the_newest_checkpoint_loads_after_every_kill(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = 1
    for pause in (0.0, 0.0, 0.0, 0.0, *rng.uniform(0.0, 0.05, size=4)):
        kill_while_saving(tmp_path, first, pause)
        loaded = load_checkpoint(latest_checkpoint(tmp_path))
        step = loaded.counters["env_steps"]
        assert step >= first
        assert torch.equal(loaded.model["weight"], torch.full((1_000_000,), float(step)))
        first = int(step) + 1

    save_checkpoint(checkpoint_path(tmp_path, first), Checkpoint({}, {}, {}, torch.get_rng_state(), {}))
    assert all(name.startswith("step_") for name in os.listdir(tmp_path))
