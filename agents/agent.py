"""The agent: encoder, recurrent core, read-out, policy head and value head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from r2ac.agents import fused
from r2ac.agents.actions import ActionSpec, PolicyHead
from r2ac.agents.config import AgentConfig
from r2ac.agents.core import Carry
from r2ac.agents.cores import make_core
from r2ac.agents.encoders import make_encoder
from r2ac.agents.instruction import InstructionEncoder
from r2ac.agents.moments import ObservationNormaliser
from r2ac.agents.readout import Readout
from r2ac.agents.rewards import RewardTransform
from r2ac.agents.scopes import scope


@dataclass(frozen=True)
class ObservationSpec:
    """Observations and actions of an environment."""

    shape: tuple[int, ...]
    """[C, H, W] of an image, or [size] of a vector."""
    actions: ActionSpec
    instruction_length: int = 0
    """Words of an instruction (L); 0 where there are no instructions."""
    instruction_ids: int = 0
    """The number of ids that a word can have."""
    action_masks: bool = False
    """Whether the environment says in each step which actions it allows."""

    @staticmethod
    def of(env: Any) -> ObservationSpec:
        """The spec of a ``gymnasium.vector.VectorEnv``; the agent's folder does without Gymnasium."""
        shape, actions = tuple(env.single_observation_space.shape), ActionSpec.of(env.single_action_space)
        masks = getattr(env.unwrapped, "masks_actions", False)
        ids = getattr(env.unwrapped, "single_instruction_space", None)
        if ids is None:
            return ObservationSpec(shape, actions, action_masks=masks)
        return ObservationSpec(shape, actions, len(ids.nvec), int(ids.nvec[0]), masks)


@dataclass(frozen=True)
class StepOutput:
    """What the agent computes in one step of B streams."""

    actions: ActionSpec
    logits: Tensor
    """The parameters of the policy, [B, P]."""
    value: Tensor
    """[B]."""
    state: Tensor
    """The core's state after the step, [B, S]."""
    core_input: Tensor
    """The core's input, [B, D]."""


@dataclass(frozen=True)
class RolloutOutput:
    """What the agent computes over a rollout of T steps and the observation after them."""

    actions: ActionSpec
    logits: Tensor
    """The parameters of the policy, [T, B, P]."""
    values: Tensor
    """[T, B]."""
    bootstrap_value: Tensor
    """Value of the observation after the last step, [B]; no gradient."""
    carry: Carry
    """The carry after step T, detached."""
    core_input: Tensor
    """What the core was given, [T, B, D], detached."""
    rewards: Tensor
    """What followed each step, as the losses take it: normalised and clipped, [T, B]."""
    final_values: Tensor | None = None
    """Value of the final observation of the episode that ended with each step, [T, B], no gradient; arbitrary where
    none did."""
    pullback: Callable[[Tensor, Tensor], Tensor] | None = None
    """The way back of the gradient, where autograd has not recorded the rollout; may be called once. From the gradients
    by logits and values it computes that by all parameters, sets it as theirs, and returns it as the one vector whose
    views these are."""


