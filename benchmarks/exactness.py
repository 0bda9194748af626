"""Where exact RTRL stops being exact: measured on a small eLSTM in float64 against full BPTT.

    python benchmarks/exactness.py          the tables of docs/rtrl.md (one core, well below a minute)

A stream asks for its input of some steps ago. Observations pass an encoder, tanh(E o + b), an eLSTM and a linear
read-out. Three things are measured, each as the relative error |g - g*| / |g*| of a gradient g:

1. parameters that move between rollouts, for several learning rates of Adam;
2. the encoder below the core, whose gradient is that inside the rollouts, for several rollout lengths;
3. sensitivities stored in bfloat16, for parameters that stand still.

Full BPTT is plain autograd through the equations over the whole stream and shares no code with the kernels.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from r2ac.agents import ELSTM, Carry
from r2ac.agents.config import Gradient

Gradients = dict[str, Tensor]
CORE = ("core.input_weight", "core.recurrent_weight", "core.bias")
ENCODER = ("encoder.weight", "encoder.bias")


@dataclass(frozen=True)
class Sizes:
    """B streams of ``steps`` steps; D features, N units; the input of ``delay`` steps ago is asked for."""

    steps: int = 200
    batch: int = 32
    observation: int = 3
    features: int = 8
    hidden: int = 16
    delay: int = 15
    updates: int = 400


class Network(nn.Module):
    """Encoder, core, read-out."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Linear(sizes.observation, sizes.features)
        self.core = ELSTM(sizes.features, sizes.hidden, chrono_steps=2 * sizes.delay)
        self.readout = nn.Linear(sizes.hidden, sizes.observation)


@dataclass(frozen=True)
class Stream:
    """Observations and targets, [steps, B, observation]."""

    observation: Tensor
    target: Tensor

    @staticmethod
    def draw(sizes: Sizes) -> Stream:
        observation = torch.randn(sizes.steps, sizes.batch, sizes.observation)
        target = torch.zeros_like(observation)
        target[sizes.delay :] = observation[: -sizes.delay]
        return Stream(observation, target)

    def rollouts(self, length: int) -> list[Stream]:
        pairs = zip(self.observation.split(length), self.target.split(length), strict=True)
        return [Stream(observation, target) for observation, target in pairs]


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Summed over the steps, averaged over the streams."""
    return 0.5 * (prediction - target).square().sum() / target.shape[1]


def loss_of_rollout(network: Network, stream: Stream, carry: Carry) -> tuple[Tensor, Carry]:
    """With the core of r2ac: by RTRL or by TBPTT, as the core says."""
    x = torch.tanh(network.encoder(stream.observation))
    h, carry = network.core(x, carry, torch.zeros(x.shape[:2], dtype=torch.bool))
    return squared_error(network.readout(h), stream.target), carry


def plain_rollout(parameters: Gradients, stream: Stream, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the equations alone; returns loss and last cell, which both carry gradients."""
    (F, Z), (w_f, w_z), (b_f, b_z) = (parameters[name] for name in CORE)
    predictions = []
    for observation in stream.observation:
        x = torch.tanh(observation @ parameters["encoder.weight"].T + parameters["encoder.bias"])
        f = torch.sigmoid(x @ F.T + w_f * cell + b_f)
        z = torch.tanh(x @ Z.T + w_z * cell + b_z)
        cell = f * cell + (1 - f) * z
        gate = torch.cat((x, cell), -1) @ parameters["core.output_gate.weight"].T
        h = torch.sigmoid(gate + parameters["core.output_gate.bias"]) * cell
        predictions.append(h @ parameters["readout.weight"].T + parameters["readout.bias"])
    return squared_error(torch.stack(predictions), stream.target), cell


def full_bptt(history: Sequence[Gradients], rollouts: Sequence[Stream], counted: Sequence[int]) -> Gradients:
    """Gradient of the losses of the rollouts ``counted`` through all rollouts, the i-th made with ``history[i]``.

    One shift is added to the parameters of every moment, and the gradient is that by the shift.
    """
    shift = {name: torch.zeros_like(value, requires_grad=True) for name, value in history[0].items()}
    cell = torch.zeros(rollouts[0].observation.shape[1], shift["core.bias"].shape[-1])
    losses = []
    for values, stream in zip(history, rollouts, strict=True):
        loss, cell = plain_rollout({name: values[name] + shift[name] for name in shift}, stream, cell)
        losses.append(loss)
    total = torch.stack([losses[i] for i in counted]).sum()
    return dict(zip(shift, torch.autograd.grad(total, list(shift.values())), strict=True))


