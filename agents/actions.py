"""Action spaces: the distribution that a policy draws actions from, and the head that gives its parameters.

The parameters are P numbers a step. Of discrete actions they are logits; of K continuous ones the means and the
logarithms of the deviations of a Gaussian whose coordinates are independent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from r2ac.agents.config import AgentConfig

_MASKED = -1e9
"""The logit of an action that is not allowed: its probability is exactly 0, and the entropy stays finite."""
_LOG_DEVIATIONS = (-20.0, 2.0)
"""Bounds of the logarithms of deviations that the network computes, as in soft actor-critic (Haarnoja et al. 2018)."""


class ActionSpec(ABC):
    """The actions of an environment. In one step of one stream a policy gives P parameters, and the action is a row:
    an array of ``shape`` and ``dtype``."""

    dtype: type[np.generic] = np.int64
    sizes: tuple[int, ...]
    """How many choices each discrete part of an action has; empty where actions are continuous."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """P."""

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @staticmethod
    def of(space: Any) -> ActionSpec:
        """The spec of a Gymnasium space whose discrete actions count from 0; the agent's folder does without
        Gymnasium. Raises ValueError for a space of another kind."""
        if hasattr(space, "nvec"):
            return MultiDiscreteActions(tuple(map(int, space.nvec)))
        if hasattr(space, "n") and space.shape == ():
            return DiscreteActions(int(space.n))
        if hasattr(space, "low") and len(space.shape) == 1:
            return BoxActions(tuple(map(float, space.low)), tuple(map(float, space.high)))
        raise ValueError(f"actions must be Discrete, MultiDiscrete or a Box of one axis, not {space}")

    def configured(self, config: AgentConfig) -> ActionSpec:
        """The actions as an agent of these settings takes them. Raises ValueError where it cannot."""
        return self

    def head_size(self, config: AgentConfig) -> int:
        """How many of the P parameters the network computes."""
        return self.parameters

    @abstractmethod
    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """log pi(a), [...], of actions [..., *shape] and parameters [..., P], summed over the parts of an action.

        Raises:
            ValueError: when the leading dimensions differ.
        """

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """In nats, [...], of parameters [..., P], summed over the parts of an action."""

    @abstractmethod
    def choose(self, parameters: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        """Actions [B, *shape] of parameters [B, P]: those at which the cumulative probability reaches the uniform
        numbers, [B, *shape] in [0, 1); without uniform numbers the most probable ones."""

    @abstractmethod
    def most_probable(self, parameters: Tensor) -> Tensor:
        """Of parameters [B, P] the actions [B, *shape] that `choose` takes without uniform numbers, as the environment
        takes them (`to_env`). `torch.export` can trace it."""

    def at_random(self, random: np.random.Generator, count: int, mask: np.ndarray | None) -> np.ndarray:
        """``count`` actions as the environment takes them, each with the same probability; of those that ``mask``
        allows, bool [count, P]."""
        logits = np.zeros((count, self.parameters)) if mask is None else np.where(mask, 0.0, _MASKED)
        return self.choose(logits, random.random((count, *self.shape)))

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Actions [B, *shape] as the environment takes them."""
        return action

    def probabilities(self, parameters: Tensor) -> Tensor:
        """Of all choices of all discrete parts, one part after another, [..., sum(sizes)]."""
        return torch.cat([logits.softmax(-1) for logits in parameters.split(self.sizes, -1)], -1)

    def chosen(self, action: np.ndarray) -> np.ndarray:
        """The places among the :meth:`probabilities` of actions [B, *shape], [B, K]: one of each discrete part."""
        return action.reshape(len(action), -1) + np.cumsum((0, *self.sizes[:-1]))

    def _check(self, parameters: Tensor, action: Tensor) -> None:
        # Without this, a stray dimension of size 1 would broadcast.
        expected = [*parameters.shape[:-1], *self.shape]
        if list(action.shape) != expected:
            raise ValueError(f"action must be {expected} to match its parameters, got {list(action.shape)}")


@dataclass(frozen=True)
class DiscreteActions(ActionSpec):
    """``count`` actions, numbered from 0; their parameters are logits."""

    count: int

    @property
    def sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.count,)

    @property
    def parameters(self) -> int:
        return self.count

    def __str__(self) -> str:
        return f"{self.count} actions"

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        self._check(parameters, action)
        return parameters.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        log_probs = parameters.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def choose(self, parameters: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        if uniforms is None:
            return parameters.argmax(axis=1)
        weights = np.exp(parameters - parameters.max(axis=1, keepdims=True), dtype=np.float64)
        cumulative = weights.cumsum(axis=1)
        return np.minimum((cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1), self.count - 1)

    def most_probable(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)


@dataclass(frozen=True)
class MultiDiscreteActions(ActionSpec):
    """K discrete actions at once, drawn independently, with ``sizes`` choices each. The parameters are their logits one
    after another."""

    sizes: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return sum(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.sizes))} actions"

    def parts(self) -> Iterator[tuple[int, slice, DiscreteActions]]:
        """Each part: its number, where its logits lie among the parameters, its actions."""
        start = 0
        for number, size in enumerate(self.sizes):
            yield number, slice(start, start + size), DiscreteActions(size)
            start += size

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        self._check(parameters, action)
        each = [part.log_prob(parameters[..., logits], action[..., k]) for k, logits, part in self.parts()]
        return torch.stack(each).sum(0)

    def entropy(self, parameters: Tensor) -> Tensor:
        return torch.stack([part.entropy(parameters[..., logits]) for _, logits, part in self.parts()]).sum(0)

    def choose(self, parameters: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        each = [
            part.choose(parameters[:, logits], None if uniforms is None else uniforms[:, k])
            for k, logits, part in self.parts()
        ]
        return np.stack(each, axis=1)

    def most_probable(self, parameters: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in parameters.split(self.sizes, -1)], -1)


