"""YAML with comments: every reader gets the values back, whatever they say."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from r2ac.launch.cluster.manifests.yaml_text import to_yaml

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
KEYS = st.from_regex(r"[a-z][a-zA-Z.]{0,8}", fullmatch=True).filter(
    lambda key: key not in ("y", "n", "on", "off", "no")
)
VALUES = st.recursive(
    TEXT | st.integers() | st.booleans(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYS, parts, max_size=3),
    max_leaves=8,
)


@given(document=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_the_values_come_back(document: dict[str, object]) -> None:
    first = next(iter(document))
    text = to_yaml(document, {} if "." in first else {first: "of the first"})
    assert yaml.safe_load(text) == document


@pytest.mark.parametrize(
    "value",
    ["on", "No", "y", "null", "~", "1e3", "0o7", "1_000", "1:30", "2026-01-01", "", ".inf", "=", "- a", "a: b", "# a"],
)
def test_what_some_reader_takes_for_something_else_is_in_quotes(value: str) -> None:
    assert to_yaml({"key": value}, {}) == f'key: "{value}"\n'


def test_scripts_are_readable_blocks() -> None:
    assert to_yaml({"a": {"script": "set -e\nexec true\n"}}, {}) == "a:\n  script: |\n    set -e\n    exec true\n"


def test_comments_stand_above_what_they_are_about() -> None:
    document = {"a": 1, "groups": [{"name": "cpu", "text": "x\n# b\n"}, {"name": "gpu"}]}
    comments = {"a": "first", "groups.0": "actors", "groups.1.name": "two\nlines", "groups.0.text": "words"}
    assert to_yaml(document, comments).splitlines() == [
        "# first",
        "a: 1",
        "groups:",
        "  # actors",
        "  - name: cpu",
        "    # words",
        "    text: |",
        "      x",
        "      # b",
        "  # two",
        "  # lines",
        "  - name: gpu",
    ]


def test_a_comment_on_nothing_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        to_yaml({"a": 1}, {"b": "lost"})
