"""A double of the module `deepmind_lab`: what tests play with where the engine is not installed.

It has the engine's interface and its manners, after `dmlab_module.c` and what the engine was seen to do:

- the errors of a bad level, observation, setting, seed or action, each raised in the same place, of the same type;
- an action's memory is read as it lies: strides are not heeded;
- no observation after the last step; `num_steps()` counts what was asked for, not what was played;
- a reset after `close()` is a segmentation fault;
- hold-out levels and levels with pictures have to be allowed and given their data set;
- explore levels compile a map, slowly, unless the level cache has it; the map is a zip archive;
- a folder `dmlab_temp_folder_*` in TMPDIR, left behind by a process that dies;
- an episode follows from level, mixerSeed, seed and actions, but the rewards of an engine's first episode are off by a
  little;
- frames are drawn when they are asked for.

Faults on request, by the environment:

    DMLAB_DOUBLE_FAULT=KIND@PLACE:N     in the N-th call of PLACE (construct, reset, step) in a process; KIND is exit
                                        (C's exit, after a message), segfault, hang (with Python's lock held), raise
    DMLAB_DOUBLE_ONCE=FILE              only one fault in all processes: the file marks it
    DMLAB_DOUBLE_RESET_SECONDS=S        what compiling a map takes
    DMLAB_DOUBLE_LOG=FILE               a line for each reset that begins or ends, and for each map compiled
"""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_DMLAB30 = "contributed/dmlab30/"
_BASIC = {"lt_chasm", "lt_hallway_slope", "lt_horseshoe_color", "lt_space_bounce_hard", "seekavoid_arena_01"}
_BASIC |= {"stairway_to_melon", *(f"nav_maze_{kind}_0{i}" for kind in ("static", "random_goal") for i in (1, 2, 3))}
_LEVELS = _BASIC | {
    _DMLAB30 + family + "_" + level
    for family, levels in {
        "rooms": "collect_good_objects_train collect_good_objects_test exploit_deferred_effects_train "
        "exploit_deferred_effects_test select_nonmatching_object watermaze keys_doors_puzzle",
        "language": "select_described_object select_located_object execute_random_task answer_quantitative_question",
        "lasertag": "one_opponent_small three_opponents_small one_opponent_large three_opponents_large",
        "natlab": "fixed_large_map varying_map_regrowth varying_map_randomized",
        "skymaze": "irreversible_path_hard irreversible_path_varied",
        "psychlab": "arbitrary_visuomotor_mapping continuous_recognition sequential_comparison visual_search",
        "explore": "object_locations_small object_locations_large obstructed_goals_small obstructed_goals_large "
        "goal_locations_small goal_locations_large object_rewards_few object_rewards_many",
    }.items()
    for level in levels.split()
}
_WITH_PICTURES = {_DMLAB30 + "psychlab_arbitrary_visuomotor_mapping", _DMLAB30 + "psychlab_continuous_recognition"}
_SETTINGS = {"width", "height", "fps", "mixerSeed", "logLevel", "datasetPath", "allowHoldOutLevels"}
_WORDS = ["pick", "the", "red", "blue", "green", "hat", "balloon", "car", "near", "every", "object"]


