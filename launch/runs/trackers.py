"""Weights & Biases and MLflow beside TensorBoard: the trackers that ``--log`` names.

Both get the numbers of a line of ``metrics.jsonl`` over environment steps, by their tags in
:mod:`r2ac.launch.runs.tensorboard`, and every setting by the name of its flag. Their own environment variables say
where: ``WANDB_MODE``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and so on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from r2ac.envs import MissingPackage
from r2ac.launch.runs.run_directory import write_atomically
from r2ac.launch.runs.tensorboard import TAGS, flat
from r2ac.launch.runtime.errors import last_line
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.places import is_url

_DEFAULTS = {
    "WANDB_PROJECT": "r2ac",
    "MLFLOW_EXPERIMENT_NAME": "r2ac",
    # No usage statistics to the makers of the packages.
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow would else try for minutes to reach a server that is gone, while the training waits.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


@dataclass(frozen=True)
class _Tracker:
    run_id: str
    log: Callable[[int, Mapping[str, float]], None]
    """Takes environment steps and numbers by their tags."""
    close: Callable[[Literal["FINISHED", "KILLED", "FAILED"]], None]


class Trackers:
    """The trackers of a training at ``place``, whose run is written in ``folder``; open within this context.

    A run there has the name of the run's directory. Its id stands in ``wandb.id`` and ``mlflow.id`` in the directory: a
    training that is resumed goes on in it. A tracker that fails is reported in one sentence and gets no more.
    """

    def __init__(self, config: TrainConfig[Any], place: Path | str, folder: Path, console: Console) -> None:
        self._console, self._total_steps, self._env_steps = console, config.total_steps, 0
        self._open: dict[str, _Tracker] = {}
        _set_defaults()
        where = str(place) if is_url(str(place)) else os.path.abspath(place)
        settings = {**flat(config.to_json()), "run_dir": where}
        for name in dict.fromkeys(config.log):
            with self._failure_reported(name):
                known = folder / f"{name}.id"
                run_id = known.read_text(encoding="utf-8").strip() if known.exists() else None
                self._open[name] = _BEGIN[name]("/".join(where.split("/")[-2:]), settings, folder, run_id)
                write_atomically(known, self._open[name].run_id)

    def log(self, env_steps: int, env_frames: int, wall_time: float, values: Mapping[str, float]) -> None:
        """A line of metrics.jsonl."""
        self._env_steps = env_steps
        row = {"env_frames": env_frames, "wall_time": wall_time, **{TAGS.get(key, key): v for key, v in values.items()}}
        for name, tracker in list(self._open.items()):
            with self._failure_reported(name):
                tracker.log(env_steps, row)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        interrupted = self._env_steps < self._total_steps
        for name, tracker in list(self._open.items()):
            with self._failure_reported(name):
                tracker.close("FAILED" if isinstance(error, Exception) else "KILLED" if interrupted else "FINISHED")

    @contextmanager
    def _failure_reported(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of the network, of the server, of the package
            self._open.pop(name, None)
            sentence = f"r2ac: {name} takes no more of this training, which goes on without it: {last_line(error)}"
            self._console.print(sentence, markup=False, soft_wrap=True, highlight=False)


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingPackage where the package of one of these trackers is not installed, and ConfigError where Weights &
    Biases has no key to log in with."""
    for name in names:
        spec = find_spec(name)
        # A folder of this name, such as W&B writes, is found as a package without a file.
        if spec is None or spec.origin is None:
            raise MissingPackage(f"--log {name} needs the package {name}: pip install 'r2ac[{name}]'")
    if "wandb" in names:
        _set_defaults()
        import wandb

        # Without a key wandb.init would ask for one on the terminal. A server that does not answer is reported later.
        with suppress(wandb.Error):
            if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
                raise ConfigError("--log wandb needs a key: `wandb login` stores one; WANDB_MODE=offline needs none")


def _set_defaults() -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def _begin_wandb(name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> _Tracker:
    import wandb

    quiet = wandb.Settings(console="off", quiet=True, allow_val_change=True, finish_timeout=60)
    options: Any = {"config": dict(settings), "dir": folder, "reinit": "create_new", "settings": quiet}
    run = wandb.init(name=name, id=run_id, resume="allow" if run_id else None, **options)

    def log(env_steps: int, values: Mapping[str, float]) -> None:
        # W&B takes no step twice: what is measured again after a crash is there already.
        if env_steps >= run.step:
            run.log(dict(values), step=env_steps, commit=True)

    return _Tracker(run.id, log, lambda state: run.finish(exit_code=int(state == "FAILED")))


def _begin_mlflow(name: str, settings: Mapping[str, Any], folder: Path, run_id: str | None) -> _Tracker:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    if run_id is None:
        experiment = os.environ["MLFLOW_EXPERIMENT_NAME"]
        if client.get_experiment_by_name(experiment) is None:
            # Another training may make it at the same time.
            with suppress(MlflowException):
                client.create_experiment(experiment)
        if (found := client.get_experiment_by_name(experiment)) is None:
            raise ConfigError(f"--log mlflow can neither find nor make the experiment {experiment!r}")
        run_id = client.create_run(found.experiment_id, run_name=name).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    before = client.get_run(run_id).data.params
    # MLflow takes 100 parameters at a time and changes none: a tag has the new value of a training that was resumed.
    new = [Param(key, str(value)) for key, value in settings.items() if key not in before]
    for i in range(0, len(new), 100):
        client.log_batch(run_id, params=new[i : i + 100])
    for key, value in settings.items():
        if before.get(key, str(value)) != str(value):
            client.set_tag(run_id, key, str(value))

    def log(env_steps: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        # These characters alone may be in a name.
        names = {re.sub(r"[^\w\-. :/]", "_", key): float(value) for key, value in values.items()}
        client.log_batch(run_id, metrics=[Metric(key, value, now, env_steps) for key, value in names.items()])

    return _Tracker(run_id, log, lambda state: client.set_terminated(run_id, state))


_BEGIN = {"wandb": _begin_wandb, "mlflow": _begin_mlflow}
