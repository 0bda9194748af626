"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846): Ray Tune's scheduler, as sweeps use it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from r2ac.launch.sweeps.space import Choice, Domain, Span
from r2ac.launch.sweeps.sweep_plan import SweepPlan

_TIME = "generation"


class Population(PopulationBasedTraining):
    """All members train for as long, then wait for one another and are compared.

    Two faults of Tune's are mended: it draws from generators that others draw from too, so that no seed would repeat
    it; and it would wait for ever where the member that all others wait for fails for good.
    """

    def __init__(self, plan: SweepPlan, first_generation: int) -> None:
        settings, bounds = plan.settings, plan.bounds

        def within_bounds(config: dict[str, Any]) -> dict[str, Any]:
            limited = {name: min(high, max(low, config[name])) for name, (low, high) in bounds.items()}
            return {**config, **limited}

        super().__init__(
            time_attr=_TIME,
            perturbation_interval=1,
            synch=True,
            hyperparam_mutations={name: _mutation(domain) for name, domain in plan.perturbed.items()},
            quantile_fraction=settings.quantile,
            resample_probability=settings.resample,
            perturbation_factors=(1 / settings.perturb_factor, settings.perturb_factor),
            custom_explore_fn=within_bounds,
            log_config=False,
        )
        self._seed = (settings.sweep_seed, first_generation)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with _seeded([*self._seed, int(result[_TIME])]):
            return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self._compare_without(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._compare_without(tune_controller, trial)

    def _compare_without(self, tune_controller: Any, gone: Any) -> None:
        """Where all other members wait, they train on without a comparison."""
        left = [trial for trial in tune_controller.get_live_trials() if trial is not gone]
        if left and all(self._trial_state[trial].last_train_time >= self._next_perturbation_sync for trial in left):
            self._next_perturbation_sync += self._perturbation_interval


@contextmanager
def _seeded(seed: Sequence[int]) -> Iterator[None]:
    """Within, the generators of the whole process are as they follow from the seed; then they are as before."""
    before, numpy_before = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(seed).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _mutation(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return list(domain.values)
    assert isinstance(domain, Span)
    if domain.whole:
        return tune.randint(int(domain.low), int(domain.high) + 1)
    return tune.loguniform(domain.low, domain.high) if domain.logarithmic else tune.uniform(domain.low, domain.high)
