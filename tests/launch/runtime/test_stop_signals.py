"""Signals that ask a run to stop."""

import signal
from collections.abc import Iterator

import pytest

from r2ac.launch.runtime.stop_signals import StopSignals


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_asks_a_run_to_stop() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.stop_requested()
    assert signals.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_what_was_started_by_nohup_goes_on() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert not signals.stop_requested()
