"""How orders reach the rollout actors and their rollouts come back: through sockets of one machine, or through Ray."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from r2ac.launch.cluster.connect import installed_version
from r2ac.launch.rollouts.inference.pool import InferencePool
from r2ac.launch.rollouts.placement import actor_options
from r2ac.launch.rollouts.rollout_actor import ORDER, ActorConfig, Collected, RolloutActor
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout, RolloutsHandle, SharedRollouts
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights

_HELLO_SECONDS = 5


@dataclass
class ActorStarter:
    """Starts the rollout actors of a run, and starts them anew, as Ray processes."""

    ray: Any
    configs: list[ActorConfig]
    """Of the actors, by their numbers; the next incarnation of one that is replaced."""
    step_timeout: float
    """Seconds that a step of the environments may take before the actor's process is ended; 0: any number."""
    weights: SharedWeights | None
    """Where actors read the newest weights; None where these come with the orders, or with none."""
    inference: InferencePool | None

    def begin_other_episodes(self, actor: int) -> None:
        """The next start of this actor is another incarnation."""
        config = self.configs[actor]
        self.configs[actor] = replace(config, incarnation=config.incarnation + 1)

    def start(self, actor: int, memory: RolloutsHandle | None) -> Any:
        """Ray's handle of a new process for this actor, which writes its rollouts into ``memory``."""
        process = self.ray.remote(RolloutActor).options(**actor_options(self.ray, here=memory is not None))
        return process.remote(
            self.configs[actor],
            threads=1,
            memory=memory,
            weights=self.weights.handle() if self.weights is not None else None,
            inference=self.inference.contact(actor) if self.inference is not None else None,
            step_timeout=self.step_timeout,
        )


class RayLink:
    """Orders and rollouts through Ray: an order is a call of an actor's method, weights and rollouts lie in the object
    store. Weights are stored once each time and go once to each node that has actors, until no order needs them.
    """

    def __init__(self, starter: ActorStarter) -> None:
        self._ray, self._starter = starter.ray, starter
        self._actors: list[Any] = [None] * len(starter.configs)
        self._orders: dict[Any, int] = {}
        self._starting: dict[Any, int] = {}  # the first call of each that has not answered
        self._weights: tuple[int, Any] = (-1, None)  # their version, and Ray's reference
        for actor in range(len(self._actors)):
            self._begin(actor)

    def publish(self, weights: Weights) -> None:
        self._weights = (weights.version, self._ray.put(weights))

    def version(self, actor: int) -> int:
        return self._weights[0]

    def ready(self, actor: int) -> bool:
        """Whether the actor has started; it may have to wait for a place in the cluster."""
        return actor not in self._starting.values()

    def order(self, actor: int, sequence: int) -> None:
        """Let the actor, which is ready, collect the rollout of this number, after those ordered before."""
        self._orders[self._actors[actor].collect.remote(self._weights[1], sequence)] = actor

    def receive(self, timeout: float) -> list[tuple[int, Collected | Exception]]:
        """What has arrived with the numbers of the actors, an actor's orders in turn; waits up to ``timeout`` seconds
        for the first. An exception is Ray's, where the actor died or failed: its other orders are lost too."""
        calls = self._starting | self._orders
        if not calls:
            time.sleep(timeout)
            return []
        ready, waiting = self._ray.wait(list(calls), num_returns=1, timeout=timeout)
        if ready:
            # A first call that waits and a second that does not: together, all that are ready.
            _, waiting = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        not_ready, late, arrivals = set(waiting), set[int](), list[tuple[int, Collected | Exception]]()
        for call, actor in calls.items():
            # Ray may have brought a later rollout of an actor here before an earlier one.
            if call in not_ready or actor in late:
                late.add(actor)
                continue
            try:
                arrived = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                arrived = error
            if self._orders.pop(call, None) is not None or isinstance(arrived, Exception):
                arrivals.append((actor, arrived))
            else:
                del self._starting[call]
        return arrivals

    def replace(self, actor: int) -> None:
        """Start the actor anew; its orders are forgotten. One that had started begins other episodes."""
        if self.ready(actor):
            self._starter.begin_other_episodes(actor)
        self._orders = {order: owner for order, owner in self._orders.items() if owner != actor}
        self._starting = {call: owner for call, owner in self._starting.items() if owner != actor}
        # An actor that is only out of reach must not go on beside the one that takes its place.
        self._ray.kill(self._actors[actor])
        self._begin(actor)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _begin(self, actor: int) -> None:
        self._actors[actor] = self._starter.start(actor, None)
        self._starting[self._actors[actor].check.remote(installed_version())] = actor


