"""The options of the suite `dmlab`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from r2ac.envs.suite import SuiteOptions

ActionSet = Literal[9, 15]
Renderer = Literal["software", "hardware"]


@dataclass(frozen=True)
class DmlabOptions(SuiteOptions):
    """Options of DeepMind Lab; the defaults are the paper's preset. Each stream is a process of 200 to 400 MB."""

    actions: ActionSet = 9
    """Number of actions: 9 (the paper's), or IMPALA's larger set of 15, which also looks up and down."""
    action_repeat: int = 4
    """Frames that each action is repeated for."""
    max_of_two_frames: bool = True
    """Observe the maximum of the last two frames (the paper's); off: the last alone, which is faster."""
    image_height: int = 72
    """Height of the image, in pixels, a multiple of 4."""
    image_width: int = 96
    """Width of the image, in pixels, a multiple of 4."""
    instruction: bool = False
    """Observe the instructions of the language levels too, as ids of their words; r2ac train turns it on where one of
    these levels is among the tasks."""
    num_levels: int = 0
    """Number of seeds that training episodes are drawn from, the same for all workers; 0 for 2**30."""
    level_cache: str = ""
    """Folder of compiled maps that all workers share; worth its disk where num_levels makes seeds repeat."""
    dataset_path: str = ""
    """Folder of the pictures (0001.png, …) that two of the psychlab tasks show; dummy for coloured squares, to try them
    without."""
    renderer: Renderer = "software"
    """What draws the frames: software (OSMesa), or hardware (EGL or GLX, whichever the engine was built with)."""
    parallel_resets: int = 4
    """Engines of one vector environment that reset at a time: each may compile a map with 8 threads; 0 for all."""
    step_timeout: float = 120.0
    """Seconds after which an engine that gives no answer to a step is replaced; some load maps in a step."""
    reset_timeout: float = 600.0
    """Seconds that the start of an engine and the compiling of its map may take."""
    max_engine_failures: int = 5
    """Failures of a stream's engines in a row, without a step between them, that end the run."""
