"""Protocols: how many episodes of which split, in which environment, and what the command line changes."""

from dataclasses import replace

import pytest

from r2ac.envs import Split, find_task
from r2ac.envs.atari import AtariOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.procgen import ProcgenOptions, level_range
from r2ac.launch.evaluation.protocols import Settings
from r2ac.launch.settings.config import ConfigError


def parts(protocol: str, task: str, **changes: object) -> list[tuple[str, int, int]]:
    settings = replace(Settings.of(protocol), **changes)
    return [(config.split, config.seeds, config.episodes) for config, _ in settings.configs(find_task(task))]


def test_the_paper_s_numbers_of_episodes() -> None:
    assert parts("paper", "dmlab/rooms_watermaze") == [("test", 3, 100)]
    assert parts("paper", "procgen/chaser") == [("train", 1, 200), ("test", 3, 200)]
    assert parts("paper", "atari/Breakout") == [("test", 5, 30)]
    for config, changed in Settings.of("paper").configs(find_task("atari/Breakout")):
        assert config.greedy
        assert changed == ()


def test_the_three_unseen_ranges_of_procgen_are_disjoint_and_not_of_the_training() -> None:
    options = ProcgenOptions()
    ranges = [level_range(0, "train", options), *(level_range(seed, "test", options) for seed in range(3))]
    assert ranges[0] == (0, 500)
    assert [count for _, count in ranges[1:]] == [200, 200, 200]
    levels = [set(range(first, first + count)) for first, count in ranges]
    assert len(set().union(*levels)) == 500 + 3 * 200


def test_the_default_plays_held_out_episodes_of_any_task() -> None:
    for task in ("memory/tmaze", "atari/Pong", "procgen/maze"):
        assert parts("default", task) == [("test", 3, 100)]


@pytest.mark.parametrize(("protocol", "task"), [("paper", "memory/tmaze"), ("machado2018", "procgen/chaser")])
def test_a_protocol_refuses_suites_that_it_does_not_know(protocol: str, task: str) -> None:
    with pytest.raises(ConfigError, match=rf"--protocol is {protocol}, which is for .*atari and not for {task}"):
        parts(protocol, task)


@pytest.mark.parametrize(("split", "expected"), [("train", ("train", 1, 200)), ("test", ("test", 3, 200))])
def test_a_split_picks_the_protocol_s_part(split: Split, expected: tuple[str, int, int]) -> None:
    assert parts("paper", "procgen/chaser", split=split) == [expected]


def test_flags_override_and_are_told() -> None:
    settings = Settings("paper", episodes=7, seeds=5, split="train", greedy=False, num_envs=4, device="cuda")
    ((config, changed),) = settings.configs(find_task("atari/Breakout"))
    assert (config.split, config.seeds, config.episodes) == ("train", 5, 7)
    assert (config.greedy, config.num_envs, config.device) == (False, 4, "cuda")
    # 5 seeds are the protocol's own.
    assert changed == ("episodes", "split", "greedy")
    with pytest.raises(ConfigError, match="--seeds is 0"):
        Settings("paper", seeds=0).configs(find_task("atari/Breakout"))


def test_machado_2018_changes_the_episodes_and_not_what_the_agent_sees() -> None:
    trained = AtariOptions(
        frame_stack=1,
        image_size=96,
        colour=True,
        full_action_space=False,
        action_repeat=5,
        episodic_life=True,
        max_episode_frames=1000,
        threads=3,
    )
    played = Settings.of("machado2018").environment(find_task("atari/Breakout"), trained)
    assert (played.sticky_actions, played.max_noops, played.fire_on_reset) == (0.25, 0, False)
    assert (played.episodic_life, played.max_episode_frames) == (False, 108_000)
    names = ("sticky_actions", "max_noops", "fire_on_reset", "episodic_life", "max_episode_frames")
    assert replace(played, **{name: getattr(trained, name) for name in names}) == trained


def test_the_paper_s_games_begin_with_no_ops() -> None:
    trained = AtariOptions(sticky_actions=0.25, max_noops=0, fire_on_reset=False, colour=True)
    played = Settings.of("paper").environment(find_task("atari/Breakout"), trained)
    assert played == AtariOptions(colour=True)
    assert Settings.of("default").environment(find_task("atari/Breakout"), trained) == trained
    options = MemoryOptions(corridor_length=7)
    assert Settings.of("default").environment(find_task("memory/tmaze"), options) == options
