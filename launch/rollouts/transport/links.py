"""How orders reach the rollout actors, and what they collected comes back: through Ray, or sockets of one machine."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from r2ac.envs import EngineFailed, EnvironmentFailed, MissingPackage
from r2ac.launch.rollouts.inference.policies import Weights
from r2ac.launch.rollouts.rollout_actor import ORDER, Collected
from r2ac.launch.rollouts.transport.shared_weights import WeightsBoard
from r2ac.launch.runtime.errors import last_line

_HELLO_SECONDS = 5
Start = Callable[[int], Any]
"""Starts the rollout actor of a number, and returns its Ray handle."""


@dataclass(frozen=True)
class Arrival:
    """What came of an order, or of an actor."""

    actor: int
    collected: Collected | None
    error: Exception | None = None
    """Ray's, where the actor died or failed; its other orders are lost too."""


def environment_error(error: Exception) -> EngineFailed | MissingPackage | None:
    """What the environments raised in an actor's constructor, of which Ray gives the text alone; None for other
    errors."""
    kind, _, sentence = last_line(error).partition(": ")
    match kind.rpartition(".")[2]:
        case EnvironmentFailed.__name__:
            return EnvironmentFailed(sentence, str(error), never_worked=True)
        case EngineFailed.__name__:
            return EngineFailed(sentence)
        case MissingPackage.__name__:
            return MissingPackage(sentence)
    return None


class ActorLink(Protocol):
    """Orders to the rollout actors of a run, and what comes back: in the order of an actor's orders."""

    def publish(self, weights: Weights) -> None:
        """Orders that an actor begins from now on are collected with ``weights``, or with newer ones."""

    def ready(self, actor: int) -> bool:
        """Whether the actor has started; it may have to wait for a place in the cluster."""

    def order(self, actor: int, sequence: int) -> None:
        """Let the actor, which is ready, collect the rollout of this number, after those ordered before."""

    def receive(self, timeout: float) -> list[Arrival]:
        """All that has arrived by now; waits up to ``timeout`` seconds for the first."""

    def replace(self, actor: int) -> None:
        """Start the actor anew, whatever became of it; its orders are forgotten."""

    def close(self) -> None:
        """End the link and the actors."""


