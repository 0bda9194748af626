"""CleanRL's recurrent PPO for peers.py: its file for Atari, `ppo_atari_lstm.py`, which `install` clones.

The file is a script. Its classes are imported, and the block that it runs as a program is run with three names changed:
the environments are those of peers.py, a layer for vectors takes the place of its convolutions, and what it writes for
TensorBoard becomes a line of metrics.
"""

from __future__ import annotations

import ast
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from peers import CLEANRL_FOLDER, TASKS, UNITS, make_environment, write_line
from torch import Tensor, nn


class Counted(gymnasium.Wrapper):
    """Appends the return of each episode to a list."""

    def __init__(self, env: gymnasium.Env, ended: list[float]) -> None:
        super().__init__(env)
        self.ended, self.earned = ended, 0.0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.earned += float(reward)
        if terminated or truncated:
            self.ended.append(self.earned)
            self.earned = 0.0
        return observation, reward, terminated, truncated, info


def train_cleanrl(task: str, matched: bool, steps: int, seed: int, metrics: Path) -> None:
    sys.path[:0] = [str(Path(sys.prefix) / CLEANRL_FOLDER), str(Path(sys.prefix) / CLEANRL_FOLDER / "cleanrl")]
    script: Any = import_module("ppo_atari_lstm")
    ended: list[float] = []

    class VectorAgent(script.Agent):
        def __init__(self, envs: Any) -> None:
            super().__init__(envs)
            (size,) = envs.single_observation_space.shape
            self.network = nn.Sequential(script.layer_init(nn.Linear(size, UNITS)), nn.ReLU())
            self.lstm = nn.LSTM(UNITS, UNITS)
            for name, parameter in self.lstm.named_parameters():
                (nn.init.zeros_ if "bias" in name else nn.init.orthogonal_)(parameter)
            self.actor = script.layer_init(nn.Linear(UNITS, envs.single_action_space.n), std=0.01)
            self.critic = script.layer_init(nn.Linear(UNITS, 1), std=1)

        def get_states(self, x: Tensor, *state: Any) -> Any:
            return super().get_states(255 * x, *state)  # it divides by 255, as for images

    class Lines:
        def __init__(self, folder: str) -> None:
            pass

        add_text = close = lambda self, *text: None

        def add_scalar(self, name: str, value: float, done: int) -> None:
            if name == "charts/SPS":
                write_line(metrics, done, sum(each.numel() for each in script.agent.parameters()), ended)

    script.Agent, script.SummaryWriter = VectorAgent, Lines
    script.make_env = lambda *ignored: lambda: Counted(make_environment(task), ended)
    # The script was written for Gymnasium 0.29, where the step that ends an episode begins the next.
    gymnasium.vector.SyncVectorEnv = partial(SyncVectorEnv, autoreset_mode=AutoresetMode.SAME_STEP)  # type: ignore
    flags: dict[str, Any] = {"seed": seed, "total-timesteps": steps}
    if matched:
        own = TASKS[task].matched
        names = {"learning_rate": "learning-rate", "n_epochs": "update-epochs", "gae_lambda": "gae-lambda"}
        flags |= {names.get(name, name).replace("_", "-"): value for name, value in own.items()} | {"num-envs": 16}
    sys.argv[1:] = ["--no-cuda", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
    *_, program = ast.parse(Path(script.__file__).read_text()).body
    exec(compile(ast.Module(program.body, []), script.__file__, "exec", dont_inherit=True), vars(script))
