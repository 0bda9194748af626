"""Pictures and videos of a recording: images enlarged pixel by pixel, vectors as heat maps over time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageColor, ImageDraw, ImageFont

from r2ac.envs import MissingPackage
from r2ac.envs.suite import missing_modules
from r2ac.launch.runtime.errors import RunError, os_errors_as
from r2ac.launch.watching.watch import Moment, Recording

EXTENSIONS = (".png", ".gif", ".mp4")
# Of Okabe and Ito's palette, which the colour-blind can tell apart; two are darker than theirs, to be read as text.
FIRST, GAIN, LOSS = "#E69F00", "#00785A", "#C04A00"
INK, GREY, LINE, PAPER = "#1a1a1a", "#6b6b6b", "#c8c8c8", "#ffffff"
_LEGEND = "reward: what arrived with the observation; in the first step of an episode, that of the episode before"
# Pixels.
_CELL, SCREEN, _SHEET_WIDTH = 144, 420, 1500
_GAP, MARGIN, TEXT, TITLE = 12, 20, 13, 20
_MOST_CELLS = 96
_WINDOW = 60
"""Steps of a vector that one frame of a video shows."""


def check_output(path: Path, extensions: Sequence[str] = EXTENSIONS) -> None:
    """Before anything is played, raise RunError for a file that does not end in one of ``extensions`` or that cannot be
    written, and MissingPackage for an MP4 without what writes it."""
    if path.suffix.lower() not in extensions:
        raise RunError(f"{path} must end in {', '.join(extensions)}")
    if path.suffix.lower() == ".mp4" and missing_modules("imageio_ffmpeg"):
        raise MissingPackage(
            f"{path} needs imageio-ffmpeg, which is not installed: pip install 'r2ac[video]', or write a .gif or .png"
        )
    there = path.exists()
    with os_errors_as(RunError, f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not there:
            path.unlink()


def draw(recording: Recording, output: Path, fps: int) -> None:
    """Write a contact sheet (.png) or a video (.gif, .mp4; `fps` steps a second). Raises RunError as `write`."""
    sheet = _image_sheet if len(recording.shape) == 3 else _vector_sheet
    write(output, fps, lambda: sheet(recording), lambda: _video_frames(recording))


def write(
    output: Path, fps: int, sheet: Callable[[], Image.Image], frames: Callable[[], Iterator[Image.Image]]
) -> None:
    """Write a sheet (.png) or a video (.gif, .mp4) of frames of one size, ``fps`` a second. Those of an MP4 are written
    as they come, those of a GIF kept until the last. Raises RunError if it cannot be written."""
    kind = output.suffix.lower()
    with os_errors_as(RunError, f"{output} cannot be written"):
        if kind == ".png":
            sheet().save(output)
        elif kind == ".gif":
            write_gif(frames(), output, fps)
        else:
            _write_mp4(frames(), output, fps)


def write_gif(frames: Iterator[Image.Image], output: Path | IO[bytes], fps: int) -> None:
    """A GIF; it is shown by frames of hundredths of a second. Raises OSError if it cannot be written."""
    duration = round(1000 / fps)
    next(frames).save(output, "GIF", save_all=True, append_images=frames, duration=duration, loop=0)


def save_figure(figure: Figure, output: Path | IO[bytes], dpi: int) -> None:
    """Raises RunError if it cannot be written."""
    with os_errors_as(RunError, f"{output} cannot be written"):
        figure.savefig(output, dpi=dpi)


def enlarged(image: np.ndarray, least: int) -> Image.Image:
    """An image [H,W,3] pixel by pixel, its longer side at least so many pixels."""
    scale = max(1, math.ceil(least / max(image.shape[:2])))
    return Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def tiled(cells: Sequence[Image.Image], columns: int, gap: int = 0) -> Image.Image:
    """Pictures of one size, row by row."""
    width, height = cells[0].width + gap, cells[0].height + gap
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * width - gap, rows * height - gap), PAPER)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % columns * width, i // columns * height))
    return sheet


def newest_image(observation: np.ndarray, stacked: int) -> np.ndarray:
    """The newest of the stacked observations as red, green and blue, uint8 [H,W,3].

    One channel is grey; three are red, green and blue, four have transparency beside them; any other number is shown
    channel by channel, side by side.
    """
    channels = observation[-(len(observation) // stacked) :]
    if len(channels) in (3, 4):
        return np.moveaxis(channels[:3], 0, 2)
    return np.concatenate(list(channels), axis=1)[..., None].repeat(3, axis=2)


def _image_sheet(recording: Recording) -> Image.Image:
    """The steps as cells, row by row; in long recordings every few steps, and the first ones of all episodes, with the
    rewards since the cell before."""
    every = math.ceil(len(recording.moments) / _MOST_CELLS)
    cells, rewards = [], 0.0
    for step, moment in enumerate(recording.moments):
        rewards += moment.reward
        if step % every == 0 or moment.is_first:
            cells.append(_cell(step, replace(moment, reward=rewards), recording, _CELL))
            rewards = 0.0
    columns = min(len(cells), max(1, (_SHEET_WIDTH - 2 * MARGIN + _GAP) // (cells[0].width + _GAP)))
    body = tiled(cells, columns, _GAP)
    return _with_headlines(recording, body, "" if every == 1 else f"every {every} steps, rewards summed")


def _with_headlines(recording: Recording, body: Image.Image, note: str = "") -> Image.Image:
    """A margin around the body, and above it the task, who plays how, and what is seen."""
    seen = f"observation {'uint8' if len(recording.shape) == 3 else 'float32'} {list(recording.shape)}"
    if recording.stacked > 1:
        seen += f", of {recording.stacked} stacked observations the newest is shown"
    scene = recording.scene
    how = f"{recording.player} · seed {scene.seed} · split {scene.split} · {recording.actions}"
    if recording.frames_per_step > 1:
        how += f" · {recording.frames_per_step} frames a step"
    lines = [(scene.task, TITLE), (how, TEXT), (f"{seen} · {note}" if note else seen, TEXT), (_LEGEND, TEXT)]
    widest = max(font(size, bold=size == TITLE).getlength(line) for line, size in lines)
    top = MARGIN + sum(size + 8 for _, size in lines) + 4
    width = max(body.width, math.ceil(widest))
    sheet = Image.new("RGB", (width + 2 * MARGIN, top + body.height + MARGIN), PAPER)
    pen, y = ImageDraw.Draw(sheet), MARGIN
    for line, size in lines:
        bold = size == TITLE
        pen.text((MARGIN, y), line, fill=INK if bold else GREY, font=font(size, bold))
        y += size + 8
    sheet.paste(body, (MARGIN, top))
    return sheet


def _cell(step: int, moment: Moment, recording: Recording, least: int) -> Image.Image:
    """One enlarged image in a frame, with its caption."""
    picture = enlarged(newest_image(moment.observation, recording.stacked), least)
    others = {each.instruction for each in recording.moments}
    return with_instruction(_captioned(picture, step, moment), moment.instruction, others)


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one below the other."""
    return Image.fromarray(np.concatenate([np.asarray(part) for part in parts]))


