"""Engines and users' environments behind a fence: what they raise, and numbers that are none, end at it."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from r2ac.envs.signals import Signals
from r2ac.envs.suite import EngineFailed, EnvironmentFailed, InvalidOption, MissingPackage, UnknownTask

_LOG = logging.getLogger(__name__)
_LARGEST = float(np.finfo(np.float32).max)
_OWN = (EngineFailed, InvalidOption, MissingPackage, UnknownTask)
"""Errors that r2ac's suites raise themselves; their messages say all there is to say."""
_WHAT_IS_RETURNED = (
    "reset must return the tuple (observation, info), and step (observation, reward, terminated, truncated, info)"
)


def checked_vector(make: Callable[[], VectorEnv], tasks: Sequence[str], first_stream: int) -> VectorEnv:
    """`make()` as :class:`CheckedVector`; an error of `make` is one of the environment too."""
    with _fence(tasks, "cannot be made", never_worked=True):
        env = make()
    return CheckedVector(env, tasks, first_stream)


class CheckedVector(VectorWrapper):
    """Raises EnvironmentFailed for whatever the environment raises, SystemExit and os._exit included, for an
    observation or a reward that is not a finite number in float32, and for a mask that allows no action.
    KeyboardInterrupt passes where Ctrl-C raises it. An error of `close` is logged. ``tasks`` has the full name of the
    task of each stream."""

    def __init__(self, env: VectorEnv, tasks: Sequence[str], first_stream: int) -> None:
        super().__init__(env)
        self._tasks, self._first_stream = tasks, first_stream
        space: Any = env.single_action_space
        self._parts = np.cumsum([0, *getattr(space, "nvec", [0])[:-1]])
        self._steps = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with _fence(self._tasks, "failed in its first reset", self._never_worked):
            observation, info = self.env.reset(seed=seed, options=options)
        self._check("shows", observation)
        self._check_mask(Signals.of(info).action_mask)
        return observation, info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        with _fence(self._tasks, f"failed in step {self._steps}", self._never_worked):
            observation, reward, terminated, truncated, info = self.env.step(actions)
        self._check("pays", reward)
        self._check("shows", observation)
        self._check_mask(Signals.of(info).action_mask)
        final = Signals.of(info).final_observation
        if final is not None and truncated.any():
            # A value is estimated for these alone.
            final = final.copy()
            final[~truncated] = 0
            self._check("shows", final)
        return observation, reward, terminated, truncated, info

    def close(self, **kwargs: Any) -> None:
        try:
            with _fence(self._tasks, "failed as it was closed", self._never_worked):
                self.env.close(**kwargs)
        except EnvironmentFailed as error:
            _LOG.warning("%s", error)

    @property
    def _never_worked(self) -> bool:
        return self._steps <= 1

    def _check(self, does: str, numbers: np.ndarray) -> None:
        """Checks numbers [N,...]."""
        # NaN is the largest of all, and not at most anything.
        if numbers.dtype == np.uint8 or np.abs(numbers).max(initial=0) <= _LARGEST:
            return
        where = tuple(np.argwhere(~(np.abs(numbers) <= _LARGEST))[0])
        stream = int(where[0])
        sentence = (
            f"{self._tasks[stream]} {does} {numbers[where]} in step {self._steps} of stream "
            f"{self._first_stream + stream}: observations and rewards must be finite numbers"
        )
        raise EnvironmentFailed(sentence, never_worked=self._never_worked)

    def _check_mask(self, mask: np.ndarray | None) -> None:
        """Checks that of each part of an action something is allowed, of a mask [N,P]."""
        if mask is None or (some := np.logical_or.reduceat(mask, self._parts, axis=1).all(axis=1)).all():
            return
        stream = int(np.flatnonzero(~some)[0])
        raise EnvironmentFailed(
            f"{self._tasks[stream]} allows no action after step {self._steps} of stream {self._first_stream + stream}: "
            "its action_mask must allow at least one action, and of several parts one of each",
            never_worked=self._never_worked,
        )


@contextmanager
def exits_raise() -> Iterator[None]:
    """Within this context os._exit raises SystemExit, as sys.exit does."""
    leave, owner = os._exit, os.getpid()

    def exit_here(code: int) -> None:
        # A child that the environment forks inherits this, and may leave.
        if os.getpid() != owner:
            leave(code)
        raise SystemExit(code)

    os._exit = exit_here  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave


@contextmanager
def _fence(tasks: Sequence[str], what: str, never_worked: bool) -> Iterator[None]:
    try:
        with exits_raise():
            yield
    except _OWN:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise
        said = " ".join(str(error).split())
        raised_by = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if "unpack" in said and raised_by.is_relative_to(Path(gymnasium.__file__).parent):
            said += f" ({_WHAT_IS_RETURNED})"
        sentence = f"{', '.join(dict.fromkeys(tasks))} {what}: {type(error).__name__}{': ' + said if said else ''}"
        raise EnvironmentFailed(sentence, traceback.format_exc(), never_worked) from error
