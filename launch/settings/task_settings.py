"""What PPO, the default of `memory`, `popgym` and `minigrid`, has for each task (table in docs/environments.md).

The sets of settings have the names of fields, of the configuration, its agent or its learner.
"""

from __future__ import annotations

from typing import Any

PPO_OF_SMALL: dict[str, Any] = {
    "num_actors": 0,
    "streams_per_actor": 64,
    "max_gradient_norm": 0.5,
    "baseline_cost": 1.0,
    "n_epochs": 3,
    "normalise_advantage": False,
    "readout": "mlp",
    "readout_skip": True,
    "input_scale": 2.0,
}
"""For small observations: what all tasks begin with. The learning rate, its fall and the entropy bonus are the suite's
(4e-3 for vectors, linear, 0.01): with the defaults of Stable-Baselines3 an agent learns nothing of the T-maze in
100,000 steps. Time scales are spread over twice the length of an episode, or 100 steps where that varies."""

MADE_FOR = {
    "core": ("core", "recurrent_scale", "time_scales"),
    "encoder": ("encoder", "encoder_features", "freeze_encoder"),
}
"""Settings that go where another core or encoder is named."""

_LONG_BATCHES = {"rollout_length": 32, "num_minibatches": 2, "normalise_advantage": True}
"""2,048 steps, learned from in two halves: enough for a mean and a deviation of the advantages. In 640 steps with few
rewards to divide by them makes noise as large as signal."""

_GATES = {"core": "elstm", "recurrent_scale": 1.0}
"""For tasks that show once what matters: gates hold it."""

_MIXED = {"core": "mixed:elstm+lru", "recurrent_scale": 1.0, "time_scales": "log-uniform"}
"""For order, and for all that is not known: half of the units hold, half rotate, as delay lines do."""

_RECALL = {**_MIXED, "discount": 0.5}
"""For recall that is paid at once: with a short horizon returns have less noise."""

_PARITY = {"core": "elstm", "recurrent_scale": 3.0, "input_scale": 3.0, "hidden_size": 128}
"""With large recurrent weights the state of a unit can change its sign with each bit."""

_BALANCE = {
    **_MIXED,
    "input_scale": 0.5,
    "normalise_observations": True,
    "normalise_rewards": True,
    "reward_clip": 10.0,
    "learning_rate": 2e-3,
}
"""Observations of any size, and rewards at every step. Cart-poles have short budgets: agents that go on
can fail again."""

_SWING = {
    **_BALANCE,
    "discount": 0.95,
    "rollout_length": 32,
    "streams_per_actor": 32,
    "num_minibatches": 4,
    "n_epochs": 10,
    "normalise_advantage": True,
}
"""Pendulums: few steps, of which each batch learns much."""

_CARDS = {**_MIXED, **_LONG_BATCHES, "normalise_rewards": True}
_BOARD = {**_CARDS, "hidden_size": 128, "readout_size": 256, "input_scale": 0.5, "learning_rate": 2e-3}
"""Hundreds of zeros and ones, and a choice among dozens of fields."""

_FLIPS = {**_BOARD, **_GATES, "time_scales": "uniform", "discount": 0.5}
"""A card is turned up once and asked for much later; each pair is paid at once."""

_REVERSE = {
    **_LONG_BATCHES,
    "core": "mixed:input_rotation+lru",
    "hidden_size": 128,
    "readout_size": 128,
    "discount": 0.0,
    "input_scale": 0.5,
    "normalise_rewards": True,
    "n_epochs": 4,
}
"""What was shown last is asked for first: the input can turn such units back. Each answer is paid at once."""

_MAZE = {**_GATES, "input_scale": 0.1, "normalise_observations": True, "learning_rate": 2e-3}
"""Of 984 zeros and ones most never change; those that do are brought to one size."""

_LARGE_MAZE = {**_MAZE, **_MIXED, **_LONG_BATCHES, "recurrent_scale": None, "entropy_cost": 0.015}
"""Most agents begin with their backs to the object, and far from it. With less entropy they do not go back to see it,
with more they learn late (docs/learning.md)."""

_LONG_DELAY = {**_GATES, "streams_per_actor": 256, "input_scale": 8.0, "total_steps": 1_000_000}
"""Rewards are rare: with more streams each batch holds some. What a cue leaves in a unit of a time scale of 8,000 steps
is nothing, unless its gate opens for the cue."""

