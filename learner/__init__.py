"""The learner: algorithms, optimiser and the update. Checkpoints are in ``r2ac.learner.checkpoint``. What needs torch
is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from r2ac.learner.config import LearnerConfig

if TYPE_CHECKING:
    from r2ac.learner.carries import CarryStore
    from r2ac.learner.collective import Collective, CollectiveBroken, ProcessGroup, SingleLearner
    from r2ac.learner.device import CapturedStep, CaptureFailed, DeviceFeed, use_matmul_precision
    from r2ac.learner.learner import Learner, TrainingDiverged
    from r2ac.learner.optimiser_setup import OPTIMISERS, load_optimiser_state, make_optimiser
    from r2ac.learner.rollout import Rollout, concatenate

__all__ = [
    "OPTIMISERS",
    "CaptureFailed",
    "CapturedStep",
    "CarryStore",
    "Collective",
    "CollectiveBroken",
    "DeviceFeed",
    "Learner",
    "LearnerConfig",
    "ProcessGroup",
    "Rollout",
    "SingleLearner",
    "TrainingDiverged",
    "concatenate",
    "load_optimiser_state",
    "make_optimiser",
    "use_matmul_precision",
]

_MODULES = ("learner", "carries", "device", "optimiser_setup", "collective", "rollout")
"""Where all other names are found."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{module}" for module in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
