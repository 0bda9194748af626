"""Instructions: the encoder against a word-by-word reading, and an agent that reads them."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from r2ac.agents import Agent, AgentConfig, DiscreteActions, InstructionEncoder, ObservationSpec

IDS, WORDS = 11, 5
SPEC = ObservationSpec((6,), DiscreteActions(3), instruction_length=WORDS, instruction_ids=IDS)


def instructions(*shape: int) -> Tensor:
    """Random instructions of 0 to all words."""
    ids = torch.randint(1, IDS, (*shape, WORDS), dtype=torch.int32)
    return ids * (torch.arange(WORDS) < torch.randint(0, WORDS + 1, (*shape, 1)))


def word_by_word(encoder: InstructionEncoder, ids: Tensor) -> Tensor:
    """An LSTM cell over the words that are there, by the equations."""
    w_ih, w_hh, b_ih, b_hh = encoder.lstm.parameters()
    h = c = torch.zeros(encoder.features, dtype=w_ih.dtype)
    for word in ids[ids > 0]:
        i, f, g, o = (w_ih @ encoder.embedding.weight[word] + b_ih + w_hh @ h + b_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def test_the_features_are_those_after_the_last_word() -> None:
    torch.manual_seed(0)
    encoder = InstructionEncoder(IDS).double()
    assert (encoder.embedding.embedding_dim, encoder.features) == (20, 64)
    ids = instructions(9)
    ids[0] = 0
    features = encoder(ids)
    torch.testing.assert_close(features, torch.stack([word_by_word(encoder, row) for row in ids]))
    assert not features[0].any()


def test_the_spec_of_an_environment_with_instructions() -> None:
    class Env(VectorEnv):
        single_observation_space = Box(0, 1, (6,), np.float32)
        single_action_space = Discrete(3)
        single_instruction_space: Any = MultiDiscrete(np.full(WORDS, IDS))

    assert ObservationSpec.of(Env()) == SPEC
    Env.single_instruction_space = None
    assert ObservationSpec.of(Env()) == ObservationSpec((6,), DiscreteActions(3))


@pytest.mark.parametrize("gradient", ["rtrl", "tbptt"])
def test_an_agent_reads_instructions_step_by_step_as_over_a_rollout(gradient: Any) -> None:
    torch.manual_seed(1)
    steps, streams = 7, 4
    agent = Agent(SPEC, AgentConfig(hidden_size=8, encoder_features=10, gradient=gradient)).double()
    assert agent.core.input_size == 10 + 1 + 64
    observation, reward = torch.randn(steps + 1, streams, 6), torch.randn(steps + 1, streams)
    is_first, words = torch.rand(steps + 1, streams) < 0.2, instructions(steps + 1, streams)
    output = agent(observation, reward, is_first, agent.core.initial_carry(streams), words)
    cell = agent.core.initial_carry(streams).state
    for t in range(steps):
        step = agent.step(observation[t], reward[t], is_first[t], cell, words[t])
        torch.testing.assert_close(step.logits, output.logits[t])
        cell = step.state
    torch.testing.assert_close(cell, output.carry.state)
    output.logits.square().sum().backward()
    assert agent.instruction_encoder is not None
    assert all(parameter.grad is not None for parameter in agent.instruction_encoder.parameters())
    other = agent.step(observation[0], reward[0], is_first[0], torch.zeros_like(cell), words[0].roll(1, 0))
    assert not torch.equal(other.logits, agent.step(observation[0], reward[0], is_first[0], cell * 0, words[0]).logits)


def test_an_agent_that_reads_them_wants_them() -> None:
    agent = Agent(SPEC, AgentConfig(hidden_size=4))
    with pytest.raises(ValueError, match="reads instructions"):
        agent.step(torch.zeros(1, 6), torch.zeros(1), torch.ones(1, dtype=torch.bool), torch.zeros(1, 4))
    assert Agent(ObservationSpec((6,), DiscreteActions(3)), AgentConfig(hidden_size=4)).instruction_encoder is None
