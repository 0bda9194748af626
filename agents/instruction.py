"""The encoder of instructions: from the ids of their words to features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InstructionEncoder(nn.Module):
    """An embedding and an LSTM over the words; the features are its output after the last word, zero without words.

    Espeholt et al. 2018, "IMPALA", figure 3: embeddings of 20, an LSTM of 64. It is trained within the rollout, as all
    below the core. Of the ``ids``, 0 stands for no word and only follows the others.
    """

    def __init__(self, ids: int, embedding: int = 20, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.embedding = nn.Embedding(ids, embedding)
        self.lstm = nn.LSTM(embedding, features, batch_first=True)

    def forward(self, instruction: Tensor) -> Tensor:
        """Ids of words [batch, L], padded with 0 -> features [batch, features]."""
        outputs, _ = self.lstm(self.embedding(instruction.long()))
        words = (instruction > 0).sum(-1)
        last = (words - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, self.features)
        return torch.where(words.unsqueeze(-1) > 0, outputs.gather(1, last).squeeze(1), 0.0)
