"""Suites, task names and vector environments. Importing this package loads no engine, no torch and no Ray."""

from r2ac.envs.registry import SUITES, find_task, frames_per_step, make_vector
from r2ac.envs.suite import (
    EngineFailed,
    InvalidOption,
    MissingPackage,
    ReferenceScores,
    Spaces,
    Split,
    Suite,
    Task,
    UnknownTask,
)

__all__ = [
    "SUITES",
    "EngineFailed",
    "InvalidOption",
    "MissingPackage",
    "ReferenceScores",
    "Spaces",
    "Split",
    "Suite",
    "Task",
    "UnknownTask",
    "find_task",
    "frames_per_step",
    "make_vector",
]
