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


def merged(moments: Tensor, sums: Tensor) -> Tensor:
    """Moments with more numbers in them, given by their number, sum and sum of squares, [3, ...] float64 both; without
    waiting for the device (Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances")."""
    count, mean, variance = moments.unbind()
    number = sums[0]
    new_mean = sums[1] / number
    new_variance = (sums[2] / number - new_mean.square()).clamp(min=0)
    share = number / (count + number)
    difference = new_mean - mean
    variance = variance + share * (new_variance - variance + (1 - share) * difference.square())
    return torch.stack((count + number, mean + share * difference, variance))


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
        self.moments.copy_(merged(self.moments, sums))
        _, mean, variance = self.moments.unbind()
        self.mean.copy_(mean)
        self.deviation.copy_((variance + 1e-8).sqrt())
