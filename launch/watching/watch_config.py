"""What ``r2ac watch`` plays and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from r2ac.envs import Split
from r2ac.launch.settings.flags import check_ranges


@dataclass(frozen=True)
class WatchConfig:
    """Write a video of whole episodes of a trained agent, with what it expects, does and gets, and a picture of what it
    remembers: its cell states, which units tell cues apart, and for how long."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory (its newest checkpoint) or checkpoint."""
    task: str | None = None
    """The task to play, one of the suite that the agent was trained on; its first own one if not given."""
    episodes: int = 3
    """Episodes of the video."""
    max_steps: int = 1000
    """Most steps to play: in all for the video, in each episode for the cues; what is under way then is cut off."""
    fps: int = 15
    """Steps that the video shows in a second."""
    greedy: bool = False
    """Take the most probable action instead of drawing from the policy."""
    seed: int = 0
    """Seeds the environment and what is drawn."""
    split: Split = "test"
    """Which episodes to play: test (held out), or train (as in training)."""
    device: str = "auto"
    """Where the agent runs: cpu, cuda, cuda:1, …; auto takes the GPU where there is one."""
    output: Path | None = None
    """The video (.mp4 where imageio-ffmpeg is installed, or .gif, which is kept in memory until it is whole) or contact
    sheet (.png); if not given, episodes.mp4 in the run, or episodes.gif."""
    memory_output: Path | None = None
    """The picture of what is remembered (.png, .svg, .pdf); memory.png in the run if not given."""
    memory_episodes: int = 64
    """Episodes that cues are compared over. Cues are the first observations of episodes, where 2 to 8 differ; of the
    tasks of images only those of the suite memory have any."""
    decision_step: int | None = None
    """Step of an episode, counted from 0, at which the cues are compared; its last step if not given."""

    def check(self) -> None:
        """Raise ConfigError for the first setting that is not allowed."""
        check_ranges(
            self,
            {
                "episodes": (1, 1000),
                "max_steps": (1, 1_000_000),
                "fps": (1, 50),
                "seed": (0, 2**64 - 1),
                "memory_episodes": (4, 10_000),
                "decision_step": (0, 1_000_000),
            },
        )
