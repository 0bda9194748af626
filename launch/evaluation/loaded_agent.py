"""A trained agent that acts, one call a step, for programs that step the environment themselves."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from r2ac.agents import ObservationSpec
from r2ac.envs import make_vector
from r2ac.launch.evaluation.play import Player
from r2ac.launch.rollouts.inference.policies import StepInput
from r2ac.launch.runs.loading import TrainedAgent, choose_device


class LoadedAgent:
    """Acts and remembers, in one stream or in as many as its first observation has.

        agent = r2ac.load(run)
        action, reward = agent.act(observation), 0.0            # the first step of an episode
        action = agent.act(observation, reward)                 # the next ones
        agent.reset()                                           # another episode begins

    ``trained`` has the settings of its training, ``spec`` the shapes of observations and actions. Raises as
    `TrainedAgent.load` and `make_vector`, and ValueError for a seed or `greedy` of another kind.
    """

    def __init__(self, run: Path, greedy: bool = False, seed: int = 0, device: str = "cpu") -> None:
        if not isinstance(greedy, bool | np.bool_):
            raise ValueError(f"greedy is {greedy!r}, but it must be True or False")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed is {seed!r}, but it must be a whole number from 0 on")
        self.trained = TrainedAgent.load(run)
        task = self.trained.training.tasks[0].name
        with closing(make_vector(task, 1, 0, options=self.trained.training.env)) as env:
            self.spec = ObservationSpec.of(env)
            self._dtype = np.dtype(env.single_observation_space.dtype)
        self._agent = self.trained.agent(self.spec, choose_device(device), task)
        self._random, self._greedy = np.random.default_rng(seed), greedy
        self.reset()

    def reset(self) -> None:
        """The next step begins an episode in every stream, of which there may be another number than before."""
        self._player: Player | None = None

    def act(
        self,
        observation: ArrayLike,
        reward: ArrayLike = 0.0,
        is_first: ArrayLike | None = None,
        action_mask: ArrayLike | None = None,
        instruction: ArrayLike | None = None,
    ) -> np.ndarray:
        """The action of the next step, as environments of `make_vector` take it; with several streams each array has a
        row for each.

        Args:
            observation: as the training's environment shows it, ``spec.shape``: images uint8 [C, H, W], vectors [size].
            reward: what followed the last action, as the environment gave it.
            is_first: whether the step begins an episode, in streams that do not begin together; the first step after
                `reset` always does.
            action_mask: which actions are allowed, bool; where the environment has masks.
            instruction: ids of words; where the task gives instructions.

        Raises:
            ValueError: for arrays of other shapes, numbers that are not finite or not of the dtype, or a mask or an
                instruction that is missing.
        """
        seen, spec = _numbers("observation", observation, self._dtype), self.spec
        single = seen.shape == spec.shape
        if begins := self._player is None:
            self._streams = 1 if single or not seen.shape else len(seen)
        first = begins if begins or is_first is None else is_first
        step = StepInput(
            self._rows("observation", seen, spec.shape),
            self._rows("reward", _numbers("reward", reward, np.float32)),
            self._rows("is_first", np.asarray(first, bool)),
            self._optional("instruction", instruction, np.int32, spec.instruction_length),
            self._optional("action_mask", action_mask, bool, spec.actions.parameters if spec.action_masks else 0),
        )
        if self._player is None:
            self._player = Player(self._agent, self._streams, self._random, self._greedy)
        action = self._player.act(step).action
        return action[0] if single else action

    def _optional(self, name: str, value: ArrayLike | None, dtype: type, size: int) -> np.ndarray | None:
        """The rows of what not every environment has; ``size`` is 0 where it has none."""
        if (value is None) != (size == 0):
            raise ValueError(
                f"{name} is {'missing' if size else 'given'}, but this agent {'needs' if size else 'has'} "
                f"{'one' if size else 'none'}"
            )
        return None if value is None else self._rows(name, np.asarray(value, dtype), (size,))

    def _rows(self, name: str, array: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
        """A row for each stream; one without a shape of its own is the same for all."""
        rows = self._streams, *shape
        if array.shape != rows and (array.shape != shape or (shape and self._streams > 1)):
            # The first observation alone says how many streams there are.
            alone = f", or {list(shape)} for one stream" if self._player is None and name == "observation" else ""
            needed = f"with {self._streams} streams it must have {list(rows)}{alone}"
            raise ValueError(f"{name} has the shape {list(array.shape)}, but {needed}")
        return np.array(np.broadcast_to(array, rows))


def _numbers(name: str, value: ArrayLike, dtype: DTypeLike) -> np.ndarray:
    """As an array of the dtype. Raises ValueError for numbers that it cannot hold, or that are not finite."""
    given = np.asarray(value)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {value!r}, but it must hold numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
    kept = np.isfinite(array) if array.dtype.kind == "f" else array == given
    if not np.all(kept):
        raise ValueError(f"{name} must hold finite numbers of {array.dtype}, not {given[~kept].flat[0]}")
    return array
