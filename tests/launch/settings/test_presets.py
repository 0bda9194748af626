"""The presets are the settings of the paper (Irie et al. 2024, section 4 and appendix A); every one fits its task."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from r2ac.agents import Agent, DiscreteActions, ObservationSpec
from r2ac.envs import SUITES, find_task, make_vector
from r2ac.envs.atari import PRESETS
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.minigrid import MinigridOptions
from r2ac.launch.runtime.process import available_cores, learner_threads
from r2ac.launch.settings.config import ConfigError, config_from_json
from r2ac.launch.settings.flags import training_config
from r2ac.launch.settings.presets import ALGORITHM_SETTINGS, ALGORITHMS_OF, TASK_SETTINGS, preset
from r2ac.learner.algorithms import ALGORITHMS

PAPER_TASKS = ["atari/Breakout", "procgen/chaser"]


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_papers_settings(task: str) -> None:
    config = preset(task)
    assert (config.rollout_length, config.batch_size, config.num_streams) == (50, 32, 48)
    assert config.total_steps == 200_000_000
    assert asdict(config.agent) == {
        "gradient": "rtrl",
        "core": "elstm",
        "freeze_core": False,
        "hidden_size": 256,
        "layers": 1,
        "layer_gradient": "rollout",
        "match_parameters": None,
        "encoder": "auto",
        "encoder_features": 256,
        "chrono_steps": 0,
        "time_scales": "uniform",
        "input_scale": None,
        "recurrent_scale": None,
        "output_gate": None,
        "layer_norm": False,
        "readout": "linear",
        "readout_size": 64,
        "readout_skip": False,
        "reward_clip": 1.0,
        "normalise_rewards": False,
        "normalise_observations": False,
        "action_deviation": "state-independent",
        "squash_actions": False,
    }
    assert not config.bootstrap_at_time_limits
    learner = config.learner
    assert (learner.optimiser, learner.learning_rate, learner.max_gradient_norm) == ("rmsprop", 6e-4, 40.0)
    assert (learner.discount, learner.entropy_cost, learner.baseline_cost) == (0.99, 0.01, 0.5)
    assert (learner.clip_rho, learner.clip_pg_rho, learner.clip_c) == (1.0, 1.0, 1.0)


def test_the_papers_settings_for_dmlab() -> None:
    config = preset("dmlab/rooms_watermaze")
    assert (config.rollout_length, config.batch_size, config.num_streams) == (100, 32, 48)
    assert (config.agent.hidden_size, config.agent.encoder, config.total_steps) == (512, "auto", 100_000_000)
    assert config.learner == preset("atari/Breakout").learner
    assert preset("dmlab/rooms_select_nonmatching_object").total_steps == 30_000_000
    spaces = find_task("dmlab/rooms_watermaze").spaces(config.env)
    assert spaces is not None
    assert spaces.actions is not None
    agent = Agent(ObservationSpec(spaces.shape, DiscreteActions(spaces.actions)), config.agent)
    assert sum(parameter.numel() for parameter in agent.parameters()) == 1_647_178


def test_the_learner_leaves_the_cores_to_the_engines_of_dmlab() -> None:
    here = {"num_actors": 0, "streams_per_actor": 5, "batch_size": 5}
    assert replace(preset("dmlab/rooms_watermaze"), **here).busy_cores == 5
    assert replace(preset("dmlab/rooms_watermaze"), num_actors=2, streams_per_actor=5).busy_cores == 10
    assert replace(preset("memory/tmaze"), **here).busy_cores == 0
    assert replace(preset("memory/tmaze"), num_actors=3).busy_cores == 3
    assert learner_threads(0, available_cores()) == 1
    assert learner_threads(0, 0) == available_cores()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (
            "atari/Breakout",
            {
                "action_repeat": 4,
                "frame_stack": 4,
                "image_size": 84,
                "full_action_space": True,
                "sticky_actions": 0.0,
                "max_noops": 30,
            },
        ),
        ("procgen/chaser", {"distribution_mode": "hard", "num_levels": 500, "start_level": 0, "test_levels": 200}),
    ],
)
def test_the_papers_environments(task: str, options: dict[str, Any]) -> None:
    env = preset(task).env
    assert {name: getattr(env, name) for name in options} == options


@pytest.mark.parametrize(("task", "parameters"), [("atari/Breakout", 1_358_307), ("procgen/chaser", 890_448)])
def test_the_papers_number_of_parameters(task: str, parameters: int) -> None:
    """With what the engine shows and takes: the observation's shape and the number of actions count."""
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    config = preset(task)
    env = make_vector(task, 1, 0, options=config.env)
    agent = Agent(ObservationSpec.of(env), config.agent)
    env.close()
    assert sum(parameter.numel() for parameter in agent.parameters()) == parameters


