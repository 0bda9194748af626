"""DeepMind Lab engines in processes of their own, as a Gymnasium vector environment that outlives them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.spaces import Box, MultiDiscrete

from r2ac.envs.dmlab.engine import INSTALL, INSTRUCTION_IDS, INSTRUCTION_LENGTH, EngineSettings, Failure, Frame
from r2ac.envs.dmlab.folders import remove_left_folders
from r2ac.envs.dmlab.process import EngineProcess
from r2ac.envs.seeding import stream_generators
from r2ac.envs.signals import Signals, StreamsVector
from r2ac.envs.suite import EngineFailed, MissingPackage, cannot_load

_LOG = logging.getLogger(__name__)
# Seconds that the engines together get to close themselves.
_CLOSING = 5.0


class DmlabVector(StreamsVector):
    """Streams of levels, each with an engine in a process of its own; autoreset SAME_STEP.

    Observations are uint8 [N,3,H,W], rewards float32 [N]. The engine has no observation of an episode's end and does
    not tell a time-out from an end in the game: every end is `terminated`. With the option `instruction` the signals in
    `info` have it, int32 [N,INSTRUCTION_LENGTH]; `single_instruction_space` is the space of a row, or None.

    An engine that exits, crashes or gives no answer in time is replaced, with a warning in the log, and counted in
    `engine_restarts`. Its stream begins a new episode with a new seed: in the step that lost the engine the reward is
    0, `truncated` is set and the signal `engine_failed` marks the stream. Engines start with the first `reset` and
    begin episodes `parallel_resets` at a time.

    settings: one for each stream; they differ in the level alone.
    seeds: one for each stream, for the first `reset`; later resets go on with the streams' generators.
    levels: (first, number): episodes have seeds drawn uniformly from [first, first + number).

    Raises EngineFailed from `reset` and `step`, and MissingPackage from `reset`.
    """

    def __init__(self, settings: Sequence[EngineSettings], seeds: Sequence[int], levels: tuple[int, int]) -> None:
        options = self._options = settings[0].options
        self._image = (3, options.image_height, options.image_width)
        super().__init__(len(seeds), Box(0, 255, self._image, np.uint8), options.actions)
        words = np.full(INSTRUCTION_LENGTH, INSTRUCTION_IDS)
        self.single_instruction_space = MultiDiscrete(words, dtype=np.int32) if options.instruction else None
        self.engine_restarts = 0
        self._settings, self._levels = settings, levels
        self._generators = stream_generators(seeds, len(seeds))
        self._processes: list[EngineProcess | None] = [None] * self.num_envs
        self._level_seeds = np.zeros(self.num_envs, dtype=np.int64)
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._texts = [""] * self.num_envs
        self._failures = [0] * self.num_envs
        self._levels_that_run: set[str] = set()
        remove_left_folders()

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every stream, or in those of `options["reset_mask"]` (bool [N]), whose rows alone mean
        something then; `seed` as `stream_generators` takes it, or None to leave the generators as they are."""
        self._check_open()
        if seed is not None:
            self._generators = stream_generators(seed, self.num_envs)
        for stream, process in enumerate(self._processes):
            if process is not None and process.busy:
                # An exception has come between a command and its answer, which must not be taken for another's.
                process.kill()
                self._processes[stream] = None
        batch = self._batch()
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self._begin_episodes(np.flatnonzero(mask), batch)
        return batch.observation, batch.info()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._check_open()
        if any(process is None for process in self._processes):
            raise RuntimeError("the environment must be reset before its first step")
        batch = self._batch()
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        terminated, truncated = np.zeros(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=bool)
        for stream, action in enumerate(actions):
            self._process(stream).ask("step", int(action))
        deadline = time.monotonic() + self._options.step_timeout
        for stream in range(self.num_envs):
            answer = self._process(stream).receive(deadline - time.monotonic())
            if isinstance(answer, Failure):
                self._lose_engine(stream, answer, batch)
                truncated[stream] = True
                continue
            self._failures[stream] = 0
            self._steps[stream] += 1
            rewards[stream] = answer.reward
            if answer.frame is None:
                terminated[stream] = True
            else:
                self._show(stream, answer.frame, batch)
        self._begin_episodes(np.flatnonzero(terminated | truncated), batch)
        return batch.observation, rewards, terminated, truncated, batch.info()

    def level_seeds(self) -> np.ndarray:
        """The seed of the episode that each stream now plays, int64 [N]."""
        return self._level_seeds.copy()

    def instruction_texts(self) -> list[str]:
        """The words behind the instruction that each stream now shows; empty where there are none."""
        return list(self._texts)

    def engine_pids(self) -> list[int | None]:
        """The process of each stream's engine; None where none has been started."""
        return [None if process is None else process.pid for process in self._processes]

    def close_extras(self, **kwargs: Any) -> None:
        processes = [process for process in self._processes if process is not None]
        self._processes = [None] * self.num_envs
        for process in processes:
            process.ask_to_end()
        deadline = time.monotonic() + _CLOSING
        for process in processes:
            process.wait_and_kill(max(0.0, deadline - time.monotonic()))

    def _begin_episodes(self, streams: Iterable[int], batch: _Batch) -> None:
        """Begins an episode in each of the streams, in a new engine where there is none, and waits for all of them."""
        waiting = deque(int(stream) for stream in streams)
        most = self._options.parallel_resets or self.num_envs
        deadlines: dict[int, float] = {}
        while waiting or deadlines:
            while waiting and len(deadlines) < most:
                stream = waiting.popleft()
                first, number = self._levels
                self._level_seeds[stream] = first + self._generators[stream].integers(number)
                self._steps[stream] = 0
                try:
                    self._process(stream).ask("reset", int(self._level_seeds[stream]))
                except OSError as error:
                    self._lose_engine(stream, Failure(f"could not be started: {error}"), batch)
                    waiting.append(stream)
                else:
                    deadlines[stream] = time.monotonic() + self._options.reset_timeout
            for stream in self._ready(deadlines):
                del deadlines[stream]
                answer = self._process(stream).receive()
                if isinstance(answer, Failure):
                    self._lose_engine(stream, answer, batch)
                    waiting.append(stream)
                elif answer.frame is not None:
                    self._levels_that_run.add(self._settings[stream].level)
                    self._show(stream, answer.frame, batch)

    def _show(self, stream: int, frame: Frame, batch: _Batch) -> None:
        batch.put(stream, frame)
        self._texts[stream] = frame.text

    def _ready(self, deadlines: dict[int, float]) -> list[int]:
        """Waits for one or more of the streams to answer, die or run out of time, and returns them."""
        if not deadlines:
            return []
        connections = {stream: self._process(stream).connection for stream in deadlines}
        ready = wait(list(connections.values()), max(0.0, min(deadlines.values()) - time.monotonic()))
        now = time.monotonic()
        return [stream for stream, deadline in deadlines.items() if connections[stream] in ready or deadline <= now]

    def _process(self, stream: int) -> EngineProcess:
        """The stream's engine, started where it has none."""
        process = self._processes[stream]
        if process is None:
            longest = max(self._options.step_timeout, self._options.reset_timeout)
            process = self._processes[stream] = EngineProcess(self._settings[stream], longest)
        return process

    def _lose_engine(self, stream: int, failure: Failure, batch: _Batch) -> None:
        """Counts and logs the failure, and waits where it repeats; raises EngineFailed after too many in a row."""
        process, self._processes[stream] = self._processes[stream], None
        ended = "" if process is None else f" ({process.kill()})"
        what = f"the engine of stream {stream} {failure.reason}{ended}"
        level = self._settings[stream].level
        where = f"{level}, episode seed {self._level_seeds[stream]}, step {self._steps[stream]}"
        if failure.in_import:
            raise MissingPackage(cannot_load("dmlab", failure.reason, INSTALL))
        if failure.in_constructor and level not in self._levels_that_run:
            raise EngineFailed(f"DeepMind Lab cannot play {level}: {failure.reason}")
        self._failures[stream] += 1
        if self._failures[stream] >= self._options.max_engine_failures:
            raise EngineFailed(f"{what} in {where}, and so {self._failures[stream]} times in a row")
        self.engine_restarts += 1
        batch.failed[stream] = True
        _LOG.warning("%s in %s: replaced, its stream begins a new episode", what, where)
        # Only what happens again at once is likely to need time to pass: memory or a disk that is full.
        time.sleep(min(2.0 ** (self._failures[stream] - 2), 10.0) if self._failures[stream] > 1 else 0.0)

    def _batch(self) -> _Batch:
        return _Batch((self.num_envs, *self._image), self._options.instruction)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed")


class _Batch:
    """What all streams show after one step or reset."""

    def __init__(self, shape: tuple[int, ...], with_instruction: bool) -> None:
        self.observation = np.zeros(shape, dtype=np.uint8)
        self.failed = np.zeros(shape[0], dtype=bool)
        self._instruction = np.zeros((shape[0], INSTRUCTION_LENGTH), dtype=np.int32) if with_instruction else None

    def put(self, stream: int, frame: Frame) -> None:
        self.observation[stream] = np.moveaxis(frame.image, 2, 0)
        if self._instruction is not None and frame.instruction is not None:
            self._instruction[stream] = frame.instruction

    def info(self) -> dict[str, Any]:
        return Signals(instruction=self._instruction, engine_failed=self.failed if self.failed.any() else None).info()
