"""The rollout actor: steps vector environments with its policy and returns rollouts."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.envs import Signals, find_tasks, make_vector, spread
from r2ac.launch.cluster.connect import installed_version
from r2ac.launch.rollouts.ended_episodes import Episodes
from r2ac.launch.rollouts.inference.policies import LocalPolicy, Policy
from r2ac.launch.rollouts.inference.ray_worker import RayPolicy
from r2ac.launch.rollouts.inference.socket_worker import SocketPolicy
from r2ac.launch.rollouts.transport.shared_memory import MemoryHandle
from r2ac.launch.rollouts.transport.shared_rollouts import RolloutLayout, RolloutsHandle, SharedRollouts
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights
from r2ac.launch.runtime.process import set_up_process
from r2ac.launch.runtime.step_timer import StepTimer
from r2ac.learner import Rollout

ORDER = struct.Struct("=q")
"""A message on an actor's socket. The actor's first is its key; after that each to the actor orders a rollout, by the
rollout's number."""
ENVIRONMENT, INFERENCE, WAITING = "environment", "inference", "waiting"
"""The parts of an actor's time: stepping, computing or awaiting actions, waiting for orders."""


class StreamGroup:
    """A vector environment whose streams are stepped together, and the returns of its episodes.

    Args:
        task: one task or several, as `find_tasks` reads them.
        options, seed: of the environment.
        first_stream: the number of its first stream among all streams.
        columns: these streams among those of the rollout actor.
        timer: entered for each step, and for the first reset.
        stagger: as of `make_vector`.
    """

    def __init__(
        self,
        task: str,
        options: Any,
        seed: int,
        first_stream: int,
        columns: slice,
        timer: AbstractContextManager[None],
        stagger: int | None = None,
    ) -> None:
        count = columns.stop - columns.start
        self.columns = columns
        self._env = make_vector(task, count, seed, options=options, first_stream=first_stream, stagger=stagger)
        self._tasks = spread([each.name for each in find_tasks(task)], count, first_stream)
        self.spec = ObservationSpec.of(self._env)
        self._timer = timer
        with timer:
            self._observation, info = self._env.reset()
        self._signals = Signals.of(info)
        self._reward = np.zeros(count, dtype=np.float32)
        self._is_first = np.ones(count, dtype=bool)
        self._truncated = self._none = np.zeros(count, dtype=bool)
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, dtype=np.int64)

    def record(self, rollout: Rollout[np.ndarray], t: int) -> None:
        """Write the streams' last observations and rewards into step ``t`` of their columns of the rollout."""
        rollout.observation[t, self.columns] = self._observation
        rollout.reward[t, self.columns] = self._reward
        rollout.is_first[t, self.columns] = self._is_first
        if rollout.instruction is not None:
            rollout.instruction[t, self.columns] = self._signals.instruction
        if rollout.action_mask is not None:
            rollout.action_mask[t, self.columns] = self._signals.action_mask
        if rollout.truncated is not None and rollout.final_observation is not None and t > 0:
            # These belong to the step before.
            rollout.truncated[t - 1, self.columns] = self._truncated
            if self._signals.final_observation is not None:
                rollout.final_observation[t - 1, self.columns] = self._signals.final_observation

    def step(self, action: np.ndarray) -> Episodes:
        """Step every stream by actions as the environment takes them; returns the episodes that ended."""
        with self._timer:
            self._observation, reward, terminated, truncated, info = self._env.step(action)
        self._signals = signals = Signals.of(info)
        self._reward = reward.astype(np.float32)
        self._is_first = terminated | truncated
        # A step that is both ends the episode as the task's own end does; so does one without a final observation, as
        # after a lost engine.
        self._truncated = self._none if signals.has_final is None else truncated & ~terminated & signals.has_final
        self._returns += reward
        self._lengths += 1
        over, whole = signals.ends(terminated, truncated)
        done = (over & whole).nonzero()[0]
        tasks = [self._tasks[i] for i in done.tolist()]
        episodes = Episodes(self._returns[done].tolist(), self._lengths[done].tolist(), tasks)
        self._returns[over] = self._lengths[over] = 0
        return episodes

    def engine_restarts(self) -> int:
        """Counted by the suites whose engines can be lost."""
        return getattr(self._env.unwrapped, "engine_restarts", 0)

    def close(self) -> None:
        self._env.close()


