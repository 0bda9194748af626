"""The presets are the settings of the paper (Irie et al. 2024, section 4 and appendix A)."""

from dataclasses import asdict
from typing import Any

import pytest

from r2ac.agents import Agent, ObservationSpec
from r2ac.envs import SUITES, find_task, make_vector
from r2ac.launch.presets import preset

PAPER_TASKS = ["atari/Breakout", "procgen/chaser"]


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_papers_settings(task: str) -> None:
    config = preset(task)
    assert (config.rollout_length, config.batch_size, config.num_streams) == (50, 32, 48)
    assert config.total_steps == 200_000_000
    assert asdict(config.agent) == {
        "gradient": "rtrl",
        "core": "elstm",
        "hidden_size": 256,
        "encoder": "auto",
        "encoder_features": 256,
        "chrono_steps": 0,
    }
    learner = config.learner
    assert (learner.optimiser, learner.learning_rate, learner.max_gradient_norm) == ("rmsprop", 6e-4, 40.0)
    assert (learner.discount, learner.entropy_cost, learner.baseline_cost) == (0.99, 0.01, 0.5)
    assert (learner.clip_rho, learner.clip_pg_rho, learner.clip_c) == (1.0, 1.0, 1.0)


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


@pytest.mark.parametrize("suite", SUITES)
def test_every_preset_is_allowed(suite: str) -> None:
    for task in SUITES[suite].tasks:
        preset(task.name).check()
