"""The agent of an inference worker: with the states of all streams, on the device where it acts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from operator import add

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig
from r2ac.launch.rollouts.inference.policies import StepInput
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runtime.process import set_up_process


@dataclass(frozen=True)
class InferenceConfig:
    """Settings of an inference worker."""

    agent: AgentConfig
    layout: RolloutLayout
    """Of the rollouts of each rollout actor."""
    columns: tuple[slice, ...]
    """The streams of each group of a rollout actor."""
    num_streams: int
    """Streams of all rollout actors."""
    device: str
    threads: int | None = None
    """CPU threads; None leaves them as they are."""


@dataclass(frozen=True)
class InferenceStatistics:
    """What inference workers have done since their first request."""

    seconds: float = 0.0
    """Time in which they computed."""
    idle: float = 0.0
    """Time in which they did not."""
    batches: int = 0
    requests: int = 0
    """Groups of streams, a step each: ``requests / batches`` were computed together."""

    def __add__(self, other: InferenceStatistics) -> InferenceStatistics:
        return InferenceStatistics(*map(add, astuple(self), astuple(other)))


class ActingAgent:
    """A copy of the agent that computes logits for any of the streams, and keeps their states. Sets the threads of this
    process.

    Newer weights are taken up between two batches, so that a rollout may be of several versions, of which it reports
    the oldest: V-trace needs the logits, which are those of the weights that acted.
    """

    def __init__(self, config: InferenceConfig) -> None:
        if config.threads is not None:
            set_up_process(config.threads)
        self._device = torch.device(config.device)
        self._agent = Agent(config.layout.spec, config.agent).eval().to(self._device)
        self._cells = torch.zeros(config.num_streams, config.layout.state_size, device=self._device)
        self.version = -1
        """Of the weights; -1 before the first."""
        self._began: float | None = None
        self._done = InferenceStatistics()

    def statistics(self) -> InferenceStatistics:
        lived = 0.0 if self._began is None else time.perf_counter() - self._began
        return replace(self._done, idle=max(0.0, lived - self._done.seconds))

    def load(self, weights: Weights) -> None:
        """Act with these weights from now on."""
        if weights.version != self.version:
            weights.load_into(self._agent)
            self.version = weights.version

    def forget(self, streams: slice) -> None:
        """Set the cells of these streams to zero."""
        self._cells[streams].zero_()

    def act(self, streams: Sequence[slice], steps: Sequence[StepInput]) -> list[tuple[np.ndarray, Tensor]]:
        """Compute all these streams together; returns for each slice the logits [B, A], and the cells before the step,
        [B, N] on the device."""
        began = time.perf_counter()
        self._began = self._began or began
        chosen = torch.cat([torch.arange(each.start, each.stop) for each in streams]).to(self._device)
        cells = self._cells[chosen]
        inputs = {
            name: self._gather([getattr(each, name) for each in steps])
            for name, array in vars(steps[0]).items()
            if array is not None
        }
        logits, self._cells[chosen] = self._agent.act(state=cells, **inputs)
        logits = logits.cpu()
        self._done += InferenceStatistics(time.perf_counter() - began, batches=1, requests=len(streams))
        sizes = [each.stop - each.start for each in streams]
        return [(part.numpy(), before) for part, before in zip(logits.split(sizes), cells.split(sizes), strict=True)]

    def _gather(self, parts: list[np.ndarray]) -> Tensor:
        """[B, ...] on the device."""
        # What came through Ray must not be written to, which torch cannot promise.
        alone = len(parts) == 1 and parts[0].flags.writeable
        return torch.from_numpy(parts[0] if alone else np.concatenate(parts)).to(self._device)
