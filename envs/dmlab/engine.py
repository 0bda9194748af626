"""One DeepMind Lab engine: actions by number, action repeat, observations."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from r2ac.envs.dmlab.cache import LevelCache
from r2ac.envs.dmlab.options import DmlabOptions

INSTALL = (
    "with Python >= 3.13, pip install dmlab-gym && dmlab-gym build (in a container, on Linux x86-64); with an older "
    "Python, up to 3.11, build the wheel of https://github.com/google-deepmind/lab and pip install it with dm_env and "
    "'setuptools<81' (no package index has deepmind_lab)"
)
"""The remedy where the engine is missing or cannot be imported."""

# Look left/right and down/up (pixels a frame), strafe, move, fire, jump, crouch.
_MOVES = ((0, 0, 0, 1, 0, 0, 0), (0, 0, 0, -1, 0, 0, 0), (0, 0, -1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0))
_DOWN_AND_UP = ((0, 10, 0, 0, 0, 0, 0), (0, -10, 0, 0, 0, 0, 0))
_FIRE = (0, 0, 0, 0, 1, 0, 0)


def _look(pixels: int, move: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (-pixels, 0, 0, move, 0, 0, 0), (pixels, 0, 0, move, 0, 0, 0)


ACTION_SETS: dict[int, tuple[tuple[int, ...], ...]] = {
    9: (*_MOVES, *_look(20), *_look(20, move=1), _FIRE),
    15: (*_MOVES, *_look(10), *_look(60), *_DOWN_AND_UP, *_look(10, move=1), *_look(60, move=1), _FIRE),
}
"""By size: the 9 of Espeholt et al. 2018, "IMPALA", which Irie et al. 2024 use, and IMPALA's larger set of 15 (Hessel
et al. 2018, "Multi-task deep reinforcement learning with PopArt"). Left comes before right."""

INSTRUCTION_LENGTH = 16
"""Ids of an instruction; the instructions of DMLab-30 are shorter."""
INSTRUCTION_IDS = 4096
"""An id is below this number; 0 stands for no word."""


def hash_instruction(text: str) -> np.ndarray:
    """The words of an instruction as ids, int32 [INSTRUCTION_LENGTH], padded with 0 or cut off: 1 + crc32(word) mod
    (INSTRUCTION_IDS - 1), whatever the case and the punctuation. Different words can share an id."""
    words = re.findall(r"\w+", text.casefold())[:INSTRUCTION_LENGTH]
    ids = np.zeros(INSTRUCTION_LENGTH, dtype=np.int32)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % (INSTRUCTION_IDS - 1) for word in words]
    return ids


@dataclass(frozen=True)
class EngineSettings:
    """All that an engine's process needs to know."""

    level: str
    """The engine's name of the level, such as `contributed/dmlab30/rooms_watermaze`."""
    config: dict[str, str]
    """The engine's and the level's own settings."""
    options: DmlabOptions
    """With an absolute `level_cache`."""


class Frame(NamedTuple):
    """What an engine shows."""

    image: np.ndarray
    """uint8 [H,W,3]."""
    instruction: np.ndarray | None
    """int32 [INSTRUCTION_LENGTH] where the settings ask for it."""
    text: str = ""
    """The same in words."""


class Answer(NamedTuple):
    """What a reset or a step gives."""

    reward: float
    """Summed over the frames of the step; 0 for a reset."""
    frame: Frame | None
    """None where the step ended the episode: the engine has no observation of the end."""


class Failure(NamedTuple):
    """Why an engine cannot go on."""

    reason: str
    in_constructor: bool = False
    """The engine never came to be: with these settings it never will."""
    in_import: bool = False
    """`deepmind_lab`, or what it imports, is not installed as it must be."""


class Engine:
    """A DeepMind Lab engine, the only one of its process. Raises RuntimeError for an unknown level or setting,
    ImportError without the package; some errors end the process or never return (see `r2ac.envs.dmlab.process`)."""

    def __init__(self, settings: EngineSettings) -> None:
        options = self._options = settings.options
        observations = ["RGB_INTERLEAVED", *(["INSTR"] if options.instruction else [])]
        cache = {"level_cache": LevelCache(Path(options.level_cache))} if options.level_cache else {}
        self._lab: Any = import_module("deepmind_lab").Lab(
            settings.level, observations, config=dict(settings.config), renderer=options.renderer, **cache
        )
        # Rows of a C-contiguous array: the engine reads the memory behind an action and ignores strides.
        self._actions = np.array(ACTION_SETS[options.actions], dtype=np.intc)

    def reset(self, seed: int) -> Answer:
        """Begins the episode of a non-negative int32."""
        # A reset of a closed engine ends the process.
        if self._lab is None:
            raise RuntimeError("the engine is closed")
        self._lab.reset(seed=int(seed))
        return Answer(0.0, self._frame())

    def step(self, action: int) -> Answer:
        """Repeats an action, given by its number, until the step or the episode is over."""
        vector, repeat = self._actions[action], self._options.action_repeat
        if not self._options.max_of_two_frames or repeat == 1:
            reward = self._lab.step(vector, num_steps=repeat)
            return Answer(reward, self._frame() if self._lab.is_running() else None)
        reward = 0.0
        frames: list[Frame] = []
        for frame in range(repeat):
            reward += self._lab.step(vector)
            if not self._lab.is_running():
                return Answer(reward, None)
            # The engine draws a frame only when it is asked for it: the earlier ones are never drawn.
            if frame >= repeat - 2:
                frames.append(self._frame())
        last_but_one, last = frames
        return Answer(reward, last._replace(image=np.maximum(last_but_one.image, last.image)))

    def close(self) -> None:
        """Frees the engine; it cannot be used again."""
        if self._lab is not None:
            self._lab.close()
            self._lab = None

    def _frame(self) -> Frame:
        seen = self._lab.observations()
        if not self._options.instruction:
            return Frame(seen["RGB_INTERLEAVED"], None)
        return Frame(seen["RGB_INTERLEAVED"], hash_instruction(seen["INSTR"]), seen["INSTR"])
