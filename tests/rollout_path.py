"""The way of a rollout, from ``env.step`` to ``optimiser.step``: the files a reader passes, and how deep the calls go.

    python -m tests.rollout_path

runs a short training (memory/tmaze, RTRL, CPU) and watches the calls in it. Its rollout actors are those of local
Ray, with the same sockets and shared memory, but on threads of this process, where their calls can be watched.

A file is on the way if one of its functions

- is given a rollout or returns one: a `Rollout`, a dataclass that wraps one, or a dictionary of its arrays; or
- is on the stack of a rollout actor when the environment steps, or on the stack of the learner's loop when the core's
  recurrence is computed or the optimiser makes its step.

Depth is counted from the function that builds the objects of the run to the kernel of the recurrence, both included.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from r2ac.envs.tmaze import TMazeVector
from r2ac.launch.cli import main
from r2ac.launch.rollouts.rollout_actor import RolloutActor
from r2ac.launch.train.learn import learn
from r2ac.launch.train.loop import TrainingLoop
from r2ac.learner import Learner, Rollout

ROOT = Path(__file__).parents[1]
FLAGS = (
    "train memory/tmaze --algorithm vtrace --gradient rtrl "
    "--num-actors 2 --streams-per-actor 8 --batch-size 8 --rollout-length 5 "
    "--hidden-size 8 --total-steps 480 --log-steps 1000000 --device cpu --run-dir"
)
WATCHED = range(3, 9)
"""The updates that are watched: nothing begins any more, nothing ends yet."""


@dataclass
class RolloutPath:
    """What a training showed."""

    files: dict[str, set[str]] = field(default_factory=dict)
    """The files on the way, and the functions in them that put them there."""
    wrappers: set[str] = field(default_factory=set)
    """The dataclasses that a rollout was wrapped in."""
    stack: list[CodeType] = field(default_factory=list)
    """The calls from the function that builds the run to the kernel of the recurrence."""

    def lines(self) -> int:
        """Of the files, together."""
        return sum(len((ROOT / name).read_text().splitlines()) for name in self.files)


class ThreadRay:
    """As much of Ray as a training on one machine uses, with each actor on a thread of its own."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        RayTaskError = RayError

    def remote(self, kind: type) -> Any:
        def start(*arguments: Any, **named: Any) -> ThreadActor:
            return ThreadActor(lambda: kind(*arguments, **named))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        done, _ = wait(calls, timeout, FIRST_COMPLETED if num_returns == 1 else ALL_COMPLETED)
        return [call for call in calls if call in done], [call for call in calls if call not in done]

    def get(self, call: Future[Any]) -> Any:
        return call.result()

    def kill(self, actor: Any) -> None:
        """Its thread ends with its connection."""

    def nodes(self) -> list[str]:
        return ["this one"]

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_placement_group_id=lambda: None)


class ThreadActor:
    """A handle: ``actor.method.remote(...)`` returns a future."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._calls: queue.Queue[tuple[str, tuple[Any, ...], Future[Any]]] = queue.Queue()
        threading.Thread(target=self._run, args=(make,), daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Future[Any]:
            call: Future[Any] = Future()
            self._calls.put((name, arguments, call))
            return call

        return SimpleNamespace(remote=remote)

    def _run(self, make: Callable[[], Any]) -> None:
        actor = make()
        while True:
            name, arguments, call = self._calls.get()
            try:
                call.set_result(getattr(actor, name)(*arguments))
            except BaseException as error:
                call.set_exception(error)


class Watch:
    """A profile function of all threads, for as long as the updates are the watched ones."""

    def __init__(self) -> None:
        self.path, self.is_on = RolloutPath(), False

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        if not self.is_on or event not in ("call", "return"):
            return
        code, name = frame.f_code, file_of(frame.f_code)
        if event == "return":
            if self._is_rollout(value):
                self._add([code])
            return
        if name is not None and any(self._is_rollout(frame.f_locals.get(each)) for each in code.co_varnames):
            self._add([code])
        if code is TMazeVector.step.__code__:
            self._add(stack_from(RolloutActor.collect.__code__, frame)[:-1])
        elif code.co_name == "step" and ("/torch/optim/" in code.co_filename or name == "learner/optimiser.py"):
            self._add(stack_from(TrainingLoop.loop.__code__, frame))
        elif name is not None and name.startswith("kernels/"):
            stack = stack_from(learn.__code__, frame)
            # The agent calls the recurrence forwards. What a kernel calls in its own file is the kernel.
            forwards = any(file_of(each) == "agents/agent.py" for each in stack) and name != file_of(stack[-2])
            if forwards and len(stack) >= len(self.path.stack):
                self.path.stack = stack

    def _add(self, codes: list[CodeType]) -> None:
        for code in codes:
            if (name := file_of(code)) is not None:
                self.path.files.setdefault(name, set()).add(code.co_qualname)

    def _is_rollout(self, value: Any) -> bool:
        """Whether it is a rollout, alone, wrapped or as its arrays; or a list or pair that begins or ends with one."""
        if isinstance(value, Rollout):
            return True
        if isinstance(value, list | tuple) and value:
            return self._is_rollout(value[0]) or self._is_rollout(value[-1])
        if is_dataclass(value) and any(isinstance(each, Rollout) for each in vars(value).values()):
            self.path.wrappers.add(type(value).__name__)
            return True
        return isinstance(value, dict) and "behaviour_logits" in value

    def end(self) -> RolloutPath:
        """What was found."""
        self._add(self.path.stack[1:])
        return self.path


@cache
def file_of(code: CodeType) -> str | None:
    """A file of the package, below its root; None for other code."""
    path = Path(code.co_filename).resolve()
    if not path.is_file() or not path.is_relative_to(ROOT) or "site-packages" in path.parts:
        return None
    name = path.relative_to(ROOT)
    return None if name.parts[0] == "tests" else str(name)


def stack_from(first: CodeType, frame: FrameType | None) -> list[CodeType]:
    """The package's functions that are being called, from ``first`` on; empty where that is not among them."""
    codes = []
    while frame is not None:
        if file_of(frame.f_code) is not None:
            codes.append(frame.f_code)
        if frame.f_code is first:
            return codes[::-1]
        frame = frame.f_back
    return []


def rollout_path(folder: Path) -> RolloutPath:
    """Train, with a run in ``folder``, and watch."""
    watch, update = Watch(), Learner.update

    def counted(learner: Learner, rollout: Rollout[Any]) -> Any:
        watch.is_on = learner.updates in WATCHED
        return update(learner, rollout)

    connection = SimpleNamespace(ray=ThreadRay(), close=lambda: None)
    with (
        patch("r2ac.launch.train.sources.connect", lambda *_, **__: connection),
        patch.object(Learner, "update", counted),
    ):
        threading.setprofile(watch)
        sys.setprofile(watch)
        try:
            assert main([*FLAGS.split(), str(folder / "run")]) == 0
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return watch.end()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        path = rollout_path(Path(made))
    for name in sorted(path.files):
        print(f"{len((ROOT / name).read_text().splitlines()):5} {name}: {', '.join(sorted(path.files[name]))}")
    print(f"{path.lines():5} lines in {len(path.files)} files; wrappers: {', '.join(sorted(path.wrappers))}")
    print(f"the recurrence is {len(path.stack)} calls deep:")
    print("\n".join(f"      {file_of(code)}: {code.co_qualname}" for code in path.stack))
