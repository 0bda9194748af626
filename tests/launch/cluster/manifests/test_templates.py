"""Templates: every reader of YAML gets the values back, whatever they say."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from r2ac.launch.cluster.manifests.templates import render, to_yaml

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(first=TEXT, second=TEXT, item=TEXT, script=st.lists(TEXT, min_size=2, max_size=4).map("\n".join))
def test_the_values_come_back(first: str, second: str, item: str, script: str) -> None:
    text = (
        f"# of the first\n{to_yaml(first)}: {to_yaml(second)}\nlist:\n  - {to_yaml(item)}\n  - {to_yaml(script, 4)}\n"
    )
    assert yaml.safe_load(text) == {first: second, "list": [item, script]}


@pytest.mark.parametrize(
    "value",
    ["on", "No", "y", "null", "~", "1e3", "0o7", "1_000", "1:30", "2026-01-01", "", ".inf", "=", "- a", "a: b", "# a"],
)
def test_what_some_reader_takes_for_something_else_is_in_quotes(value: str) -> None:
    assert to_yaml(value) == f'"{value}"'


def test_scripts_are_readable_blocks() -> None:
    script = "set -e\n\nif true; then\n    exec true\nfi\n"
    assert to_yaml(script, 4) == "|\n    set -e\n\n    if true; then\n        exec true\n    fi"


def test_a_value_that_is_not_given_is_a_mistake() -> None:
    with pytest.raises(UndefinedError):
        render("command.sh.j2")
