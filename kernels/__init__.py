"""Sensitivity and scan kernels: the maths of exact RTRL as pure functions on tensors."""

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
from r2ac.kernels.sensitivity import Sensitivities, boundary_contraction, jump, rollout_gradient, sensitivity_pass_

__all__ = [
    "GATES",
    "CellScan",
    "Linearisation",
    "Sensitivities",
    "StepByStepRTRL",
    "backward_scan",
    "boundary_contraction",
    "decay_products",
    "elstm_linearisation",
    "elstm_scan",
    "elstm_step",
    "jump",
    "rollout_gradient",
    "sensitivity_pass_",
]
