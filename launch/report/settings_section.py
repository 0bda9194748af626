"""The settings of a study: those that differ, and all of them."""

from __future__ import annotations

import json
from typing import Any

from r2ac.launch.report.blocks import Block, Cell, Code, Details, Section, Table, Text
from r2ac.launch.report.format import listed
from r2ac.launch.report.study import Configuration, Study, differing_settings, setting_of
from r2ac.launch.runs.run_groups import RunGroup

_MOST_CHARACTERS = 20_000


def settings_section(study: Study) -> Section:
    """A table of the settings that differ, a column for each configuration, and the whole ``config.json`` of each."""
    groups = [group for configuration in study.configurations for group in configuration.groups]
    blocks: list[Block] = []
    foreign = [group.name for group in groups if group.name is not None]
    if foreign:
        told = listed(str(name) for name in foreign)
        blocks.append(Text(f"The settings of runs of other programs are not known: {told}.", "missing"))
    own = [group for group in groups if group.name is None]
    names = differing_settings(own)
    if names:
        blocks.append(_table(study, names))
    elif own:
        blocks.append(Text("All runs have the same settings, but for the seed and for where and how fast they ran."))
    configs = tuple(_config(c, group) for c in study.configurations for group in c.groups if group.name is None)
    if configs:
        blocks.append(Details(f"Every setting ({len(configs)})", configs))
    return Section("settings", "Settings", tuple(blocks))


def _table(study: Study, names: list[str]) -> Table:
    known = [c for c in study.configurations if any(group.name is None for group in c.groups)]
    rows: list[tuple[Cell | str, ...]] = [
        (name, *(Cell(_values(configuration, name)) for configuration in known)) for name in names
    ]
    caption = (
        "Settings that differ between any two of the runs, but for the seed and for where and how fast they ran; where "
        "the runs of a configuration differ among themselves, with the tasks of each value"
    )
    return Table(caption, ("setting", *(c.name for c in known)), rows)


def _values(configuration: Configuration, name: str) -> str:
    """``10``, or a line for each value: ``30000000 (dmlab/a)``, ``100000000 (dmlab/b, dmlab/c)``."""
    tasks_of: dict[str, list[str]] = {}
    for group, value in setting_of(configuration.groups, name):
        tasks_of.setdefault(_text(value), []).append(group.task)
    if len(tasks_of) == 1:
        return next(iter(tasks_of))
    return "\n".join(f"{value} ({listed(tasks, most=4)})" for value, tasks in tasks_of.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _config(configuration: Configuration, group: RunGroup) -> Details:
    """That of the group's first run."""
    run = next(run for run in configuration.runs if run.path == group.runs[0])
    summary = f"{configuration.name}, {group.task}: {run.name}"
    text = json.dumps(run.config, indent=2, ensure_ascii=False)
    return Details(summary, (Code(text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"),))
