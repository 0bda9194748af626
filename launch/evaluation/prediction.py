"""How well an agent predicts the return of a stream that never ends."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from r2ac.agents import ObservationSpec
from r2ac.envs import make_vector
from r2ac.envs.trace_conditioning import mean_squared_return_error
from r2ac.launch.evaluation.play import Player, play
from r2ac.launch.runs.loading import TrainedAgent


def prediction_errors(trained: TrainedAgent, steps: int = 10_000, streams: int = 16) -> tuple[float, float]:
    """The mean squared errors, over so many steps of streams of split test, of the agent's values and of one constant,
    the mean return, by the discount of the training. Raises ValueError where the steps are too few for it."""
    training = trained.training
    options = replace(training.env, max_episode_steps=0)
    with closing(make_vector(training.task, streams, 0, split="test", options=options)) as env:
        agent = trained.agent(ObservationSpec.of(env), torch.device("cpu"), training.task)
        player = Player(agent, streams, np.random.default_rng(0))
        values, rewards = np.zeros((2, steps, streams))
        for t, step in enumerate(islice(play(env, player.act), steps)):
            assert step.decision.output is not None
            values[t], rewards[t] = step.decision.output.value.numpy(), step.reward
    if agent.rewards.deviation is not None:
        values *= float(agent.rewards.deviation)
    discount = training.learner.discount
    mean_return = np.full_like(values, rewards.mean() / (1 - discount))
    return (
        mean_squared_return_error(values, rewards, discount),
        mean_squared_return_error(mean_return, rewards, discount),
    )
