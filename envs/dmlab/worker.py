"""What the process of one DeepMind Lab engine runs: python -m r2ac.envs.dmlab.worker FILE_DESCRIPTOR FOLDER

The descriptor is one end of a connection, the folder the process's own. What comes first is (EngineSettings, the most
seconds that a command may take); then ("reset", seed) or ("step", action), each answered with an Answer; at last None.
What Python can catch is answered with a Failure, after which the process ends.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from r2ac.envs.dmlab.engine import Engine, Failure
from r2ac.envs.dmlab.folders import remove_folder


def main() -> None:
    descriptor, folder = int(sys.argv[1]), Path(sys.argv[2])
    # The programs that compile maps must not hold the connection: its end shows the other side that this one is dead.
    os.set_inheritable(descriptor, False)
    with Connection(descriptor) as connection:
        try:
            _serve(connection)
        except (EOFError, ConnectionError):
            # The other process is gone and cannot clean up any more.
            remove_folder(folder)


def _serve(connection: Connection) -> None:
    settings, most_seconds = connection.recv()
    # A hanging engine keeps Python's lock: where the other process is gone, only the kernel can end this one.
    signal.alarm(most_seconds)
    try:
        engine = Engine(settings)
    except Exception as error:
        in_import = isinstance(error, ImportError)
        connection.send(Failure(f"{type(error).__name__}: {error}", in_constructor=True, in_import=in_import))
        return
    while True:
        signal.alarm(0)
        command = connection.recv()
        if command is None:
            break
        signal.alarm(most_seconds)
        name, argument = command
        try:
            if name == "reset":
                _forget_output()
            answer = engine.reset(argument) if name == "reset" else engine.step(argument)
        except Exception as error:
            connection.send(Failure(f"{type(error).__name__}: {error}"))
            return
        connection.send(answer)
    engine.close()


def _forget_output() -> None:
    """Only the output of the current episode is kept."""
    sys.stdout.flush()
    os.ftruncate(sys.stdout.fileno(), 0)


if __name__ == "__main__":
    main()
