"""One part of the training system alone: one line of JSON with its steps a second. A part of throughput.py.

environment   as many processes as actors, each stepping its vector environment with random actions
inference     the network as a rollout actor runs it, on the environment's first observation, on one thread
learner       Learner.update on a batch of noise
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import _path  # noqa: F401
import numpy as np
import torch
from learner_update import Preset, synthetic_rollout
from throughput_setting import Setting, read_setting

from r2ac.agents import Agent, AgentConfig, FusedActor, Gradient, ObservationSpec
from r2ac.envs import make_vector
from r2ac.launch.runtime.process import set_up_process
from r2ac.launch.settings.config import TrainConfig
from r2ac.launch.settings.presets import preset
from r2ac.learner import Learner

PARTS = ("environment", "inference", "learner")
WARM_UP = 0.2
"""Of the measured time."""


def rate(run: Callable[[], None], each: int, seconds: float, finish: Callable[[], None] = lambda: None) -> float:
    """Steps a second of a run that makes ``each`` steps, repeated for ``seconds`` after a warm-up.

    Args:
        finish: waits for whatever the runs have left under way.
    """
    _repeat(run, WARM_UP * seconds)
    finish()
    began = time.perf_counter()
    runs = _repeat(run, seconds)
    finish()
    return runs * each / (time.perf_counter() - began)


def _repeat(run: Callable[[], None], seconds: float) -> int:
    """At least once; how often."""
    until, runs = time.perf_counter() + seconds, 0
    while runs == 0 or time.perf_counter() < until:
        run()
        runs += 1
    return runs


def agent_config(setting: Setting, config: TrainConfig[Any]) -> AgentConfig:
    """The agent of the setting; what it does not say is the preset's."""
    return replace(
        config.agent,
        encoder=setting.encoder,  # type: ignore[arg-type]
        hidden_size=setting.hidden,
        encoder_features=setting.features,
    )


def step_environment(setting: Setting, seed: int, barrier: Any, results: Any) -> None:
    """One process: hands over the steps a second of its environment, measured while the others run too."""
    set_up_process(1)
    env = make_vector(setting.task, setting.streams, seed, options=preset(setting.task, algorithm="vtrace").env)
    env.reset()
    actions = np.random.default_rng(seed).integers(
        env.single_action_space.n,  # type: ignore[attr-defined]
        size=(64, setting.streams),
    )

    def run() -> None:
        for row in actions:
            env.step(row)

    barrier.wait()
    results.put(rate(run, actions.size, setting.seconds))
    env.close()


def measure_environment(setting: Setting, processes: int) -> float:
    """Of all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=step_environment, args=(setting, seed, barrier, results)) for seed in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(rates)


def measure_inference(setting: Setting) -> float:
    """Of one actor on one thread."""
    set_up_process(1)
    config = preset(setting.task, algorithm="vtrace")
    env = make_vector(setting.task, setting.streams, 0, options=config.env)
    agent = Agent(ObservationSpec.of(env), agent_config(setting, config)).eval()
    # The engine's own array: its layout in memory is not always that of a fresh one.
    observation, of_step = torch.from_numpy(env.reset()[0])[None], (1, setting.streams)
    inputs = {"observation": observation, "reward": torch.zeros(of_step), "is_first": torch.zeros(of_step).bool()}
    uniforms = torch.rand(*of_step, *agent.actions.shape, dtype=torch.float64)
    state, logits = torch.zeros(setting.streams, agent.core.state_size), torch.zeros(*of_step, agent.actions.parameters)
    action = torch.zeros(uniforms.shape, dtype=torch.int64)
    step = FusedActor(agent, setting.streams).over(inputs, uniforms, state, logits, action)

    def run() -> None:
        step(0)

    return rate(run, setting.streams, setting.seconds)


def noise_updates(setting: Setting, gradient: Gradient = "rtrl") -> tuple[Learner, Callable[[], None]]:
    """A learner of the setting, and a function that makes an update on noise."""
    config, device = preset(setting.task, algorithm="vtrace"), torch.device(setting.device)
    env = make_vector(setting.task, 1, 0, options=config.env)
    spec = ObservationSpec.of(env)
    env.close()
    agent = Agent(spec, replace(agent_config(setting, config), gradient=gradient)).to(device)
    learner = Learner(agent, config.learner, num_streams=setting.batch, total_steps=10**12)
    shape = Preset(spec.shape, setting.hidden, spec.actions.parameters, 1, setting.length, ())
    rollout = synthetic_rollout(setting.length, setting.batch, shape, agent.core.state_size)

    def run() -> None:
        rollout.sequence[:] = learner.carries.next_sequence
        learner.update(rollout)

    return learner, run


def measure_learner(setting: Setting, threads: int) -> float:
    """Of updates by RTRL on ``threads`` threads."""
    set_up_process(threads)
    learner, run = noise_updates(setting)
    return rate(run, setting.length * setting.batch, setting.seconds, learner.check)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--alone", action="store_true", help="one process, one thread")
    setting, options = read_setting(parser, arguments)
    if options.part == "environment":
        speed = measure_environment(setting, 1 if options.alone else setting.actors)
    elif options.part == "inference":
        speed = measure_inference(setting)
    else:
        speed = measure_learner(setting, 1 if options.alone else setting.threads)
    print(json.dumps({"steps_per_second": speed}))


if __name__ == "__main__":
    main()