def values_of(network: Network) -> Gradients:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def gradients_of(network: Network) -> Gradients:
    return {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


def relative_error(gradient: Gradients, exact: Gradients, names: Sequence[str]) -> float:
    """|g - g*| / |g*| over the named parameters together."""
    difference, size = (
        torch.cat([of[name].double().flatten() for name in names])
        for of in ({name: gradient[name] - exact[name] for name in names}, exact)
    )
    return float(difference.norm() / size.norm())


def trained(sizes: Sizes, length: int = 10) -> Network:
    """A network that has begun to remember: an untrained one hardly depends on what lies far back."""
    network = Network(sizes)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    carry = network.core.initial_carry(sizes.batch)
    for update in range(sizes.updates):
        if update % (sizes.steps // length) == 0:
            rollouts, carry = Stream.draw(sizes).rollouts(length), network.core.initial_carry(sizes.batch)
        optimiser.zero_grad()
        loss, carry = loss_of_rollout(network, rollouts[update % len(rollouts)], carry)
        loss.backward()
        optimiser.step()
    return network


@dataclass(frozen=True)
class Moving:
    """Errors of one rollout's gradient after a stream of updates, means over the stream's second half."""

    moved: float
    """|change of the core's parameters| / |parameters|, by one update."""
    of_the_past: float
    """RTRL against the full gradient through the history as it was, with the parameters of each moment."""
    of_now: float
    """RTRL against the full gradient as if the present parameters had made the whole history."""
    truncated: float
    """TBPTT against that."""


def measure_moving(network: Network, stream: Stream, learning_rate: float, length: int = 10) -> Moving:
    """The gradient by the core's parameters while Adam moves all parameters after every rollout."""
    network = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    carry, rollouts = network.core.initial_carry(stream.observation.shape[1]), stream.rollouts(length)
    history: list[Gradients] = []
    found: list[list[float]] = []
    for i, rollout in enumerate(rollouts):
        history.append(values_of(network))
        gradients: dict[Gradient, Gradients] = {}
        for kind in ("tbptt", "rtrl"):
            network.core.gradient = kind
            optimiser.zero_grad()
            loss, after = loss_of_rollout(network, rollout, carry)
            loss.backward()
            gradients[kind] = gradients_of(network)
        carry = after
        optimiser.step()
        if i < len(rollouts) // 2:
            continue
        past = full_bptt(history, rollouts[: i + 1], [i])
        now = full_bptt([history[-1]] * (i + 1), rollouts[: i + 1], [i])
        found.append(
            [
                relative_error(values_of(network), history[-1], CORE),
                relative_error(gradients["rtrl"], past, CORE),
                relative_error(gradients["rtrl"], now, CORE),
                relative_error(gradients["tbptt"], now, CORE),
            ]
        )
    return Moving(*torch.tensor(found).mean(0).tolist())


def still_gradients(network: Network, stream: Stream, length: int, kind: Gradient) -> Gradients:
    """The sum of all rollouts' gradients, with parameters that stand still."""
    network.core.gradient = kind
    network.zero_grad()
    carry = network.core.initial_carry(stream.observation.shape[1])
    for rollout in stream.rollouts(length):
        loss, carry = loss_of_rollout(network, rollout, carry)
        loss.backward()
    return gradients_of(network)


def stored_gradients(network: Network, stream: Stream, length: int, storage: torch.dtype) -> Gradients:
    """The same by RTRL in float32, with the sensitivities kept as the learner keeps them."""
    network = copy.deepcopy(network).float()
    network.core.gradient = "rtrl"
    network.zero_grad()
    streams = torch.arange(stream.observation.shape[1])
    start = network.core.initial_carry(len(streams))
    stored = tuple(traces.stored_as(storage) for traces in start.traces)
    carry = replace(start, traces=stored).of_streams(streams)
    for rollout in Stream(stream.observation.float(), stream.target.float()).rollouts(length):
        loss, carry = loss_of_rollout(network, rollout, carry)
        loss.backward()
    return gradients_of(network)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0, 1e-5, 1e-4, 1e-3, 4e-3])
    parser.add_argument("--rollout-lengths", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args(arguments))
    learning_rates, lengths, seed = (options.pop(name) for name in ("learning_rates", "rollout_lengths", "seed"))
    sizes = Sizes(**options)
    # The figures then do not depend on the machine's compiler.
    os.environ.setdefault("R2AC_KERNELS", "reference")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    network, stream = trained(sizes), Stream.draw(sizes)

    print("Parameters that move between rollouts of 10 steps: relative error of the core's gradient\n")
    print("| learning rate | move of an update | RTRL, history as it was | RTRL, present parameters | TBPTT |")
    print("|--:|--:|--:|--:|--:|")
    for rate in learning_rates:
        row = measure_moving(network, stream, rate)
        print(f"| {rate:g} | {row.moved:.1e} | {row.of_the_past:.1e} | {row.of_now:.1e} | {row.truncated:.1e} |")

    exact = full_bptt([values_of(network)], [stream], [0])
    print("\nParameters that stand still: relative errors of the gradient of the whole stream\n")
    print("| T | core, RTRL | core, TBPTT | encoder | core, RTRL in float32 | the same, S in bfloat16 |")
    print("|--:|--:|--:|--:|--:|--:|")
    for length in lengths:
        rtrl, tbptt = (still_gradients(network, stream, length, kind) for kind in ("rtrl", "tbptt"))
        errors = [relative_error(of, exact, CORE) for of in (rtrl, tbptt)]
        errors.append(relative_error(rtrl, exact, ENCODER))
        for storage in (torch.float32, torch.bfloat16):
            errors.append(relative_error(stored_gradients(network, stream, length, storage), exact, CORE))
        print(f"| {length} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")


if __name__ == "__main__":
    main()
