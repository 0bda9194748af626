"""The suite `memory`: tasks that only an agent which remembers can solve. They need no engine. With the option `pixels`
tasks show uint8 [3,24,24] pictures of 3 x 3 coloured fields in place of float32 vectors, of the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gymnasium.vector import VectorEnv

from r2ac.envs.chain import MemoryChain
from r2ac.envs.key_to_door import KeyToDoor
from r2ac.envs.recall import COLOURS, MemoryVector, PictureVector
from r2ac.envs.recall_tasks import Copy, MatchToSample, Parity, RepeatFirst, RepeatPrevious
from r2ac.envs.seeding import engine_seeds
from r2ac.envs.suite import InvalidOption, Spaces, Split, Suite, SuiteOptions
from r2ac.envs.tmaze import TMazeVector
from r2ac.envs.trace_conditioning import TraceConditioning


@dataclass(frozen=True)
class MemoryOptions(SuiteOptions):
    """Options of the memory tasks; in brackets the tasks that an option belongs to."""

    corridor_length: int = 40
    """Steps between seeing the cue and choosing (tmaze); an episode has one step more. At least 1."""
    symbols: int = 4
    """Number of different symbols (copy, repeat_previous, repeat_first, match_to_sample). 2 or more; 8 with pixels."""
    sequence_length: int = 10
    """Symbols to copy (copy), bits to count (parity). At least 1."""
    lag: int = 4
    """How many steps ago the symbol was shown that is asked for (repeat_previous). At least 1."""
    episode_length: int = 50
    """Steps of an episode (repeat_previous). More than lag."""
    delay: int = 20
    """Steps from cue to question (repeat_first, match_to_sample), or in the corridor (key_to_door). At least 1."""
    chain_length: int = 64
    """Steps of an episode, the bit being asked for in the last (chain). At least 2."""
    isi: int = 20
    """Mean steps from the conditioned to the unconditioned stimulus (trace_conditioning). At least 6."""
    distractors: int = 10
    """Stimuli that predict nothing (trace_conditioning)."""
    pixels: bool = False
    """Show small pictures, uint8 [3,24,24], in place of vectors; they take an encoder for images, such as patch."""


_TASKS: dict[str, Callable[[int, MemoryOptions], MemoryVector]] = {
    "tmaze": lambda num_envs, options: TMazeVector(num_envs, options.corridor_length),
    "copy": lambda num_envs, options: Copy(num_envs, options.symbols, options.sequence_length),
    "repeat_previous": lambda num_envs, options: RepeatPrevious(
        num_envs, options.symbols, options.lag, options.episode_length
    ),
    "repeat_first": lambda num_envs, options: RepeatFirst(num_envs, options.symbols, options.delay),
    "parity": lambda num_envs, options: Parity(num_envs, options.sequence_length),
    "match_to_sample": lambda num_envs, options: MatchToSample(num_envs, options.symbols, options.delay),
    "key_to_door": lambda num_envs, options: KeyToDoor(num_envs, options.delay),
    "chain": lambda num_envs, options: MemoryChain(num_envs, options.chain_length),
    "trace_conditioning": lambda num_envs, options: TraceConditioning(num_envs, options.isi, options.distractors),
}


def _check(name: str, options: MemoryOptions) -> None:
    env = _TASKS[name](1, options)
    symbols = getattr(env, "symbols", 0)
    if options.pixels and not env.pictures():
        raise InvalidOption(f"pixels is True, but it must be False with {name}, which has no pictures")
    if options.pixels and symbols > len(COLOURS):
        raise InvalidOption(f"symbols is {symbols}, but there are only {len(COLOURS)} colours to show them as pixels")


def _make(name: str, num_envs: int, seed: int, split: Split, options: MemoryOptions) -> VectorEnv:
    env = _TASKS[name](num_envs, options)
    env.seed_streams(engine_seeds(seed, split, num_envs))
    return PictureVector(env, env.pictures()) if options.pixels else env


def _spaces(name: str, options: MemoryOptions) -> Spaces:
    env = _make(name, 1, 0, "train", options)
    shape: tuple[int, ...] = env.single_observation_space.shape or ()
    return Spaces(shape, "uint8" if options.pixels else "float32", int(env.single_action_space.n))  # type: ignore[attr-defined]


SUITE = Suite(
    name="memory",
    summary="small tasks that need recall, as vectors or as small pictures",
    options=MemoryOptions,
    list_tasks=lambda: tuple(_TASKS),
    unlisted=("chain", "trace_conditioning"),
    endless=("trace_conditioning",),
    check=_check,
    make=_make,
    reference_scores=lambda name, options: _TASKS[name](1, options).scores,
    episode_steps=lambda name, options: _TASKS[name](1, options).episode_steps,
    spaces=_spaces,
    foreign=False,
)
