"""A CUDA device for tests that :mod:`tests.fake_cuda` runs."""

from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from r2ac.kernels import choice, triton_linear, triton_scan, triton_sensitivity
from tests.fake_cuda.spy import Launch


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tensors are fakes. What PyTorch asks the CUDA runtime on the way has an answer; cuDNN is off."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext())
    with torch.backends.cudnn.flags(enabled=False), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, fake_cuda: None) -> None:
    """The core runs as on a GPU, up to the launches of its Triton kernels."""
    for module in (triton_linear, triton_scan, triton_sensitivity):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Launch(name))
    monkeypatch.setattr(choice, "_missing_for_triton", lambda: None)
    kernels = choice._triton.__wrapped__()
    monkeypatch.setattr(choice, "_triton", lambda: kernels)
    # Fakes go by the operators, as all do that a compiler or a profiler looks at.
    monkeypatch.setattr(import_module("r2ac.kernels.recurrence"), "needs_operators", lambda tensor: False)
