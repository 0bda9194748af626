"""How `deepmind_lab` behaves where the adapter relies on it; asserts, for the double and for the engine alike."""

import glob
import os
import re
from collections.abc import Callable
from typing import Any

import deepmind_lab
import numpy as np

IMAGE = ["RGB_INTERLEAVED"]
SMALL = {"width": "32", "height": "24", "logLevel": "WARN"}
LEVEL = "contributed/dmlab30/rooms_select_nonmatching_object"
HOLD_OUT = "contributed/dmlab30/rooms_collect_good_objects_test"
STILL = np.zeros(7, dtype=np.intc)


def raises(kind: type[Exception], words: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    said = None
    try:
        call(*args, **kwargs)
    except kind as error:
        said = str(error)
    assert said is not None, f"{kind.__name__} was not raised"
    assert re.search(words, said), said


raises(RuntimeError, "not found", deepmind_lab.Lab, "no_such_level", IMAGE, config=SMALL)
raises(RuntimeError, "evaluation", deepmind_lab.Lab, HOLD_OUT, IMAGE, config=SMALL)
raises(RuntimeError, "etting", deepmind_lab.Lab, LEVEL, IMAGE, config={**SMALL, "noSuchSetting": "1"})
raises(ValueError, "Unknown observation", deepmind_lab.Lab, LEVEL, ["NONE"], config=SMALL)
raises(TypeError, "list", deepmind_lab.Lab, LEVEL, tuple(IMAGE), config=SMALL)
raises(TypeError, "", deepmind_lab.Lab, LEVEL, IMAGE, config={"width": 32})

lab = deepmind_lab.Lab(LEVEL, [*IMAGE, "INSTR"], config=SMALL, renderer="software")
assert glob.glob(os.environ["TMPDIR"] + "/dmlab_temp_folder_*")
assert not lab.is_running()
raises(RuntimeError, "wrong status", lab.step, STILL)
raises(RuntimeError, "wrong status", lab.observations)
raises(ValueError, "seed", lab.reset, seed=np.int64(3))
assert lab.reset(seed=3) is True
assert lab.is_running()
seen = lab.observations()
assert (seen["RGB_INTERLEAVED"].shape, seen["RGB_INTERLEAVED"].dtype) == ((24, 32, 3), np.uint8)
assert isinstance(seen["INSTR"], str)
raises(TypeError, "", lab.step, STILL.tolist())
raises(ValueError, "shape", lab.step, STILL[:6])
raises(ValueError, "dtype", lab.step, STILL.astype(np.int64))
assert isinstance(lab.step(STILL, num_steps=4), float)
assert lab.num_steps() == 4
assert not np.shares_memory(seen["RGB_INTERLEAVED"], lab.observations()["RGB_INTERLEAVED"])
asked = 4
while lab.is_running():
    lab.step(STILL, num_steps=1000)
    asked += 1000
assert lab.num_steps() == asked
raises(RuntimeError, "wrong status", lab.step, STILL)
raises(RuntimeError, "wrong status", lab.observations)
lab.reset(seed=3)
assert (lab.close(), lab.close(), lab.is_running()) == (True, False, False)
raises(RuntimeError, "wrong status", lab.step, STILL)
print("all as expected", flush=True)
lab.reset(seed=3)
print("a reset after close() returned")
