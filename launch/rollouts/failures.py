"""Which failures of rollout actors are made good by a new start, and which end the run."""

from __future__ import annotations

import logging
from typing import Any

from r2ac.envs import EngineFailed, EnvironmentFailed, MissingPackage
from r2ac.launch.cluster.connect import installed_version
from r2ac.launch.rollouts.inference.policies import InferenceLost
from r2ac.launch.rollouts.rollout_actor import WrongVersion
from r2ac.launch.runtime.errors import last_line

_LOG = logging.getLogger(__name__)


class ActorsLost(RuntimeError):
    """A rollout actor died again and again, or its environment or agent raised an error."""


class FailurePolicy:
    """Decides whether an actor that was lost is started anew. ``step_timeout`` is the seconds that a step of the
    environments may take before its actor is ended; 0: any number."""

    restarts_in_a_row = 3
    """An actor that dies so often without handing over a rollout ends the run."""

    def __init__(self, ray: Any, num_actors: int, step_timeout: float) -> None:
        self._errors, self._step_timeout = ray.exceptions, step_timeout
        self._failures = [0] * num_actors

    def delivered(self, actor: int) -> None:
        """The actor handed over a rollout."""
        self._failures[actor] = 0

    def check(self, actor: int, error: Exception) -> None:
        """Raise what would happen again: ActorsLost for an error of the actor, or of its node; EngineFailed,
        EnvironmentFailed and MissingPackage as the actor did."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, WrongVersion):
            raise ActorsLost(str(cause)) from error
        if isinstance(cause, EngineFailed):
            raise cause
        if "No module named 'r2ac" in str(error):
            raise ActorsLost(f"a node of the Ray cluster lacks r2ac {installed_version()}: {last_line(error)}")
        if getattr(error, "actor_init_failed", False) and InferenceLost.__name__ not in last_line(error):
            sentence = f"rollout actor {actor} cannot start: {last_line(error)}"
            raise _environment_error(error) or ActorsLost(sentence) from error
        # An error of Ray's in the actor, such as weights that were lost with a node, is none of its own.
        own = isinstance(error, self._errors.RayTaskError)
        if own and not isinstance(cause, InferenceLost | self._errors.RayError):
            raise ActorsLost(f"rollout actor {actor} failed: {cause!r}") from error

    def count(self, actor: int, error: Exception, silence: float) -> None:
        """Count a failure, Ray's ``error``, after so many seconds of silence. Raises ActorsLost where the actor failed
        too often."""
        # Where nodes come and go an actor may be unlucky again and again.
        self._failures[actor] += "its node has died" not in str(error)
        # What was last heard may have waited to be heard.
        late, reason = 0 < self._step_timeout < 2 * silence, f": {last_line(error)}"
        if late:
            reason = f", {silence:,.0f} s after its last word (a step may take --step-timeout {self._step_timeout:g})"
        if self._failures[actor] > self.restarts_in_a_row:
            raise ActorsLost(
                f"rollout actor {actor} died {self._failures[actor]} times in a row without a rollout{reason}"
            ) from error
        if late:
            _LOG.warning("rollout actor %d died%s: replaced, its streams begin new episodes", actor, reason)


def _environment_error(error: Exception) -> EngineFailed | MissingPackage | None:
    """The error that the environments raised in an actor's constructor, of which Ray gives the text alone."""
    kind, _, sentence = last_line(error).partition(": ")
    match kind.rpartition(".")[2]:
        case EnvironmentFailed.__name__:
            return EnvironmentFailed(sentence, str(error), never_worked=True)
        case EngineFailed.__name__:
            return EngineFailed(sentence)
        case MissingPackage.__name__:
            return MissingPackage(sentence)
    return None
