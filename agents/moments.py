"""Running means and variances, and observations that are normalised by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

OBSERVATION_BOUND = 10.0
"""Of normalised observations, as in Stable-Baselines3's `VecNormalize`."""


def fresh_moments(*shape: int) -> Tensor:
    """Number, mean and variance of nothing yet, [3, ...] float64: the first numbers outweigh what stands here."""
    start = torch.tensor([1e-4, 0.0, 1.0], dtype=torch.float64)
    return start.view(3, *(1 for _ in shape)).repeat(1, *shape)


def merge_(moments: Tensor, sums: Tensor) -> None:
    """Take more numbers into moments, given by their number, sum and sum of squares, [3, ...] float64 both; without
    waiting for the device (Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances")."""
    # NumPy's operations on few numbers take a third of the time of PyTorch's, and give the same bits.
    kept, (number, total, squares) = (moments, sums) if moments.is_cuda else (moments.numpy(), sums.numpy())
    count, mean, variance = kept
    new_mean = total / number
    new_variance = (squares / number - new_mean * new_mean).clip(0)
    share = number / (count + number)
    difference = new_mean - mean
    kept[2] = variance + share * (new_variance - variance + (1 - share) * (difference * difference))
    kept[1] = mean + share * difference
    kept[0] = count + number


class ObservationNormaliser(nn.Module):
    """clip((x - mean) / deviation, -10, 10) of vectors x [..., K], by the mean and the deviation of each number over
    all that was learned from."""

    moments: Tensor
    """Number, mean and variance of the observations seen, [3, K] float64."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # Parameters that nothing trains: they travel with the weights to those who act.
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(size), requires_grad=False)
        self.register_buffer("moments", fresh_moments(size))

    def forward(self, observation: Tensor) -> Tensor:
        return ((observation - self.mean) / self.deviation).clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)

    @torch.no_grad()
    def observe(self, sums: Tensor) -> None:
        """Take observations into the moments, by their number, sum and sum of squares, [3, K] float64, without waiting
        for the device."""
        merge_(self.moments, sums)
        self.mean.copy_(self.moments[1])
        self.deviation.copy_((self.moments[2] + 1e-8).sqrt())
