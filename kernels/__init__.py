"""The maths of exact RTRL as functions on tensors.

``elstm_cells``, ``elstm_jump``, ``backward_scan`` and the passes (``…_pass_``) are PyTorch operators that run on the
kernels of their tensors' device (:mod:`r2ac.kernels.choice`); each kernel has a readable reference of the same name in
:mod:`scan`, :mod:`elstm`, :mod:`sensitivity` or :mod:`block`. All else here is plain PyTorch.
"""

from r2ac.kernels.block import block_backward_scan, block_decay_products, complex_blocks
from r2ac.kernels.choice import REFERENCE, Kernels, UnknownKernels, kernels_for
from r2ac.kernels.elstm import BackwardScan
from r2ac.kernels.operators import (
    backward_scan,
    block_sensitivity_pass_,
    elstm_cells,
    elstm_jump,
    sensitivity_pass_,
    vector_pass_,
)
from r2ac.kernels.oracle import StepByStepRTRL
from r2ac.kernels.scan import (
    GATES,
    CellScan,
    Linearisation,
    decay_products,
    elstm_linearisation,
    elstm_scan,
    elstm_step,
)
from r2ac.kernels.sensitivity import Sensitivities, boundary_contraction, jump, rollout_gradient

__all__ = [
    "GATES",
    "REFERENCE",
    "BackwardScan",
    "CellScan",
    "Kernels",
    "Linearisation",
    "Sensitivities",
    "StepByStepRTRL",
    "UnknownKernels",
    "backward_scan",
    "block_backward_scan",
    "block_decay_products",
    "block_sensitivity_pass_",
    "boundary_contraction",
    "complex_blocks",
    "decay_products",
    "elstm_cells",
    "elstm_jump",
    "elstm_linearisation",
    "elstm_scan",
    "elstm_step",
    "jump",
    "kernels_for",
    "rollout_gradient",
    "sensitivity_pass_",
    "vector_pass_",
]