class Agent(nn.Module):
    """An actor-critic that remembers.

        x = [encoder(observation); transform(last reward)]      h = core(x)      r = readout(h, x)
        logits = policy(r)      value = value(r)

    The last reward is zero in the first step of an episode; else it is normalised and clipped by
    :class:`RewardTransform`. Irie et al. 2024, section 4. Vectors may be normalised before the encoder, by
    :class:`ObservationNormaliser`. Where the task gives instructions, the core reads their
    features too, those of :class:`InstructionEncoder`.

    Raises:
        ValueError: for an observation that is neither an image nor a vector, an encoder that cannot read it, or sizes
            below 1.
    """

    def __init__(self, spec: ObservationSpec, config: AgentConfig) -> None:
        super().__init__()
        if config.hidden_size < 1 or config.encoder_features < 1:
            raise ValueError(
                "hidden_size and encoder_features must be at least 1, not "
                f"{config.hidden_size} and {config.encoder_features}"
            )
        self.observations: ObservationNormaliser | None = None
        """None where observations are not normalised."""
        if config.normalise_observations and len(spec.shape) == 1:
            self.observations = ObservationNormaliser(spec.shape[0])
        self.encoder, features = make_encoder(spec.shape, config.encoder, config.encoder_features)
        self.instruction_encoder = InstructionEncoder(spec.instruction_ids) if spec.instruction_length else None
        if self.instruction_encoder is not None:
            features += self.instruction_encoder.features
        self.core = make_core(features + 1, config)
        self.readout = Readout(self.core, config)
        self.actions = spec.actions.configured(config)
        self.policy = PolicyHead(self.readout.output_size, self.actions, config)
        self.value = nn.Linear(self.readout.output_size, 1)
        self.rewards = RewardTransform(config.reward_clip, config.normalise_rewards)
        self.encoder_dtype = torch.float32
        """What the encoder computes in: float32 for the dtype of its weights, bfloat16 for autocast to it."""

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is: it gets no gradient and costs no backward pass."""
        self.encoder.requires_grad_(False)

    def parameter_count(self, learned: bool = False) -> int:
        """Weights and biases, those that are frozen too unless only the ``learned`` are asked for; without what rewards
        and observations are normalised by."""
        parts = [part for part in self.children() if part not in (self.rewards, self.observations)]
        parameters = (parameter for part in parts for parameter in part.parameters())
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad or not learned)

    def forward(
        self,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        carry: Carry,
        instruction: Tensor | None = None,
        final_observation: Tensor | None = None,
        action_mask: Tensor | None = None,
        bootstrap_value: Tensor | None = None,
    ) -> RolloutOutput:
        """Run over a rollout of T steps; the observation after them gives the bootstrap value only, without gradient.

        Args:
            observation: [T+1, B, C, H, W] or [T+1, B, size].
            reward: the reward that arrived with each observation, as the environment gave it, [T+1, B].
            is_first: [T+1, B] bool, true where a step begins an episode.
            carry: the core's carry before the rollout.
            instruction: ids of words, [T+1, B, L] int; None where the task has none.
            final_observation: what each episode showed last, [T, B, ...], at the step that ended it; None where its
                value is not wanted.
            action_mask: which actions are allowed in each step, [T+1, B, P] bool; None where all are.
            bootstrap_value: that of an earlier pass, [B], where it will do; None: it is computed.
        """
        steps = observation.shape[0] - 1
        words = (None, None) if instruction is None else (instruction[:steps], instruction[steps])
        with scope("encoder"):
            x = self.core_input(observation[:steps], reward[:steps], is_first[:steps], words[0])
        with scope("core"):
            h, states, carry = self.core.unroll(x, carry, is_first[:steps])
        if bootstrap_value is None:
            last = observation[steps], reward[steps], is_first[steps]
            bootstrap_value = self.value_of(*last, carry.state, words[1])
        final_values = None
        if final_observation is not None:
            final_values = self._final_values(final_observation, reward[1:], states, words[0])
        with scope("heads"):
            features = self.readout(h, x)
            return RolloutOutput(
                actions=self.actions,
                logits=self.policy(features, None if action_mask is None else action_mask[:steps]),
                values=self.value(features).squeeze(-1),
                bootstrap_value=bootstrap_value,
                carry=carry,
                core_input=x.detach(),
                rewards=self.rewards(reward[1:]),
                final_values=final_values,
            )

    def rollout(self, **inputs: Any) -> RolloutOutput:
        """:meth:`forward`, whose arguments it has by name, for those who learn: by a kernel where one knows the agent
        and its task. Autograd has not recorded it then, and the gradient is taken by its ``pullback``."""
        # A subclass may compute something else.
        done = fused.rollout(self, **inputs) if type(self) is Agent else None
        if done is None:
            output: RolloutOutput = self(**inputs)
            return output
        return RolloutOutput(self.actions, **done, rewards=self.rewards(inputs["reward"][1:]))

    @torch.no_grad()
    def step(
        self,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        state: Tensor,
        instruction: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> StepOutput:
        """:meth:`transition` without gradients, for those who act."""
        return self.transition(observation, reward, is_first, state, instruction, action_mask)

    def transition(
        self,
        observation: Tensor,
        reward: Tensor,
        is_first: Tensor,
        state: Tensor,
        instruction: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> StepOutput:
        """One step of B streams without sensitivities, from the core's state before it, [B, S]; the other arguments are
        those of :meth:`forward` without the axis of time."""
        features, state, x = self._features(observation, reward, is_first, state, instruction)
        with scope("heads"):
            return StepOutput(
                self.actions, self.policy(features, action_mask), self.value(features).squeeze(-1), state, x
            )

    @torch.no_grad()
    def act(self, action_mask: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of the policy, [B, P], and the state of :meth:`step`, whose arguments it has; no value."""
        features, state, _ = self._features(**inputs)
        return self.policy(features, action_mask), state

    @torch.no_grad()
    def value_of(self, *inputs: Tensor | None) -> Tensor:
        """The value of :meth:`step`, whose arguments it has but for the mask, [B]."""
        return self.value(self._features(*inputs)[0]).squeeze(-1)  # type: ignore[arg-type]

    def _features(
        self, observation: Tensor, reward: Tensor, is_first: Tensor, state: Tensor, instruction: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a step: what the heads are linear in, the core's state after it, and the core's input."""
        with scope("encoder"):
            x = self.core_input(observation, reward, is_first, instruction)
        with scope("core"):
            h, state = self.core.transition(x, state, is_first)
        return self.readout(h, x), state, x

    def _final_values(self, observation: Tensor, reward: Tensor, states: Tensor, instruction: Tensor | None) -> Tensor:
        """Values [T, B] of what was shown after each step, each a step on from the state after it, [T, B, S]. Computed
        for all steps, whether episodes ended there or not: a GPU's shapes are not to depend on what happened."""
        is_first = torch.zeros_like(reward, dtype=torch.bool).flatten()
        words = None if instruction is None else instruction.flatten(0, 1)
        values = self.value_of(observation.flatten(0, 1), reward.flatten(), is_first, states.flatten(0, 1), words)
        return values.view_as(reward)

    def core_input(self, observation: Tensor, reward: Tensor, is_first: Tensor, instruction: Tensor | None) -> Tensor:
        """[features; transformed last reward; features of the instruction], [..., D], for any axes of steps."""
        dtype, steps = self.policy.weight.dtype, reward.shape
        if self.observations is not None:
            observation = self.observations(observation)
        precision: AbstractContextManager[object] = nullcontext()
        if self.encoder_dtype == torch.bfloat16:
            # Casts are not kept from call to call: weights change, and a captured update must cast them each time.
            precision = torch.autocast(observation.device.type, torch.bfloat16, cache_enabled=False)
        with precision:
            if len(steps) == 1:
                features = self.encoder(observation)
            else:
                features = self.encoder(observation.flatten(0, len(steps) - 1)).unflatten(0, steps)
        features = features.to(dtype)
        last_reward = self.rewards(reward).masked_fill(is_first, 0).to(dtype)
        parts = [features, last_reward.unsqueeze(-1)]
        if self.instruction_encoder is not None:
            if instruction is None:
                raise ValueError("this agent reads instructions, but the step has none")
            parts.append(self.instruction_encoder(instruction.flatten(0, len(steps) - 1)).unflatten(0, steps))
        return torch.cat(parts, dim=-1)
