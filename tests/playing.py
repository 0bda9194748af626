"""Episodes that tests play."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from gymnasium.vector import VectorEnv

from r2ac.agents import Agent
from r2ac.launch.evaluation.evaluate import Evaluation, play_seed
from r2ac.launch.evaluation.play import Player, play
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.launch.watching.episodes import PlayedEpisode, gather_episodes


def evaluated(path: Path, config: EvaluationConfig, task: str | None = None) -> Evaluation:
    """All seeds of an evaluation of a run or a checkpoint, in the environment of its training."""
    agent = TrainedAgent.load(path)
    about = agent.path, agent.sha256, agent.env_steps, task or agent.training.task, agent.training.env
    evaluation = Evaluation(*about, config, agent.training)
    for seed in evaluation.seeds_missing:
        *_, last = play_seed(agent, evaluation, seed)
        evaluation = evaluation.with_seed(last.episodes or ())
    return evaluation


def episodes_of(
    agent: Agent,
    env: VectorEnv,
    episodes: int,
    max_steps: int = 1000,
    seed: int = 0,
    greedy: bool = False,
    report: Callable[[int, int], None] = lambda played, total: None,
) -> list[PlayedEpisode]:
    """What an agent plays in an environment that is not reset yet."""
    player = Player(agent, env.num_envs, np.random.default_rng(seed), greedy, jacobians=True)
    return gather_episodes(islice(play(env, player.act), max_steps), env.num_envs, episodes, report)
