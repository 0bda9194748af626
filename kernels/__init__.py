"""The maths of exact RTRL as functions on tensors.

:func:`recurrence`, :func:`backward_scan` and the passes (``…_pass_``) are PyTorch operators that run on the kernels of
their tensors' device (:mod:`r2ac.kernels.choice`); each kernel has a readable reference in :mod:`scan`,
:mod:`sensitivity` or :mod:`block`. A cell is one file in :mod:`cells`.
"""

from r2ac.kernels.block import magnitude
from r2ac.kernels.cells import CELLS, Cell, LinearCell, Linearisation
from r2ac.kernels.cells.elstm import GATES
from r2ac.kernels.choice import REFERENCE, Kernels, Scans, UnknownKernels, kernels_for
from r2ac.kernels.operators import (
    backward_scan,
    block_sensitivity_pass_,
    is_traced,
    needs_operators,
    sensitivity_pass_,
    vector_pass_,
)
from r2ac.kernels.oracle import StepByStepRTRL
from r2ac.kernels.recurrence import Notes, recurrence, traces_after, traces_after_step
from r2ac.kernels.sensitivity import Traces, boundary_by_stream

__all__ = [
    "CELLS",
    "GATES",
    "REFERENCE",
    "Cell",
    "Kernels",
    "LinearCell",
    "Linearisation",
    "Notes",
    "Scans",
    "StepByStepRTRL",
    "Traces",
    "UnknownKernels",
    "backward_scan",
    "block_sensitivity_pass_",
    "boundary_by_stream",
    "is_traced",
    "kernels_for",
    "magnitude",
    "needs_operators",
    "recurrence",
    "sensitivity_pass_",
    "traces_after",
    "traces_after_step",
    "vector_pass_",
]
