"""What exact RTRL costs: step by step, a rollout at a time, and TBPTT, in one run.

    python benchmarks/rtrl_update.py                      the table of the README (CPU, about 15 minutes on 2 cores)
    python benchmarks/rtrl_update.py --device cuda        the same on a GPU

Three parts: the recurrence alone (cell states: forward, backward, sensitivities), the core with its output gate, which
costs every method the same, and the learner's whole update with the encoder of the
DMLab preset. Methods take turns within a round, and a ratio is the median over the rounds of the ratio within a
round, because machines are shared and noisy. Before anything is timed the methods' gradients are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r2ac.agents import ELSTM, Agent, AgentConfig, Carry, ObservationSpec
from r2ac.kernels import backward_scan, elstm_linearisation, elstm_scan, rollout_gradient
from r2ac.launch.process import set_up_process
from r2ac.learner import Learner, LearnerConfig, Rollout

# What makes one measurement, and the network whose gradients it leaves.
Pass = tuple[Callable[[], None], nn.Module]
METHODS = ("step by step", "step by step, tuned", "rollout at a time", "TBPTT")
REFERENCE = "rollout at a time"


class _StepByStepTrajectory(torch.autograd.Function):
    """Cell states of a rollout; the backward pass takes the sensitivities forward step by step.

    Everything that does not need the sensitivities is computed for all steps at once, as in the fast form.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        carry: Carry,
        is_first: Tensor,
        contract: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        preactivation = torch.addmm(bias.flatten(), x.flatten(0, 1), input_weight.flatten(0, 1).t())
        scan = elstm_scan(preactivation.view(*x.shape[:2], *bias.shape), recurrent_weight, carry.cell, is_first)
        linear = elstm_linearisation(scan, recurrent_weight, is_first)
        ctx.save_for_backward(x, input_weight, scan.previous)
        ctx.linear, ctx.sensitivities, ctx.contract = linear, carry.sensitivities, contract
        return scan.cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (direct,) = gradients
        x, input_weight, previous = ctx.saved_tensors
        total = backward_scan(direct, ctx.linear.jacobian)
        _, _, by_preactivation = rollout_gradient(total, ctx.linear, x[..., :1], previous)
        by_x = (by_preactivation.flatten(-2) @ input_weight.flatten(0, 1)).view_as(x)
        matrix, recurrent, bias = ctx.sensitivities.tensors()
        by_weight = torch.zeros_like(input_weight)
        by_recurrent, by_bias = torch.zeros_like(recurrent[0]), torch.zeros_like(bias[0])
        for t in range(len(x)):
            decay, immediate = ctx.linear.jacobian[t].unsqueeze(1), ctx.linear.immediate[t]
            matrix.mul_(decay.unsqueeze(-1)).addcmul_(immediate.unsqueeze(-1), x[t, :, None, None, :])
            recurrent.mul_(decay).addcmul_(immediate, previous[t].unsqueeze(1))
            bias.mul_(decay).add_(immediate)
            by_weight = ctx.contract(by_weight, direct[t], matrix)
            by_recurrent.add_(torch.einsum("bn,bkn->kn", direct[t], recurrent))
            by_bias.add_(torch.einsum("bn,bkn->kn", direct[t], bias))
        return by_x, by_weight, by_recurrent, by_bias, None, None, None


def contract_at_once(gradient: Tensor, direct: Tensor, matrix: Tensor) -> Tensor:
    """gradient + sum_b e_b S_b as one would write it: one einsum."""
    return gradient.add_(torch.einsum("bn,bknd->knd", direct, matrix))


def contract_by_stream(gradient: Tensor, direct: Tensor, matrix: Tensor) -> Tensor:
    """The same, stream by stream, which keeps the sum in a CPU's cache."""
    for weight, sensitivity in zip(direct, matrix, strict=True):
        gradient.addcmul_(sensitivity, weight.unsqueeze(-1))
    return gradient


