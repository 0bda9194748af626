"""The benchmark of population based training: both ways are the same sweep but for the scheduler."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from r2ac.launch.commands.sweep import _parse
from r2ac.launch.sweeps.sweep_plan import SweepPlan, make_plan


def test_both_ways_begin_with_the_same_draws_and_have_the_same_budget(
    module: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pbt = module("pbt")
    options = Namespace(
        rates=(1e-5, 1e-3), highest=0.1, factor=2.0, corridor=4, chrono=10, steps=4000, perturb_every=2000, members=4
    )

    def plan_of(way: str) -> SweepPlan:
        command = pbt.command(options, 7, way, tmp_path)
        words = command[command.index("sweep") + 1 :]
        settings, flags = _parse(words[1:])
        return make_plan(words[0], flags, settings)

    random, population = plan_of(pbt.RANDOM), plan_of(pbt.POPULATION)
    assert [trial.settings for trial in random.trials] == [trial.settings for trial in population.trials]
    assert len({trial.settings["learning-rate"] for trial in random.trials}) == 4
    same = [replace(trial.config, log_steps=0) for trial in random.trials]
    assert [replace(trial.config, log_steps=0) for trial in population.trials] == same
    assert population.bounds == {"learning-rate": (1e-5, 0.1)}
    assert (random.perturb_every, population.perturb_every) == (0, 2000)
    assert (population.settings.perturb_factor, population.settings.resample) == (2.0, 0.0)
