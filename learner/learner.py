"""The learner: one update of the agent from a batch of rollouts."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from r2ac.agents import Agent, Carry
from r2ac.agents.scopes import scope
from r2ac.kernels import REFERENCE, kernels_for
from r2ac.learner.algorithms import ALGORITHMS
from r2ac.learner.algorithms.algorithm import Descent, Losses, StepCondition, UpdateContext
from r2ac.learner.carries import CarryStore
from r2ac.learner.collective import Collective, SingleLearner
from r2ac.learner.config import LearnerConfig
from r2ac.learner.device import CapturedStep, DeviceFeed
from r2ac.learner.metrics import UpdateMetrics
from r2ac.learner.optimiser import clip_gradient_norm, linear_decay, set_learning_rate, step_where
from r2ac.learner.optimiser_setup import make_optimiser
from r2ac.learner.refresh import History
from r2ac.learner.returns import RunningNormalisers
from r2ac.learner.rollout import Rollout
from r2ac.learner.rtrl_metrics import RTRLMetrics


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite."""


class Learner:
    """Agent, optimiser and the carries of all streams.

    On a GPU an update is only enqueued: nothing in it waits for the device, and its counts and metrics stay there until
    they are asked for.

    Args:
        agent: on the device where it is to learn.
        config: how it learns.
        num_streams: of all rollout actors of this learner together.
        total_steps: environment steps after which the learning rate has fallen to zero.
        collective: the learners that share the training: each update is from the batches of all.

    Raises:
        ValueError: for a precision or storage that is neither float32 nor bfloat16, for rtrl_metrics_every or
            refresh_every below 0, or refresh_every other than 0 where the core has no sensitivities.
    """

    def __init__(
        self,
        agent: Agent,
        config: LearnerConfig,
        num_streams: int,
        total_steps: int,
        collective: Collective | None = None,
    ) -> None:
        self.agent, self.config, self.total_steps = agent, config, total_steps
        self._collective = collective or SingleLearner()
        self.device = next(agent.parameters()).device
        on_gpu = self.device.type == "cuda"
        for name in ("encoder_precision", "sensitivity_storage"):
            if getattr(config, name) not in ("float32", "bfloat16"):
                raise ValueError(f"{name} must be float32 or bfloat16, not {getattr(config, name)!r}")
        for name in ("rtrl_metrics_every", "refresh_every"):
            if getattr(config, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(config, name)}")
        if config.refresh_every and not agent.core.uses_rtrl:
            raise ValueError("refresh_every must be 0 where the core is not trained by RTRL: it has no sensitivities")
        agent.encoder_dtype = getattr(torch, config.encoder_precision)
        storage = torch.bfloat16 if config.sensitivity_storage == "bfloat16" else None
        self.carries = CarryStore(agent.core, num_streams, storage)
        self._remaining = torch.ones((), device=self.device)
        context = UpdateContext(agent, config, num_streams, self._collective, self, self._remaining)
        self.algorithm = ALGORITHMS[config.algorithm](context)
        self.parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
        self.optimiser = make_optimiser(self.parameters, config.optimiser, config.learning_rate, capturable=on_gpu)
        self.env_steps = 0
        """Environment steps learned from, by all learners."""
        self.updates = 0
        """Updates made, with those that were skipped; also the version of the weights."""
        self._normalisers: RunningNormalisers | None = None
        if agent.rewards.deviation is not None or agent.observations is not None:
            self._normalisers = RunningNormalisers(agent, num_streams, config.discount, self._collective)
        self._update_metrics = UpdateMetrics(("loss/total", *self.algorithm.metrics, "loss/gradient_norm"), self.device)
        self._feed = DeviceFeed(self.device)
        self._staged: deque[Rollout[np.ndarray]] = deque()
        self._history = History(config.refresh_rollouts, num_streams) if config.refresh_every else None
        # The readable references read the streams' numbers on the host, which no capture allows.
        has_kernels = kernels_for(self.parameters[0]) is not REFERENCE
        self._capture = CapturedStep(self.device) if on_gpu and config.cuda_graph and has_kernels else None
        self._rtrl_metrics: RTRLMetrics | None = None
        if agent.core.uses_rtrl and config.rtrl_metrics_every and self.algorithm.descends:
            # A CUDA graph has no branches: what is captured is done in every update.
            every = 1 if on_gpu else config.rtrl_metrics_every
            self._rtrl_metrics = RTRLMetrics(agent.core, num_streams, every, self._collective)

    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        falls = self.config.learning_rate_schedule == "linear"
        return self.config.learning_rate * (linear_decay(self.env_steps, self.total_steps) if falls else 1)

    def stage(self, rollout: Rollout[np.ndarray]) -> None:
        """Begin to bring a batch of rollouts to the device, for an update that is made later: in the order of staging,
        at most ``DeviceFeed.SLOTS`` batches ahead. May run on another thread than the updates.

        Raises:
            ValueError: for streams that are unknown or come twice.
        """
        with scope("copies"):
            gap = self.carries.gaps(rollout.stream, rollout.sequence)
            self.carries.advance(rollout.stream, rollout.sequence)
            self._feed.stage({**rollout.arrays(), "gap": gap})
        self._staged.append(rollout)

    def update(self, rollout: Rollout[np.ndarray]) -> dict[str, Tensor]:
        """One update from a batch of rollouts, T steps of B streams, and from those of the other learners, as if they
        were one. The batch is staged now unless it was before.

        An update whose loss or gradient is not finite changes nothing but the counters and what rewards and
        observations are normalised by, and its streams begin again with zero sensitivities.

        Returns:
            Metrics as scalar tensors on the learner's device: losses per step, gradient norm, entropy. On a GPU they
            are overwritten by the next update.

        Raises:
            ValueError: for streams that are unknown or come twice, or while another batch is staged.
            TrainingDiverged: after ``max_skipped_updates`` such updates in a row; on a GPU only :meth:`check` does.
            CollectiveBroken: where another learner is gone.
        """
        if not self._staged:
            self.stage(rollout)
        if self._staged.popleft() is not rollout:
            raise ValueError("another batch was staged before: updates are made in the order of staging")
        set_learning_rate(self.optimiser, self.learning_rate())
        self._remaining.fill_(linear_decay(self.env_steps, self.total_steps))
        with scope("copies"):
            inputs = self._feed.take()
        if self._history is not None:
            batch = _batch_of(inputs)
            self._history.add(batch, *self.carries.before(batch.stream, inputs["gap"], batch.first_state))
        metrics = self._step(inputs) if self._capture is None else self._capture(self._step, inputs)
        self.env_steps += rollout.length * rollout.batch_size * self._collective.size
        self.updates += 1
        if self._history is not None and self.updates % self.config.refresh_every == 0:
            with scope("refresh"):
                self._history.recompute(self.agent, self.carries)
        if self.device.type != "cuda":
            self.check()
        return metrics

    @property
    def captured(self) -> bool:
        """Whether updates are replayed as a CUDA graph by now."""
        return self._capture is not None and self._capture.replays

    def check(self) -> None:
        """Waits for the device.

        Raises:
            TrainingDiverged: where ``max_skipped_updates`` in a row were skipped since the last check.
        """
        in_a_row = self._update_metrics.take_most_in_a_row()
        if in_a_row >= self.config.max_skipped_updates:
            skips = self._update_metrics.skips()
            raise TrainingDiverged(
                f"training diverged: {in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(loss {skips.loss}, gradient norm {skips.gradient_norm}) after {self.env_steps:,} environment steps; "
                "lower --learning-rate or raise --max-skipped-updates"
            )

    @property
    def skipped_updates(self) -> int:
        """Updates left out because loss or gradient was not finite, since the start; waits for the device."""
        return self._update_metrics.skips().total

    @skipped_updates.setter
    def skipped_updates(self, count: int) -> None:
        self._update_metrics.set_skips(count)

    def read_metrics(self) -> dict[str, float]:
        """Means of the metrics over the good updates since the last call; waits for the device.

        With RTRL, those of :class:`~r2ac.learner.rtrl_metrics.RTRLMetrics` are among them where any of these updates
        was measured, and with normalised rewards their deviation now.
        """
        rtrl = self._rtrl_metrics.take() if self._rtrl_metrics is not None else {}
        deviation = self.agent.rewards.deviation
        scale = {} if deviation is None else {"learner/reward_deviation": float(deviation)}
        return self._update_metrics.take() | rtrl | scale

    def _step(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of an update that runs on the device; numbers of the host reach it through tensors alone."""
        gap, batch = inputs["gap"], _batch_of(inputs)
        with scope("copies"):
            carry = self.carries.fetch(batch.stream, gap, batch.first_state)
        if self._rtrl_metrics is not None:
            carry = self._rtrl_metrics.begin(carry, self.updates)
        carry, descent = self.algorithm.update(batch, carry)
        # After the update, which learns by the deviations that the actors had: the policy's ratio is one at first.
        if self._normalisers is not None:
            self._normalisers.observe(batch, gap)
        with scope("copies"):
            self.carries.store(batch.stream, carry, descent.finite if descent.kept is None else descent.kept)
        with scope("metrics"):
            self._update_metrics.add_update(descent.metrics, descent.finite, may_branch=self.device.type == "cpu")
        return descent.metrics

    def descend(
        self,
        losses: Losses,
        batch: Rollout[Tensor],
        carry: Carry,
        mean: bool = False,
        condition: StepCondition | None = None,
    ) -> Descent:
        """One step of the optimiser by the gradient of the losses of all learners' batches, unless it is not finite;
        see :class:`~r2ac.learner.algorithms.algorithm.OptimiserSteps`."""
        steps = batch.length * batch.batch_size
        with scope("backward"):
            for parameter in self.parameters:
                parameter.grad = None
            vector = losses.backward(1 / (steps * self._collective.size) if mean else 1)
        measured = None
        if self._rtrl_metrics is not None and carry.notes:
            with scope("metrics"):
                measured = self._rtrl_metrics.measure(carry, batch.length)
        gradients = None if vector is None else [vector]
        descent = self.apply({"loss/total": losses.total.detach(), **losses.parts}, steps, condition, gradients)
        if self._rtrl_metrics is not None and measured is not None:
            with scope("metrics"):
                self._rtrl_metrics.add(measured, descent.finite)
        return descent

    def apply(
        self,
        sums: dict[str, Tensor],
        steps: int,
        condition: StepCondition | None = None,
        gradients: list[Tensor] | None = None,
    ) -> Descent:
        """One step of the optimiser by the gradients that the parameters of all learners have, unless one is not
        finite; see :class:`~r2ac.learner.algorithms.algorithm.OptimiserSteps`."""
        if gradients is None:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        sums = self._combine(sums, gradients)
        means = torch.stack(list(sums.values())) / (steps * self._collective.size)
        metrics = dict(zip(sums, means.unbind(), strict=True))
        with scope("optimiser"):
            may_branch = self.device.type == "cpu"
            gradient_norm = clip_gradient_norm(gradients, self.config.max_gradient_norm, may_branch)
            finite = torch.isfinite(sums["loss/total"] + gradient_norm)
            made = finite if condition is None else finite & condition(metrics)
            step_where(self.optimiser, made, may_branch)
        return Descent(metrics | {"loss/gradient_norm": gradient_norm}, finite, made)

    def _combine(self, sums: dict[str, Tensor], gradients: list[Tensor]) -> dict[str, Tensor]:
        """Gradients, in place, and losses of the batches of all learners as if they were one batch. From here on all
        learners compute the same, to the bit."""
        if self._collective.size == 1:
            return sums
        values = torch.stack(list(sums.values()))
        with scope("peers"):
            self._collective.sum_([*gradients, values])
        return dict(zip(sums, values.unbind(), strict=True))


def _batch_of(inputs: dict[str, Tensor]) -> Rollout[Tensor]:
    return Rollout(**{name: tensor for name, tensor in inputs.items() if name != "gap"})
