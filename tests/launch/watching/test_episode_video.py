"""Frames show the observation pixel by pixel and numbers as lengths; videos have them all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2ac.launch.runtime.errors import RunError
from r2ac.launch.watching.episode_video import Film, contact_sheet, draw_film, frame, frames
from r2ac.launch.watching.episodes import PlayedEpisode
from r2ac.launch.watching.pictures import MARGIN, newest_image

ORANGE, BLUE, GREEN = (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x78, 0x5A)


def episode(observations: np.ndarray, actions: int = 3, **changes: Any) -> PlayedEpisode:
    """Made by hand; values rise from 0 to 1, the last step pays 2, and the last action is the most probable one."""
    steps = len(observations)
    own = {
        "complete": True,
        "observations": observations,
        "is_first": np.arange(steps) == 0,
        "actions": np.full(steps, actions - 1),
        "rewards": np.where(np.arange(steps) == steps - 1, 2.0, 0.0),
        "values": np.linspace(0, 1, steps, dtype=np.float32),
        "probabilities": np.tile([*[0.25 / (actions - 1)] * (actions - 1), 0.75], (steps, 1)),
        "chosen": np.full((steps, 1), actions - 1),
        "cells": np.zeros((steps, 1)),
        "jacobians": np.zeros((steps, 1)),
    }
    return PlayedEpisode(**{**own, **changes})


def film(*episodes: PlayedEpisode, stacked: int = 1) -> Film:
    names = tuple(map(str, range(episodes[0].probabilities.shape[1])))
    return Film(episodes, "suite/Task", "an agent, seed 0", names, stacked)


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, *shape), dtype=np.uint8)


def vectors(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, size)).astype(np.float32)


def places(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    return rows, columns


@pytest.mark.parametrize(("shape", "stacked", "scale"), [((4, 84, 84), 4, 5), ((3, 64, 64), 1, 7), ((3, 72, 96), 1, 5)])
def test_the_newest_observation_is_shown_pixel_by_pixel(shape: tuple[int, ...], stacked: int, scale: int) -> None:
    seen = pictures(3, *shape)
    picture = np.asarray(frame(film(episode(seen), stacked=stacked), 0, 1))
    enlarged = newest_image(seen[1], stacked).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = enlarged.shape[:2]
    found = [
        (y, x)
        for y in range(40, 120)
        for x in range(40)
        if np.array_equal(picture[y : y + height, x : x + width], enlarged)
    ]
    assert len(found) == 1


def test_the_bar_of_an_action_is_as_long_as_it_is_probable() -> None:
    def orange(probability: float) -> int:
        shares = np.tile([1 - probability, probability], (2, 1))
        one = episode(np.zeros((2, 3, 8, 8), np.uint8), 2, probabilities=shares)
        rows, columns = places(frame(film(one), 0, 0), ORANGE)
        # Below the small field beside the name of the action.
        bar = columns[rows > rows.min() + 15]
        return int(bar.max() - bar.min())

    whole = orange(1.0)
    for probability in (0.1, 0.5, 0.9):
        assert orange(probability) == pytest.approx(probability * whole, abs=1.5)


def test_the_curve_goes_on_with_the_steps_and_marks_rewards() -> None:
    one = film(episode(np.zeros((11, 3, 8, 8), np.uint8)))
    ends = []
    for step in (0, 5, 10):
        picture = frame(one, 0, step).crop((460, 166, 900, 290))
        rows, columns = places(picture, BLUE)
        ends.append((int(columns.max()), int(rows.min())))
        assert bool(len(places(picture, GREEN)[0])) == (step == 10)
    (x0, y0), (x1, y1), (x2, y2) = ends
    assert x1 - x0 == pytest.approx(x2 - x1, abs=3)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=3)
    assert x2 - x0 > 300
    assert y0 - y2 > 80


def test_short_vectors_are_bars_and_the_newest_of_a_stack_is_shown() -> None:
    seen = np.zeros((2, 6), dtype=np.float32)
    seen[:, 4] = 0.5
    seen[1, 0] = 1.0
    picture = frame(film(episode(seen), stacked=2), 0, 0).crop((0, 80, 440, 400))
    rows, columns = places(picture, BLUE)
    wide, middle = columns.max() - columns.min() + 1, (rows.min() + rows.max()) // 2
    assert (rows.max() - rows.min()) < 24, "one of three features is not 0"
    assert np.asarray(picture)[middle].tolist().count(list(BLUE)) == wide
    both = frame(film(episode(np.array([[-1.0, 1.0], [0, 0]], np.float32))), 0, 0).crop((0, 80, 440, 400))
    rows, columns = places(both, BLUE)
    first, second = columns[rows < rows.min() + 12], columns[rows > rows.max() - 12]
    assert first.max() <= second.min() + 1, "numbers below 0 go to the left of those above"


@pytest.mark.parametrize("size", [1, 4, 20, 21, 984])
@pytest.mark.parametrize("actions", [2, 18, 64])
def test_vectors_and_actions_of_any_number_fit(size: int, actions: int) -> None:
    one = film(episode(vectors(3, size), actions))
    shown = list(frames(one, hold=1))
    assert len({picture.size for picture in shown}) == 1
    assert max(shown[0].size) < 1200
    assert all(len(places(picture, ORANGE)[0]) > 50 for picture in shown)


def test_instructions_stand_below_the_picture() -> None:
    shown = pictures(3, 3, 20, 30)
    told = episode(shown, instructions=("", "pick the red hat", "word " * 60))
    plain, (blank, short, long) = frame(film(episode(shown)), 0, 1), (frame(film(told), 0, step) for step in range(3))
    assert blank.size == short.size == long.size
    assert blank.height > plain.height
    # Their words take the place that is empty in the step without an instruction.
    empty = np.asarray(frame(film(replace(told, instructions=("", "", "word " * 60))), 0, 1))
    rows, columns = (np.asarray(short) != empty).any(axis=2).nonzero()
    assert 0 < rows.max() - rows.min() < 20, "one line"
    # A long one is broken at the picture's width, beside which the numbers stand.
    empty = np.asarray(frame(film(replace(told, instructions=("", "word " * 60, ""))), 0, 2))
    long_rows, long_columns = (np.asarray(long) != empty).any(axis=2).nonzero()
    assert long_rows.max() - long_rows.min() > 40
    assert max(columns.max(), long_columns.max()) < MARGIN + 420


def test_a_video_has_all_steps_and_rests_at_the_end_of_each_episode() -> None:
    one = film(episode(vectors(4, 3)), episode(vectors(1, 3)))
    shown = [np.asarray(picture) for picture in frames(one, hold=5)]
    assert len(shown) == 3 + 5 + 5
    assert all(np.array_equal(picture, shown[3]) for picture in shown[3:8])
    assert not np.array_equal(shown[7], shown[8])


def test_videos_and_sheets_are_written(tmp_path: Path) -> None:
    one = film(episode(pictures(6, 3, 16, 16)), episode(pictures(5, 3, 16, 16)))
    draw_film(one, tmp_path / "a.gif", 20)
    with Image.open(tmp_path / "a.gif") as video:
        assert video.n_frames == 11
        assert video.size == frame(one, 0, 0).size
    draw_film(one, tmp_path / "a.png", 20)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == contact_sheet(one).size
    with pytest.raises(RunError, match=r"nowhere.a\.gif cannot be written: No such file"):
        draw_film(one, tmp_path / "nowhere" / "a.gif", 20)
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    draw_film(one, tmp_path / "a.mp4", 20)
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[0] == 5 + 20 + 4 + 20


def test_a_sheet_has_the_first_and_the_last_step_of_each_episode() -> None:
    one = film(*(episode(pictures(length, 3, 8, 8)) for length in (30, 1, 2)))
    sheet, (width, height) = np.asarray(contact_sheet(one)), frame(one, 0, 0).size
    cells = [
        sheet[y + 2 : y + height, x : x + width]
        for y in range(0, len(sheet), height)
        for x in range(0, sheet.shape[1], width)
    ]
    assert len(cells) == 8, "4 + 1 + 2 frames, in pairs"
    for cell, (number, step) in zip(cells, [(0, 0), (0, 10), (0, 19), (0, 29), (1, 0), (2, 0), (2, 1)], strict=False):
        np.testing.assert_array_equal(cell, np.asarray(frame(one, number, step))[2:])
    assert (cells[-1] == 255).all()


def test_values_that_never_change_are_drawn() -> None:
    for value in (0.0, -2.0, 3.0):
        one = episode(vectors(3, 2), values=np.full(3, value, np.float32))
        assert len(places(frame(film(one), 0, 2).crop((460, 166, 900, 290)), BLUE)[0]) > 300
