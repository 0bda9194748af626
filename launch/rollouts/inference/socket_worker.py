"""The inference worker: a copy of the agent that acts for the streams of many rollout actors of its machine."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from r2ac.launch.rollouts.inference.acting_agent import ActingAgent, InferenceConfig, InferenceStatistics
from r2ac.launch.rollouts.inference.policies import HELLO, REQUEST, StepInput
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutMemory
from r2ac.launch.rollouts.transport.shared_weights import BoardHandle, WeightsBoard
from r2ac.learner import Rollout

_POLL_SECONDS = 0.5
_FIRST_WEIGHTS_SECONDS = 0.01


@dataclass(eq=False)
class _Client:
    """A rollout actor."""

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

    @property
    def seen(self) -> StepInput:
        """What they show, where the rollout lies."""
        return StepInput.of(self.rollout, self.t, self.columns)


class InferenceWorker:
    """Computes logits for whoever asks, all that have asked together; keeps the cells of all streams on its device.

    A thread of its own answers :class:`~r2ac.launch.rollouts.inference.policies.RemotePolicy`. It reads observations
    from the memory of the rollout actors and writes logits there; with the first step of a rollout also the cells
    before it and the version of its weights. Newer weights are taken up between two batches, so that a rollout may be
    of several versions, of which it tells the oldest: V-trace needs the logits, which are those of the weights that
    acted.

    Args:
        config: what to compute.
        board: where the newest weights are; nobody is answered before the first.
        address: of its socket in the file system, in a folder that nobody but this user enters.
    """

    def __init__(self, config: InferenceConfig, board: BoardHandle, address: str) -> None:
        self._config, self._agent = config, ActingAgent(config)
        self._board = WeightsBoard.attach(board)
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._serve, name="inference", daemon=True)
        self._thread.start()

    def failure(self) -> str | None:
        """Why it answers no more; None while it does."""
        return None if self._thread.is_alive() else repr(self._failure)

    def statistics(self) -> InferenceStatistics:
        """What it has done so far."""
        return self._agent.statistics()

    def close(self) -> None:
        """Stop answering; who still waits for an answer is told so."""
        self._closed.set()
        self._thread.join()
        self._board.close()

    def _serve(self) -> None:
        clients: set[_Client] = set()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                while self._board.newest() is None and not self._closed.wait(_FIRST_WEIGHTS_SECONDS):
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
        except BaseException as error:  # told to who asks why nobody answers
            self._failure = error
            raise
        finally:
            # Also where the device failed: who waits learns of it by the end of its connection.
            for client in clients:
                client.socket.close()
            self._listener.close()

    def _read(self, client: _Client) -> Iterator[_Request]:
        """All that the actor has asked by now. Raises ConnectionError where it is gone."""
        if not client.rollouts:
            message, descriptors, _, _ = socket.recv_fds(client.socket, HELLO.size, 1)
            if len(message) != HELLO.size or len(descriptors) != 1:
                raise ConnectionError("the rollout actor is gone before it said what it is")
            (descriptor,) = descriptors
            client.first_stream, slots = HELLO.unpack(message)
            memory = RolloutMemory(self._config.layout, descriptor, slots)
            client.rollouts = memory.slots
            memory.close()
            # An actor that takes the place of another begins new episodes.
            self._agent.forget(slice(client.first_stream, client.first_stream + self._config.layout.num_streams))
            return
        while True:
            try:
                message = client.socket.recv(REQUEST.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not message:
                raise ConnectionError("the rollout actor is gone")
            group, slot, t = REQUEST.unpack(message)
            yield _Request(client, group, client.rollouts[slot], t, self._config.columns[group])

    def _answer(self, requests: list[_Request]) -> None:
        weights = self._board.newest()
        assert weights is not None
        self._agent.load(weights)
        logits, cells = self._agent.act([r.streams for r in requests], [r.seen for r in requests])
        self._hand_back(requests, logits, cells)

    def _hand_back(self, requests: list[_Request], logits: np.ndarray, cells: Tensor) -> None:
        start = 0
        for request in requests:
            rollout, columns = request.rollout, request.columns
            stop = start + columns.stop - columns.start
            if request.t == 0:
                rollout.first_state[columns] = cells[start:stop].cpu().numpy()
                rollout.weights_version[columns] = self._agent.version
            rollout.behaviour_logits[request.t, columns] = logits[start:stop]
            start = stop
            # One that is gone is met when its socket is read.
            with contextlib.suppress(OSError):
                request.client.socket.send(bytes([request.group]))
