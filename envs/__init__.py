"""Suites, task names and vector environments. Importing this package loads no engine, no torch and no Ray."""

from r2ac.envs.mixed import spread
from r2ac.envs.registry import SUITES, find_task, find_tasks, list_names, make_vector, one_suite
from r2ac.envs.signals import Signals
from r2ac.envs.suite import (
    EngineFailed,
    EnvironmentFailed,
    InvalidOption,
    MissingPackage,
    ReferenceScores,
    Spaces,
    Split,
    Suite,
    SuiteOptions,
    Task,
    UnknownTask,
    mean_normalised_return,
)

__all__ = [
    "SUITES",
    "EngineFailed",
    "EnvironmentFailed",
    "InvalidOption",
    "MissingPackage",
    "ReferenceScores",
    "Signals",
    "Spaces",
    "Split",
    "Suite",
    "SuiteOptions",
    "Task",
    "UnknownTask",
    "find_task",
    "find_tasks",
    "list_names",
    "make_vector",
    "mean_normalised_return",
    "one_suite",
    "spread",
]
