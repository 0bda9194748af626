"""Whether a recurrent module is trained on what it computes when it acts, and forgets where an episode begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from r2ac.agents.core import Carry

Pass = Callable[[Tensor, Any, Tensor], tuple[Tensor, Any]]

_STEPS, _RESET, _STREAMS = 9, 5, 4


def check_recurrent(
    module: nn.Module,
    input_size: int | None = None,
    *,
    train: Pass | None = None,
    act: Pass | None = None,
    start: Callable[[int], Any] | None = None,
) -> list[str]:
    """A sentence for each violation of these rules; an empty list where there is none:

    - The same call twice gives the same, and does not change the state that it is given.
    - The acting pass, step by step, gives the outputs and the last state of the training pass over a rollout; two
      halves of a rollout give those of the whole.
    - Where is_first is true, both passes compute what they do from a fresh start, in this stream and in no other.
    - Gradients cross neither the begin of an episode nor from stream to stream.

    A rollout is ``module(x, state, is_first)``, x [T,B,D], is_first [T,B] bool, and a step is that of T = 1 or
    ``module.step(x, state, is_first)``, x [B,D], where there is such a method. A module whose forward takes no is_first
    (``nn.LSTM``, ``nn.GRU``) is called ``module(x, state)``; ``module.batch_first`` is heeded. States are tensors, in
    tuples, lists or dictionaries too, or a `Carry`, whose ``state`` a step takes and returns.

    Args:
        module: called as it stands: with dropout call ``module.eval()`` before.
        input_size: D; None: ``module.input_size``.
        train: the training pass in place of the module's: (x, state, is_first) -> (output [T,B,...], state).
        act: likewise the acting pass of one step: output [B,...].
        start: the state of B fresh streams; None: ``module.initial_carry``, ``module.initial_state``, or None for each.

    Raises:
        ValueError: where input_size is neither given nor an attribute of the module.
    """
    size = input_size or getattr(module, "input_size", None)
    if size is None:
        raise ValueError("input_size is None, but the module has no attribute input_size: it must be given")
    like = next(module.parameters(), torch.zeros(()))
    x = torch.randn(2, _STEPS, _STREAMS, int(size), generator=torch.Generator().manual_seed(0)).to(like)
    own_train, own_act, own_start, knows_resets = _conventions(module)
    check = _Check(module, train or own_train, act or own_act, start or own_start, x[1])
    # A state that streams have in the midst of an episode.
    used = _detached(check.train(x[0], check.start(_STREAMS), check.never)[1])
    if found := [*check.repeats(used)]:
        return found
    found = [*check.steps_are_the_rollout(used)]
    if not knows_resets and not (train and act):
        return [*found, "it cannot forget: its forward takes no is_first, so that its caller must reset the state"]
    found += check.resets("the training pass", check.train, used)
    found += check.resets("the acting pass", check.step_by_step, used)
    return [*found, *check.gradients(used)]


@dataclass(frozen=True)
class _Check:
    module: nn.Module
    train: Pass
    act: Pass
    start: Callable[[int], Any]
    x: Tensor

    @property
    def never(self) -> Tensor:
        return torch.zeros(self.x.shape[:2], dtype=torch.bool, device=self.x.device)

    @property
    def sometimes(self) -> Tensor:
        is_first = self.never  # Episodes begin in the midst, nowhere, at the first step, at two steps in turn.
        is_first[_RESET, 0] = is_first[0, 2] = is_first[2:4, 3] = True
        return is_first

    @torch.no_grad()
    def step_by_step(self, x: Tensor, state: Any, is_first: Tensor) -> tuple[Tensor, Any]:
        outputs = []
        for x_t, first in zip(x, is_first, strict=True):
            output, state = self.act(x_t, state, first)
            outputs.append(output)
        return torch.stack(outputs), state

    def repeats(self, used: Any) -> Iterator[str]:
        before = [leaf.clone() for leaf in _leaves(used)]
        for name, run in (("training", self.train), ("acting", self.step_by_step)):
            once, again = (run(self.x, used, self.never)[0] for _ in range(2))
            if any(not torch.equal(*pair) for pair in zip(before, _leaves(used), strict=True)):
                yield f"the {name} pass changes in place the state that it is given"
                return
            if _differ(once, again) is not None:
                yield f"the {name} pass gives other outputs when it is called again (dropout, or a state of its own?)"

    def steps_are_the_rollout(self, used: Any) -> Iterator[str]:
        whole, last = self.train(self.x, used, self.never)
        steps, last_of_steps = self.step_by_step(self.x, used, self.never)
        if (where := _differ(whole, steps)) is not None:
            yield f"the training pass over a rollout and the acting pass step by step differ from step {where} on"
        elif len(_leaves(last)) != len(_leaves(last_of_steps)) or _which_differ(_leaves(last), _leaves(last_of_steps)):
            yield "the training pass and the acting pass give the same outputs but leave different states"
        first, between = self.train(self.x[:_RESET], used, self.never[:_RESET])
        second, _ = self.train(self.x[_RESET:], _detached(between), self.never[_RESET:])
        if (where := _differ(whole, torch.cat((first, second)))) is not None:
            yield f"a rollout in two halves differs from the whole from step {where} on: the state lacks something"

    def resets(self, name: str, run: Pass, used: Any) -> Iterator[str]:
        """Names what a pass does by what it would compute with resets elsewhere."""
        is_first, begin = self.sometimes, self.never
        late, early, begin[0] = begin.clone(), begin.clone(), is_first[0]
        late[1:], early[:-1] = is_first[:-1], is_first[1:]
        got = run(self.x, used, is_first)[0]
        where = _differ(got, self._by_fresh_starts(run, used, is_first))
        others = {
            "ignores is_first": self.never,
            "resets one step late": late,
            "resets one step early": early,
            "resets in the first step of a rollout alone": begin,
            "resets all streams where one begins an episode": is_first.any(1, keepdim=True).expand_as(is_first),
        }
        if where is not None:
            same = [does for does, at in others.items() if _differ(got, self._by_fresh_starts(run, used, at)) is None]
            yield f"{name} {same[0] if same else f'is not as from a fresh start where an episode begins, step {where}'}"

    def _by_fresh_starts(self, run: Pass, used: Any, is_first: Tensor) -> Tensor:
        """The outputs of a rollout, pieced together from runs without resets."""
        expected = run(self.x, used, self.never)[0].detach().clone()
        for step, stream in is_first.nonzero().tolist():
            fresh, _ = run(self.x[step:], self.start(_STREAMS), self.never[step:])
            expected[step:, stream] = fresh[:, stream].detach()
        return expected

    def gradients(self, used: Any) -> Iterator[str]:
        """Of the outputs of stream 0 after its reset."""
        weights = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        x = self.x.clone().requires_grad_()
        fresh = self.train(x[_RESET:], self.start(_STREAMS), self.never[_RESET:])[0][:, 0]
        after = self.train(x, used, self.sometimes)[0][_RESET:, 0]
        inputs = [x, *weights.values()]
        _, *expected = torch.autograd.grad(fresh.square().sum(), inputs, materialize_grads=True)
        by_x, *got = torch.autograd.grad(after.square().sum(), inputs, materialize_grads=True)
        by_x = by_x.abs() > 1e-4 * by_x.abs().max()
        if by_x[:_RESET, 0].any():
            yield "gradients leak across episodes: outputs after a reset have some by inputs before it"
        if by_x[:, 1:].any():
            yield "gradients leak across streams: outputs of one have some by inputs of another"
        if wrong := ", ".join([*weights][i] for i in _which_differ(got, expected)):
            yield f"gradients leak across episodes: after a reset those by {wrong} are not those of a fresh start"


def _conventions(module: nn.Module) -> tuple[Pass, Pass, Callable[[int], Any], bool]:
    """How a module is called: its training pass, its acting pass, its fresh state, and whether it takes is_first."""
    takes_is_first = len(inspect.signature(module.forward).parameters) > 2
    step = getattr(module, "step", None)
    order = (1, 0) if getattr(module, "batch_first", False) else (0, 1)

    def train(x: Tensor, state: Any, is_first: Tensor) -> tuple[Tensor, Any]:
        given = (is_first.movedim((0, 1), order),) if takes_is_first else ()
        output, state = module(x.movedim((0, 1), order), state, *given)
        return output.movedim((0, 1), order), state

    def act(x: Tensor, state: Any, is_first: Tensor) -> tuple[Tensor, Any]:
        if step is None:
            output, state = train(x.unsqueeze(0), state, is_first.unsqueeze(0))
            return output.squeeze(0), state
        output, after = step(x, state.state if isinstance(state, Carry) else state, is_first)
        return output, Carry(after) if isinstance(state, Carry) else after

    start = getattr(module, "initial_carry", getattr(module, "initial_state", lambda batch: None))
    return train, act, start, takes_is_first


def _leaves(state: Any) -> list[Tensor]:
    leaves = (leaf.state if isinstance(leaf, Carry) else leaf for leaf in pytree.tree_leaves(state))
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]


def _detached(state: Any) -> Any:
    """The state as it is kept between rollouts."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, state)


def _differ(one: Tensor, other: Tensor) -> int | None:
    """The first row in which two tensors are not the same but for rounding; None where there is none."""
    if not other.numel():
        return None
    near = (one - other).abs() <= torch.finfo(one.dtype).eps ** 0.5 * other.abs().max().clamp(min=1e-6)
    rows = (~near).flatten(1).any(1).nonzero().flatten().tolist()
    return rows[0] if rows else None


def _which_differ(some: Iterable[Tensor], others: Iterable[Tensor]) -> list[int]:
    return [
        i for i, pair in enumerate(zip(some, others, strict=True)) if _differ(*map(torch.atleast_2d, pair)) is not None
    ]