@dataclass(frozen=True)
class BoxActions(ActionSpec):
    """K continuous actions between bounds, which may be infinite.

    They are drawn from a Gaussian and clipped to the bounds by :meth:`to_env`. With ``squash`` the environment gets
    tanh of what is drawn, scaled to the bounds. Actions here, and in rollouts, are what is drawn.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    squash: bool = False

    dtype = np.float32
    sizes = ()

    @property
    def parameters(self) -> int:
        return 2 * len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.low),)

    def __str__(self) -> str:
        return f"{len(self.low)} continuous action{'s' if len(self.low) > 1 else ''}"

    def configured(self, config: AgentConfig) -> ActionSpec:
        if config.squash_actions and not np.isfinite([*self.low, *self.high]).all():
            raise ValueError(
                f"squash_actions scales actions to their bounds, but these are {list(self.low)} to {list(self.high)}"
            )
        return replace(self, squash=config.squash_actions)

    def head_size(self, config: AgentConfig) -> int:
        return self.parameters // (2 if config.action_deviation == "state-independent" else 1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """With ``squash`` the density of tanh(a) in (-1, 1): log N(a) - sum log(1 - tanh(a)^2)."""
        self._check(parameters, action)
        mean, log_deviation = parameters.chunk(2, dim=-1)
        distance = (action - mean) * (-log_deviation).exp()
        each = -0.5 * distance.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        if self.squash:
            # log(1 - tanh(a)^2), without the difference that is lost where tanh(a) is near 1.
            each = each - 2 * (math.log(2) - action - softplus(-2 * action))
        return each.sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Of the Gaussian, with ``squash`` too: what tanh does to it has no closed form."""
        _, log_deviation = parameters.chunk(2, dim=-1)
        return (log_deviation + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)

    def choose(self, parameters: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        mean, log_deviation = np.split(parameters, 2, axis=1)
        if uniforms is None:
            return mean.astype(np.float32)
        return (mean + np.exp(log_deviation, dtype=np.float64) * _gaussian(uniforms)).astype(np.float32)

    def most_probable(self, parameters: Tensor) -> Tensor:
        action = parameters[..., : len(self.low)]
        low, high = action.new_tensor(self.low), action.new_tensor(self.high)
        if self.squash:
            action = low + (action.tanh() + 1) / 2 * (high - low)
        return action.clamp(low, high)

    def at_random(self, random: np.random.Generator, count: int, mask: np.ndarray | None) -> np.ndarray:
        """Uniform between two finite bounds; elsewhere Gaussian, and clipped."""
        uniforms = random.random((count, *self.shape))
        low, high = np.array(self.low), np.array(self.high)
        bounded = np.isfinite(low) & np.isfinite(high)
        start, end = np.where(bounded, low, 0), np.where(bounded, high, 0)
        drawn = np.where(bounded, start + uniforms * (end - start), _gaussian(uniforms))
        return drawn.clip(low, high).astype(np.float32)

    def to_env(self, action: np.ndarray) -> np.ndarray:
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        if self.squash:
            action = low + (np.tanh(action) + 1) / 2 * (high - low)
        return action.clip(low, high)

    def probabilities(self, parameters: Tensor) -> Tensor:
        return parameters[..., :0]

    def chosen(self, action: np.ndarray) -> np.ndarray:
        return np.empty((len(action), 0), np.int64)


class PolicyHead(nn.Linear):
    """The parameters of the policy, from the core's output [..., H]."""

    def __init__(self, size: int, actions: ActionSpec, config: AgentConfig) -> None:
        outputs = actions.head_size(config)
        super().__init__(size, outputs)
        self._bounds_deviations = isinstance(actions, BoxActions) and outputs == actions.parameters
        self.log_deviation: nn.Parameter | None = None
        """[K]; only where deviations do not depend on the core's output."""
        if outputs < actions.parameters:
            self.log_deviation = nn.Parameter(torch.zeros(outputs))

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """[..., P]; ``mask`` is bool [..., P], true where an action is allowed, or None where all are."""
        parameters = masked(super().forward(h), mask)
        if self.log_deviation is not None:
            return torch.cat((parameters, self.log_deviation.expand_as(parameters)), dim=-1)
        if self._bounds_deviations:
            mean, log_deviation = parameters.chunk(2, dim=-1)
            return torch.cat((mean, log_deviation.clamp(*_LOG_DEVIATIONS)), dim=-1)
        return parameters


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits, [..., P], without the actions that ``mask``, bool of the same shape, does not allow."""
    return logits if mask is None else logits.masked_fill(~mask, _MASKED)


def _gaussian(uniforms: np.ndarray) -> np.ndarray:
    """Standard normal numbers, by the inverse of their cumulative probability; of 0 it would be minus infinity."""
    return torch.special.ndtri(torch.from_numpy(np.maximum(uniforms, 2.0**-54))).numpy()
