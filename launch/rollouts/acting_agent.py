"""The agent as an inference worker has it: with the cells of all streams, on the device where it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, AgentConfig
from r2ac.launch.process import set_up_process
from r2ac.launch.rollouts.policies import Seen, Weights
from r2ac.launch.rollouts.rollout_memory import RolloutLayout


@dataclass(frozen=True)
class InferenceConfig:
    """What an inference worker needs to know."""

    agent: AgentConfig
    layout: RolloutLayout
    """Of the rollouts of each rollout actor."""
    columns: tuple[slice, ...]
    """The streams of each group of a rollout actor."""
    num_streams: int
    """Streams of all rollout actors, which the cells are indexed by."""
    device: str
    threads: int | None = None
    """CPU threads; None leaves them as they are."""


class ActingAgent:
    """Computes logits for any of the streams.

    Args:
        config: of the worker; its threads are set in this process.
    """

    def __init__(self, config: InferenceConfig) -> None:
        if config.threads is not None:
            set_up_process(config.threads)
        self._device = torch.device(config.device)
        self._agent = Agent(config.layout.spec, config.agent).eval().to(self._device)
        self._cells = torch.zeros(config.num_streams, config.layout.cell_size, device=self._device)
        self.version = -1
        """Of the weights; -1 before the first."""

    def load(self, weights: Weights) -> None:
        """Act with these from now on."""
        if weights.version != self.version:
            weights.load_into(self._agent)
            self.version = weights.version

    def forget(self, streams: slice) -> None:
        """The cells of these streams are zero again."""
        self._cells[streams] = 0

    def act(self, streams: Sequence[slice], seen: Sequence[Seen]) -> tuple[np.ndarray, Tensor]:
        """The logits [B, A] of all these streams together, and their cells before the step, [B, N] on the device."""
        chosen = torch.cat([torch.arange(each.start, each.stop) for each in streams]).to(self._device)
        cells = self._cells[chosen]
        words = [each.instruction for each in seen if each.instruction is not None]
        output = self._agent.step(
            self._gather([each.observation for each in seen]),
            self._gather([each.reward for each in seen]),
            self._gather([each.is_first for each in seen]),
            cells,
            self._gather(words) if words else None,
        )
        self._cells[chosen] = output.cell
        return output.logits.cpu().numpy(), cells

    def _gather(self, parts: list[np.ndarray]) -> Tensor:
        """[B, ...] on the device."""
        # What came through Ray must not be written to, which torch cannot promise.
        alone = len(parts) == 1 and parts[0].flags.writeable
        return torch.from_numpy(parts[0] if alone else np.concatenate(parts)).to(self._device)
