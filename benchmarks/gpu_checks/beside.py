"""What acting on the learner's GPU costs, from another process, as an inference worker does: without CUDA MPS two
processes take turns on a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
from learner_update import FEATURES, PRESETS, QUICK, WARM_UP, Preset, Update
from methods import RTRL

from gpu_checks.session import Session
from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.learner import LearnerConfig

FOLDER = Path(__file__).parents[1]
STREAMS = 24
"""Environments that act together, those of one rollout actor of the preset."""


def measure_beside(session: Session) -> None:
    """An update and a step of 24 streams of the Atari preset, each alone and both at a time."""
    seconds = 0.1 if session.quick else 4.0
    preset = (QUICK if session.quick else PRESETS)["atari"]
    update = Update(RTRL, preset, preset.length, 2 if session.quick else 32, LearnerConfig(), session.device)
    for _ in range(WARM_UP[session.device.type]):
        update()
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from gpu_checks import beside; beside.act_when_asked()"
    command = [sys.executable, "-c", code, str(session.device), *(["quick"] if session.quick else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdin is not None
        assert actor.stdout is not None
        try:
            if actor.stdout.readline() != "ready\n":
                raise RuntimeError("the acting process ended before it was ready")
            update_alone = _seconds_of_an_update(session, update, seconds)
            print(seconds, file=actor.stdin, flush=True)
            step_alone = float(actor.stdout.readline())
            print(seconds, file=actor.stdin, flush=True)
            update_beside = _seconds_of_an_update(session, update, seconds)
            step_beside = float(actor.stdout.readline())
        finally:
            # The end of its input ends it.
            actor.stdin.close()
    figures = {
        "update alone, s": update_alone,
        "update beside acting, s": update_beside,
        "step alone, s": step_alone,
        "step beside updates, s": step_beside,
    }
    for name, value in figures.items():
        session.note(f"{name}: {value:.6f}")
        session.record(name, value)
    session.expect("both processes went on", min(figures.values()) > 0)


def _seconds_of_an_update(session: Session, update: Update, seconds: float) -> float:
    session.synchronise()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        update()
        session.synchronise()
        count += 1
    return (time.perf_counter() - began) / count


@torch.no_grad()
def act_when_asked() -> None:
    """The other process: for each line with a number of seconds, act so long and print the seconds of a step."""
    device, quick = torch.device(sys.argv[1]), "quick" in sys.argv
    preset: Preset = (QUICK if quick else PRESETS)["atari"]
    spec = ObservationSpec(preset.image, DiscreteActions(preset.actions))
    agent = Agent(spec, AgentConfig(hidden_size=preset.hidden, encoder_features=FEATURES)).eval().to(device)
    observation = torch.zeros(STREAMS, *preset.image, dtype=torch.uint8)
    reward, is_first = torch.zeros(STREAMS), torch.zeros(STREAMS, dtype=torch.bool)
    cell = torch.zeros(STREAMS, agent.core.state_size, device=device)

    def step() -> None:
        output = agent.step(observation.to(device), reward.to(device), is_first.to(device), cell)
        cell.copy_(output.state)
        output.logits.cpu()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < float(line):
            step()
            count += 1
        print((time.perf_counter() - began) / count, flush=True)
