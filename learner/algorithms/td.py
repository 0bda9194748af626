"""Prediction alone: the value of a policy that draws every action with the same probability, by TD(lambda).

The update is that of :mod:`r2ac.learner.algorithms.stream` with g_t = grad V_t; the policy's weights are zero and stay.
"""

from __future__ import annotations

from r2ac.learner.algorithms.algorithm import UpdateContext
from r2ac.learner.algorithms.stream import Stream


class TD(Stream):
    """Steps of the value by eligibility traces (Sutton and Barto 2018, section 12.2)."""

    def __init__(self, context: UpdateContext) -> None:
        policy = context.agent.policy.requires_grad_(False)
        for parameter in policy.parameters():
            parameter.zero_()
        super().__init__(context)
        self.costs = (0.0, 1.0, 0.0)
