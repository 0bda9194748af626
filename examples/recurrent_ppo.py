"""Recurrent PPO in one file, in CleanRL's style, whose ``nn.GRU`` a flag exchanges for ``r2ac.agents.Recurrent``.

    python examples/recurrent_ppo.py --core elstm     # exact RTRL
    python examples/recurrent_ppo.py --core gru       # nn.GRU, truncated after --num-steps steps

The task is a T-maze: what the first step shows is wanted --corridor steps later, in another rollout. Two lines differ
from a loop for a GRU: the learner keeps ``carry`` (the state and, with RTRL, its sensitivities) from rollout to
rollout, and all epochs of a rollout begin with the same one.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from r2ac.agents import Carry, Recurrent, check_recurrent
from r2ac.envs import make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.kernels import CELLS

HIDDEN = 64


class GRU(nn.Module):
    """``nn.GRU`` that forgets where an episode begins, called like ``Recurrent``."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size)
        self.input_size, self.output_size = input_size, hidden_size

    def initial_carry(self, batch_size: int) -> Carry:
        return Carry(torch.zeros(batch_size, self.output_size))

    def forward(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        state, outputs = carry.state, []
        for x_t, first in zip(x, is_first, strict=True):
            state = self.gru(x_t[None], state.masked_fill(first[:, None], 0)[None])[1][0]
            outputs.append(state)
        return torch.stack(outputs), Carry(state.detach())

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        outputs, carry = self(x[None], Carry(state), is_first[None])
        return outputs[0], carry.state


class Agent(nn.Module):
    def __init__(self, core: nn.Module, observation_size: int, actions: int) -> None:
        super().__init__()
        self.core = core
        sizes = core.output_size + observation_size, HIDDEN
        self.actor = nn.Sequential(nn.Linear(*sizes), nn.ReLU(), nn.Linear(HIDDEN, actions))
        self.critic = nn.Sequential(nn.Linear(*sizes), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, h: Tensor, observation: Tensor) -> tuple[Categorical, Tensor]:
        features = torch.cat((h, observation), dim=-1)
        return Categorical(logits=self.actor(features)), self.critic(features).squeeze(-1)


def make_core(name: str, input_size: int, corridor: int) -> nn.Module:
    if name == "gru":
        return GRU(input_size, HIDDEN)
    return Recurrent(name, input_size, HIDDEN, chrono_steps=2 * corridor, time_scales="log-uniform", input_scale=2)


def advantages_of(rewards: Tensor, values: Tensor, last: Tensor, goes_on: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates, [T, B]; ``goes_on`` is 0 where a step ended its episode."""
    result, following, advantage = torch.empty_like(rewards), last, torch.zeros_like(last)
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * goes_on[t] * following - values[t]
        result[t] = advantage = delta + gamma * lam * goes_on[t] * advantage
        following = values[t]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", choices=["gru", *CELLS], default="elstm")
    parser.add_argument("--corridor", type=int, default=20)
    parser.add_argument("--total-steps", type=int, default=200_000)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--entropy", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)

    env = make_vector("memory/tmaze", args.num_envs, args.seed, options=MemoryOptions(corridor_length=args.corridor))
    size = env.single_observation_space.shape[0]
    core = make_core(args.core, size, args.corridor)
    assert check_recurrent(core) == []
    agent = Agent(core, size, env.single_action_space.n)
    optimiser = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    observation = torch.as_tensor(env.reset()[0])
    is_first = torch.ones(args.num_envs, dtype=torch.bool)
    carry = core.initial_carry(args.num_envs)
    ended, began = [], time.monotonic()
    for update in range(1, args.total_steps // (args.num_steps * args.num_envs) + 1):
        # Act. Actors need the state alone, without sensitivities.
        state, rows = carry.state, []
        for _ in range(args.num_steps):
            with torch.no_grad():
                h, state = core.step(observation, state, is_first)
                policy, value = agent(h, observation)
                action = policy.sample()
            after, reward, terminated, truncated, _ = env.step(action.numpy())
            reward, done = torch.as_tensor(reward).float(), torch.as_tensor(terminated | truncated)
            rows.append((observation, is_first, action, policy.log_prob(action), value, reward, ~done))
            ended += reward[done].tolist()
            # The vector environment shows the next episode's first observation in the step that ends one.
            observation, is_first = torch.as_tensor(after), done
        x, firsts, actions, log_probs, values, rewards, goes_on = map(torch.stack, zip(*rows, strict=True))
        with torch.no_grad():
            _, last = agent(core.step(observation, state, is_first)[0], observation)
        advantages = advantages_of(rewards, values, last, goes_on.float(), args.gamma, args.gae_lambda)
        returns, advantages = advantages + values, (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        # Learn. Every epoch goes over the rollout from the carry before it.
        for _ in range(args.epochs):
            h, carry_after = core(x, carry, firsts)
            policy, value = agent(h, x)
            ratio = (policy.log_prob(actions) - log_probs).exp()
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
            value_loss = 0.5 * (value - returns).square().mean()
            loss = policy_loss + 0.5 * value_loss - args.entropy * policy.entropy().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimiser.step()
        carry = carry_after

        if update % 20 == 0:
            steps, recent = update * args.num_steps * args.num_envs, ended[-500:]
            success = 100 * sum(recent) / max(len(recent), 1)
            print(
                f"steps {steps}: success {success:.1f} % ({steps / (time.monotonic() - began):.0f} steps/s)", flush=True
            )
    env.close()


if __name__ == "__main__":
    main()
