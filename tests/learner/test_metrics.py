"""Sums and counts that stay on the device until they are read."""

import pytest
import torch

from r2ac.learner.metrics import UpdateMetrics


def tally_of(losses: list[float]) -> UpdateMetrics:
    """A tally of updates with these losses and ten times as large gradient norms."""
    tally = UpdateMetrics(("loss", "norm"), torch.device("cpu"))
    for loss in losses:
        values = {"loss": torch.tensor(loss), "norm": torch.tensor(10 * loss)}
        tally.add_update(values, torch.tensor(loss).isfinite())
    return tally


NAN = float("nan")


def test_means_are_those_of_the_good_updates_since_the_last_reading() -> None:
    tally = tally_of([1.0, NAN, 4.0])
    assert tally.take() == pytest.approx({"loss": 2.5, "norm": 25.0})
    assert tally.take() == {}
    tally.add_update({"loss": torch.tensor(3.0), "norm": torch.tensor(2.0)}, torch.tensor(True))
    assert tally.take() == {"loss": 3.0, "norm": 2.0}


def test_the_longest_run_of_skips_is_kept_until_it_is_taken_whatever_else_is_read() -> None:
    tally = tally_of([1.0, NAN, NAN, NAN, 2.0, NAN])
    assert tally.skips().total == tally.skips().total == 4
    tally.take()
    assert tally.take_most_in_a_row() == 3
    assert tally.take_most_in_a_row() == 1  # that which is not over
    tally.add_update({"loss": torch.tensor(NAN), "norm": torch.tensor(1.0)}, torch.tensor(False))
    assert tally.take_most_in_a_row() == 2


def test_the_last_skipped_loss_is_kept_and_a_count_may_go_on() -> None:
    tally = tally_of([float("inf"), 1.0])
    assert tally.skips().loss == tally.skips().gradient_norm == float("inf")
    tally.set_skips(7)
    assert tally.skips().total == 7
