"""The pictures say what the analysis found."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2ac.launch.runtime.errors import RunError
from r2ac.launch.watching.episodes import PlayedEpisode
from r2ac.launch.watching.memory_analysis import CueMemory, cue_memory
from r2ac.launch.watching.memory_plot import draw_cue_memory, draw_states, life_text


def episodes(count: int, cues: int, steps: int, units: int) -> list[PlayedEpisode]:
    """Unit k is high after cue k, and forgets more slowly the greater its number."""
    random = np.random.default_rng(0)
    decay = np.linspace(0.5, 1.0, units)
    played = []
    for i in range(count):
        observations = np.zeros((steps, cues), dtype=np.float32)
        observations[0, i % cues] = 1
        cells = 0.05 * random.standard_normal((steps, units))
        cells[:, i % cues] += 0.5
        nothing, ones = np.zeros(steps), np.ones((steps, 1))
        firsts, jacobians = np.arange(steps) == 0, np.tile(decay, (steps, 1))
        chosen = nothing[:, None].astype(int)
        own = (firsts, nothing.astype(int), nothing, nothing, ones, chosen, cells.astype(np.float32), jacobians)
        played.append(PlayedEpisode(True, observations, *own))
    return played


def memory_of(cues: int = 2, steps: int = 12, units: int = 16) -> CueMemory:
    return cue_memory(episodes(6 * cues, cues, steps, units), None, 0)


def words(path: Path) -> str:
    """Matplotlib draws letters as curves, with the text as a comment beside them."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def test_the_best_units_are_named_with_their_numbers(tmp_path: Path) -> None:
    memory = memory_of()
    draw_cue_memory(memory, "memory/tmaze: an agent", tmp_path / "memory.svg")
    text = words(tmp_path / "memory.svg")
    assert set(memory.order[:2].tolist()) == {0, 1}
    for unit in memory.order[:6]:
        assert f"Unit {unit} " in text
        assert f"separation {memory.separation[unit]:.3f}, half-life {life_text(memory.half_lives[unit])}" in text
    for expected in ("memory/tmaze: an agent", "feature 0 = 1", "feature 1 = 1", "12 episodes", "chance", "infinite"):
        assert expected in text


@pytest.mark.parametrize(
    ("suffix", "cues", "steps", "units"), [(".png", 2, 2, 2), (".pdf", 3, 300, 7), (".png", 8, 40, 70)]
)
def test_cues_and_units_of_any_number_fit(tmp_path: Path, suffix: str, cues: int, steps: int, units: int) -> None:
    draw_cue_memory(memory_of(cues, steps, units), "a task", tmp_path / f"memory{suffix}")
    if suffix == ".png":
        with Image.open(tmp_path / "memory.png") as picture:
            assert np.asarray(picture).std() > 10
    else:
        assert (tmp_path / "memory.pdf").read_bytes().startswith(b"%PDF")


def test_extreme_half_lives_are_drawn(tmp_path: Path) -> None:
    memory = memory_of()
    for lives in (np.full(16, np.nan), np.full(16, np.inf), np.array([np.inf, 0.0, 1e-3, 1e7] * 4)):
        draw_cue_memory(replace(memory, half_lives=lives), "a task", tmp_path / "memory.png")
    assert [life_text(life) for life in (np.inf, np.nan, 0.0, 12.345)] == ["infinite", "unknown", "0", "12.3"]


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (2, 30), (5, 400)])
def test_without_cues_states_and_half_lives_are_shown_and_why(tmp_path: Path, count: int, steps: int) -> None:
    played = episodes(count, 2, steps, 16)
    played[-1] = replace(played[-1], complete=False)
    draw_states(played, "atari/Pong: an agent", "first images are no cues", tmp_path / "memory.svg")
    text = words(tmp_path / "memory.svg")
    assert "Without cues: first images are no cues" in text
    assert f"Episode {min(count, 3)}" in text
    assert ("cut off" in text) == (count <= 3)
    assert ("infinite" in text) == (steps > 1)


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere.memory\.png cannot be written: No such file"):
        draw_cue_memory(memory_of(), "a task", tmp_path / "nowhere" / "memory.png")
