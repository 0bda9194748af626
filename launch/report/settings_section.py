"""The settings of a study: those that differ, and all of them."""

from __future__ import annotations

import json

from r2ac.launch.report.blocks import Section, html
from r2ac.launch.report.format import listed
from r2ac.launch.report.study import Configuration, Study, differing_settings, setting_of

_MOST_CHARACTERS = 20_000
_CAPTION = (
    "Settings that differ between any two of the runs, but for the seed and for where and how fast they ran; where "
    "the runs of a configuration differ among themselves, with the tasks of each value"
)


def settings_section(study: Study) -> Section:
    """A table of the settings that differ, a column for each configuration, and the whole ``config.json`` of each."""
    pairs = [(configuration, group) for configuration in study.configurations for group in configuration.groups]
    foreign = [group.name for _, group in pairs if group.name is not None]
    own = [(configuration, group) for configuration, group in pairs if group.name is None]
    names = differing_settings([group for _, group in own])
    blocks = []
    if foreign:
        blocks.append(html.text(f"The settings of runs of other programs are not known: {listed(foreign)}.", "missing"))
    if names:
        columns = list(dict.fromkeys(configuration for configuration, _ in own))
        rows = [{"setting": name, **{c.name: _values(c, name) for c in columns}} for name in names]
        blocks.append(html.table(_CAPTION, rows))
    elif own:
        same = "All runs have the same settings, but for the seed and for where and how fast they ran."
        blocks.append(html.text(same))
    configs = []
    for configuration, group in own:
        run = next(run for run in configuration.runs if run.path == group.runs[0])
        text = json.dumps(run.config, indent=2, ensure_ascii=False)
        text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"
        configs.append(html.details(f"{configuration.name}, {group.task}: {run.name}", [html.code(text)]))
    if configs:
        blocks.append(html.details(f"Every setting ({len(configs)})", configs))
    return Section("settings", "Settings", blocks)


def _values(configuration: Configuration, name: str) -> str:
    """``10``, or a line for each value: ``30000000 (dmlab/a)``, ``100000000 (dmlab/b, dmlab/c)``."""
    tasks_of: dict[str, list[str]] = {}
    for group, value in setting_of(configuration.groups, name):
        tasks_of.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(group.task)
    if len(tasks_of) == 1:
        return next(iter(tasks_of))
    return "\n".join(f"{value} ({listed(tasks, most=4)})" for value, tasks in tasks_of.items())
