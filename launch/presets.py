"""The settings that each suite begins with; every one can be overridden on the command line."""

from __future__ import annotations

from typing import Any

from r2ac.agents import AgentConfig
from r2ac.envs import find_task
from r2ac.launch.config import TrainConfig
from r2ac.learner import LearnerConfig


def preset(task: str) -> TrainConfig[Any]:
    """The settings for a task: the paper's for its suites (Irie et al. 2024, section 4 and appendix A).

    Raises:
        UnknownTask: for a task that does not exist.
    """
    suite = find_task(task).suite
    if suite.name == "memory":
        return TrainConfig(
            task,
            suite.options(),
            # Without the spread of time scales the forget gates lose the cue within a few steps. Without an encoder
            # below the core the gradient is exact from end to end.
            agent=AgentConfig(hidden_size=64, encoder="none", chrono_steps=100),
            learner=LearnerConfig(optimiser="adam", learning_rate=4e-3),
            total_steps=1_500_000,
            rollout_length=10,
            batch_size=64,
            num_actors=1,
            streams_per_actor=64,
            learner_threads=1,
        )
    # Each rollout actor has one core, on which it also runs the agent.
    return TrainConfig(task, suite.options(threads=1))
