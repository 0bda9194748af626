"""Which kernels a machine takes, by what it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from r2ac.kernels import REFERENCE, UnknownKernels, choice, kernels_for

pytest.importorskip("triton", reason="Triton has no build for this machine")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Tensor]:
    """A tensor of a GPU, on a machine without any program."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    choice._triton.cache_clear()
    with FakeTensorMode():
        yield torch.empty(1, device="cuda")
    choice._triton.cache_clear()


def compiler(path: Path, status: int) -> Path:
    """A program that ends with ``status``."""
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return path


def names_and_warnings(tensor: Tensor) -> tuple[list[str], list[str]]:
    """Of three choices in a row."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = [kernels_for(tensor).name for _ in range(3)]
    return names, [str(warning.message) for warning in caught]


def test_a_gpu_without_a_c_compiler_takes_the_reference_and_one_warning(on_gpu: Tensor) -> None:
    names, (warning,) = names_and_warnings(on_gpu)
    assert names == ["reference"] * 3
    assert warning.endswith("Triton needs a C compiler, and there is none (CC, gcc, clang); install gcc")


def test_a_compiler_that_cannot_be_run(on_gpu: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent")
    names, (warning,) = names_and_warnings(on_gpu)
    assert names == ["reference"] * 3
    assert "/nonexistent cannot be run: No such file or directory; install gcc, or set CC" in warning


def test_a_compiler_without_pythons_header_files(on_gpu: Tensor, tmp_path: Path) -> None:
    compiler(tmp_path / "gcc", status=1)
    names, (warning,) = names_and_warnings(on_gpu)
    assert names == ["reference"] * 3
    assert "gcc does not find Python.h; install python3-dev" in warning


@pytest.mark.parametrize("name", ["gcc", "clang", "CC"])
def test_a_compiler_is_all_that_triton_needs(
    on_gpu: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = compiler(tmp_path / name, status=0)
    if name == "CC":
        monkeypatch.setenv("CC", str(path))
    assert names_and_warnings(on_gpu) == (["triton"] * 3, [])


@pytest.mark.parametrize("value", ["typo", "native", "Reference"])
def test_other_kernels_than_the_reference_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("R2AC_KERNELS", value)
    with pytest.raises(UnknownKernels, match=f"R2AC_KERNELS is '{value}': it must be 'reference', or unset"):
        kernels_for(torch.zeros(1))


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R2AC_KERNELS", "reference")
    assert kernels_for(torch.zeros(1)) is REFERENCE
    monkeypatch.setenv("R2AC_KERNELS", "")
    assert kernels_for(torch.zeros(1, dtype=torch.float16)) is REFERENCE
