"""What a rollout says of rewards and of the ends of episodes, from the environment to the learner's forward pass."""

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, AgentConfig
from r2ac.envs.gym import GymOptions
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.learner import DeviceFeed, Rollout

LIMIT = 4
AGENT = AgentConfig(hidden_size=6, encoder="none", normalise_rewards=True, reward_clip=20.0)


def make_actor(final_observations: bool) -> RolloutActor:
    task = "gym/tests.paying_envs:Growing-v0"
    return RolloutActor(
        ActorConfig(task, GymOptions(), AGENT, 3, 8, 6, index=0, num_groups=2, final_observations=final_observations)
    )


def make_agent(actor: RolloutActor, deviation: float) -> Agent:
    torch.manual_seed(0)
    agent = Agent(actor.spec, AGENT)
    assert agent.rewards.deviation is not None
    agent.rewards.deviation.data.fill_(deviation)
    return agent


def collect(actor: RolloutActor, agent: Agent, rollouts: int) -> list[Rollout[np.ndarray]]:
    weights = Weights(1, parameters_to_vector(agent.parameters()).detach().numpy())
    found = [actor.collect(weights, number).rollout for number in range(rollouts)]
    return [rollout for rollout in found if rollout is not None]


def test_an_end_by_the_time_limit_is_told_from_others_and_comes_with_its_last_observation() -> None:
    actor = make_actor(final_observations=True)
    cut_off = ended = both = 0
    for rollout in collect(actor, make_agent(actor, 7.0), 6):
        assert rollout.truncated is not None
        assert rollout.final_observation is not None
        for t in range(rollout.length):
            paid = rollout.reward[t + 1] / 50
            at_limit, by_itself = paid == LIMIT, (paid % 2 == 0) & (rollout.action[t] == 1)
            np.testing.assert_array_equal(rollout.is_first[t + 1], at_limit | by_itself)
            np.testing.assert_array_equal(rollout.truncated[t], at_limit & ~by_itself)
            np.testing.assert_array_equal(rollout.final_observation[t][rollout.truncated[t]], LIMIT)
            assert not rollout.observation[t + 1][rollout.is_first[t + 1]].any()
            cut_off += int(rollout.truncated[t].sum())
            ended += int((by_itself & ~at_limit).sum())
            both += int((by_itself & at_limit).sum())
    actor.close()
    assert min(cut_off, ended, both) > 5


def test_without_the_flag_rollouts_hold_nothing_more() -> None:
    actor = make_actor(final_observations=False)
    (rollout,) = collect(actor, make_agent(actor, 7.0), 1)
    actor.close()
    assert rollout.truncated is rollout.final_observation is None


def test_who_acts_reads_rewards_on_the_learners_scale() -> None:
    """Its logits are those that the learner computes with the same weights."""
    actor = make_actor(final_observations=True)
    agent = make_agent(actor, 7.0)
    for rollout in collect(actor, agent, 3):
        batch = Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays()))
        carry = agent.core.initial_carry(rollout.batch_size)
        carry.state.copy_(batch.first_state)
        output = agent(batch.observation, batch.reward, batch.is_first, carry, None, batch.final_observation)
        torch.testing.assert_close(output.logits, batch.behaviour_logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output.rewards, (batch.reward[1:] / 7).clamp(-20, 20))
        # From the cell after the step, one step on.
        assert output.final_values is not None
        assert batch.truncated is not None
        cell = batch.first_state
        for t in range(rollout.length):
            cell = agent.step(batch.observation[t], batch.reward[t], batch.is_first[t], cell).state
            never = torch.zeros_like(batch.is_first[t])
            assert batch.final_observation is not None
            last = agent.step(batch.final_observation[t], batch.reward[t + 1], never, cell).value
            here = batch.truncated[t]
            torch.testing.assert_close(output.final_values[t][here], last[here], rtol=1e-4, atol=1e-5)
    other = make_agent(actor, 100.0)
    on_other_scale = other(batch.observation, batch.reward, batch.is_first, other.core.initial_carry(6))
    assert (on_other_scale.logits - output.logits).abs().max() > 1e-3
    actor.close()
