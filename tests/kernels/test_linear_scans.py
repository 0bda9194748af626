"""The scans of any cell, from its coefficients and its derivatives, in C++ and in Triton against the references in
float64. Triton runs on the GPU where there is one, else in its interpreter."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from r2ac.kernels import Linearisation, native, scan
from r2ac.kernels.native_library import missing_reason

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DOUBLE, SINGLE = torch.float64, torch.float32


@st.composite
def linear_rollouts(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 3, 17, 128, 129)) -> dict[str, Tensor]:
    """In float64, but every number is one of float32; what is constant is given once for all steps and streams."""
    steps, batch, units = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.sampled_from(sizes))
    gates, own, pair = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.sampled_from(((), (2,))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DOUBLE)

    def rows(*shape: int) -> Tensor:
        if draw(st.booleans()):
            return normal(*shape).expand(steps, batch, *shape)
        return normal(steps, batch, *shape)

    is_first = torch.rand(steps, batch, generator=generator) < draw(st.sampled_from((0.0, 0.3, 1.0)))
    state = normal(batch, *pair, units)
    state[is_first[0]] = torch.nan
    return {
        "factor": rows(*pair, units),
        "added": normal(steps, batch, *pair, units),
        "state": state,
        "direct": normal(steps, batch, *pair, units),
        "jacobian": rows(*pair, *pair, units),
        "by_gates": rows(*pair, gates, units),
        "by_own": rows(*pair, own, units),
        "is_first": is_first,
    }


def run(scans: Any, given: dict[str, Tensor], flag: bool) -> tuple[Tensor, ...]:
    """All results of the two scans of a module; the flag is for "squashed" and for "jump"."""
    states = scans.linear_forward_scan(*(given[name] for name in ("factor", "added", "state", "is_first")), flag)
    linear = Linearisation(*(given[name] for name in ("jacobian", "by_gates", "by_own")))
    return states, *scans.linear_reverse_scan(given["direct"], linear, given["is_first"], flag)


def in_single(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(SINGLE) if tensor.is_floating_point() else tensor for name, tensor in given.items()}


@pytest.mark.skipif(missing_reason() is not None, reason="no native kernels")
@given(linear_rollouts(), st.booleans())
def test_the_native_scans_are_the_references(tensors: dict[str, Tensor], flag: bool) -> None:
    expected = run(scan, tensors, flag)
    for same, bound in ((tensors, 1e-12), (in_single(tensors), 1e-4)):
        torch.testing.assert_close(run(native, same, flag), expected, rtol=bound, atol=bound, check_dtype=False)


# The interpreter takes milliseconds a step, and computes in NumPy, which remarks on infinities.
@pytest.mark.filterwarnings("ignore:.* encountered in :RuntimeWarning")
@hypothesis.settings(max_examples=15)
@given(linear_rollouts((1, 33)), st.booleans())
def test_the_triton_scans_are_the_references(tensors: dict[str, Tensor], flag: bool) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from r2ac.kernels import triton_linear

    same = {name: tensor.to(DEVICE) for name, tensor in in_single(tensors).items()}
    found = tuple(tensor.cpu() for tensor in run(triton_linear, same, flag))
    torch.testing.assert_close(found, run(scan, tensors, flag), rtol=1e-4, atol=1e-4, check_dtype=False)
