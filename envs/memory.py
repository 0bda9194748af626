"""The suite `memory`: tasks that only an agent which remembers can solve. They need no engine."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from r2ac.envs.seeding import SeedFirstReset, engine_seeds
from r2ac.envs.suite import ReferenceScores, Split, Suite, check_at_least
from r2ac.envs.tmaze import TMazeVector


@dataclass(frozen=True)
class MemoryOptions:
    """Options of the memory tasks."""

    corridor_length: int = 40
    """Steps between seeing the cue and choosing (tmaze); an episode has one step more. At least 1."""


def _check(name: str, options: MemoryOptions) -> None:
    check_at_least("corridor_length", options.corridor_length, 1, "steps")


def _make(name: str, num_envs: int, seed: int, split: Split, options: MemoryOptions) -> VectorEnv:
    return SeedFirstReset(TMazeVector(num_envs, options.corridor_length), engine_seeds(seed, split, num_envs))


SUITE = Suite(
    name="memory",
    summary="one bit to remember through a corridor (passive T-maze)",
    options=MemoryOptions,
    list_tasks=lambda: ("tmaze",),
    missing=lambda: None,
    check=_check,
    make=_make,
    frames_per_step=lambda name, options: 1,
    reference_scores=lambda name, options: ReferenceScores(0.5, 1.0, "chance", "best"),
)
