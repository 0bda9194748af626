"""Encoders against plain transcriptions of their equations, and the choice of an encoder."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from r2ac.agents import (
    Agent,
    AgentConfig,
    DiscreteActions,
    ImpalaEncoder,
    MLPEncoder,
    NatureEncoder,
    ObservationSpec,
    PatchEncoder,
)


def images(batch: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)


def plain_impala(encoder: ImpalaEncoder, image: Tensor, sections: int) -> Tensor:
    """IMPALA's residual network, its parameters taken in the order in which they are applied."""
    parameters = iter(encoder.parameters())

    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(x, next(parameters), next(parameters), padding=1)

    x = image.double() / 255
    for _ in range(sections):
        x = F.max_pool2d(convolve(x), 3, stride=2, padding=1)
        for _ in range(2):
            x = x + convolve(convolve(x.relu()).relu())
    return F.linear(x.relu().flatten(1), next(parameters), next(parameters)).relu()


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 23), st.integers(1, 23)),
    channels=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    features=st.integers(1, 5),
)
def test_impala_at_any_image_size(shape: tuple[int, int, int], channels: list[int], features: int) -> None:
    encoder = ImpalaEncoder(shape, features, channels).double()
    image = images(2, *shape)
    kept = image.clone()
    actual = encoder(image)
    assert actual.shape == (2, features)
    torch.testing.assert_close(actual, plain_impala(encoder, image, len(channels)))
    assert torch.equal(image, kept)


@pytest.mark.parametrize("size", [(72, 96), (64, 64), (84, 84), (21, 35), (210, 160)])
def test_image_sizes_of_the_suites_and_odd_ones(size: tuple[int, int]) -> None:
    assert ImpalaEncoder((3, *size), 16)(images(2, 3, *size)).shape == (2, 16)


@given(sides=st.tuples(st.integers(36, 100), st.integers(36, 100)), channels=st.integers(1, 4))
def test_nature_at_any_image_size(sides: tuple[int, int], channels: int) -> None:
    encoder = NatureEncoder((channels, *sides), 5).double()
    image = images(2, channels, *sides)
    parameters = iter(encoder.parameters())
    x = image.double() / 255
    for stride in (4, 2, 1):
        x = F.conv2d(x, next(parameters), next(parameters), stride=stride).relu()
    expected = F.linear(x.flatten(1), next(parameters), next(parameters)).relu()
    torch.testing.assert_close(encoder(image), expected)


@given(sides=st.tuples(st.integers(1, 40), st.integers(1, 40)), channels=st.integers(1, 4))
def test_patch_at_any_image_size(sides: tuple[int, int], channels: int) -> None:
    encoder = PatchEncoder((channels, *sides), 5).double()
    image = images(2, channels, *sides)
    weight, bias, of_patches, last_bias = encoder.parameters()
    # Zeros around, half of them before, make each side the next multiple of 4.
    rows, columns = (((side + 3) // 4, -side % 4) for side in sides)
    padded = torch.zeros(2, channels, 4 * rows[0], 4 * columns[0], dtype=torch.float64)
    top, left = (rows[1] + 1) // 2, (columns[1] + 1) // 2
    padded[:, :, top : top + sides[0], left : left + sides[1]] = image.double() / 255
    patches = padded.unflatten(2, (-1, 4)).unflatten(4, (-1, 4))
    x = (torch.einsum("bcyhxw,ochw->boyx", patches, weight) + bias[:, None, None]).relu()
    expected = F.linear(x.flatten(1), of_patches, last_bias).relu()
    torch.testing.assert_close(encoder(image), expected)


def test_bytes_are_scaled_to_the_unit_interval() -> None:
    encoder = ImpalaEncoder((1, 1, 1), 1, channels=(1,)).double()
    for parameter in encoder.parameters():
        parameter.data.zero_()
    # Only the first convolution's centre and the linear layer are left: what comes out is the pixel that goes in.
    next(encoder.parameters()).data[0, 0, 1, 1] = 1
    encoder.linear.weight.data[:] = 1
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    assert encoder(pixels).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0], abs=1e-15)


def test_mlp() -> None:
    encoder = MLPEncoder(5, 7).double()
    first, first_bias, second, second_bias = encoder.parameters()
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = ((x @ first.T + first_bias).relu() @ second.T + second_bias).relu()
    torch.testing.assert_close(encoder(x), expected)
    # Observations are float32 whatever the weights are.
    torch.testing.assert_close(encoder(x.float()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "encoder", "kind", "core_input"),
    [
        ((3, 9, 9), "auto", "ImpalaEncoder", 12 + 1),
        ((3, 9, 9), "impala", "ImpalaEncoder", 12 + 1),
        ((3, 36, 40), "nature", "NatureEncoder", 12 + 1),
        ((3, 24, 24), "patch", "PatchEncoder", 12 + 1),
        ((6,), "auto", "MLPEncoder", 12 + 1),
        ((6,), "mlp", "MLPEncoder", 12 + 1),
        ((6,), "none", "NoEncoder", 6 + 1),
    ],
)
def test_the_observation_chooses_the_encoder(shape: tuple[int, ...], encoder: Any, kind: str, core_input: int) -> None:
    agent = Agent(
        ObservationSpec(shape, DiscreteActions(3)),
        AgentConfig(hidden_size=4, encoder=encoder, encoder_features=12),
    )
    assert type(agent.encoder).__name__ == kind
    assert agent.core.input_size == core_input


def test_no_encoder_hands_the_observation_on() -> None:
    agent = Agent(ObservationSpec((6,), DiscreteActions(3)), AgentConfig(hidden_size=4, encoder="none"))
    x = torch.randn(2, 6)
    assert torch.equal(agent.encoder(x), x)
    assert not list(agent.encoder.parameters())


@pytest.mark.parametrize(
    ("shape", "encoder", "sentence"),
    [
        ((3, 9, 9), "mlp", r"encoder is 'mlp', but observations of shape \[3, 9, 9\] take impala or nature or patch"),
        ((3, 35, 40), "nature", r"encoder is 'nature', but it reads images of at least 36x36, not \[3, 35, 40\]"),
        ((3, 9, 9), "none", r"encoder is 'none', but observations of shape \[3, 9, 9\] take impala"),
        ((6,), "impala", r"encoder is 'impala', but observations of shape \[6\] take mlp or none"),
        ((6,), "resnet", r"encoder is 'resnet', but observations of shape \[6\] take mlp or none"),
        ((9, 9), "auto", r"must be an image \[C, H, W\] or a vector \[size\], not \[9, 9\]"),
        ((), "auto", r"must be an image \[C, H, W\] or a vector \[size\], not \[\]"),
        ((0,), "auto", r"must be an image \[C, H, W\] or a vector \[size\], not \[0\]"),
        ((3, 0, 9), "auto", r"must be an image \[C, H, W\] or a vector \[size\], not \[3, 0, 9\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(shape: tuple[int, ...], encoder: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        Agent(ObservationSpec(shape, DiscreteActions(3)), AgentConfig(encoder=encoder))
    assert "\n" not in str(caught.value)
