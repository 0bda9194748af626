"""The read-out: from the core's output to the features that the heads are linear in."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from r2ac.agents.config import AgentConfig, ReadoutName
from r2ac.agents.core import Core


class Readout(nn.Module):
    """What stands between the core and the heads of policy and value.

        linear: features = [h; x]      mlp: features = relu(W [h; x] + b)

    x, the core's input, is there with ``readout_skip`` only. With ``layer_norm`` each h is first brought to mean 0 and
    variance 1 over its own H numbers, (h - mean) / sqrt(variance + 1e-5), without weights; x and the core's state stay
    as they are. All of it gets ordinary gradients, which are exact.

    Raises:
        ValueError: for a size below 1, or an unknown kind of read-out.
    """

    output_size: int
    """The number of features."""

    def __init__(self, core: Core, config: AgentConfig) -> None:
        super().__init__()
        if config.readout not in get_args(ReadoutName):
            raise ValueError(f"readout must be one of {', '.join(get_args(ReadoutName))}, not {config.readout!r}")
        if config.readout_size < 1:
            raise ValueError(f"readout_size must be at least 1, not {config.readout_size}")
        self.skip, self.layer_norm = config.readout_skip, config.layer_norm
        inputs = core.output_size + (core.input_size if self.skip else 0)
        self.hidden = nn.Linear(inputs, config.readout_size) if config.readout == "mlp" else None
        self.output_size = inputs if self.hidden is None else config.readout_size

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """The core's output [..., H] and input [..., D] -> features [..., output_size]."""
        if self.layer_norm:
            h = nn.functional.layer_norm(h, h.shape[-1:])
        features = torch.cat((h, x), dim=-1) if self.skip else h
        return features if self.hidden is None else torch.relu(self.hidden(features))