class Lab:
    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] | None = None,
        renderer: str = "software",
        level_cache: Any = None,
    ) -> None:
        if not isinstance(observations, list):
            raise TypeError(f"Lab() argument 2 must be list, not {type(observations).__name__}")
        config = {} if config is None else config
        if not isinstance(config, dict):
            raise TypeError(f"Lab() argument 3 must be dict, not {type(config).__name__}")
        if any(not isinstance(text, str) for pair in config.items() for text in pair):
            raise TypeError("bad argument type for built-in operation")
        if renderer not in ("software", "hardware"):
            raise RuntimeError(f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!')
        self._open, self._running, self._calls, self._frames_asked = True, False, {}, 0
        self._folder = tempfile.mkdtemp(prefix="dmlab_temp_folder_", dir=os.environ.get("TMPDIR", "/tmp"))
        self._fault("construct")
        if level not in _LEVELS:
            raise RuntimeError(f'Failed to init environment - "Level not found: {level}"')
        for key, value in config.items():
            if key not in _SETTINGS:
                raise RuntimeError(f"""Failed to init environment - "Invalid setting: '{key}' = '{value}'\"""")
        if level.endswith("_test") and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError('Failed to init environment - "This level must only be used during evaluation."')
        if level in _WITH_PICTURES and not config.get("datasetPath"):
            raise RuntimeError('Failed to init environment - "Follow instructions to download datasets here"')
        for name in observations:
            if name not in ("RGB_INTERLEAVED", "INSTR"):
                raise ValueError(f"Unknown observation '{name}'.")
        self._level, self._observations, self._cache, self._episode = level, observations, level_cache, 0
        self._size = int(config.get("height", "240")), int(config.get("width", "320"))
        self._mixer = int(config.get("mixerSeed", "0"))

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        if not self._open:
            os.kill(os.getpid(), signal.SIGSEGV)
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        _log("reset begins")
        self._fault("reset")
        # Without a seed, processes that start together play the same episode.
        self._seed = 1804289383 if seed is None else seed
        self._entropy = [zlib.crc32(self._level.encode()), self._mixer, self._seed]
        if "explore" in self._level:
            print("***\n*P*\n***", flush=True)
            self._map()
        self._length = 21 + self._seed % 7
        self._frame, self._frames_asked, self._history = 0, 0, 0
        self._running, self._episode = True, self._episode + 1
        _log("reset ends")
        return True

    def is_running(self) -> bool:
        return self._running

    def num_steps(self) -> int:
        return self._frames_asked

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        if not isinstance(action, np.ndarray):
            raise TypeError(f"step() argument 1 must be numpy.ndarray, not {type(action).__name__}")
        if not self._running:
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (7,):
            raise ValueError("action must have shape (7)")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        self._fault("step")
        self._frames_asked += num_steps
        memory = bytes((ctypes.c_byte * (7 * action.itemsize)).from_address(action.ctypes.data))
        reward = 0.0
        for _ in range(num_steps):
            self._frame += 1
            self._history = zlib.crc32(memory, self._history)
            reward += 0.1 * (self._history % 3) + (0.001 if self._episode == 1 else 0.0)
            if self._frame == self._length:
                self._running = False
                break
        return reward

    def observations(self) -> dict[str, Any]:
        if not self._running:
            raise RuntimeError("Environment in wrong status for call to observations()")
        draw = np.random.default_rng([*self._entropy, self._frame, self._history])
        words = draw.choice(_WORDS, size=4) if "language" in self._level and self._frame >= 4 else []
        seen = {
            "RGB_INTERLEAVED": draw.integers(256, size=(*self._size, 3), dtype=np.uint8),
            "INSTR": " ".join(words),
        }
        return {name: seen[name] for name in self._observations}

    def close(self) -> bool:
        was_open, self._open, self._running = self._open, False, False
        shutil.rmtree(self._folder, ignore_errors=True)
        return was_open

    def _map(self) -> None:
        key, path = f"maze_noaas_{'-'.join(map(str, self._entropy))}", f"{self._folder}/maze.pk3"
        if self._cache is not None and self._cache.fetch(key, path):
            assert zipfile.ZipFile(path).read("maze.map") == key.encode()
            return
        _log("map compiled")
        time.sleep(float(os.environ.get("DMLAB_DOUBLE_RESET_SECONDS", "0")))
        # As the program zip does: it adds to what is there.
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("maze.map", key)
        if self._cache is not None:
            self._cache.write(key, path)

    def _fault(self, place: str) -> None:
        self._calls[place] = self._calls.get(place, 0) + 1
        kind, _, when = os.environ.get("DMLAB_DOUBLE_FAULT", "").partition("@")
        if when != f"{place}:{self._calls[place]}":
            return
        if mark := os.environ.get("DMLAB_DOUBLE_ONCE"):
            try:
                Path(mark).touch(exist_ok=False)
            except FileExistsError:
                return
        if kind == "exit":
            print("ERROR: Couldn't load maps/lt_missing.bsp", file=sys.stderr, flush=True)
            os._exit(1)
        elif kind == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif kind == "hang":
            ctypes.PyDLL(None).sleep(600)
        elif kind == "raise":
            error = ValueError if place == "step" else RuntimeError
            raise error('Failed to advance environment "[string] lua error"')


def _log(line: str) -> None:
    if path := os.environ.get("DMLAB_DOUBLE_LOG"):
        with open(path, "a") as log:
            log.write(f"{line}\n")
