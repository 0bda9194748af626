"""The suite `atari`: Atari 2600 games by ale-py's own vector environment.

The preset is that of Irie et al. 2024 (section 4, after Mnih et al. 2015): 84 x 84 grey, 4 frames stacked, each
action repeated 4 times with the pixel-wise maximum of the last two frames, up to 30 no-ops at the start, no sticky
actions, all 18 actions in every game. An episode is a whole game, not a life, and is truncated after 108,000 frames.
Rewards are the game's own: to clip them is the loss's business. (The released code of the paper differs: by its
wrapper's default an episode ends with each life.)

Games that know FIRE get it for one frame at the start of an episode, after the no-ops: a policy that has not yet found
FIRE would stand still in the games that wait for it. The paper's code presses FIRE too, by the wrapper of the OpenAI
baselines, which repeats it 4 times and lets one more action follow.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from r2ac.envs.scores import ATARI_RANDOM_HUMAN
from r2ac.envs.seeding import SeedFirstReset, engine_seeds
from r2ac.envs.suite import InvalidOption, ReferenceScores, Split, Suite, check_at_least, missing_modules

_TWO_PLAYERS_ONLY = {"combat", "joust", "maze_craze", "warlords"}


@dataclass(frozen=True)
class AtariOptions:
    """Options of the Atari games; the defaults are the paper's preset."""

    action_repeat: int = 4
    """Frames that each action is repeated for; the observation is the maximum of the last two."""
    frame_stack: int = 4
    """Observations stacked, oldest first: the channels of the image."""
    image_size: int = 84
    """Height and width of the image, in pixels."""
    full_action_space: bool = True
    """All 18 actions in every game, not only those that the game uses."""
    sticky_actions: float = 0.0
    """Probability that a frame repeats the action before it (0.25 in Machado et al. 2018)."""
    max_noops: int = 30
    """Most no-ops at the start of an episode, in frames; their number is drawn uniformly from 0 up."""
    fire_on_reset: bool = True
    """Press FIRE at the start of an episode where the game knows it."""
    max_episode_frames: int = 108_000
    """Frames (not steps) after which an episode is truncated: 30 minutes of play."""
    threads: int = 0
    """Engine threads of one vector environment; 0 for one a core. They do not change what is computed."""


class AtariVector(VectorWrapper):
    """ale-py's vector environment with float32 rewards and Gymnasium's mask beside `final_obs`."""

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            info["_final_obs"] = terminated | truncated
        return observation, reward.astype(np.float32), terminated, truncated, info


@functools.cache
def _roms() -> dict[str, str]:
    """Task name to ROM name: the 57 games of the benchmark, and what else the installed ale-py has a ROM of."""
    roms = set(ATARI_RANDOM_HUMAN)
    spec = find_spec("ale_py")
    if spec is not None and spec.origin is not None:
        roms |= {path.stem for path in (Path(spec.origin).parent / "roms").glob("*.bin")}
    return {rom.title().replace("_", ""): rom for rom in sorted(roms - _TWO_PLAYERS_ONLY)}


def _missing() -> str | None:
    if missing_modules("ale_py"):
        return "the suite atari needs ale-py, which is not installed: pip install 'ale-py>=0.11,<0.13'"
    return None


def _check(name: str, options: AtariOptions) -> None:
    check_at_least("action_repeat", options.action_repeat, 1, "frames")
    check_at_least("frame_stack", options.frame_stack, 1, "observations")
    check_at_least("image_size", options.image_size, 1, "pixels")
    check_at_least("max_noops", options.max_noops, 0, "frames")
    check_at_least("max_episode_frames", options.max_episode_frames, options.action_repeat, "frames, one action repeat")
    check_at_least("threads", options.threads, 0, "threads, 0 for one a core")
    if not 0.0 <= options.sticky_actions < 1.0:
        raise InvalidOption(f"sticky_actions is {options.sticky_actions}, but it must be a probability in [0, 1)")


def _make(name: str, num_envs: int, seed: int, split: Split, options: AtariOptions) -> VectorEnv:
    from ale_py.vector_env import AtariVectorEnv

    engine = AtariVectorEnv(
        _roms()[name],
        num_envs,
        num_threads=options.threads,
        max_num_frames_per_episode=options.max_episode_frames,
        repeat_action_probability=options.sticky_actions,
        full_action_space=options.full_action_space,
        autoreset_mode=AutoresetMode.SAME_STEP,
        img_height=options.image_size,
        img_width=options.image_size,
        grayscale=True,
        stack_num=options.frame_stack,
        frameskip=options.action_repeat,
        maxpool=True,
        noop_max=options.max_noops,
        episodic_life=False,
        reward_clipping=False,
        use_fire_reset=options.fire_on_reset,
    )
    return SeedFirstReset(AtariVector(engine), engine_seeds(seed, split, num_envs))


def _reference_scores(name: str, options: AtariOptions) -> ReferenceScores | None:
    scores = ATARI_RANDOM_HUMAN.get(_roms()[name])
    return None if scores is None else ReferenceScores(*scores, "random", "human")


SUITE = Suite(
    name="atari",
    summary="Atari 2600 games (Arcade Learning Environment)",
    options=AtariOptions,
    list_tasks=lambda: tuple(_roms()),
    missing=_missing,
    check=_check,
    make=_make,
    frames_per_step=lambda name, options: options.action_repeat,
    reference_scores=_reference_scores,
)
