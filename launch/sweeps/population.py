"""Population based training (Jaderberg et al. 2017, arXiv 1711.09846): Ray Tune's scheduler, as sweeps use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from r2ac.launch.sweeps.space import Choice, Domain, Span

FACTORS = (0.8, 1.25)
RESAMPLED = 0.25
"""The probability that a number is drawn anew in place of being multiplied by one of the factors."""


class Population(PopulationBasedTraining):
    """All members train for as long, then wait for one another and are compared.

    Tune's own would wait for ever where the last member that the others wait for fails for good.
    """

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """One that was given up."""
        super().on_trial_error(tune_controller, trial)
        self._let_go(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """One that has ended, or failed in a way that would come again."""
        super().on_trial_complete(tune_controller, trial, result)
        self._let_go(tune_controller, trial)

    def _let_go(self, tune_controller: Any, gone: Any) -> None:
        """Where all that are left wait, they go on without a comparison."""
        left = [trial for trial in tune_controller.get_live_trials() if trial is not gone]
        if left and all(self._trial_state[trial].last_train_time >= self._next_perturbation_sync for trial in left):
            self._next_perturbation_sync += self._perturbation_interval


def population(
    perturbed: Mapping[str, Domain], bounds: Mapping[str, tuple[float, float]], quantile: float
) -> PopulationBasedTraining:
    """The scheduler.

    Args:
        perturbed: what changes, and from what it is drawn anew.
        bounds: of numbers, which no change goes beyond.
        quantile: the share that copies, and the share that is copied.
    """

    def within_bounds(config: dict[str, Any]) -> dict[str, Any]:
        limited = {name: min(high, max(low, config[name])) for name, (low, high) in bounds.items()}
        return {**config, **limited}

    return Population(
        time_attr="generation",
        perturbation_interval=1,
        hyperparam_mutations={name: _mutation(domain) for name, domain in perturbed.items()},
        quantile_fraction=quantile,
        resample_probability=RESAMPLED,
        perturbation_factors=FACTORS,
        custom_explore_fn=within_bounds,
        log_config=False,
        synch=True,
    )


def _mutation(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return list(domain.values)
    assert isinstance(domain, Span)
    if domain.whole:
        return tune.randint(int(domain.low), int(domain.high) + 1)
    return tune.loguniform(domain.low, domain.high) if domain.logarithmic else tune.uniform(domain.low, domain.high)
