"""``evaluation.json``: what evaluations of one run have found, side by side, and ``evaluation.md`` beside it.

The file holds one object: ``format``, ``format_version``, ``results`` (`Evaluation.to_json` of each) and ``means`` (a
`TaskMeans` of each checkpoint, split and protocol, with what differs from it, that has several tasks). There is one
result for each checkpoint (by its digest), task, split and protocol; it may lack seeds where the evaluation was
interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from r2ac.envs import MissingPackage, UnknownTask, find_task
from r2ac.launch.evaluation.evaluate import EvaluatedEpisode, Evaluation, evaluation_path
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.evaluation.tables import evaluation_markdown, protocol_of, task_means
from r2ac.launch.runs.run_directory import json_text, write_atomically
from r2ac.launch.runtime.errors import RunError, os_errors_as, os_reason
from r2ac.launch.settings.config import config_from_json

FORMAT = "r2ac evaluation"
FORMAT_VERSION = 2


def read_evaluation(path: Path) -> tuple[Evaluation, ...]:
    """The results in ``path``, an ``evaluation.json`` or a run that holds one, in the order of their beginning. Raises
    RunError where there is none, it is damaged or of another format, or its task cannot be found here."""
    file = evaluation_path(path) if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        if values["format"] != FORMAT or values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {values['format']!r}, version {values['format_version']!r}")
        return tuple(_evaluation(each, file) for each in values["results"])
    except FileNotFoundError as error:
        raise RunError(f"there is no evaluation {file}: r2ac evaluate writes it") from error
    except OSError as error:
        raise RunError(f"{file} cannot be read: {os_reason(error)}") from error
    except (MissingPackage, UnknownTask) as error:
        raise RunError(f"{file} is of a task that is not here: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{file} is damaged or of another r2ac: {reason} (r2ac evaluate --fresh begins anew)") from error


class EvaluationFile:
    """The ``evaluation.json`` of a run while its evaluation is under way; written whole after every seed.

    A context manager: within it no other evaluation writes there (``flock`` on the folder, which is made if need be,
    ends with the process). With ``fresh`` what is asked for begins anew, and everything where the file cannot be read.
    Raises RunError where the file is damaged, of a task that is not here, in use by another evaluation or may not be
    written.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path, self._fresh = path, fresh
        self._drops = fresh and path.exists()
        self._lock = _lock(path.parent)
        self._results: dict[tuple[str, ...], Evaluation] = {}
        try:
            if path.exists():
                self._results = {_slot(result): result for result in read_evaluation(path)}
        except RunError:
            if not fresh:
                self.close()
                raise

    @property
    def results(self) -> tuple[Evaluation, ...]:
        """All that the file holds."""
        return tuple(self._results.values())

    def go_on(self, wanted: Evaluation) -> tuple[Evaluation, str | None]:
        """``wanted`` with the seeds on file that were played just so, and a sentence where there are others."""
        found = self._results.get(_slot(wanted))
        if found is None or self._fresh:
            return wanted, None
        others = [
            f"{name} was {was}, is {getattr(new, name)}"
            for old, new in ((found.config, wanted.config), (found.environment, wanted.environment))
            for name, was in vars(old).items()
            if was != getattr(new, name) and name not in ("seeds", "split", "step_timeout")
        ]
        if others:
            self._drops = True
            return wanted, f"{wanted.task} ({wanted.config.split}) begins anew: {'; '.join(others)}"
        kept = tuple(episode for episode in found.episodes if episode.seed < wanted.config.seeds)
        going_on = replace(
            wanted, episodes=kept, engines_lost=found.engines_lost, date=found.date, versions=found.versions
        )
        # Of fewer seeds than are on file nothing is written, unless some of them are still to be played.
        self._drops |= len(kept) < len(found.episodes) and not going_on.complete
        return going_on, None

    def put(self, evaluation: Evaluation) -> None:
        """Take in a result with one seed or more, in place of that of the same checkpoint, task, split and protocol.
        Raises RunError where it cannot be written."""
        self._keep_what_is_dropped()
        self._results[_slot(evaluation)] = evaluation
        # What was played in another way is no part of the same mean.
        by_set = (((each.sha256, protocol_of(each), each.config.split), each) for each in self.results)
        means = task_means(by_set).items()
        values = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "means": [
                {"sha256": sha256, "protocol": protocol, "split": split, **asdict(mean)}
                for (sha256, protocol, split), mean in means
            ],
            "results": [result.to_json() for result in self.results],
        }
        named = [(f"checkpoint {key[0][:12]}, protocol {key[1]}, split {key[2]}", mean) for key, mean in means]
        with os_errors_as(RunError, f"{self.path} cannot be written"):
            write_atomically(self.path, json_text(values, indent=1))
            write_atomically(self.path.with_suffix(".md"), evaluation_markdown(self.results, named))

    def _keep_what_is_dropped(self) -> None:
        """Before anything is written over, as ``evaluation-<when it was written>.json`` beside the file."""
        if not self._drops:
            return
        self._drops = False
        with os_errors_as(RunError, f"{self.path} cannot be kept before it is replaced"):
            written = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
            shutil.copy2(self.path, self.path.with_name(f"{self.path.stem}-{written:%Y%m%d-%H%M%S}.json"))

    def close(self) -> None:
        """Let others write; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> EvaluationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity, which are no JSON, and which no mean survives."""
    raise ValueError(f"it holds the number {constant}")


def _slot(evaluation: Evaluation) -> tuple[str, ...]:
    return evaluation.sha256, evaluation.task, evaluation.config.split, evaluation.protocol


def _lock(folder: Path) -> int | None:
    """The open folder, locked; None where the file system has no such locks."""
    with os_errors_as(RunError, f"{folder} cannot hold an evaluation"):
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    if not os.access(folder, os.W_OK):
        # To be known before hours of play.
        os.close(opened)
        raise RunError(f"{folder} cannot hold an evaluation: it may not be written (--output names another folder)")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(opened)
        raise RunError(f"{folder} is being evaluated by another process") from error
    except OSError:
        os.close(opened)
        return None
    return opened


def _evaluation(values: dict[str, Any], file: Path) -> Evaluation:
    evaluation = Evaluation(
        checkpoint=Path(values["checkpoint"]),
        sha256=str(values["sha256"]),
        env_steps=int(values["env_steps"]),
        task=find_task(values["task"]).name,
        # As the training's own, so that every option is looked at.
        environment=config_from_json({**values["training"], "env": values["environment"]}, file).env,
        config=EvaluationConfig(**values["evaluation"]),
        training=config_from_json(values["training"], file),
        protocol=str(values["protocol"]),
        changed=tuple(map(str, values["changed"])),
        episodes=tuple(
            EvaluatedEpisode(int(e["seed"]), float(e["episode_return"]), int(e["length"]), bool(e["truncated"]))
            for e in values["episodes"]
        ),
        date=str(values["date"]),
        versions={str(name): str(number) for name, number in values["versions"].items()},
        # Files of earlier versions have no such number.
        engines_lost=int(values.get("engines_lost", 0)),
    )
    numbers = [sum(episode.seed == seed for episode in evaluation.episodes) for seed in evaluation.seeds_played]
    if not numbers or set(numbers) != {evaluation.config.episodes}:
        raise ValueError(f"{evaluation.task} has {numbers} episodes of its seeds, not {evaluation.config.episodes}")
    if evaluation.seeds_played[-1] >= evaluation.config.seeds:
        raise ValueError(f"{evaluation.task} has the seed {evaluation.seeds_played[-1]}")
    return evaluation