def with_instruction(picture: Image.Image, instruction: str, others: Iterable[str]) -> Image.Image:
    """A picture with an instruction below it, with room for each of the ``others``; as it is where there are none."""
    rows = max((len(_lines(each, picture.width)) for each in others), default=0)
    if not rows:
        return picture
    words = Image.new("RGB", (picture.width, rows * (TEXT + 5) + 4), PAPER)
    lines = "\n".join(_lines(instruction, picture.width))
    ImageDraw.Draw(words).text((0, 4), lines, fill=INK, font=font(TEXT), spacing=5)
    return stacked([picture, words])


@functools.cache
def _lines(text: str, width: int) -> tuple[str, ...]:
    """Broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(TEXT).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(lines)


def _captioned(picture: Image.Image, step: int, moment: Moment) -> Image.Image:
    """A framed picture; below it two lines: step and action, reward and whether an episode begins."""
    width, border = max(picture.width, _CELL), 2
    cell = Image.new("RGB", (width + 2 * border, picture.height + 2 * border + 2 * (TEXT + 5) + 4), PAPER)
    pen = ImageDraw.Draw(cell)
    left = border + (width - picture.width) // 2
    frame = (left - border, 0, left + picture.width + border - 1, picture.height + 2 * border - 1)
    pen.rectangle(frame, fill=FIRST if moment.is_first else LINE)
    cell.paste(picture, (left, border))
    y, right = picture.height + 2 * border + 4, cell.width - 1
    plain, bold = font(TEXT), font(TEXT, bold=True)
    pen.text((0, y), f"step {step}", fill=INK, font=bold)
    pen.text((right, y), f"action {action_text(moment.action)}", fill=INK, font=plain, anchor="ra")
    y += TEXT + 5
    colour = GAIN if moment.reward > 0 else LOSS if moment.reward < 0 else GREY
    pen.text((0, y), f"reward {signed(moment.reward)}", fill=colour, font=bold if moment.reward else plain)
    if moment.is_first:
        length = pen.textlength("first", font=bold)
        pen.rectangle((right - length - 7, y - 1, right, y + TEXT + 3), fill=FIRST)
        pen.text((right - 4, y), "first", fill=INK, font=bold, anchor="ra")
    return cell


def _vector_sheet(recording: Recording) -> Image.Image:
    """Three panels over the steps: the observation as a heat map, the actions, the rewards."""
    moments = recording.moments
    steps, seen = len(moments), np.stack([m.observation for m in moments], axis=1)
    colours, low, high = _colour_scale(seen)
    inches = (min(max(6.5, 0.16 * steps + 1.6), 16.0), min(max(1.2, 0.2 * len(seen)), 9.0))
    figure = Figure(figsize=(inches[0], inches[1] + 2.8), layout="constrained")
    heat, action, reward = figure.subplots(3, 1, sharex=True, height_ratios=[inches[1], 1.0, 0.8])
    extent = (-0.5, steps - 0.5, len(seen) - 0.5, -0.5)
    picture = heat.imshow(
        seen, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high, extent=extent
    )
    figure.colorbar(picture, ax=heat, pad=0.01, fraction=0.03)
    heat.set_ylabel("feature")
    heat.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(len(seen), 12)))
    taken = np.stack([m.action for m in moments])
    action.set_ylabel("action")
    if sizes := recording.actions.sizes:
        action.plot(range(steps), taken, ".", color=INK, markersize=5)
        action.set_ylim(-0.6, max(sizes) - 0.4)
        action.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    else:
        action.plot(range(steps), taken, linewidth=1.2)
    values = np.array([m.reward for m in moments])
    reward.bar(range(steps), values, width=0.8, color=np.where(values < 0, LOSS, GAIN))
    reward.axhline(0, color=LINE, linewidth=0.8)
    reward.set(ylabel="reward", xlabel="step", xlim=(-0.5, steps - 0.5))
    reward.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not values.any():
        reward.set_ylim(-1, 1)
    firsts = [step for step, m in enumerate(moments) if m.is_first]
    for panel in (heat, action, reward):
        for step in firsts:
            panel.axvline(step - 0.5, color=FIRST, linewidth=2.0, clip_on=False)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(120)
    canvas.draw()
    body = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return _with_headlines(recording, body, "orange lines: an episode begins")


def _colour_scale(seen: np.ndarray) -> tuple[str, float, float]:
    """(colour map, low, high): white is 0, black the largest; red and blue where there are numbers below 0 too."""
    largest = float(np.abs(seen).max()) or 1.0
    return ("RdBu", -largest, largest) if seen.min() < 0 else ("Greys", 0.0, largest)


def _video_frames(recording: Recording) -> Iterator[Image.Image]:
    """One picture a step, all of the same size."""
    observations = [moment.observation for moment in recording.moments]
    seen = None if len(recording.shape) == 3 else np.stack(observations, axis=1)
    firsts = [moment.is_first for moment in recording.moments]
    for step, moment in enumerate(recording.moments):
        if seen is None:
            cell = _cell(step, moment, recording, SCREEN)
        else:
            cell = _captioned(recent_vectors(seen, step, firsts), step, moment)
        frame = Image.new("RGB", (cell.width + 2 * MARGIN, cell.height + 2 * MARGIN + TITLE + 8), PAPER)
        pen = ImageDraw.Draw(frame)
        pen.text((MARGIN, MARGIN - 6), recording.scene.task, fill=INK, font=font(TITLE, bold=True))
        frame.paste(cell, (MARGIN, MARGIN + TITLE + 8))
        yield frame


def recent_vectors(seen: np.ndarray, step: int, firsts: Sequence[bool]) -> Image.Image:
    """The vectors ``seen``, [K, S], of the last steps up to this one, which stands at the right; a strip above marks
    first steps."""
    name, low, high = _colour_scale(seen)
    columns = np.full((len(seen), _WINDOW), np.nan)
    first = max(0, step + 1 - _WINDOW)
    columns[:, _WINDOW - (step + 1 - first) :] = seen[:, first : step + 1]
    colours = colormaps[name].with_extremes(bad="#efefef")
    pixels = (colours((columns - low) / (high - low))[..., :3] * 255).astype(np.uint8)
    height = max(1, min(24, SCREEN // len(seen)))
    body = pixels.repeat(height, axis=0).repeat(8, axis=1)
    strip = np.full((6, body.shape[1], 3), 255, dtype=np.uint8)
    for past in range(first, step + 1):
        if firsts[past]:
            left = 8 * (_WINDOW - 1 - step + past)
            strip[:, left : left + 8] = ImageColor.getrgb(FIRST)
    return Image.fromarray(np.concatenate([strip, body]))


def _write_mp4(frames: Iterator[Image.Image], output: Path, fps: int) -> None:
    ffmpeg = import_module("imageio_ffmpeg")
    writer: Any = None
    try:
        for frame in frames:
            # The usual pixel format wants even sizes.
            even = Image.new("RGB", (frame.width + frame.width % 2, frame.height + frame.height % 2), PAPER)
            even.paste(frame)
            if writer is None:
                # Above the usual quality: letters have sharp edges.
                writer = ffmpeg.write_frames(str(output), even.size, fps=fps, macro_block_size=2, quality=8)
                writer.send(None)
            writer.send(even.tobytes())
    finally:
        if writer is not None:
            writer.close()


def action_text(action: np.ndarray) -> str:
    """An action in a few letters: its number, or its first numbers."""
    numbers = [f"{number:.2g}" if action.dtype.kind == "f" else str(number) for number in action.flatten()[:4]]
    return " ".join(numbers) + (" …" if action.size > 4 else "")


def signed(reward: float) -> str:
    return "0" if reward == 0 else f"{reward:+.3g}" if abs(reward) < 1000 else f"{reward:+,.0f}"


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: every machine draws the same letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