class RayLink:
    """Through Ray: an order is a call of an actor's method, weights and rollouts lie in the object store.

    Weights are stored once each time and go once to each node that has actors; what no order needs any more is let go.

    Args:
        ray: the module, connected.
        count: the number of actors.
        start: starts one.
        version: of this package, which must be theirs too.
    """

    def __init__(self, ray: Any, count: int, start: Start, version: str) -> None:
        self._ray, self._start, self._version = ray, start, version
        self._actors: list[Any] = [None] * count
        self._orders: dict[Any, int] = {}
        self._starting: dict[Any, int] = {}  # the first call of each that has not answered
        self._weights: Any = None
        for index in range(count):
            self._begin(index)

    def publish(self, weights: Weights) -> None:
        """See :class:`ActorLink`."""
        self._weights = self._ray.put(weights)

    def ready(self, actor: int) -> bool:
        """See :class:`ActorLink`."""
        return actor not in self._starting.values()

    def order(self, actor: int, sequence: int) -> None:
        """See :class:`ActorLink`."""
        self._orders[self._actors[actor].collect.remote(self._weights, sequence)] = actor

    def receive(self, timeout: float) -> list[Arrival]:
        """See :class:`ActorLink`."""
        calls = [*self._starting, *self._orders]
        if not calls:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=timeout)
        if ready:
            # A first call that waits and a second that does not: together, all that are ready.
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        arrivals = [self._take(call) for call in sorted(ready, key=calls.index)]
        return [arrival for arrival in arrivals if arrival is not None]

    def replace(self, actor: int) -> None:
        """See :class:`ActorLink`."""
        self._orders = {order: owner for order, owner in self._orders.items() if owner != actor}
        self._starting = {call: owner for call, owner in self._starting.items() if owner != actor}
        # An actor that is only out of reach must not go on beside the one that takes its place.
        self._ray.kill(self._actors[actor])
        self._begin(actor)

    def close(self) -> None:
        """See :class:`ActorLink`."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _begin(self, index: int) -> None:
        self._actors[index] = self._start(index)
        self._starting[self._actors[index].check.remote(self._version)] = index

    def _take(self, call: Any) -> Arrival | None:
        """What came of an order; None where an actor has started."""
        is_order = call in self._orders
        actor = self._orders.pop(call) if is_order else self._starting[call]
        try:
            collected = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return Arrival(actor, None, error)
        if is_order:
            return Arrival(actor, collected)
        del self._starting[call]
        return None


class SocketLink:
    """Through sockets of this machine: weights lie on a board and rollouts in memory that all share, so that an order
    is a few bytes and no call of Ray. Ray starts the actors, and says why one ended.

    Args:
        ray: the module, connected.
        count: the number of actors.
        start: starts one, with the board.
        board: where weights are published; the link's owner closes it.
        folder: for its socket, which nobody but this user enters.
    """

    def __init__(self, ray: Any, count: int, start: Start, board: WeightsBoard, folder: Path) -> None:
        self._ray, self._start, self._board = ray, start, board
        self._address = str(folder / "orders")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._address)
        self._listener.listen(count + 8)
        self._connections: list[Connection | None] = [None] * count
        self._owners: dict[int, int] = {}  # the actors, by the descriptors of those connections that are open
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._actors: list[Any] = [None] * count
        self._served: list[Any] = [None] * count
        self._starts = 0
        self._keys = [0] * count  # of the start of each actor: one of before is not let in
        for index in range(count):
            self._begin(index)

    def publish(self, weights: Weights) -> None:
        """See :class:`ActorLink`."""
        self._board.write(weights)

    def ready(self, actor: int) -> bool:
        """See :class:`ActorLink`."""
        return self._connections[actor] is not None

    def order(self, actor: int, sequence: int) -> None:
        """See :class:`ActorLink`."""
        connection = self._connections[actor]
        assert connection is not None
        # One that is gone is met when its connection is read.
        with contextlib.suppress(OSError):
            connection.send_bytes(ORDER.pack(sequence))

    def receive(self, timeout: float) -> list[Arrival]:
        """See :class:`ActorLink`."""
        arrivals: list[Arrival] = []
        while ready := self._poll.poll(1000 * timeout):
            timeout = 0
            for descriptor, _ in ready:
                if descriptor in self._owners:
                    arrivals.append(self._read(descriptor))
                else:
                    self._accept()
        starting = [index for index, each in enumerate(self._connections) if each is None]
        return arrivals + [arrival for index in starting if (arrival := self._ended(index, timeout=0)) is not None]

    def replace(self, actor: int) -> None:
        """See :class:`ActorLink`."""
        connection, self._connections[actor] = self._connections[actor], None
        if connection is not None:
            self._forget(connection.fileno())
            connection.close()
        self._ray.kill(self._actors[actor])
        self._begin(actor)

    def close(self) -> None:
        """See :class:`ActorLink`."""
        for connection in self._connections:
            if connection is not None:
                connection.close()
        self._listener.close()
        for actor in self._actors:
            self._ray.kill(actor)

    def _begin(self, index: int) -> None:
        self._starts += 1
        self._keys[index] = self._starts
        self._actors[index] = self._start(index)
        self._served[index] = self._actors[index].serve.remote(self._address, self._starts)

    def _accept(self) -> None:
        connection = Connection(self._listener.accept()[0].detach())
        try:
            # An actor says who it is as soon as it is connected.
            if not connection.poll(_HELLO_SECONDS):
                raise EOFError
            (key,) = ORDER.unpack(connection.recv_bytes())
            index = self._keys.index(key)
        except (OSError, EOFError, ValueError, struct.error):
            connection.close()
            return
        self._connections[index] = connection
        self._owners[connection.fileno()] = index
        self._poll.register(connection, select.POLLIN)

    def _read(self, descriptor: int) -> Arrival:
        """A message, or that there will be none any more."""
        index = self._owners[descriptor]
        connection = self._connections[index]
        assert connection is not None
        try:
            return Arrival(index, connection.recv())
        except (OSError, EOFError):
            self._forget(descriptor)
            return self._ended(index, timeout=30) or Arrival(index, None, ConnectionError("its connection ended"))

    def _forget(self, descriptor: int) -> None:
        """Nothing is to be read there any more."""
        if self._owners.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _ended(self, index: int, timeout: float) -> Arrival | None:
        """Why an actor serves no more; None if Ray does not say so within ``timeout`` seconds."""
        ready, _ = self._ray.wait([self._served[index]], timeout=timeout)
        if not ready:
            return None
        try:
            self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            return Arrival(index, None, error)
        return Arrival(index, None, ConnectionError("it ended by itself"))
