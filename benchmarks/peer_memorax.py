"""Memorax' recurrent PPO for peers.py. It compiles its environments too, so the tasks are written in JAX here.

Both tasks have episodes of a fixed length that are known in advance: what is shown at each step, and the right action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from gymnax.environments.spaces import Discrete
from memorax.algorithms import PPO, PPOConfig
from memorax.networks import MLP, RNN, FeatureExtractor, Network, Stack, heads
from peers import TASKS, UNITS, write_line

UPDATES = 4
"""Between two lines of metrics."""


def tmaze(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a T-maze of 40 steps shows, [42, 4], and the right actions, [41], -1 where none is wanted."""
    cue = jax.random.randint(key, (), 0, 2)
    places = jnp.full(42, 2).at[0].set(cue).at[40:].set(3)
    return jnp.eye(4)[places], jnp.full(41, -1).at[40].set(cue)


def repeat_previous(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The suits of a shuffled deck, [52, 4], and the suit of three cards before, [51], -1 before the fourth card."""
    suits = jax.random.permutation(key, jnp.repeat(jnp.arange(4), 13))
    return jnp.eye(4)[suits], jnp.concatenate([jnp.full(3, -1), suits[:48]])


class Scripted:
    """Such a task in gymnax's interface; an episode that ends begins again."""

    def __init__(self, task: str) -> None:
        self.draw, self.actions, self.right, self.wrong = {
            "memory/tmaze": (tmaze, 2, 1.0, 0.0),
            "popgym/RepeatPreviousEasy": (repeat_previous, 4, 1 / 48, -1 / 48),
        }[task]
        self.shows_action = task.startswith("popgym/")

    def action_space(self, params: Any) -> Discrete:
        return Discrete(self.actions)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, tuple]:
        script = self.draw(key)
        return self._show(script[0][0], jnp.zeros(self.actions)), (script, jnp.int32(0))

    def step(self, key: jax.Array, state: tuple, action: jax.Array, params: Any) -> tuple:
        (shown, answers), t = state
        answer, done = answers[t], t + 1 == len(answers)
        reward = jnp.where(answer < 0, 0.0, jnp.where(action == answer, self.right, self.wrong))
        following = self._show(shown[t + 1], jax.nn.one_hot(action, self.actions)), (state[0], t + 1)
        chosen = jax.tree.map(lambda new, old: jnp.where(done, new, old), self.reset(key, params), following)
        return *chosen, reward, done, {}

    def _show(self, shown: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.concatenate([shown, before]) if self.shows_action else shown


def train_memorax(task: str, matched: bool, steps: int, seed: int, metrics: Path) -> None:
    own, envs, length, minibatches = TASKS[task].matched, 16 if matched else 8, 128, 4
    epochs, rate = (own["n_epochs"], own["learning_rate"]) if matched else (4, 3e-4)
    config = PPOConfig(
        name=task,
        num_envs=envs,
        num_eval_envs=1,
        num_steps=length,
        gamma=own["gamma"] if matched else 0.99,
        gae_lambda=0.95,
        num_minibatches=minibatches,
        update_epochs=epochs,
        normalize_advantage=True,
        clip_coef=0.2,
        clip_vloss=True,
        ent_coef=0.01,
        vf_coef=0.5,
    )
    falling = optax.linear_schedule(rate, 0.0, steps // (envs * length) * epochs * minibatches)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(falling if matched else rate, eps=1e-5))
    env = Scripted(task)

    def network(head: nn.Module) -> Network:
        features = FeatureExtractor(observation_extractor=MLP(features=(UNITS,)))
        return Network(features, Stack(blocks=(RNN(cell=nn.OptimizedLSTMCell(UNITS)),)), head)

    actor, critic = network(heads.Categorical(env.actions)), network(heads.VNetwork())
    agent = PPO(config, env, None, actor, critic, optimiser, optimiser)
    key, state = agent.init(jax.random.key(seed))
    parameters = sum(each.size for each in jax.tree.leaves((state.actor_params, state.critic_params)))
    running, done = np.zeros(envs), 0
    while done < steps:
        key, state, seen = agent.train(key, state, UPDATES * envs * length)
        done, ended = done + UPDATES * envs * length, list[float]()
        # They come step by step and stream by stream, in rows of another length.
        by_steps = (np.asarray(each).reshape(-1, envs) for each in (seen.reward, seen.done))
        for rewards, ends in zip(*by_steps, strict=True):
            running += rewards
            ended += running[ends].tolist()
            running[ends] = 0
        write_line(metrics, done, parameters, ended)