def test_the_t_maze_is_set_so_that_only_memory_solves_it() -> None:
    """Time scales that span the corridor, an exact gradient from end to end, rollouts that do not reach the cue."""
    config = preset("memory/tmaze")
    assert config.agent.gradient == "rtrl"
    assert config.agent.encoder == "none"
    assert config.agent.chrono_steps >= config.env.corridor_length > config.rollout_length


def test_a_protocol_by_name_sets_the_environment_and_nothing_else() -> None:
    config = preset("atari/Breakout", "machado2018")
    assert config.env == replace(PRESETS["machado2018"], threads=1)
    assert replace(config, env=None) == replace(preset("atari/Breakout"), env=None)
    assert preset("atari/Breakout", "paper") == preset("atari/Breakout")
    for task, name in (("atari/Breakout", "machado"), ("procgen/chaser", "paper")):
        with pytest.raises(ConfigError, match=name):
            preset(task, name)


@pytest.mark.parametrize("suite", SUITES)
def test_every_presets_agent_can_see_its_task(suite: str) -> None:
    """Also with the options that change what is seen. Of POPGym one task of each family, the easy one."""
    tasks = SUITES[suite].tasks
    changed = {"memory": MemoryOptions(pixels=True), "minigrid": MinigridOptions(pixels=True)}
    for task in [task for task in tasks if task.name.endswith("Easy")] or tasks[:8]:
        pictured = suite in changed and task.short_name not in SUITES[suite].unlisted
        for options in (None, *([changed[suite]] if pictured else [])):
            config = preset(task.name, options=options)
            if (spaces := task.spaces(config.env)) is not None and spaces.actions is not None:
                spec = ObservationSpec(spaces.shape, DiscreteActions(spaces.actions))
            elif task.suite.missing() is None:
                env = make_vector(task.name, 1, 0, options=config.env)
                spec = ObservationSpec.of(env)
                env.close()
            else:
                continue
            Agent(spec, config.agent)


@pytest.mark.parametrize("suite", ["memory", "popgym", "minigrid"])
def test_vectors_of_memory_tasks_take_no_encoder_and_remember_for_long(suite: str) -> None:
    for task in SUITES[suite].tasks:
        agent = preset(task.name).agent
        assert (agent.encoder, agent.gradient) == ("none", "rtrl")
        assert agent.chrono_steps == max(10, 2 * (task.episode_steps() or 50))


def test_the_encoder_for_an_id_fits_what_it_shows() -> None:
    agent = preset("gym/CartPole-v1").agent
    assert (agent.encoder, agent.chrono_steps) == ("none", 0)


def test_rewards_of_an_id_may_be_of_any_size_and_its_time_limits_are_no_ends() -> None:
    config = preset("gym/CartPole-v1")
    assert (config.agent.normalise_rewards, config.agent.reward_clip) == (True, 10.0)
    assert config.bootstrap_at_time_limits


@pytest.mark.parametrize("suite", SUITES)
def test_every_preset_is_allowed(suite: str) -> None:
    for task in SUITES[suite].tasks:
        preset(task.name).check()
    for algorithm in ALGORITHM_SETTINGS:
        preset(SUITES[suite].tasks[0].name, algorithm=algorithm).check()


