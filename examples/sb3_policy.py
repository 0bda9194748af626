"""A policy of Stable-Baselines3 whose memory is ``r2ac.agents.Recurrent`` in place of an LSTM.

    pip install stable-baselines3 sb3-contrib
    python examples/sb3_policy.py                     # 100 % success after 60,000 steps (chance: 50 %)
    python examples/sb3_policy.py --cell mingru

RecurrentPPO of sb3-contrib keeps the states, and knows nothing of sensitivities: the gradient is that of TBPTT, through
sequences as long as ``n_steps``. What it gains are the cells, and that a reset inside a sequence costs no loop over its
steps in Python.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from r2ac.agents import Carry, Recurrent, check_recurrent
from r2ac.envs.tmaze import TMaze
from r2ac.kernels import CELLS

States = tuple[Tensor, Tensor]
"""What stands for an LSTM's h and c, [1, B, N] each: the state and zeros."""


class CellPolicy(RecurrentActorCriticPolicy):
    """The policy "MlpLstmPolicy" with a cell of r2ac. ``cell``: one whose units' state is one number."""

    def __init__(self, *args: Any, cell: str = "elstm", lstm_hidden_size: int = 64, **settings: Any) -> None:
        super().__init__(*args, lstm_hidden_size=lstm_hidden_size, **settings)
        self.lstm_actor, self.lstm_critic = (
            Recurrent(cell, self.features_dim, lstm_hidden_size, "tbptt", chrono_steps=20, input_scale=1)
            for _ in range(2)
        )
        self.lstm_actor.num_layers = self.lstm_critic.num_layers = 1  # read by RecurrentPPO
        self.optimizer = self.optimizer_class(self.parameters(), **{**self.optimizer.defaults, **self.optimizer_kwargs})

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: States, episode_starts: Tensor, lstm: Recurrent
    ) -> tuple[Tensor, States]:
        streams = lstm_states[0].shape[1]
        x = features.reshape(streams, -1, lstm.input_size).transpose(0, 1)
        is_first = episode_starts.reshape(streams, -1).transpose(0, 1).bool()
        h, after = lstm(x, Carry(lstm_states[0][0]), is_first)
        return h.transpose(0, 1).flatten(0, 1), (after.state[None], torch.zeros_like(after.state[None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one_number = [name for name, cell in CELLS.items() if cell.parts == 1]
    parser.add_argument("--cell", choices=one_number, default="elstm", help="those with one number a unit")
    parser.add_argument("--corridor", type=int, default=8)
    parser.add_argument("--total-steps", type=int, default=60_000)
    parser.add_argument("--num-steps", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)

    gymnasium.register("TMaze", lambda: TMaze(args.corridor))
    env = make_vec_env("TMaze", n_envs=16, seed=args.seed)
    settings = {"cell": args.cell}
    learner = RecurrentPPO(
        CellPolicy, env, 1e-3, args.num_steps, batch_size=256, ent_coef=0.01, seed=args.seed,
        device="cpu", policy_kwargs=settings,
    )  # fmt: skip
    assert check_recurrent(learner.policy.lstm_actor) == []
    learner.learn(args.total_steps)
    rewards = [episode["r"] for episode in learner.ep_info_buffer]
    print(f"success in the last {len(rewards)} episodes: {100 * sum(rewards) / len(rewards):.1f} %")


if __name__ == "__main__":
    main()
