"""The search for fast settings: what it tries, when it ends, and that its trials are real trainings."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from r2ac.launch.cli import main
from r2ac.launch.cluster.connect import ConnectionFailed
from r2ac.launch.runtime.process import available_cores
from r2ac.launch.settings.config import ConfigError, TrainConfig
from r2ac.launch.settings.presets import preset
from r2ac.launch.train.bench import BenchTrial, fastest, measure, search

Capture = pytest.CaptureFixture[str]
CONFIG = preset("memory/tmaze", algorithm="vtrace")


def trial(config: TrainConfig[Any], speed: float) -> BenchTrial:
    return BenchTrial(config, speed, 0.0, None)


def speeds(of: Callable[[TrainConfig[Any]], float]) -> Callable[[TrainConfig[Any], float], BenchTrial]:
    return lambda config, seconds: trial(config, of(config))


def test_each_setting_is_tried_once_and_the_best_is_built_on() -> None:
    trials = list(search(CONFIG, 60, 1, speeds(lambda c: c.streams_per_actor / (1 + abs(c.num_actors - 2)))))
    tried = [(t.config.num_actors, t.config.streams_per_actor, t.config.learner_threads) for t in trials]
    assert len(set(tried)) == len(tried)
    assert tried[0][:2] == (CONFIG.num_actors, CONFIG.streams_per_actor)
    assert {0, 1, available_cores()} <= {actors for actors, _, _ in tried}
    best = fastest(trials)
    assert best.steps_per_second == max(t.steps_per_second for t in trials)
    assert best.config.streams_per_actor == 2 * CONFIG.streams_per_actor
    assert f"--streams-per-actor {2 * CONFIG.streams_per_actor}" in best.flags()


def test_there_are_always_streams_enough_for_a_batch() -> None:
    for each in search(CONFIG, 60, 1, speeds(lambda config: -config.streams_per_actor)):
        replace(each.config, total_steps=1000).check()
        assert each.config.num_streams >= CONFIG.batch_size


def test_the_search_keeps_to_its_time() -> None:
    now = 100.0

    def slow(config: TrainConfig[Any], seconds: float) -> BenchTrial:
        nonlocal now
        now += 0.2
        return trial(config, 1.0)

    assert len(list(search(CONFIG, 0.5, 0.2, slow, clock=lambda: now))) == 2
    assert now == pytest.approx(100.4)
    assert len(list(search(CONFIG, 1e-9, 0.2, slow, clock=lambda: now))) == 1, "one is always tried"


def test_what_is_faster_by_less_than_the_noise_is_not() -> None:
    first, second, third = trial(CONFIG, 100), trial(CONFIG, 101), trial(CONFIG, 110)
    assert fastest([first, second]) is first
    assert fastest([first, second, third]) is third


def test_what_is_not_allowed_is_left_out() -> None:
    def check(config: TrainConfig[Any], seconds: float) -> BenchTrial:
        config.check()
        return trial(config, 1.0)

    tried = [each.config.num_actors for each in search(replace(CONFIG, inference="worker"), 60, 1, check)]
    assert len(tried) >= 2
    assert 0 not in tried, "a worker acts for rollout actors"
    with pytest.raises(ConfigError, match="--stream-groups is 999"):
        list(search(replace(CONFIG, stream_groups=999), 60, 1, check))


def test_what_was_measured_stands_where_ray_does_not_start_again() -> None:
    def second_start_fails(config: TrainConfig[Any], seconds: float) -> BenchTrial:
        starts.append(config)
        if len(starts) == 2:
            raise ConnectionFailed("Ray could not be started on this machine")
        return trial(config, 1.0)

    starts: list[TrainConfig[Any]] = []
    assert len(list(search(CONFIG, 60, 1, second_start_fails))) == 1
    starts[:] = [CONFIG]
    with pytest.raises(ConnectionFailed):
        list(search(CONFIG, 60, 1, second_start_fails))


def test_a_trial_is_a_training() -> None:
    small = replace(CONFIG, num_actors=0, streams_per_actor=8, batch_size=8, total_steps=10**12)
    found = measure(small, 0.3)
    assert found.steps_per_second > 100
    assert 0 < found.learner_wait < 1
    assert found.actor_wait is None


def test_the_command_prints_flags_that_train(capsys: Capture) -> None:
    flags = ["--num-actors", "0", "--hidden-size", "8", "--batch-size", "8", "--streams-per-actor", "8"]
    assert main(["bench", "memory/tmaze", *flags, "--bench-seconds", "0.1", "--trial-seconds", "0.1"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("r2ac train memory/tmaze --hidden-size 8 --batch-size 8 --num-actors 0 --streams-per-actor ")
    assert [last.count(flag) for flag in ("--num-actors", "--streams-per-actor", "--learner-threads")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["memory/tmaze", "--bench-seconds", "soon"], "--bench-seconds is soon, but it must be a number of seconds"),
        (["--bench-seconds", "5"], "the task comes first"),
        (["memory/tmaz"], "there is no task"),
        (["memory/tmaze", "--batch-size", "999"], "--batch-size is 999"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: Capture) -> None:
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err