_WALK = {
    **_LONG_DELAY,
    "input_scale": 3.0,
    "normalise_observations": True,
    "normalise_rewards": True,
    "discount": 0.0,
    "layer_norm": True,
    "learning_rate": 2e-3,
    "entropy_cost": 0.001,
    "entropy_schedule": "linear",
    "total_steps": 1_500_000,
}
"""Every step is paid at once, be it a small penalty or the large reward of the last: with a discount of 0 the chance of
the last choice does not disturb what is learned of the steps before it. What is seen seldom, normalised, is large, and
with the core's output brought to one size the junction looks like no step of the corridor: what was learned there does
not carry over. Rewards are divided by their deviation, which the large one raises: with a larger entropy bonus the
penalties count for little then (docs/learning.md)."""

_ENDLESS = {**_GATES, "entropy_cost": 0.003, "entropy_schedule": "linear", "total_steps": 1_000_000}
"""A step without progress costs 0.01: with a larger bonus an agent that knows the way dawdles."""

_PICTURES = {
    "encoder": "patch",
    "encoder_features": 64,
    "freeze_encoder": True,
    "input_scale": 1.0,
    "learning_rate": 2e-3,
    "total_steps": 300_000,
}
"""A random encoder tells small pictures apart, and with it the gradient is exact from end to end."""

TASK_SETTINGS: dict[str, dict[str, Any]] = {
    "memory/tmaze vectors": {**_GATES, "total_steps": 300_000},
    "memory/repeat_first vectors": {**_GATES, "total_steps": 300_000},
    "memory/match_to_sample vectors": {**_GATES, "total_steps": 300_000},
    "memory/repeat_previous vectors": {**_RECALL, "total_steps": 100_000},
    "memory/copy vectors": {**_RECALL, "total_steps": 300_000},
    "memory/parity vectors": {**_PARITY, "total_steps": 100_000},
    "memory/key_to_door vectors": {"readout_size": 128, "input_scale": 0.3, "n_epochs": 6, "total_steps": 1_500_000},
    "memory/chain vectors": _LONG_DELAY,
    "memory/passive_tmaze vectors": _WALK,
    "memory/endless_tmaze vectors": _ENDLESS,
    "memory/* vectors": {**_GATES, "total_steps": 1_500_000},
    "memory/repeat_previous pixels": {**_RECALL, **_PICTURES},
    "memory/copy pixels": {**_RECALL, **_PICTURES},
    "memory/* pixels": _PICTURES,
    "popgym/RepeatFirst* vectors": {**_GATES, "discount": 0.5, "normalise_rewards": True, "total_steps": 300_000},
    "popgym/RepeatPrevious* vectors": {**_CARDS, "discount": 0.5, "total_steps": 300_000},
    "popgym/CountRecall* vectors": {**_CARDS, "discount": 0.5, "hidden_size": 128, "total_steps": 2_000_000},
    "popgym/Autoencode* vectors": {**_REVERSE, "total_steps": 2_000_000},
    "popgym/PositionOnlyCartPole* vectors": {**_BALANCE, "total_steps": 100_000},
    "popgym/*Cart*ole* vectors": {**_BALANCE, "total_steps": 400_000},
    "popgym/*Pendulum* vectors": {**_SWING, "total_steps": 500_000},
    "popgym/Battleship* vectors": {**_BOARD, "total_steps": 2_000_000},
    "popgym/Concentration* vectors": {**_FLIPS, "total_steps": 2_000_000},
    "popgym/MineSweeper* vectors": {**_BOARD, "total_steps": 2_000_000},
    "popgym/MultiarmedBandit* vectors": {**_CARDS, "total_steps": 6_000_000},
    "popgym/* vectors": {**_CARDS, "total_steps": 2_000_000},
    "minigrid/MemoryS7 vectors": {**_MAZE, "total_steps": 500_000},
    "minigrid/MemoryS9 vectors": {**_MAZE, "total_steps": 1_000_000},
    "minigrid/* vectors": {**_LARGE_MAZE, "total_steps": 10_000_000},
    "minigrid/* pixels": {**_GATES, "total_steps": 10_000_000},
}
"""By a task's name and what it shows; the first pattern that fits counts."""

LEAST_EPISODES = {"memory/chain vectors": 1_500, "memory/passive_tmaze vectors": 5_300}
"""Where the length of an episode is an option: a training has at least so many, whatever TASK_SETTINGS says."""
