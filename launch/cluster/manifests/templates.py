"""Templates that look like the files that they make. Values can say whatever they like: they stay values."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The text of a template of this folder. Two filters quote a value: ``sh`` as one word of a POSIX shell, ``yaml``
    as a scalar of YAML, see `to_yaml`."""
    return _ENVIRONMENT.get_template(template).render(values)


def to_yaml(text: str, indent: int = 0) -> str:
    """A string as a scalar of YAML 1.1 and 1.2: in double quotes, or of several lines as an indented block."""
    style = "|" if "\n" in text else '"'
    scalar = yaml.safe_dump(text, default_style=style, width=10**9).removesuffix("\n")
    return scalar.replace("\n  ", "\n" + " " * indent)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(sh=shlex.quote, yaml=to_yaml)
