"""Online supervised learning: say the symbol of 12 steps ago, with an update after every single step.

    python examples/copy_task.py                      # exact RTRL: 85 % right in the first 1000 steps
    python examples/copy_task.py --gradient tbptt     # truncated after one step: 67 %

Plain PyTorch around ``r2ac.agents.Recurrent``: what crosses from update to update is ``carry``.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from r2ac.agents import Recurrent
from r2ac.kernels import CELLS

DELAY, SYMBOLS, STREAMS = 12, 4, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=list(CELLS), default="lru")
    parser.add_argument("--gradient", choices=("rtrl", "tbptt"), default="rtrl")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)

    core = Recurrent(arguments.cell, SYMBOLS, 32, arguments.gradient, chrono_steps=2 * DELAY)
    head = nn.Sequential(nn.Linear(core.output_size, 64), nn.ReLU(), nn.Linear(64, SYMBOLS))
    optimiser = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=1e-3)
    carry = core.initial_carry(STREAMS)
    goes_on = torch.zeros(1, STREAMS, dtype=torch.bool)  # is_first: these streams have no episodes
    past = torch.randint(SYMBOLS, (DELAY, STREAMS))
    right = 0.0
    for step in range(1, arguments.steps + 1):
        now = torch.randint(SYMBOLS, (STREAMS,))
        x = nn.functional.one_hot(now, SYMBOLS).float().unsqueeze(0)  # [T = 1, B, D]
        h, carry = core(x, carry, goes_on)
        logits = head(h[0])
        loss = nn.functional.cross_entropy(logits, past[0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        right += (logits.argmax(1) == past[0]).float().mean().item()
        past = torch.cat((past[1:], now.unsqueeze(0)))
        if step % 1000 == 0:
            print(f"step {step}: {100 * right / 1000:.1f} % right (chance: {100 / SYMBOLS:.0f} %)", flush=True)
            right = 0.0


if __name__ == "__main__":
    main()
