"""``r2ac push``: a run as a repository of the Hugging Face Hub, with a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from r2ac.envs import MissingPackage
from r2ac.launch.runtime.progress import print_table
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.parser import parse
from r2ac.launch.settings.places import HUB


@dataclass(frozen=True)
class PushArguments:
    """Share a run: its settings, curves, evaluations, pictures and newest checkpoint, and a model card that is written
    from them, as one commit. The commands that read runs read it there by the same URL."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    to: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="hf://USER/NAME")]
    """The repository, hf://USER/NAME, made if it is not there; hf auth login, or HF_TOKEN, says who you are."""
    private: bool = False
    """Whether a new repository is private."""
    licence: str = "apache-2.0"
    """Of the agent, by its SPDX identifier; it stands in the card."""


def push_command(arguments: Sequence[str], console: Console) -> int:
    """``r2ac push RUN hf://USER/NAME``; raises StorageUnavailable where the hub refuses or cannot be reached."""
    parsed = parse(PushArguments, "r2ac push", arguments)
    if not re.fullmatch(rf"{HUB}[\w.-]+/[\w.-]+", parsed.to):
        raise ConfigError(f"{parsed.to} is no repository of the hub, which has the form {HUB}USER/NAME")
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise MissingPackage(f"{parsed.to} needs the package huggingface_hub: pip install 'r2ac[hub]'") from error
    if get_token() is None:
        raise ConfigError("there is no token of the Hugging Face Hub: call hf auth login, or set HF_TOKEN")
    from r2ac.launch.commands.model_card import write_card
    from r2ac.launch.runs.run_files import files_below, shared, wanted
    from r2ac.launch.runs.storage import StorageUnavailable

    name = parsed.to.removeprefix(HUB)
    card = write_card(parsed.run, name, parsed.licence)
    files = shared(wanted(files_below(parsed.run)))
    hub = HfApi(library_name="r2ac")
    try:
        hub.create_repo(name, private=parsed.private, exist_ok=True)
        hub.upload_folder(
            repo_id=name,
            folder_path=parsed.run,
            allow_patterns=files,
            delete_patterns="checkpoints/*",  # those that newer ones have replaced
            commit_message="r2ac push",
        )
    except Exception as error:  # of the hub, of the network, of the package
        said = " ".join(str(error).split())
        raise StorageUnavailable(f"{parsed.to} cannot be written at {hub.endpoint}: {said}") from error
    print_table(
        console, "pushed", [("files", len(files)), ("licence", parsed.licence)], {"to": parsed.to, "card": card}
    )
    return 0