class StepByStepELSTM(ELSTM):
    """The eLSTM trained by a lean step-by-step RTRL; its carry must hold every stream, in order."""

    contract = staticmethod(contract_at_once)

    def cells(self, x: Tensor, carry: Carry, is_first: Tensor) -> tuple[Tensor, Carry]:
        """As :meth:`ELSTM.cells`, with sensitivities advanced in place by the backward pass."""
        cells = _StepByStepTrajectory.apply(
            x, self.input_weight, self.recurrent_weight, self.bias, carry, is_first, self.contract
        )
        return cells, Carry(cells[-1].detach(), carry.sensitivities, carry.streams)


class TunedStepByStepELSTM(StepByStepELSTM):
    """The same with the faster contraction."""

    contract = staticmethod(contract_by_stream)


def make_core(method: str, inputs: int, hidden: int) -> ELSTM:
    """The core for a method, with the same weights for each."""
    torch.manual_seed(0)
    if method == "TBPTT":
        return ELSTM(inputs, hidden, gradient="tbptt")
    kinds = {"step by step": StepByStepELSTM, "step by step, tuned": TunedStepByStepELSTM, REFERENCE: ELSTM}
    return kinds[method](inputs, hidden)


def recurrence_pass(method: str, sizes: argparse.Namespace, steps: int, hidden: int) -> Pass:
    """A function that runs the recurrence, which is what RTRL is about, forward and backward, and the core."""
    return core_pass(method, sizes, steps, hidden, output_gate=False)


def core_pass(method: str, sizes: argparse.Namespace, steps: int, hidden: int, output_gate: bool = True) -> Pass:
    """A function that runs the core forward and backward over a rollout, and the core."""
    device = sizes.device
    core = make_core(method, sizes.inputs, hidden).to(device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, sizes.batch, sizes.inputs, generator=generator).to(device).requires_grad_()
    by_h = torch.randn(steps, sizes.batch, hidden, generator=generator).to(device)
    is_first = (torch.rand(steps, sizes.batch, generator=generator) < 0.01).to(device)
    start = core.initial_carry(sizes.batch)
    carry = Carry(start.cell, start.sensitivities, None if method == "TBPTT" else torch.arange(sizes.batch).to(device))

    def run() -> None:
        for parameter in (x, *core.parameters()):
            parameter.grad = None
        h, _ = core(x, carry, is_first) if output_gate else core.cells(x, carry, is_first)
        h.backward(by_h)

    return run, core


def update_pass(method: str, sizes: argparse.Namespace, steps: int, hidden: int) -> Pass:
    """A function that makes one update of the learner with the encoder of the DMLab preset, and the agent."""
    shape, actions = tuple(sizes.image), 9
    torch.manual_seed(0)
    agent = Agent(ObservationSpec(shape, actions), AgentConfig(hidden_size=hidden, encoder_features=sizes.inputs - 1))
    agent.core = make_core(method, sizes.inputs, hidden)
    agent.to(sizes.device)
    learner = Learner(agent, LearnerConfig(), num_streams=sizes.batch, total_steps=10**9)
    rollout = synthetic_rollout(steps, sizes.batch, shape, actions, hidden)

    def run() -> None:
        rollout.sequence[:] = learner.carries.next_sequence
        learner.update(rollout)

    return run, agent


def synthetic_rollout(steps: int, batch: int, shape: tuple[int, ...], actions: int, hidden: int) -> Rollout[np.ndarray]:
    """A rollout of noise."""
    random = np.random.default_rng(2)
    return Rollout(
        observation=random.integers(0, 256, (steps + 1, batch, *shape), dtype=np.uint8),
        reward=random.standard_normal((steps + 1, batch), dtype=np.float32),
        is_first=random.random((steps + 1, batch)) < 0.01,
        action=random.integers(0, actions, (steps, batch)),
        behaviour_logits=random.standard_normal((steps, batch, actions), dtype=np.float32),
        first_cell=np.zeros((batch, hidden), dtype=np.float32),
        stream=np.arange(batch),
        sequence=np.zeros(batch, dtype=np.int64),
        weights_version=np.zeros(batch, dtype=np.int64),
    )


