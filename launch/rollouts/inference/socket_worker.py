"""Inference on one machine: the worker, and the policy of an actor that asks it through a socket.

Observations, logits and states lie in memory that both share; only a few bytes go through the socket.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from r2ac.agents import ActionSpec
from r2ac.launch.rollouts.inference.acting_agent import ActingAgent, InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.policies import InferenceLost, Policy, StepInput
from r2ac.launch.rollouts.transport.shared_memory import MemoryHandle
from r2ac.launch.rollouts.transport.shared_rollouts import SharedRollouts
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights
from r2ac.learner import Rollout

_REQUEST = struct.Struct("=iii")
"""From an actor: group of streams, slot of its memory, step. The answer is the group in one byte."""
_HELLO = struct.Struct("=i")
"""The first message, beside the descriptor of the actor's memory: the actor's first stream."""
_POLL_SECONDS = 0.5
_FIRST_WEIGHTS_SECONDS = 0.01


class SocketPolicy(Policy):
    """Asks the inference worker of this machine with this ``address``, its socket in the file system. It reads
    observations from the actor's memory, given by its file descriptor, and writes logits, first states and the weights'
    version there. ``first_stream`` is the number of the actor's first stream among all streams. Methods raise
    InferenceLost if the worker is gone."""

    def __init__(
        self, address: str, descriptor: int, actions: ActionSpec, columns: Sequence[slice], first_stream: int
    ) -> None:
        super().__init__(actions, columns)
        self._answered: set[int] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address)
            socket.send_fds(self._socket, [_HELLO.pack(first_stream)], [descriptor])
        except OSError as error:
            raise InferenceLost(f"the inference worker at {address} cannot be reached: {error}") from error

    def ask(self, group: int, t: int) -> None:
        try:
            self._socket.send(_REQUEST.pack(group, self.slot, t))
        except OSError as error:
            raise InferenceLost(f"the inference worker is gone: {error}") from error

    def answer(self, group: int, t: int) -> None:
        while group not in self._answered:
            try:
                message = self._socket.recv(1)
            except OSError as error:
                raise InferenceLost(f"the inference worker is gone: {error}") from error
            if not message:
                raise InferenceLost("the inference worker is gone")
            self._answered.add(message[0])
        self._answered.remove(group)
        self.draw(group, t)

    def close(self) -> None:
        self._socket.close()


@dataclass(eq=False)
class _Client:
    """A connected rollout actor."""

    socket: socket.socket
    rollouts: Sequence[Rollout[np.ndarray]] = ()
    first_stream: int = 0


@dataclass(frozen=True)
class _Request:
    client: _Client
    group: int
    rollout: Rollout[np.ndarray]
    t: int
    columns: slice

    @property
    def streams(self) -> slice:
        """Among all streams."""
        return slice(self.client.first_stream + self.columns.start, self.client.first_stream + self.columns.stop)


class InferenceWorker:
    """Computes the logits of all requests that wait, in one batch; keeps the states of all streams on its device.

    A thread of its own answers :class:`SocketPolicy`: it reads observations from the memory of the rollout actors and
    writes logits there; with the first step of a rollout also the states before it and the version of its weights.

    Args:
        weights: where the newest weights are; before the first, requests wait.
        address: of its socket in the file system, in a folder that only this user enters.
    """

    def __init__(self, config: InferenceConfig, weights: MemoryHandle, address: str) -> None:
        self._config, self._agent = config, ActingAgent(config)
        self._weights = SharedWeights(weights.open())
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    def failure(self) -> str | None:
        """The error that ended it; None while it answers."""
        return None if self._thread.is_alive() else repr(self._failure)

    def statistics(self) -> InferenceStatistics:
        return self._agent.statistics()

    def close(self) -> None:
        """Stop answering; actors that wait for an answer raise InferenceLost."""
        self._closed.set()
        self._thread.join()
        self._weights.close()

    def _serve(self) -> None:
        clients: set[_Client] = set()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                while self._weights.newest() is None and not self._closed.wait(_FIRST_WEIGHTS_SECONDS):
                    pass
                while not self._closed.is_set():
                    requests: list[_Request] = []
                    for key, _ in selector.select(_POLL_SECONDS):
                        if key.data is None:
                            client = _Client(self._listener.accept()[0])
                            clients.add(client)
                            selector.register(client.socket, selectors.EVENT_READ, client)
                            continue
                        try:
                            requests += self._read(key.data)
                        except (OSError, ValueError):
                            clients.remove(key.data)
                            selector.unregister(key.fileobj)
                            key.data.socket.close()
                    if requests:
                        self._answer(requests)
        except BaseException as error:  # reported by `failure`
            self._failure = error
            raise
        finally:
            # Also where the device failed: actors that wait see the end of their connection.
            for client in clients:
                client.socket.close()
            self._listener.close()

    def _read(self, client: _Client) -> Iterator[_Request]:
        """All requests of the actor by now. Raises ConnectionError where it is gone."""
        if not client.rollouts:
            message, descriptors, _, _ = socket.recv_fds(client.socket, _HELLO.size, 1)
            if len(message) != _HELLO.size or len(descriptors) != 1:
                raise ConnectionError("the rollout actor is gone before it said what it is")
            (descriptor,) = descriptors
            (client.first_stream,) = _HELLO.unpack(message)
            memory = SharedRollouts(self._config.layout, descriptor)
            client.rollouts = memory.slots
            memory.close()
            # An actor that takes the place of another begins new episodes.
            self._agent.forget(slice(client.first_stream, client.first_stream + self._config.layout.num_streams))
            return
        while True:
            try:
                message = client.socket.recv(_REQUEST.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not message:
                raise ConnectionError("the rollout actor is gone")
            group, slot, t = _REQUEST.unpack(message)
            yield _Request(client, group, client.rollouts[slot], t, self._config.columns[group])

    def _answer(self, requests: list[_Request]) -> None:
        weights = self._weights.newest()
        assert weights is not None
        self._agent.load(weights)
        steps = [StepInput.of(r.rollout, r.t, r.columns) for r in requests]
        results = self._agent.act([r.streams for r in requests], steps)
        for request, (logits, cells) in zip(requests, results, strict=True):
            rollout, columns = request.rollout, request.columns
            if request.t == 0:
                rollout.first_state[columns] = cells.cpu().numpy()
                rollout.weights_version[columns] = self._agent.version
            rollout.behaviour_logits[request.t, columns] = logits
            # One that is gone is met when its socket is read.
            with contextlib.suppress(OSError):
                request.client.socket.send(bytes([request.group]))
