"""Who chooses the actions of a rollout actor: a copy of the agent of its own, or an inference worker."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent
from r2ac.learner import Rollout
from r2ac.learner.vectors import copy_vector_

REQUEST = struct.Struct("=iii")
"""Of a rollout actor to an inference worker: group of streams, slot of its memory, step."""
HELLO = struct.Struct("=ii")
"""The first message, beside the descriptor of the actor's memory: the actor's first stream, and its slots."""


@dataclass(frozen=True)
class Weights:
    """The agent's weights, as they travel from the learner to those who act."""

    version: int
    """The number of updates that made them."""
    values: np.ndarray
    """All parameters, one after another, float32."""

    def load_into(self, agent: Agent) -> None:
        """Make them the agent's, whose parameters stay where they lie in memory, as cuDNN's LSTM wants them."""
        parameters = list(agent.parameters())
        copy_vector_(parameters, torch.tensor(self.values, device=parameters[0].device))


@dataclass(frozen=True)
class StepInput:
    """What streams show at a step, [B, ...] each."""

    observation: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    instruction: np.ndarray | None

    @staticmethod
    def of(rollout: Rollout[np.ndarray], t: int, columns: slice) -> StepInput:
        """The step of a rollout, where it lies."""
        words = None if rollout.instruction is None else rollout.instruction[t, columns]
        return StepInput(
            rollout.observation[t, columns], rollout.reward[t, columns], rollout.is_first[t, columns], words
        )


@dataclass(frozen=True)
class ActRequest:
    """What a rollout actor asks an inference worker through Ray: the next action of a group of streams."""

    streams: slice
    """Among all streams."""
    seen: StepInput
    is_new: bool
    """Whether the actor has just begun these streams."""
    begins_rollout: bool


@dataclass(frozen=True)
class ActResponse:
    """To a :class:`ActRequest`."""

    logits: np.ndarray
    version: int
    """Of the weights."""
    first_state: np.ndarray | None
    """Before the step; where the question begins a rollout."""


class Policy(Protocol):
    """Fills the logits of a rollout, group of streams by group, step by step."""

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        """What follows is of this rollout, which lies in ``slot`` of the actor's memory."""

    def ask(self, group: int, t: int) -> None:
        """Step ``t`` of the group's columns is there: let its logits be computed."""

    def answer(self, group: int, t: int) -> None:
        """Wait until ``behaviour_logits[t]`` of the group's columns is there."""

    def close(self) -> None:
        """Nothing is asked any more."""


class LocalPolicy:
    """A copy of the agent in this process; computes when the answer is wanted.

    Args:
        agent: on the device where it shall compute.
        columns: the streams of each group.
    """

    def __init__(self, agent: Agent, columns: Sequence[slice]) -> None:
        self._agent, self._columns = agent.eval(), columns
        self._device = next(agent.parameters()).device
        self._cell = torch.zeros(columns[-1].stop, agent.core.state_size, device=self._device)
        self._version = -1
        self._rollout: Rollout[np.ndarray]

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        """See :class:`Policy`."""
        if weights is not None and weights.version != self._version:
            weights.load_into(self._agent)
            self._version = weights.version
        rollout.first_state[...] = self._cell.cpu().numpy()
        rollout.weights_version[...] = self._version
        self._rollout = rollout

    def ask(self, group: int, t: int) -> None:
        """See :class:`Policy`."""

    def answer(self, group: int, t: int) -> None:
        """See :class:`Policy`."""
        rollout, columns = self._rollout, self._columns[group]
        words = None if rollout.instruction is None else self._tensor(rollout.instruction[t, columns])
        observation, reward, is_first = (
            self._tensor(each[t, columns]) for each in (rollout.observation, rollout.reward, rollout.is_first)
        )
        output = self._agent.step(observation, reward, is_first, self._cell[columns], words)
        self._cell[columns] = output.cell
        rollout.behaviour_logits[t, columns] = output.logits.cpu().numpy()

    def close(self) -> None:
        """See :class:`Policy`."""

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class InferenceLost(RuntimeError):
    """The inference worker is gone."""


class RemotePolicy:
    """Asks an inference worker of this machine, which reads observations where the rollout lies, and writes logits,
    first cells and the weights' version there. Only a few bytes go through the socket.

    Args:
        address: the worker's socket in the file system.
        descriptor: of the actor's memory.
        slots: rollouts that the memory has room for.
        first_stream: the number of the actor's first stream among all streams.

    Raises:
        InferenceLost: from all methods, if nobody answers there.
    """

    def __init__(self, address: str, descriptor: int, slots: int, first_stream: int) -> None:
        self._slot = 0
        self._answered: set[int] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address)
            socket.send_fds(self._socket, [HELLO.pack(first_stream, slots)], [descriptor])
        except OSError as error:
            raise InferenceLost(f"the inference worker at {address} cannot be reached: {error}") from error

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        """See :class:`Policy`; the worker gets its weights from the learner."""
        self._slot = slot

    def ask(self, group: int, t: int) -> None:
        """See :class:`Policy`."""
        try:
            self._socket.send(REQUEST.pack(group, self._slot, t))
        except OSError as error:
            raise InferenceLost(f"the inference worker is gone: {error}") from error

    def answer(self, group: int, t: int) -> None:
        """See :class:`Policy`."""
        while group not in self._answered:
            try:
                message = self._socket.recv(1)
            except OSError as error:
                raise InferenceLost(f"the inference worker is gone: {error}") from error
            if not message:
                raise InferenceLost("the inference worker is gone")
            self._answered.add(message[0])
        self._answered.remove(group)

    def close(self) -> None:
        """See :class:`Policy`."""
        self._socket.close()


class RayPolicy:
    """Asks an inference worker anywhere in the cluster, by calls through Ray that carry what the streams show. Several
    groups of streams hide how long a call takes.

    Args:
        worker: Ray's handle of a `RayInferenceWorker`.
        columns: the streams of each group.
        first_stream: the number of the actor's first stream among all streams.

    Raises:
        InferenceLost: from `answer`, if the worker is gone.
    """

    def __init__(self, worker: Any, columns: Sequence[slice], first_stream: int) -> None:
        self._worker, self._columns, self._first_stream = worker, columns, first_stream
        self._new = set(range(len(columns)))
        self._asked: dict[int, Any] = {}
        self._rollout: Rollout[np.ndarray]

    def begin(self, rollout: Rollout[np.ndarray], slot: int, weights: Weights | None) -> None:
        """See :class:`Policy`; the worker gets its weights from the learner."""
        self._rollout = rollout

    def ask(self, group: int, t: int) -> None:
        """See :class:`Policy`."""
        columns = self._columns[group]
        streams = slice(self._first_stream + columns.start, self._first_stream + columns.stop)
        question = ActRequest(streams, StepInput.of(self._rollout, t, columns), group in self._new, t == 0)
        self._new.discard(group)
        self._asked[group] = self._worker.act.remote(question)

    def answer(self, group: int, t: int) -> None:
        """See :class:`Policy`."""
        import ray

        try:
            answer: ActResponse = ray.get(self._asked.pop(group))
        except ray.exceptions.RayError as error:
            raise InferenceLost(f"the inference worker is gone: {type(error).__name__}") from error
        rollout, columns = self._rollout, self._columns[group]
        rollout.behaviour_logits[t, columns] = answer.logits
        if answer.first_state is not None:
            rollout.first_state[columns] = answer.first_state
            rollout.weights_version[columns] = answer.version

    def close(self) -> None:
        """See :class:`Policy`."""
