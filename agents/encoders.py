"""Encoders: from an observation to the features that the core reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from r2ac.agents.config import EncoderName


class _ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ImpalaEncoder(nn.Module):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3, right, without its LSTM).

    For each of ``channels``: a 3x3 convolution, a 3x3 max-pool of stride 2, two residual blocks; then ReLU, a linear
    layer and ReLU. ``shape`` is the image's [C, H, W].
    """

    def __init__(self, shape: Sequence[int], features: int = 256, channels: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__()
        width, height, breadth = shape
        sections: list[nn.Module] = []
        for outputs in channels:
            sections += [
                nn.Conv2d(width, outputs, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                _ResidualBlock(outputs),
                _ResidualBlock(outputs),
            ]
            width, height, breadth = outputs, (height + 1) // 2, (breadth + 1) // 2
        self.convolutions = nn.Sequential(*sections, nn.ReLU(), nn.Flatten())
        self.linear = nn.Linear(width * height * breadth, features)

    def forward(self, observation: Tensor) -> Tensor:
        """uint8 images [batch, C, H, W] -> features [batch, features], computed from pixels scaled to [0, 1]."""
        return torch.relu(self.linear(self.convolutions(_unit_pixels(observation, self.linear.weight.dtype))))


class NatureEncoder(nn.Module):
    """The convolutional network of DQN (Mnih et al. 2015, methods): a tenth of the work of IMPALA's at 64x64.

    Convolutions 8x8 of stride 4 (32 channels), 4x4 of stride 2 (64) and 3x3 (64), each with ReLU; a linear layer, ReLU.

    Raises:
        ValueError: for an image with a side below 36.
    """

    smallest = 36
    """Below it nothing is left after the three convolutions."""

    def __init__(self, shape: Sequence[int], features: int = 256) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < self.smallest:
            least = f"{self.smallest}x{self.smallest}"
            raise ValueError(f"encoder is 'nature', but it reads images of at least {least}, not {list(shape)}")
        width, height = ((((side - 8) // 4 + 1 - 4) // 2 + 1) - 2 for side in sides)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.linear = nn.Linear(64 * width * height, features)
        _initialise_orthogonally(self)

    def forward(self, observation: Tensor) -> Tensor:
        """uint8 images [batch, C, H, W] -> features [batch, features], computed from pixels scaled to [0, 1]."""
        return torch.relu(self.linear(self.convolutions(_unit_pixels(observation, self.linear.weight.dtype))))


class PatchEncoder(nn.Module):
    """For pictures under 36x36: at 24x24 some sixty times as fast as IMPALA's on a CPU.

    A convolution over patches that do not overlap, 4x4 of stride 4 (16 channels), with ReLU; a linear layer, ReLU.
    Sides that are no multiples of 4 are padded with zeros.
    """

    def __init__(self, shape: Sequence[int], features: int = 256) -> None:
        super().__init__()
        channels, *sides = shape
        height, width = ((-side % 4 + 1) // 2 for side in sides)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 4, stride=4, padding=(height, width)), nn.ReLU(), nn.Flatten()
        )
        self.linear = nn.Linear(16 * prod(-(-side // 4) for side in sides), features)
        _initialise_orthogonally(self)

    def forward(self, observation: Tensor) -> Tensor:
        """uint8 images [batch, C, H, W] -> features [batch, features], computed from pixels scaled to [0, 1]."""
        # As they lie: to turn them round costs more than these convolutions gain.
        return torch.relu(self.linear(self.convolutions(observation.to(self.linear.weight.dtype) / 255)))


def _initialise_orthogonally(encoder: nn.Module) -> None:
    """Orthogonal weights for layers with ReLU, biases of zero. With PyTorch's own start, which is smaller, most units
    of `NatureEncoder` die within some hundred updates."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight, gain=2**0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _unit_pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [batch, C, H, W] as numbers in [0, 1], channels last in memory: on GPU and CPU the convolutions that follow
    are faster so, and bytes are four times cheaper to turn round than floats."""
    return image.contiguous(memory_format=torch.channels_last).to(dtype) / 255


class MLPEncoder(nn.Module):
    """Two linear layers with ReLU, each of ``features`` units, for vectors of ``size`` numbers."""

    def __init__(self, size: int, features: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU())

    def forward(self, observation: Tensor) -> Tensor:
        """Vectors [batch, size] -> features [batch, features]."""
        return self.layers(observation.to(next(self.layers.parameters()).dtype))


class NoEncoder(nn.Module):
    """The observation itself. Nothing below the core is trained, so that RTRL is exact from end to end."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation


def make_encoder(shape: Sequence[int], name: EncoderName, features: int) -> tuple[nn.Module, int]:
    """The encoder for observations [C, H, W] or [size], and the number of features that come out: ``features``, except
    for "none", which returns the vector as it is. "auto" takes the first encoder that fits the shape.

    Raises:
        ValueError: for a shape that is neither, or an encoder that does not fit it.
    """
    if len(shape) not in (1, 3) or prod(shape) < 1:
        raise ValueError(f"an observation must be an image [C, H, W] or a vector [size], not {list(shape)}")
    allowed: tuple[EncoderName, ...] = ("impala", "nature", "patch") if len(shape) == 3 else ("mlp", "none")
    if name == "auto":
        name = allowed[0]
    if name not in allowed:
        raise ValueError(f"encoder is {name!r}, but observations of shape {list(shape)} take {' or '.join(allowed)}")
    if name == "impala":
        return ImpalaEncoder(shape, features), features
    if name == "nature":
        return NatureEncoder(shape, features), features
    if name == "patch":
        return PatchEncoder(shape, features), features
    if name == "mlp":
        return MLPEncoder(shape[0], features), features
    return NoEncoder(), shape[0]
