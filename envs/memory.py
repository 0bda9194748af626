"""The suite `memory`: tasks that only an agent which remembers can solve. They need no engine. With the option `pixels`
tasks show uint8 [3,24,24] pictures of 3 x 3 coloured fields in place of float32 vectors, of the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from gymnasium.vector import VectorEnv

from r2ac.envs.bandit import Bandit
from r2ac.envs.chain import MemoryChain
from r2ac.envs.curriculum import Curriculum
from r2ac.envs.key_to_door import KeyToDoor
from r2ac.envs.mazes import EndlessTMaze, WalkedTMaze
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
    """Steps of the corridor (tmaze, passive_tmaze, active_tmaze), or the most of one (endless_tmaze). At least 1."""
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
    corridors: int = 5
    """Corridors of an episode, one after another, each with a cue of its own (endless_tmaze). At least 1."""
    random_lengths: bool = False
    """Draw the length of each corridor uniformly from 1 to corridor_length (endless_tmaze)."""
    arms: int = 5
    """Arms of the bandit, each with a probability of its own (bandit). At least 2."""
    pulls: int = 10
    """Steps of an episode, a pull each (bandit). At least 1."""
    curriculum: bool = False
    """Begin with episodes of size 1 (corridor_length, sequence_length or delay) that grow once a stream answers right
    ten episodes in a row (tmaze, copy, repeat_first, parity, match_to_sample). Of the split train alone."""
    pixels: bool = False
    """Show small pictures, uint8 [3,24,24], in place of vectors; they take an encoder for images, such as patch."""


_TASKS: dict[str, tuple[Callable[..., MemoryVector], tuple[str, ...]]] = {
    "tmaze": (TMazeVector, ("corridor_length",)),
    "copy": (Copy, ("symbols", "sequence_length")),
    "repeat_previous": (RepeatPrevious, ("symbols", "lag", "episode_length")),
    "repeat_first": (RepeatFirst, ("symbols", "delay")),
    "parity": (Parity, ("sequence_length",)),
    "match_to_sample": (MatchToSample, ("symbols", "delay")),
    "key_to_door": (KeyToDoor, ("delay",)),
    "chain": (MemoryChain, ("chain_length",)),
    "trace_conditioning": (TraceConditioning, ("isi", "distractors")),
    "passive_tmaze": (partial(WalkedTMaze, steps_to_cue=0), ("corridor_length",)),
    "active_tmaze": (partial(WalkedTMaze, steps_to_cue=1), ("corridor_length",)),
    "endless_tmaze": (EndlessTMaze, ("corridor_length", "corridors", "random_lengths")),
    "bandit": (Bandit, ("arms", "pulls")),
}
"""What makes each task, and the options that it is given, in the order of its parameters: the task reads no others, but
for those of all tasks and `curriculum`."""
_DESCRIPTIONS = {
    "tmaze": "a cue, then a corridor through which the agent is carried, then a choice: the cue's direction pays 1",
    "copy": "a sequence of symbols, then as many questions: each symbol said again in its order pays 1",
    "repeat_previous": "a symbol at every step: saying the one of k steps ago pays 1",
    "repeat_first": "symbols, then a question: saying the first symbol pays 1",
    "parity": "bits, then a question: saying whether their ones are even or odd pays 1",
    "match_to_sample": "a symbol, then after a delay two symbols: choosing the side of the first one pays 1",
    "key_to_door": "a room with a key, a dark corridor, a room with four doors: the door of the key's colour pays 1",
    "chain": "bsuite's memory_len: a bit in the first step, asked for in the last: 1 if right, -1 if wrong",
    "trace_conditioning": "a reward to predict, some time after its stimulus is gone; there is one action",
    "passive_tmaze": "Ni et al.'s maze: a cue where the agent begins, a corridor to walk at -1/L a step behind time, "
    "two goals: the cue's pays 1",
    "active_tmaze": "the same, but the cue is shown a step to the left of the beginning",
    "endless_tmaze": "corridors one after another, each with a new cue: the right turn pays 1 and leads on, a wrong "
    "one -1 and ends",
    "bandit": "arms that pay 1 with unknown probabilities, new ones in each episode: find the best while pulling",
}
_SIZES = {
    "tmaze": "corridor_length",
    "copy": "sequence_length",
    "repeat_first": "delay",
    "parity": "sequence_length",
    "match_to_sample": "delay",
}
"""The option that `curriculum` grows, by task."""
_READ_BY = {
    option: tuple(task for task, (_, read) in _TASKS.items() if option in read)
    for _, options in _TASKS.values()
    for option in options
} | {"curriculum": tuple(_SIZES)}


def _whole(name: str, num_envs: int, options: MemoryOptions) -> MemoryVector:
    """The task with its options, without a curriculum; raises InvalidOption."""
    make, read = _TASKS[name]
    return make(num_envs, *(getattr(options, option) for option in read))


def _new(name: str, num_envs: int, options: MemoryOptions) -> MemoryVector:
    """The task with its options; raises InvalidOption."""
    if not options.curriculum:
        return _whole(name, num_envs, options)
    size = _SIZES[name]
    return Curriculum(
        num_envs,
        lambda steps: _whole(name, 1, replace(options, **{size: steps})),  # type: ignore[arg-type, return-value]
        getattr(options, size),
    )


def _check(name: str, options: MemoryOptions) -> None:
    env = _whole(name, 1, options)
    if options.curriculum and name not in _SIZES:
        raise InvalidOption(f"curriculum is True, but it must be False with {name}; it is for {', '.join(_SIZES)}")
    symbols = getattr(env, "symbols", 0)
    if options.pixels and not env.pictures():
        raise InvalidOption(f"pixels is True, but it must be False with {name}, which has no pictures")
    if options.pixels and symbols > len(COLOURS):
        raise InvalidOption(f"symbols is {symbols}, but there are only {len(COLOURS)} colours to show them as pixels")


def _make(name: str, num_envs: int, seed: int, split: Split, options: MemoryOptions) -> VectorEnv:
    env = _new(name, num_envs, replace(options, curriculum=options.curriculum and split == "train"))
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
    describe=_DESCRIPTIONS.__getitem__,
    read_by=_READ_BY,
    unlisted=("chain", "trace_conditioning", "passive_tmaze", "active_tmaze", "endless_tmaze", "bandit"),
    endless=("trace_conditioning",),
    growing=("copy",),
    check=_check,
    make=_make,
    reference_scores=lambda name, options: _whole(name, 1, options).scores,
    episode_steps=lambda name, options: _new(name, 1, options).episode_steps,
    spaces=_spaces,
    foreign=False,
)
