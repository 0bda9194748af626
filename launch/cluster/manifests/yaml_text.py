"""YAML with comments. Values can say whatever they like: they stay values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
# What some reader of YAML takes for a truth value or for nothing.
_WORDS_OF_YAML = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class _Quoted(str):
    """A string that readers of YAML 1.1 and 1.2 could take for something else, in double quotes."""


class _Block(str):
    """A string of several lines, as a block."""


class _Dumper(yaml.SafeDumper):
    """Writes lists indented below their key, and nothing as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def to_yaml(document: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """A document of YAML, with comments above the keys that they are about.

    Args:
        document: mappings with plain names as keys, lists, strings, numbers, truth values.
        comments: texts of one or several lines by the path of a key, such as ``spec.groups.0.name``.

    Raises:
        KeyError: for a comment on what is not there.
    """
    text = yaml.dump(_marked(document), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=10**9)
    # The composer's marks say in which line each key stands.
    places = dict(_places(yaml.compose(text, Loader=yaml.SafeLoader), ""))
    lines = text.split("\n")
    for path, comment in sorted(comments.items(), key=lambda item: -places[item[0]][0]):
        line, column = places[path]
        # The first key of a mapping in a list stands behind the dash.
        indent = re.match(r" *", lines[line]).group() if column else ""  # type: ignore[union-attr]
        lines[line:line] = [f"{indent}# {part}" for part in comment.splitlines()]
    return "\n".join(lines)


def _marked(value: Any) -> Any:
    """The value with every string in the style that it needs."""
    if isinstance(value, Mapping):
        return {key: _marked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(part) for part in value]
    if not isinstance(value, str):
        return value
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return _Block(value) if "\n" in value else _Quoted(value)


def _places(node: yaml.Node | None, path: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (line, column)) of every key and every item of a list below a node."""
    parts: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        parts = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = [(str(index), value, value) for index, value in enumerate(node.value)]
    for name, marked, value in parts:
        here = f"{path}.{name}" if path else name
        yield here, (marked.start_mark.line, marked.start_mark.column)
        yield from _places(value, here)
