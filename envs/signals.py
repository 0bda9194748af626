"""What vector environments of ours say of a step beside its rewards and ends: one typed object in the `info` of `reset`
and `step`. Infos of users' environments are dropped (`envs/single.py`), so that none of their entries is taken for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

_KEY = "r2ac"


@dataclass(frozen=True)
class Signals:
    """Of N streams in one step or reset; None stands for what does not occur or is not known."""

    instruction: np.ndarray | None = None
    """The words that belong to the observation, int32 [N,L]."""
    game_over: np.ndarray | None = None
    """Which games ended, bool [N], where an episode of the agent is a part of a game; None: those whose episode did."""
    engine_failed: np.ndarray | None = None
    """The streams that lost their engine, bool [N]."""
    final_observation: np.ndarray | None = None
    """The last observation of the episodes that ended in the step, [N, ...] as observations are; other rows are
    undefined. None where no episode ended, and where the engine never shows it."""
    has_final: np.ndarray | None = None
    """The rows of `final_observation` that are set, bool [N]; None with it."""
    staggered: np.ndarray | None = None
    """The streams whose first episode was cut short so that they are not in phase, bool [N]."""
    action_mask: np.ndarray | None = None
    """Which actions are allowed in the next step, bool [N,P]; of a MultiDiscrete, the choices of all parts, one part
    after another. None where all are, always."""

    @staticmethod
    def of(info: Mapping[str, Any]) -> Signals:
        """Those in the info of a step or reset; none where it has none."""
        return info.get(_KEY, _NONE)

    def info(self) -> dict[str, Any]:
        """An info that holds these and nothing else."""
        return {_KEY: self}

    @staticmethod
    def join(parts: Iterable[tuple[np.ndarray, Signals]], num_envs: int) -> Signals:
        """Those of `num_envs` streams from those of parts, each with the numbers of its streams; zeros where a part
        lacks what another one has."""
        whole: dict[str, np.ndarray] = {}
        for streams, part in parts:
            for each in fields(part):
                own = getattr(part, each.name)
                if own is not None:
                    whole.setdefault(each.name, np.zeros((num_envs, *own.shape[1:]), own.dtype))[streams] = own
        return Signals(**whole)

    def ends(self, terminated: np.ndarray, truncated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(over, whole), bool [N]: the games (not lives) that ended in a step, and those of them that were not cut off
        by the loss of their engine or to stagger the streams."""
        whole = over = terminated | truncated if self.game_over is None else self.game_over
        for cut_off in (self.engine_failed, self.staggered):
            if cut_off is not None:
                whole = whole & ~(truncated & cut_off)
        return over, whole


_NONE = Signals()


class StreamsVector(VectorEnv):
    """`num_envs` streams with the same spaces; autoreset SAME_STEP: the step that ends an episode begins the next.
    ``actions``: the space of an action, or the number of discrete ones; ``masks_actions``: whether signals say which
    are allowed."""

    def __init__(
        self, num_envs: int, observation_space: Space, actions: Space | int, masks_actions: bool = False
    ) -> None:
        self.num_envs, self.masks_actions = num_envs, masks_actions
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = observation_space
        self.single_action_space = Discrete(actions) if isinstance(actions, int) else actions
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
