"""The suite `atari`: Atari 2600 games by ale-py's own vector environment.

`PRESETS` has the protocols of Irie et al. 2024 (section 4, after Mnih et al. 2015), which are the defaults, and of
Machado et al. 2018; docs/environments/atari.md compares them. Rewards are the game's own: the loss clips them.

FIRE, where it is one of the actions, is pressed for one frame at the start of an episode, in place of the last no-op:
some games wait for it. (The paper's code repeats it 4 times and lets one more action follow.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from r2ac.envs.scores import ATARI_RANDOM_HUMAN
from r2ac.envs.seeding import engine_seeds
from r2ac.envs.signals import Signals
from r2ac.envs.suite import InvalidOption, ReferenceScores, Spaces, Split, Suite, SuiteOptions, check_at_least

_TWO_PLAYERS_ONLY = {"combat", "joust", "maze_craze", "warlords"}


@dataclass(frozen=True)
class AtariOptions(SuiteOptions):
    """Options of the Atari games; the defaults are the paper's preset."""

    action_repeat: int = 4
    """Frames that each action is repeated for; the observation is the maximum of the last two."""
    frame_stack: int = 4
    """Observations stacked, oldest first: the channels of the image."""
    image_size: int = 84
    """Height and width of the image, in pixels."""
    colour: bool = False
    """Red, green and blue of each observation (three channels, beside one another in the stack) in place of grey."""
    full_action_space: bool = True
    """All 18 actions in every game, not only those that the game uses."""
    sticky_actions: float = 0.0
    """Probability that a frame repeats the action before it (0.25 in Machado et al. 2018)."""
    max_noops: int = 30
    """Most no-ops at the start of an episode, in frames; their number is drawn uniformly from 0 up."""
    fire_on_reset: bool = True
    """Press FIRE at the start of a game that knows it."""
    episodic_life: bool = False
    """End an episode with each life; the game goes on, and returns are those of whole games all the same."""
    max_episode_frames: int = 108_000
    """Frames (not steps) after which a game is truncated: 30 minutes of play."""
    threads: int = 0
    """Engine threads of one vector environment; 0 for one a core. They do not change what is computed."""


PRESETS = {
    "paper": AtariOptions(),
    "machado2018": AtariOptions(sticky_actions=0.25, max_noops=0, fire_on_reset=False),
}


class AtariVector(VectorWrapper):
    """ale-py's vector environment with float32 rewards, uint8 [C,H,W] images in colour too, and signals in its infos.

    seeds: one for each stream, for the first `reset`.
    episodic_life: report each loss of a life as terminated, and the true ends of games in the signal `game_over`.
    """

    def __init__(self, env: VectorEnv, seeds: Sequence[int], *, episodic_life: bool = False) -> None:
        super().__init__(env)
        self._seeds: Any = np.asarray(seeds, dtype=np.int64)
        self._episodic_life = episodic_life
        self._lives = np.zeros(self.num_envs, dtype=np.int64)
        shape = env.single_observation_space.shape
        assert shape is not None
        self._in_colour = len(shape) == 4
        if self._in_colour:
            stack, height, width, channels = shape
            self.single_observation_space = Box(0, 255, (stack * channels, height, width), np.uint8)
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        first, self._seeds = self._seeds, None
        observation, info = self.env.reset(seed=first if seed is None else seed, options=options)
        self._lives = info["lives"].copy()
        return self._channels_first(observation), info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        observation, game_over = self._channels_first(observation), terminated | truncated
        final = self._channels_first(info.pop("final_obs")) if "final_obs" in info else None
        signals = Signals(final_observation=final, has_final=None if final is None else game_over)
        if self._episodic_life:
            # Some games show 0 lives for a while before they are over.
            lost = (info["lives"] < self._lives) & (info["lives"] > 0) & ~game_over
            self._lives, signals = info["lives"].copy(), replace(signals, game_over=game_over)
            if lost.any():
                others = observation if final is None else final
                final = np.where(lost[:, None, None, None], observation, others)
                signals = replace(signals, final_observation=final, has_final=game_over | lost)
                terminated = terminated | lost
        return observation, reward.astype(np.float32), terminated, truncated, info | signals.info()

    def _channels_first(self, observation: np.ndarray) -> np.ndarray:
        """[N,S,H,W,3] as [N,3S,H,W]; grey images as they are."""
        if not self._in_colour:
            return observation
        moved = np.moveaxis(observation, 4, 2)
        return moved.reshape(len(moved), -1, *moved.shape[3:])


