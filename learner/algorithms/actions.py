"""How actions are chosen, wherever an agent acts."""

from __future__ import annotations

import numpy as np


def choose_actions(logits: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
    """Actions [B] int64 drawn from softmax(logits), [B, A]: the first whose cumulative probability exceeds the uniform
    number, [B] in [0, 1); without uniform numbers the most probable actions."""
    if uniforms is None:
        return logits.argmax(axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    cumulative = weights.cumsum(axis=1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1).clip(max=logits.shape[1] - 1)
