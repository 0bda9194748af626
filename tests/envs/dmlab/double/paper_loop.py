"""Plays as the paper's code does: frame by frame, every frame seen, the maximum of the last two; or by `num_steps`.

Arguments: one JSON object with level, config, actions (7 numbers each), repeat, choices (an action's number a step),
seeds (one an episode), engine_repeat, output (a .npz of the rewards, ends and images).
"""

import json
import sys

import deepmind_lab
import numpy as np

job = json.loads(sys.argv[1])
actions = np.array(job["actions"], dtype=np.intc)
lab = deepmind_lab.Lab(job["level"], ["RGB_INTERLEAVED"], config=job["config"])
seeds = iter(job["seeds"])
rewards, ends, images = [], [], []


def see() -> np.ndarray:
    return lab.observations()["RGB_INTERLEAVED"].transpose(2, 0, 1)


def begin() -> np.ndarray:
    lab.reset(seed=next(seeds))
    return see()


def step(action: np.ndarray) -> tuple[np.ndarray, float, bool]:
    if job["engine_repeat"]:
        reward = lab.step(action, num_steps=job["repeat"])
        return (see(), reward, False) if lab.is_running() else (begin(), reward, True)
    total, last_two = 0.0, [np.zeros(0, np.uint8)] * 2
    for _ in range(job["repeat"]):
        total += lab.step(action)
        if not lab.is_running():
            return begin(), total, True
        last_two = [last_two[1], see()]
    return np.maximum(*last_two), total, False


images.append(begin())
for choice in job["choices"]:
    image, reward, ended = step(actions[choice])
    images.append(image)
    rewards.append(reward)
    ends.append(ended)
np.savez(job["output"], images=np.stack(images), rewards=np.array(rewards), ends=np.array(ends))
