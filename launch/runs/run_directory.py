"""The run directory: where one training run keeps everything it writes."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from r2ac.launch.runtime.errors import RunDirectoryError, os_errors_as, os_reason

_PATIENCE, _POLL_SECONDS = 600.0, 0.2


def default_run_directory(task: str, label: str, seed: int, now: datetime | None = None) -> Path:
    """``runs/<suite>-<name>/<label>-seed<seed>-<YYYYmmdd-HHMMSS>``, in local time; for several tasks, separated by
    commas, ``procgen-maze+3``: the first and the number of the others."""
    started = now or datetime.now()
    # A colon is the end of a machine's name to scp and rsync.
    label = label.replace(" ", "-").replace(":", "-")
    first, *others = task.split(",")
    folder = first.replace("/", "-") + (f"+{len(others)}" if others else "")
    return Path("runs") / folder / f"{label}-seed{seed}-{started:%Y%m%d-%H%M%S}"


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as strict JSON and a newline: paths are strings, numbers that are not finite are null."""
    return json.dumps(_finite(value), indent=indent, default=os.fspath, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Makes the directory ``path``, or the first of ``path``-2, ``path``-3, … that is not there yet; at the end it is
    removed, with the parents made for it, if they are empty. Raises RunDirectoryError where none can be made."""
    for number in itertools.count(1):
        made = path if number == 1 else path.with_name(f"{path.name}-{number}")
        new = [each for each in (made, *made.parents) if not each.exists()]
        try:
            made.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise RunDirectoryError(f"{made} cannot hold a run: {os_reason(error)}") from error
    try:
        yield made
    finally:
        for each in new:
            # Of a run that was discarded the folder is gone.
            with suppress(OSError):
                each.rmdir()


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that a reader or a crash meets the old one or the new one, whole. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_locked(path: Path, wait: bool = False) -> TextIO:
    """The file at ``path``, made if need be, locked until it is closed or the process ends; child programs do not
    inherit the lock. Raises BlockingIOError where another process has it and ``wait`` is False, and OSError."""
    # "a+" leaves what the holder has written as it is; Python opens it with O_CLOEXEC.
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (open while locked)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


class RunDirectory:
    """One run on disk, made by `create` or `open`. One that is created, or opened for writing, is locked
    (``run.lock``) until `close`: no second process can train in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.evaluation_path = path / "evaluation.json"
        self.curves_path = path / "curves.png"
        self._lock: TextIO | None = None

    @classmethod
    def create(cls, path: Path | str, config: dict[str, Any]) -> RunDirectory:
        """A new run in ``path`` (made with its parents), locked, with ``config`` as its ``config.json``. Raises
        RunDirectoryError where ``path`` already holds a run, is in use or cannot be written."""
        run = cls(Path(path))
        text = json_text(config, indent=2)
        with ExitStack() as on_error, os_errors_as(RunDirectoryError, f"{run.path} cannot hold a run"):
            on_error.callback(run.close)
            run._check_holds_no_run()
            run.path.mkdir(parents=True, exist_ok=True)
            run._acquire()
            # Another process may have begun and ended a run between the look and the lock.
            run._check_holds_no_run()
            run.checkpoints.mkdir(exist_ok=True)
            write_atomically(run.config_path, text)
            on_error.pop_all()
        return run

    @classmethod
    def open(cls, path: Path | str, for_writing: bool, waits: Callable[[str], object] | None = None) -> RunDirectory:
        """The run in ``path``, locked where it is ``for_writing``. With ``waits`` a run that is in use is waited for,
        ten minutes at most, as a lost training may still hold it; ``waits`` gets a sentence that names the holder.

        Raises RunDirectoryError where ``path`` is not a run, or, with ``for_writing``, is in use or cannot be written.
        """
        run = cls(Path(path))
        sentence = f"run directory {run.path} cannot be {'written' if for_writing else 'read'}"
        with ExitStack() as on_error, os_errors_as(RunDirectoryError, sentence):
            on_error.callback(run.close)
            if not run.path.exists():
                raise RunDirectoryError(f"{run.path} does not exist")
            if not run.config_path.is_file():
                raise RunDirectoryError(f"{run.path} is not a run directory: it holds no config.json")
            if for_writing:
                run._acquire(waits)
                run.checkpoints.mkdir(exist_ok=True)
            on_error.pop_all()
        return run

    def read_config(self) -> dict[str, Any]:
        """The settings as JSON gives them back: tuples are lists, paths are strings. Raises RunDirectoryError where
        ``config.json`` cannot be read or is damaged."""
        try:
            config = json.loads(self.config_path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunDirectoryError(f"{self.config_path} cannot be read: {os_reason(error)}") from error
        except ValueError as error:
            raise RunDirectoryError(f"{self.config_path} is damaged: it is not valid JSON ({error})") from error
        if not isinstance(config, dict):
            raise RunDirectoryError(f"{self.config_path} is damaged: it holds no JSON object but {config!r:.40}")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Replaces ``config.json``. Raises RunDirectoryError where it cannot be written."""
        with os_errors_as(RunDirectoryError, f"{self.config_path} cannot be written"):
            write_atomically(self.config_path, json_text(config, indent=2))

    def discard(self) -> None:
        """Removes a run without a checkpoint: what `create` made, empty metrics, unfinished checkpoints, and the
        directory if nothing else is in it."""
        self.config_path.unlink(missing_ok=True)
        (self.path / "run.lock").unlink(missing_ok=True)
        with suppress(OSError):
            if self.metrics_path.stat().st_size == 0:
                self.metrics_path.unlink()
        for part in self.checkpoints.glob(".*"):
            part.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path):
            with suppress(OSError):
                folder.rmdir()
        self.close()

    def close(self) -> None:
        """Releases the lock; a second call does nothing."""
        if self._lock is not None:
            # Closing, not LOCK_UN: in a forked child an unlock would take the lock from the parent.
            self._lock.close()
            self._lock = None

    def _check_holds_no_run(self) -> None:
        if self.config_path.exists():
            again = "but no checkpoint from which it could go on; choose"
            if any(self.checkpoints.glob("[!.]*")):
                again = f"continue it with --resume {self.path} or choose"
            raise RunDirectoryError(f"{self.path} already holds a run; {again} another --run-dir")
        if self.metrics_path.exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir())):
            raise RunDirectoryError(
                f"{self.path} already holds what is left of a run without config.json; choose another --run-dir"
            )

    def _acquire(self, waits: Callable[[str], object] | None = None) -> None:
        """Lock the run, or wait for its end where ``waits`` is given."""
        path, deadline, reported = self.path / "run.lock", time.monotonic() + _PATIENCE, False
        while True:
            try:
                self._lock = open_locked(path)
                break
            except BlockingIOError as error:
                holder = path.read_text(encoding="utf-8").strip() or "another process"
                sentence = f"run directory {self.path} is in use by {holder}"
                if waits is None or time.monotonic() > deadline:
                    raise RunDirectoryError(sentence) from error
                if not reported:
                    waits(f"{sentence}: waiting for its end")
                    reported = True
                time.sleep(_POLL_SECONDS)
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()
        # A fork without exec would share the lock, and hold it on after this process has died.
        close = weakref.WeakMethod(self.close)
        os.register_at_fork(after_in_child=lambda: (alive := close()) and alive())
