r"""Gradients of a core of several layers against the exact one.

    r2ac train memory/repeat_first --num-actors 0 --core elstm --hidden-size 16 --layers 2 \
        --total-steps 300000 --seed 1 --run-dir RUN
    python benchmarks/depth.py RUN              the tables of docs/cells.md (one core, a minute)

The agents are those of a run's first checkpoint, which has learned nothing, and of its last. They play with weights
that stay. Of each rollout's loss the gradient by the core's parameters is taken with every --layer-gradient by RTRL,
and by TBPTT, in float64; the exact one is BPTT from the first step that was played. Printed are angles in degrees and
ratios of norms, means over the rollouts, of each layer's parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from r2ac.agents import Agent, Carry, ObservationSpec, RolloutOutput
from r2ac.agents.composite import Stack
from r2ac.agents.config import AgentConfig, LayerGradient
from r2ac.launch.inspection.inspect_run import checkpoints_at
from r2ac.launch.rollouts.rollout_actor import ActorConfig, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import Weights
from r2ac.launch.runs.loading import TrainedAgent
from r2ac.learner import LearnerConfig, Rollout
from r2ac.learner.algorithms import ALGORITHMS

Gradients = list[Tensor]
METHODS: dict[str, dict[str, Any]] = {
    **{f"RTRL, {name}": {"gradient": "rtrl", "layer_gradient": name} for name in get_args(LayerGradient)},
    "TBPTT": {"gradient": "tbptt", "layer_gradient": "rollout"},
}


def double_agent(spec: ObservationSpec, config: AgentConfig, weights: dict[str, Tensor], **settings: Any) -> Agent:
    """An agent with these weights and other settings, in float64."""
    agent = Agent(spec, replace(config, **settings))
    agent.load_state_dict(weights)
    return agent.double()


def gradients_of(agent: Agent, output: RolloutOutput, batch: Rollout[Tensor], config: LearnerConfig) -> Gradients:
    """Of the losses of a rollout by the parameters of each layer, a vector each."""
    agent.zero_grad()
    ALGORITHMS[config.algorithm].losses(output, batch, config).backward()
    assert isinstance(agent.core, Stack)
    return [
        torch.cat([weight.grad.flatten() for weight in layer.parameters() if weight.grad is not None])
        for layer in agent.core.parts
    ]


def carried(agent: Agent, rollouts: Sequence[Rollout[Tensor]], config: LearnerConfig) -> Iterator[Gradients]:
    """Rollout by rollout, from carry to carry."""
    carry = agent.core.initial_carry(rollouts[0].batch_size)
    streams = torch.arange(len(carry.state))
    for batch in rollouts:
        output = agent(carry=carry.of_streams(streams), **batch.inputs())
        yield gradients_of(agent, output, batch, config)
        carry = Carry(output.carry.state, carry.traces)


def exact(agent: Agent, rollouts: Sequence[Rollout[Tensor]], config: LearnerConfig) -> Iterator[Gradients]:
    """Each rollout's by BPTT from the first step of all; the agent's gradient is TBPTT's, of one long rollout."""
    names = ("observation", "reward", "is_first")
    for last, batch in enumerate(rollouts):
        arrays = [[getattr(each, name)[: each.length] for each in rollouts[: last + 1]] for name in names]
        whole = [torch.cat([*parts, getattr(batch, name)[-1:]]) for name, parts in zip(names, arrays, strict=True)]
        output = agent(*whole, agent.core.initial_carry(batch.batch_size), final_observation=None)
        steps = slice(-batch.length, None)
        own = {name: getattr(output, name)[steps] for name in ("logits", "values", "core_input", "rewards")}
        yield gradients_of(agent, replace(output, **own), batch, config)


def angle_and_ratio(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """In degrees; of norms."""
    sizes = found.norm(), wanted.norm()
    # Unlike the cosine, the chord keeps its digits where the angle is small.
    chord = (found / sizes[0] - wanted / sizes[1]).norm()
    return float(torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1)))), float(sizes[0] / sizes[1])


def compare(
    spec: ObservationSpec,
    config: AgentConfig,
    weights: dict[str, Tensor],
    learner: LearnerConfig,
    rollouts: Sequence[Rollout[Tensor]],
    warm_up: int,
) -> dict[str, np.ndarray]:
    """Of every method, angle and ratio of each layer, [layers, 2], means over the rollouts after the first few."""
    wanted = list(exact(double_agent(spec, config, weights, **METHODS["TBPTT"]), rollouts, learner))[warm_up:]
    found = {}
    for method, settings in METHODS.items():
        gradients = list(carried(double_agent(spec, config, weights, **settings), rollouts, learner))[warm_up:]
        pairs = [
            [angle_and_ratio(*of_layer) for of_layer in zip(*both, strict=True)]
            for both in zip(gradients, wanted, strict=True)
        ]
        found[method] = np.mean(pairs, axis=0)
    return found


def played(agent: Agent, actor: RolloutActor, count: int) -> Iterator[Rollout[Tensor]]:
    """The next rollouts by these weights, without final observations, in float64."""
    weights = parameters_to_vector(agent.parameters()).detach().numpy()
    for number in range(count):
        rollout = actor.collect(Weights(0, weights), number).rollout
        assert rollout is not None
        tensors = {name: torch.from_numpy(array.copy()) for name, array in rollout.arrays().items()}
        yield Rollout(**{name: each.double() if each.is_floating_point() else each for name, each in tensors.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--warm-up", type=int, default=8, help="rollouts that are not measured")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    for run in options.runs:
        checkpoints = checkpoints_at(run)
        for path in (checkpoints[0], checkpoints[-1]):
            trained = TrainedAgent.load(path)
            training = trained.training
            actor = RolloutActor(
                ActorConfig(
                    training.task,
                    training.env,
                    training.agent,
                    options.seed,
                    training.rollout_length,
                    options.streams,
                    index=0,
                )
            )
            agent = trained.agent(actor.spec, torch.device("cpu"), training.task)
            rollouts = list(played(agent, actor, options.rollouts))
            actor.close()
            found = compare(actor.spec, training.agent, trained.model, training.learner, rollouts, options.warm_up)
            layers = range(training.agent.layers)
            print(f"\n{training.task}, {training.agent.label}, after {trained.env_steps:,} steps\n")
            print("| method | " + " | ".join(f"layer {k + 1}: angle | ratio" for k in layers) + " |")
            print("|---|" + "--:|--:|" * len(layers))
            for method, rows in found.items():
                print(f"| {method} | " + " | ".join(f"{angle:.2g}° | {ratio:.3f}" for angle, ratio in rows) + " |")


if __name__ == "__main__":
    main()