def check_gradients(passes: dict[str, Pass]) -> None:
    """Raise where two exact methods disagree after two rollouts (the first one fills the sensitivities)."""
    for _ in range(2):
        for run, _ in passes.values():
            run()
    expected = {name: p.grad for name, p in passes[REFERENCE][1].named_parameters() if p.grad is not None}
    for method in METHODS[:2]:
        found = dict(passes[method][1].named_parameters())
        for name, gradient in expected.items():
            error = float((found[name].grad - gradient).norm() / gradient.norm())
            if not error < 1e-3:
                raise SystemExit(f"{method}: the gradient of {name} is off by {error:.1e} relative")


def measure(
    make_pass: Callable[[str, argparse.Namespace, int, int], Pass],
    sizes: argparse.Namespace,
    steps: int,
    hidden: int,
    rounds: int,
) -> dict[str, Any]:
    """Median seconds of each method, and the median ratios within a round."""
    passes = {method: make_pass(method, sizes, steps, hidden) for method in METHODS}
    if make_pass is not update_pass:
        check_gradients(passes)
    for run, _ in passes.values():
        run()
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(rounds):
        # Every method comes at every place of a round: what ran before leaves caches and memory in its own state.
        for method in (*METHODS[number % len(METHODS) :], *METHODS[: number % len(METHODS)]):
            run, _ = passes[method]
            synchronise(sizes.device)
            began = time.perf_counter()
            run()
            synchronise(sizes.device)
            times[method].append(time.perf_counter() - began)

    def ratio(method: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[method], times[to], strict=True))

    return {
        "T": steps,
        "N": hidden,
        "seconds": {method: statistics.median(values) for method, values in times.items()},
        "speed-up over step by step": ratio("step by step", REFERENCE),
        "speed-up over step by step, tuned": ratio("step by step, tuned", REFERENCE),
        "cost over TBPTT": ratio(REFERENCE, "TBPTT"),
    }


def synchronise(device: str) -> None:
    """Wait for the GPU, if that is where the work is."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table in Markdown; times in milliseconds."""
    print(f"\n**{title}**\n")
    print(f"| T | N | {' | '.join(f'{method}, ms' for method in METHODS)} | speed-up (tuned) | cost over TBPTT |")
    print("|--:|--:|" + "--:|" * (len(METHODS) + 2))
    for row in rows:
        seconds = " | ".join(f"{1e3 * row['seconds'][method]:,.1f}" for method in METHODS)
        speed_up = f"{row['speed-up over step by step']:.1f} ({row['speed-up over step by step, tuned']:.1f})"
        print(f"| {row['T']} | {row['N']} | {seconds} | {speed_up} | {row['cost over TBPTT']:.3f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 100], help="T")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 512], help="N")
    parser.add_argument("--batch", type=int, default=32, help="B")
    parser.add_argument("--inputs", type=int, default=257, help="D")
    parser.add_argument("--image", type=int, nargs=3, default=[3, 72, 96], help="C H W of the whole update")
    parser.add_argument("--rounds", type=int, default=16, help="rounds for the core")
    parser.add_argument("--update-rounds", type=int, default=4, help="rounds for the whole update; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    sizes = parser.parse_args()
    set_up_process(sizes.threads)
    grid = [(steps, hidden) for hidden in sizes.hidden for steps in sizes.steps]
    cuda = torch.device(sizes.device).type == "cuda"
    machine = torch.cuda.get_device_name() if cuda else f"{sizes.threads} CPU threads, {platform.machine()}"
    setting = f"{machine}, torch {torch.__version__}, float32, B={sizes.batch}, D={sizes.inputs}, {date.today()}"
    print(setting)
    recurrence = [measure(recurrence_pass, sizes, *size, sizes.rounds) for size in grid]
    print_rows("The recurrence alone", recurrence)
    core = [measure(core_pass, sizes, *size, sizes.rounds) for size in grid]
    print_rows("The core with its output gate", core)
    update = []
    if sizes.update_rounds:
        update = [measure(update_pass, sizes, *size, sizes.update_rounds) for size in grid]
        print_rows(f"The whole update, image {'x'.join(map(str, sizes.image))}", update)
    if sizes.output:
        figures = {"setting": setting, "recurrence": recurrence, "core": core, "update": update}
        sizes.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