@dataclass(frozen=True)
class Collected:
    """The rollouts of an actor's streams, and what came with them."""

    sequence: int
    """Their number within each stream."""
    rollout: Rollout[np.ndarray] | None
    """T steps of all its streams. An actor that has written them into shared memory sends None, and the receiving link
    fills in the rollout from there."""
    episodes: Episodes
    """Those that ended in these steps."""
    seconds: Mapping[str, float]
    """Of each of ENVIRONMENT, INFERENCE and WAITING, since the last rollout was returned."""
    engine_restarts: int = 0
    """Engines that were lost and replaced meanwhile; their streams began new episodes."""


@dataclass(frozen=True)
class ActorConfig:
    """Settings of a rollout actor."""

    task: str
    """One task or several, as `find_tasks` reads them."""
    env: Any
    agent: AgentConfig
    seed: int
    rollout_length: int
    num_streams: int
    index: int
    """The actor's number among all actors of the run."""
    incarnation: int = 0
    """How often the actor has been started before: each start gets other episodes."""
    num_groups: int = 1
    """Groups of streams: one is stepped while an inference worker computes the actions of another."""
    first_index: int = 0
    """The number of the first of the actors that its learner has; streams are numbered learner by learner."""
    final_observations: bool = False
    """Whether rollouts hold what episodes showed last, where a time limit cut them off."""
    stagger_streams: bool = False
    """Whether the first episode of each stream is cut short so that streams are not in phase."""

    @property
    def first_stream(self) -> int:
        """The number of the actor's first stream among those of its learner."""
        return (self.index - self.first_index) * self.num_streams

    @property
    def columns(self) -> tuple[slice, ...]:
        """The streams of each group, among those of the actor."""
        bounds = [self.num_streams * i // self.num_groups for i in range(self.num_groups + 1)]
        return tuple(slice(start, stop) for start, stop in pairwise(bounds))


class WrongVersion(RuntimeError):
    """A node has another version of this package than the learner."""


class RolloutActor:
    """Steps the streams of one actor and hands over their rollouts. What it draws at random follows from the run's
    seed, its index, its incarnation and the rollout's number alone: there is no random state to be saved.

    Args:
        threads: CPU threads for the agent's network; None leaves them as they are.
        memory: where rollouts are written; None for memory of this process.
        slots: without ``memory``, how many rollouts there is memory for, which are written in turn: a rollout is valid
            until so many more were collected; 0 for new memory each time.
        weights: where :meth:`serve` reads the newest weights.
        inference: the inference worker that acts: the address of its socket on this machine, which needs ``memory``, or
            Ray's handle; None for an agent here.
        device: where an agent here computes.
        weights_of: an agent on the same device whose parameters, in the same memory, the agent here has; None: it has
            its own, for weights that come with the orders.
        step_timeout: seconds that a step of the environments may take before this process is ended; 0: any number.
    """

    def __init__(
        self,
        config: ActorConfig,
        threads: int | None = None,
        memory: RolloutsHandle | None = None,
        weights: MemoryHandle | None = None,
        inference: Any = None,
        device: str = "cpu",
        step_timeout: float = 0.0,
        weights_of: Agent | None = None,
        slots: int = 0,
    ) -> None:
        if threads is not None:
            set_up_process(threads)
        self._config = config
        seeds = self._randomness().generate_state(config.num_groups, np.uint64)
        timer, first = StepTimer(step_timeout), config.index * config.num_streams
        stagger = config.seed if config.stagger_streams else None
        self._groups = [
            StreamGroup(config.task, config.env, int(seed), first + columns.start, columns, timer, stagger)
            for seed, columns in zip(seeds, config.columns, strict=True)
        ]
        self.spec = self._groups[0].spec
        self._actions = self.spec.actions.configured(config.agent)
        self._memory = None if memory is None else SharedRollouts(memory.layout, memory.open())
        self._slots = [] if self._memory is None else self._memory.slots
        self._weights = None if weights is None else SharedWeights(weights.open())
        self._policy: Policy
        if isinstance(inference, str):
            assert self._memory is not None
            memory_of_all = self._memory.descriptor
            self._policy = SocketPolicy(inference, memory_of_all, self._actions, config.columns, config.first_stream)
        else:
            agent = Agent(self.spec, config.agent)
            self._layout = RolloutLayout(
                config.rollout_length, config.num_streams, self.spec, agent.core.state_size, config.final_observations
            )
            self._slots = self._slots or [self._layout.empty() for _ in range(slots)]
            if inference is None:
                self._policy = LocalPolicy(agent.to(device), config.columns)
                if weights_of is not None:
                    for own, known in zip(agent.parameters(), weights_of.parameters(), strict=True):
                        own.data = known.data
            else:
                self._policy = RayPolicy(inference, self._actions, config.columns, config.first_stream)
        self._idle_since: float | None = None
        self._engine_restarts = 0

    def check(self, version: str) -> None:
        """Raises WrongVersion where the learner's package has another version; returns once the actor has started."""
        own = installed_version()
        if own != version:
            raise WrongVersion(
                f"a node of the Ray cluster has r2ac {own}, the learner {version}: both must be the same"
            )

    def collect(self, weights: Weights | None, sequence: int) -> Collected:
        """Step every stream T times with these weights, None where an inference worker acts; ``sequence`` becomes the
        rollouts' number. Raises InferenceLost if the inference worker is gone."""
        began = time.perf_counter()
        waiting = 0.0 if self._idle_since is None else began - self._idle_since
        rollout, slot = self._begin_rollout(sequence)
        uniforms = np.random.default_rng(self._randomness(sequence)).random(rollout.action.shape)
        policy, steps, inferring = self._policy, self._config.rollout_length, 0.0
        episodes = Episodes()
        policy.begin(rollout, slot, uniforms, weights)
        for number, group in enumerate(self._groups):
            group.record(rollout, 0)
            policy.ask(number, 0)
        for t in range(steps):
            for number, group in enumerate(self._groups):
                asked = time.perf_counter()
                policy.answer(number, t)
                inferring += time.perf_counter() - asked
                episodes.extend(group.step(self._actions.to_env(rollout.action[t, group.columns])))
                group.record(rollout, t + 1)
                if t + 1 < steps:
                    policy.ask(number, t + 1)
        self._idle_since = time.perf_counter()
        seconds = {ENVIRONMENT: self._idle_since - began - inferring, INFERENCE: inferring, WAITING: waiting}
        before, self._engine_restarts = self._engine_restarts, sum(each.engine_restarts() for each in self._groups)
        restarts = self._engine_restarts - before
        return Collected(sequence, None if self._memory else rollout, episodes, seconds, restarts)

    def serve(self, address: str, key: int) -> None:
        """Collect the rollouts that are ordered through the socket at ``address`` in the file system, with the newest
        shared weights, until its other end is closed; ``key`` identifies this actor there. Raises as :meth:`collect`.
        """
        assert self._weights is not None
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connecting.connect(address)
        with Connection(connecting.detach()) as orders:
            orders.send_bytes(ORDER.pack(key))
            while True:
                try:
                    (sequence,) = ORDER.unpack(orders.recv_bytes())
                except (EOFError, ConnectionResetError):
                    # A reset, where answers were not read any more.
                    return
                weights = self._weights.newest() if isinstance(self._policy, LocalPolicy) else None
                collected = self.collect(weights, sequence)
                with suppress(BrokenPipeError):
                    orders.send(collected)

    def close(self) -> None:
        """Close the environments."""
        self._policy.close()
        for group in self._groups:
            group.close()
        if self._memory is not None:
            self._memory.close()

    def _randomness(self, *more: int) -> np.random.SeedSequence:
        config = self._config
        return np.random.SeedSequence(config.seed, spawn_key=(config.index, config.incarnation, *more))

    def _begin_rollout(self, sequence: int) -> tuple[Rollout[np.ndarray], int]:
        """The rollout to be written, with its streams and number filled in, and its slot."""
        # Nobody asks for a rollout before the one that was in this slot before is used up.
        slot = sequence % len(self._slots) if self._slots else 0
        rollout = self._slots[slot] if self._slots else self._layout.empty()
        rollout.stream[:] = self._config.first_stream + np.arange(self._config.num_streams)
        rollout.sequence[:] = sequence
        return rollout, slot
