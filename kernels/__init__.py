"""Sensitivity and scan kernels: the maths of exact RTRL as pure functions on tensors."""

from r2ac.kernels.choice import REFERENCE, Kernels, kernels_for
from r2ac.kernels.elstm import BackwardScan, elstm_backward, elstm_forward
from r2ac.kernels.operators import elstm_cells, elstm_jump
from r2ac.kernels.oracle import StepByStepRTRL
from r2ac.kernels.scan import (
    GATES,
    CellScan,
    Linearisation,
    backward_scan,
    decay_products,
    elstm_linearisation,
    elstm_scan,
    elstm_step,
)
from r2ac.kernels.sensitivity import (
    Sensitivities,
    boundary_contraction,
    jump,
    rollout_gradient,
    sensitivity_pass_,
    vector_pass_,
)

__all__ = [
    "GATES",
    "REFERENCE",
    "BackwardScan",
    "CellScan",
    "Kernels",
    "Linearisation",
    "Sensitivities",
    "StepByStepRTRL",
    "backward_scan",
    "boundary_contraction",
    "decay_products",
    "elstm_backward",
    "elstm_cells",
    "elstm_forward",
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
