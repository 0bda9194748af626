"""Weights on their way to those who act."""

import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig, ObservationSpec
from r2ac.launch.rollouts.inference.policies import Weights


def test_weights_are_loaded_without_a_parameter_being_moved() -> None:
    """cuDNN reads the weights of an LSTM from one piece of memory, of which they are parts."""
    spec = ObservationSpec((3,), 4, instruction_length=2, instruction_ids=9)
    agents = [Agent(spec, AgentConfig(hidden_size=5, encoder_features=6)) for _ in range(2)]
    learned, acting = (list(agent.parameters()) for agent in agents)
    places = [parameter.data_ptr() for parameter in acting]
    values = parameters_to_vector(learned).detach().numpy()
    values.flags.writeable = False  # as what came through Ray
    Weights(1, values).load_into(agents[1])
    assert [parameter.data_ptr() for parameter in acting] == places
    for mine, other in zip(acting, learned, strict=True):
        assert torch.equal(mine, other)
    assert all(parameter.requires_grad for parameter in acting)
