"""How orders reach the rollout actors, and what they collected comes back: through Ray, or sockets of one machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from r2ac.launch.rollouts.policies import Weights
from r2ac.launch.rollouts.rollout_actor import Collected
from r2ac.launch.rollouts.weights_board import WeightsBoard

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


class ActorLink(Protocol):
    """Orders to the rollout actors of a run, and what comes back: in the order of an actor's orders."""

    def publish(self, weights: Weights) -> None:
        """Orders that an actor begins from now on are collected with ``weights``, or with newer ones."""

    def order(self, actor: int, sequence: int) -> None:
        """Let the actor collect the rollout of this number, after those ordered before."""

    def receive(self, timeout: float) -> list[Arrival]:
        """All that has arrived by now; waits up to ``timeout`` seconds for the first."""

    def replace(self, actor: int) -> None:
        """Start the actor anew, whatever became of it; its orders are forgotten."""

    def close(self) -> None:
        """End the link; the actors end with Ray."""


class RayLink:
    """Through Ray: an order is a call of an actor's method, weights and rollouts lie in the object store.

    Args:
        ray: the module, connected.
        count: the number of actors.
        start: starts one.
    """

    def __init__(self, ray: Any, count: int, start: Start) -> None:
        self._ray, self._start = ray, start
        self._actors = [start(index) for index in range(count)]
        self._orders: dict[Any, int] = {}

    def publish(self, weights: Weights) -> None:
        """See :class:`ActorLink`."""
        self._weights = self._ray.put(weights)

    def order(self, actor: int, sequence: int) -> None:
        """See :class:`ActorLink`."""
        self._orders[self._actors[actor].collect.remote(self._weights, sequence)] = actor

    def receive(self, timeout: float) -> list[Arrival]:
        """See :class:`ActorLink`."""
        orders = list(self._orders)
        ready, _ = self._ray.wait(orders, num_returns=1, timeout=timeout)
        if ready:
            # A first call that waits and a second that does not: together, all that are ready.
            ready, _ = self._ray.wait(orders, num_returns=len(orders), timeout=0)
        return [self._take(order) for order in sorted(ready, key=orders.index)]

    def replace(self, actor: int) -> None:
        """See :class:`ActorLink`."""
        self._orders = {order: owner for order, owner in self._orders.items() if owner != actor}
        # An actor that is only out of reach must not go on beside the one that takes its place.
        self._ray.kill(self._actors[actor])
        self._actors[actor] = self._start(actor)

    def close(self) -> None:
        """See :class:`ActorLink`."""

    def _take(self, order: Any) -> Arrival:
        actor = self._orders.pop(order)
        try:
            return Arrival(actor, self._ray.get(order))
        except self._ray.exceptions.RayError as error:
            return Arrival(actor, None, error)


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
        self._early: list[list[int]] = [[] for _ in range(count)]  # orders of actors that are still starting
        self._actors: list[Any] = [None] * count
        self._served: list[Any] = [None] * count
        self._starts = 0
        self._keys = [0] * count  # of the start of each actor: one of before is not let in
        for index in range(count):
            self._begin(index)

    def publish(self, weights: Weights) -> None:
        """See :class:`ActorLink`."""
        self._board.write(weights)

    def order(self, actor: int, sequence: int) -> None:
        """See :class:`ActorLink`."""
        connection = self._connections[actor]
        if connection is None:
            self._early[actor].append(sequence)
            return
        # One that is gone is met when its connection is read.
        with contextlib.suppress(OSError):
            connection.send(sequence)

    def receive(self, timeout: float) -> list[Arrival]:
        """See :class:`ActorLink`."""
        owners = {each: index for index, each in enumerate(self._connections) if each is not None}
        ready = wait([*owners, self._listener], timeout)
        arrivals = [arrival for each, index in owners.items() if each in ready for arrival in self._read(index, each)]
        if self._listener in ready:
            self._accept()
        starting = [index for index, each in enumerate(self._connections) if each is None]
        return arrivals + [arrival for index in starting if (arrival := self._ended(index, timeout=0)) is not None]

    def replace(self, actor: int) -> None:
        """See :class:`ActorLink`."""
        connection, self._connections[actor] = self._connections[actor], None
        if connection is not None:
            connection.close()
        self._early[actor].clear()
        self._ray.kill(self._actors[actor])
        self._begin(actor)

    def close(self) -> None:
        """See :class:`ActorLink`."""
        for connection in self._connections:
            if connection is not None:
                connection.close()
        self._listener.close()

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
            index = self._keys.index(connection.recv())
        except (OSError, EOFError, ValueError):
            connection.close()
            return
        self._connections[index] = connection
        for sequence in self._early[index]:
            self.order(index, sequence)
        self._early[index].clear()

    def _read(self, index: int, connection: Connection) -> list[Arrival]:
        arrivals: list[Arrival] = []
        try:
            while connection.poll():
                arrivals.append(Arrival(index, connection.recv()))
        except (OSError, EOFError):
            ended = self._ended(index, timeout=30)
            arrivals.append(ended or Arrival(index, None, ConnectionError("its connection ended")))
        return arrivals

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
