"""A limit on the steps of an episode, for every vector environment that can begin episodes in some streams alone."""

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
    """

    def __init__(self, env: VectorEnv, steps: int) -> None:
        super().__init__(env)
        self._limit = steps
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]`."""
        self._lengths[(options or {}).get("reset_mask", slice(None))] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        signals = Signals.of(info)
        over, _ = signals.ends(terminated, truncated)
        self._lengths += 1
        self._lengths[over] = 0
        cut = self._lengths == self._limit
        if not cut.any():
            return observation, reward, terminated, truncated, info
        final, has_final = observation.copy(), cut
        if signals.final_observation is not None and signals.has_final is not None:
            final[signals.has_final] = signals.final_observation[signals.has_final]
            has_final = cut | signals.has_final
        first, first_info = self.reset(options={"reset_mask": cut})
        observation = observation.copy()
        observation[cut] = first[cut]
        instruction, first_instruction = signals.instruction, Signals.of(first_info).instruction
        if instruction is not None and first_instruction is not None:
            instruction = instruction.copy()
            instruction[cut] = first_instruction[cut]
        signals = replace(
            signals,
            final_observation=final,
            has_final=has_final,
            game_over=None if signals.game_over is None else signals.game_over | cut,
            instruction=instruction,
        )
        return observation, reward, terminated, truncated | cut, info | signals.info()