def test_ppo_has_the_settings_of_stable_baselines3_where_they_mean_the_same() -> None:
    learner = preset("atari/Breakout", algorithm="ppo").learner
    assert (learner.optimiser, learner.learning_rate, learner.learning_rate_schedule) == ("adam", 3e-4, "constant")
    assert (learner.n_epochs, learner.gae_lambda, learner.discount) == (10, 0.95, 0.99)
    assert (learner.clip_range, learner.clip_range_vf, learner.clip_schedule) == (0.2, "none", "constant")
    assert (learner.entropy_cost, learner.max_gradient_norm, learner.target_kl) == (0.0, 0.5, "none")
    # 0.5 times the squared error, where theirs, of weight 0.5, is the squared error.
    assert (learner.baseline_cost, learner.normalise_advantage) == (1.0, True)


@pytest.mark.parametrize(
    ("task", "own"),
    [
        ("memory/tmaze", (4e-3, 10, 1, False, 0.01)),
        ("popgym/RepeatFirstEasy", (4e-3, 10, 1, False, 0.01)),
        ("minigrid/MemoryS7", (2e-3, 10, 1, False, 0.01)),
        ("minigrid/MemoryS13", (2e-3, 32, 2, True, 0.015)),
    ],
)
def test_ppo_takes_large_steps_where_there_is_to_remember(task: str, own: tuple[float, int, int, bool, float]) -> None:
    config = preset(task)
    assert config == preset(task, algorithm="ppo")
    learner = config.learner
    assert (learner.optimiser, learner.learning_rate_schedule, learner.n_epochs) == ("adam", "linear", 3)
    found = (learner.learning_rate, config.rollout_length, learner.num_minibatches, learner.normalise_advantage)
    assert (*found, learner.entropy_cost) == own
    assert (learner.max_gradient_norm, learner.baseline_cost) == (0.5, 1.0)


def test_pictures_have_an_encoder_of_their_size() -> None:
    small = preset("memory/tmaze", options=MemoryOptions(pixels=True))
    assert (small.agent.encoder, small.freeze_encoder, small.learner.learning_rate) == ("patch", True, 2e-3)
    large = preset("minigrid/MemoryS7", options=MinigridOptions(pixels=True))
    assert (large.agent.encoder, large.freeze_encoder, large.learner.learning_rate) == ("auto", False, 1e-3)


def test_what_an_algorithm_does_not_name_is_the_suites() -> None:
    plain, ppo = preset("gym/CartPole-v1"), preset("gym/CartPole-v1", algorithm="ppo")
    assert (ppo.agent, ppo.rollout_length, ppo.num_streams) == (plain.agent, plain.rollout_length, plain.num_streams)
    assert preset("gym/CartPole-v1", algorithm="vtrace") == plain


def test_every_task_of_small_observations_has_the_settings_of_a_pattern_that_fits_some_task() -> None:
    names = [
        f"{task.name} {kind}" for suite in SUITES.values() for task in suite.tasks for kind in ("vectors", "pixels")
    ]
    for pattern in TASK_SETTINGS:
        assert any(fnmatch(name, pattern) for name in names), pattern
    for suite in ("memory", "popgym", "minigrid"):
        assert all(preset(task.name).learner.algorithm == "ppo" for task in SUITES[suite].tasks)


def test_time_scales_are_spread_over_twice_an_episode() -> None:
    assert training_config("memory/tmaze", ["--corridor-length", "500"]).agent.chrono_steps == 2 * 501
    assert preset("memory/parity").agent.chrono_steps == 2 * 11


def test_a_longer_chain_has_a_longer_training() -> None:
    assert preset("memory/chain").total_steps == 1_000_000
    assert training_config("memory/chain", ["--chain-length", "4096"]).total_steps == 1_500 * 4096


def test_settings_that_are_made_for_a_core_go_where_another_is_named() -> None:
    agent = training_config("memory/copy", ["--core", "mingru"]).agent
    assert (agent.core, agent.recurrent_scale, agent.time_scales) == ("mingru", None, "uniform")
    assert training_config("memory/copy", ["--core", "mixed:elstm+lru"]) == preset("memory/copy")
    pictures = training_config("memory/copy", ["--pixels", "--encoder", "impala"])
    assert (pictures.agent.encoder, pictures.agent.encoder_features, pictures.freeze_encoder) == ("impala", 256, False)


