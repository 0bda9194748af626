"""The size of a core that is to give an agent as many parameters as another core would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from r2ac.envs import make_vector
from r2ac.launch.settings.config import ConfigError, TrainConfig, require


def with_matched_size(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The settings with the ``hidden_size`` that ``match_parameters`` asks for; an environment is made, whose
    observations and actions count. Raises ConfigError, and what `make_vector` raises."""
    agent = config.agent
    if agent.match_parameters is None:
        return config
    # Both need torch, which takes seconds to import.
    from r2ac.agents import CORE_NAMES, ObservationSpec, is_core
    from r2ac.agents.matching import matched_size

    for name in ("core", "match_parameters"):
        value = getattr(agent, name)
        require(is_core(value), name, value, f"one of {CORE_NAMES}")
    env = make_vector(config.task, len(config.tasks), config.seed, options=config.env)
    try:
        size = matched_size(ObservationSpec.of(env), agent)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        env.close()
    return replace(config, agent=replace(agent, hidden_size=size))
