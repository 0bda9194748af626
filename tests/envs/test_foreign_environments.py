"""What environments of others cannot do to us, whatever they show, pay and say."""

from typing import Any

import numpy as np

from r2ac.envs import Signals, make_vector
from r2ac.envs.gym import GymOptions
from r2ac.launch.rollouts.stream_group import StreamGroup


def test_infos_of_an_environment_are_no_signals() -> None:
    env = make_vector("gym/tests.odd_envs:OddInfos-v0", 4, 0)
    _, info = env.reset()
    assert Signals.of(info) == Signals()
    for _ in range(30):
        *_, terminated, truncated, info = env.step(np.zeros(4, dtype=np.int64))
        signals = Signals.of(info)
        assert signals.instruction is signals.game_over is signals.engine_failed is None
        assert (signals.final_observation is None) == (not terminated.any())
        if signals.has_final is not None:
            np.testing.assert_array_equal(signals.has_final, terminated | truncated)


def test_episodes_are_those_of_the_environment_whatever_its_infos_say() -> None:
    group = StreamGroup("gym/tests.odd_envs:OddInfos-v0", GymOptions(), 0, 0, slice(0, 4))
    episodes: list[Any] = []
    for _ in range(60):
        episodes += group.step(np.zeros(4, dtype=np.int64))
    assert len(episodes) > 20
    assert {episode.episode_return for episode in episodes} == {1.0}
    assert {episode.length for episode in episodes} <= set(range(3, 9))
