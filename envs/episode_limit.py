"""Limits on the steps of an episode, for every vector environment that can begin episodes in some streams alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from r2ac.envs.signals import Signals


class EpisodeLimit(VectorWrapper):
    """Truncates an episode (a whole game, where the agent's episodes are lives) after its step number `steps`; the
    signals then have its final observation, in every suite.

    env: `reset(options={"reset_mask": mask})` begins episodes in the streams of `mask`, bool [N], and in no others.
    steps: the limit; 0 for none.
    first: at which step to cut the first episode of each stream short, int [N] of at least 1, so that streams whose
        episodes have one length get out of phase. Such an episode has the signal `staggered`: it is not a whole one.
    """

    def __init__(self, env: VectorEnv, steps: int, first: np.ndarray | None = None) -> None:
        super().__init__(env)
        self._limit = steps or -1
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._limits = np.full(env.num_envs, self._limit) if first is None else first.copy()
        self._first = self._limits != self._limit
        """The streams whose first episode is under way and has a limit of its own."""
        self._staggers = bool(self._first.any())

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]`."""
        self._lengths[(options or {}).get("reset_mask", slice(None))] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if self._limit < 0 and not self._staggers:
            return observation, reward, terminated, truncated, info
        signals = Signals.of(info)
        over, _ = signals.ends(terminated, truncated)
        self._lengths += 1
        self._lengths[over] = 0
        cut = self._lengths == self._limits
        staggered = None
        if self._staggers:
            staggered = cut & self._first
            self._limits[over | cut], self._first[over | cut] = self._limit, False
            self._staggers = bool(self._first.any())
        if not cut.any():
            return observation, reward, terminated, truncated, info
        final, has_final = observation.copy(), cut
        if signals.final_observation is not None and signals.has_final is not None:
            final[signals.has_final] = signals.final_observation[signals.has_final]
            has_final = cut | signals.has_final
        first, first_info = self.reset(options={"reset_mask": cut})
        observation = observation.copy()
        observation[cut] = first[cut]
        begun = Signals.of(first_info)
        signals = replace(
            signals,
            final_observation=final,
            has_final=has_final,
            game_over=None if signals.game_over is None else signals.game_over | cut,
            instruction=_where(cut, begun.instruction, signals.instruction),
            action_mask=_where(cut, begun.action_mask, signals.action_mask),
            staggered=staggered,
        )
        return observation, reward, terminated, truncated | cut, info | signals.info()


def _where(cut: np.ndarray, begun: np.ndarray | None, before: np.ndarray | None) -> np.ndarray | None:
    """``before``, [N, ...], but for the rows of the episodes that have begun."""
    if before is None or begun is None:
        return before
    joined = before.copy()
    joined[cut] = begun[cut]
    return joined