@functools.cache
def _roms() -> dict[str, str]:
    """Task name to ROM name: the 57 games of the benchmark, and what else the installed ale-py has a ROM of."""
    roms = set(ATARI_RANDOM_HUMAN)
    spec = find_spec("ale_py")
    if spec is not None and spec.origin is not None:
        roms |= {path.stem for path in (Path(spec.origin).parent / "roms").glob("*.bin")}
    return {rom.title().replace("_", ""): rom for rom in sorted(roms - _TWO_PLAYERS_ONLY)}


def _check(name: str, options: AtariOptions) -> None:
    check_at_least("action_repeat", options.action_repeat, 1, "frames")
    check_at_least("frame_stack", options.frame_stack, 1, "observations")
    check_at_least("image_size", options.image_size, 1, "pixels")
    check_at_least("max_noops", options.max_noops, 0, "frames")
    check_at_least("max_episode_frames", options.max_episode_frames, options.action_repeat, "frames, one action repeat")
    check_at_least("threads", options.threads, 0, "threads, 0 for one a core")
    if not 0.0 <= options.sticky_actions < 1.0:
        raise InvalidOption(f"sticky_actions is {options.sticky_actions}, but it must be a probability in [0, 1)")


def _load() -> Any:
    """The engine's class."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv


def _make(name: str, num_envs: int, seed: int, split: Split, options: AtariOptions) -> VectorEnv:
    engine = _load()(
        _roms()[name],
        num_envs,
        num_threads=options.threads,
        max_num_frames_per_episode=options.max_episode_frames,
        repeat_action_probability=options.sticky_actions,
        full_action_space=options.full_action_space,
        autoreset_mode=AutoresetMode.SAME_STEP,
        img_height=options.image_size,
        img_width=options.image_size,
        grayscale=not options.colour,
        stack_num=options.frame_stack,
        frameskip=options.action_repeat,
        maxpool=True,
        noop_max=options.max_noops + 1,  # the engine draws below it
        episodic_life=False,  # the engine would begin a new game; AtariVector goes on with the one there is
        reward_clipping=False,
        use_fire_reset=options.fire_on_reset,
    )
    return AtariVector(engine, engine_seeds(seed, split, num_envs), episodic_life=options.episodic_life)


def _spaces(name: str, options: AtariOptions) -> Spaces:
    channels = options.frame_stack * (3 if options.colour else 1)
    # How many actions a game uses only the engine knows.
    actions = 18 if options.full_action_space else None
    return Spaces((channels, options.image_size, options.image_size), "uint8", actions)


def _reference_scores(name: str, options: AtariOptions) -> ReferenceScores | None:
    scores = ATARI_RANDOM_HUMAN.get(_roms()[name])
    return None if scores is None else ReferenceScores(*scores, "random", "human")


SUITE = Suite(
    name="atari",
    summary="Atari 2600 games (Arcade Learning Environment)",
    options=AtariOptions,
    list_tasks=lambda: tuple(_roms()),
    modules=("ale_py",),
    remedy="pip install 'ale-py>=0.11,<0.13'",
    load=_load,
    check=_check,
    make=_make,
    frames_per_step=lambda name, options: options.action_repeat,
    reference_scores=_reference_scores,
    spaces=_spaces,
    presets=PRESETS,
)
