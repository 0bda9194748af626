"""EnvPool's engines as the vector environments that `make_vector` promises."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from r2ac.envs.seeding import stream_seeds
from r2ac.envs.signals import Signals, StreamsVector


class EnvPoolVector(StreamsVector):
    """Streams of one of EnvPool's tasks; autoreset SAME_STEP. EnvPool's own begins an episode in the step after the
    one that ended the last, so that ended streams are reset here at once. Rewards are float32 [N].

    An episode that ends by itself in the step of its time limit is truncated and not terminated: EnvPool does not tell
    the two apart.

    task: EnvPool's id.
    seeds: one for each stream.
    space: of one observation.
    show: observations [n,...] of what EnvPool shows of n streams.
    settings: further settings of the engine, such as num_threads (1: with a second thread 32 streams of a small engine
        are no faster).
    """

    def __init__(
        self, task: str, seeds: Sequence[int], space: Space, show: Callable[[Any], np.ndarray], **settings: int
    ) -> None:
        self._task, self._show, self._settings = task, show, {"num_threads": 1, **settings}
        self._start(seeds)
        super().__init__(len(seeds), space, int(self.engine.action_space.n))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]` (bool [N]), whose rows alone mean
        something then. ``seed``: one a stream, or an int s for s, s + 1, ...; with it in a new engine."""
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if seed is not None:
            self.engine.close()
            self._start(stream_seeds(seed, self.num_envs))
        observation = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        self._begin(mask, observation)
        return observation, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        seen, rewards, terminated, truncated, _ = self.engine.step(actions)
        observation, ended = self._show(seen), terminated | truncated
        if not ended.any():
            return observation, rewards, terminated, truncated, {}
        signals = Signals(final_observation=observation.copy(), has_final=ended)
        self._begin(ended, observation)
        return observation, rewards, terminated, truncated, signals.info()

    def close_extras(self, **kwargs: Any) -> None:
        self.engine.close()

    def _start(self, seeds: Sequence[int]) -> None:
        make = importlib.import_module("envpool").make_gymnasium
        self.engine = make(self._task, num_envs=len(seeds), env_seed=list(seeds), **self._settings)

    def _begin(self, mask: np.ndarray, observation: np.ndarray) -> None:
        """Begins episodes in the streams of ``mask``, and puts what they show into their rows."""
        seen, info = self.engine.reset(options={"reset_mask": mask})
        observation[info["env_id"]] = self._show(seen)