@pytest.mark.parametrize("algorithm", ["stream", "td"])
def test_online_there_is_one_stream_and_an_update_at_every_step(algorithm: str) -> None:
    config = preset("memory/tmaze", algorithm=algorithm)
    assert (config.num_actors, config.num_streams, config.batch_size, config.rollout_length) == (0, 1, 1, 1)
    # Predictions are of the returns as they are.
    assert (config.agent.normalise_rewards, config.agent.reward_clip) == (algorithm == "stream", "none")


def test_the_settings_of_an_algorithm_are_fields() -> None:
    config = preset("memory/tmaze")
    known = set(vars(config)) | set(vars(config.agent)) | set(vars(config.learner))
    assert {name for settings in (*ALGORITHM_SETTINGS.values(), *TASK_SETTINGS.values()) for name in settings} <= known
    assert {name for names in ALGORITHMS_OF for name in names.split()} <= set(vars(config.learner))
    assert set(ALGORITHM_SETTINGS) == set(ALGORITHMS)


def test_a_flag_wins_over_the_algorithms_settings() -> None:
    flags = ["--algorithm=vtrace", "--learning-rate", "0.01", "--algorithm", "ppo", "--streams-per-actor", "4"]
    config = training_config("memory/tmaze", flags)
    assert (config.learner.algorithm, config.learner.learning_rate, config.batch_size) == ("ppo", 0.01, 4)
    assert (config.learner.learning_rate_schedule, config.learner.n_epochs) == ("linear", 3)


@pytest.mark.parametrize("flags", [[], ["--learning-rate", "0.002"]])
def test_pixels_change_what_suits_the_agent(train_tiny: Callable[..., Path], tmp_path: Path, flags: list[str]) -> None:
    run = train_tiny(tmp_path / "run", {"--total-steps": 80, "--encoder-features": 5}, "--pixels", *flags)
    config = json.loads((run / "config.json").read_text())
    assert config["agent"]["encoder"] == "auto"
    assert config["agent"]["hidden_size"] == 8, "as the flags say"
    assert config["learner"]["learning_rate"] == (0.002 if flags else 0.001)


def test_a_configuration_with_an_earlier_name_of_an_option_is_still_read() -> None:
    config = preset("dmlab/rooms_watermaze")
    values = config.to_json()
    values["env"]["max_failures"] = values["env"].pop("max_engine_failures")
    assert config_from_json(values, Path("config.json")) == config


def test_streams_are_staggered_where_episodes_have_one_length() -> None:
    for task, staggered in (
        ("memory/key_to_door", True),
        ("popgym/RepeatFirstEasy", True),
        ("minigrid/MemoryS7", False),
    ):
        assert preset(task).stagger_streams is staggered
    assert preset("memory/tmaze,memory/parity", options=MemoryOptions(pixels=True)).stagger_streams
    refused = r"^--stagger-streams is True, but it must be False with popgym/BattleshipEasy: r2ac does not know"
    with pytest.raises(ConfigError, match=refused):
        replace(preset("popgym/BattleshipEasy"), stagger_streams=True).check()


def test_a_configuration_from_before_the_streams_were_staggered_keeps_them_in_phase() -> None:
    values = preset("memory/tmaze").to_json()
    del values["stagger_streams"]
    assert not config_from_json(values, Path("config.json")).stagger_streams


@pytest.mark.parametrize(
    ("flags", "actors"),
    [
        ("", 0),
        ("--ray-address auto", 1),
        ("--num-learners 2", 2),
        ("--inference worker", 1),
        ("--num-actors 0 --ray-address auto", 0),
        ("--num-actors 3 --ray-address auto", 3),
    ],
)
def test_a_setting_of_actors_brings_actors(flags: str, actors: int) -> None:
    config = training_config("memory/tmaze", flags.split())
    assert (config.num_actors, config.batch_size) == (actors, 64 * max(actors, 1))


@pytest.mark.parametrize("task", ["atari/Breakout", "procgen/maze", "gym/CartPole-v1"])
def test_one_process_takes_no_larger_batches_than_it_has_streams(task: str) -> None:
    config = training_config(task, ["--num-actors", "0"])
    config.check()
    assert config.batch_size <= config.num_streams
    with pytest.raises(ConfigError, match="there are only 4"):
        training_config(task, ["--num-actors=0", "--streams-per-actor=4", "--batch-size=8"]).check()