class SocketLink:
    """As :class:`RayLink`, through sockets: rollouts lie in memory that an actor shares with this process, and an order
    and its answer are a few bytes and no call of Ray. Ray starts the actors, and says why one ended. An actor may be
    ``slots`` rollouts ahead of the learner. Only this user enters ``folder``, where the socket is. The constructor and
    :meth:`replace` raise NoMemory if there is none for the rollouts."""

    def __init__(self, starter: ActorStarter, layout: RolloutLayout, slots: int, folder: Path) -> None:
        self._ray, self._starter, self._layout, self._slots = starter.ray, starter, layout, slots
        count = len(starter.configs)
        self._address = str(folder / "orders")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._address)
        self._listener.listen(count + 8)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        # By the numbers of the actors; only those that are ready have a connection.
        self._connections: dict[int, Connection] = {}
        self._actors: dict[int, Any] = {}
        self._served: dict[int, Any] = {}
        self._memory: dict[int, SharedRollouts] = {}
        self._starts = 0
        self._keys = [0] * count  # of the start of each actor: one of before is not let in
        try:
            for actor in range(count):
                self._begin(actor)
        except BaseException:
            self.close()
            raise

    def ready(self, actor: int) -> bool:
        return actor in self._connections

    def order(self, actor: int, sequence: int) -> None:
        # The end of a connection is noticed when it is read.
        with contextlib.suppress(OSError):
            self._connections[actor].send_bytes(ORDER.pack(sequence))

    def receive(self, timeout: float) -> list[tuple[int, Collected | Exception]]:
        arrivals: list[tuple[int, Collected | Exception]] = []
        while ready := self._selector.select(timeout):
            timeout = 0
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    arrivals.append(self._read(key.data))
        starting = [actor for actor in self._actors if not self.ready(actor)]
        return arrivals + [(actor, error) for actor in starting if (error := self._ended(actor, timeout=0)) is not None]

    def replace(self, actor: int) -> None:
        connection = self._connections.pop(actor, None)
        if connection is not None:
            self._starter.begin_other_episodes(actor)
            self._forget(connection)
            connection.close()
        self._ray.kill(self._actors[actor])
        self._begin(actor)

    def close(self) -> None:
        """End the link and the actors, and close their memory."""
        self._selector.close()
        for connection in self._connections.values():
            connection.close()
        self._listener.close()
        for actor in self._actors.values():
            self._ray.kill(actor)
        for memory in self._memory.values():
            memory.close()

    def _begin(self, actor: int) -> None:
        # Memory of its own for each start: an actor that was killed may still write for a moment.
        memory, old = SharedRollouts.create(self._layout, self._slots), self._memory.get(actor)
        self._memory[actor] = memory
        if old is not None:
            old.close()
        self._starts += 1
        self._keys[actor] = self._starts
        self._actors[actor] = self._starter.start(actor, memory.handle())
        self._served[actor] = self._actors[actor].serve.remote(self._address, self._starts)

    def _accept(self) -> None:
        connection = Connection(self._listener.accept()[0].detach())
        try:
            # An actor sends its key as soon as it is connected.
            if not connection.poll(_HELLO_SECONDS):
                raise EOFError
            (key,) = ORDER.unpack(connection.recv_bytes())
            actor = self._keys.index(key)
        except (OSError, EOFError, ValueError, struct.error):
            connection.close()
            return
        self._connections[actor] = connection
        self._selector.register(connection, selectors.EVENT_READ, actor)

    def _read(self, actor: int) -> tuple[int, Collected | Exception]:
        """A message, with the rollout where it lies; or why there will be none any more."""
        connection, memory = self._connections[actor], self._memory[actor]
        try:
            collected: Collected = connection.recv()
        except (OSError, EOFError):
            self._forget(connection)
            return actor, self._ended(actor, timeout=30) or ConnectionError("its connection ended")
        return actor, replace(collected, rollout=memory.slots[collected.sequence % len(memory.slots)])

    def _forget(self, connection: Connection) -> None:
        """Nothing is to be read there any more."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)

    def _ended(self, actor: int, timeout: float) -> Exception | None:
        """Why an actor serves no more; None if Ray does not say so within ``timeout`` seconds."""
        ready, _ = self._ray.wait([self._served[actor]], timeout=timeout)
        if not ready:
            return None
        try:
            self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            return error
        return ConnectionError("it ended by itself")
