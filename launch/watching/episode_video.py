"""Videos of whole episodes: what the agent sees, beside what it expects, what it does and what it gets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from r2ac.launch.watching import pictures
from r2ac.launch.watching.episodes import PlayedEpisode
from r2ac.launch.watching.pictures import FIRST, GAIN, GREY, INK, LINE, LOSS, MARGIN, PAPER, SCREEN, TEXT, TITLE, font

# Of Okabe and Ito's palette; the action that is taken has the orange of FIRST.
_BLUE, _PALE = "#0072B2", "#f2f2f2"
# Pixels.
_WIDTH, _CHART, _BARS, _ROW = 430, 130, 380, 24
# Curves are drawn this many times too large and shrunk: Pillow does not smooth edges.
_SMOOTHING = 3
_MOST_ROWS = 20  # of features and actions that have a line each
_SHEET_FRAMES, _SHEET_COLUMNS = 12, 2


@dataclass(frozen=True)
class Film:
    """At least one episode, and what is the same in all frames; ``about`` says who plays, and how."""

    episodes: tuple[PlayedEpisode, ...]
    task: str
    about: str
    action_names: tuple[str, ...]
    stacked: int = 1
    """How many observations are stacked in one; the newest is shown."""

    @property
    def value_range(self) -> tuple[float, float]:
        """Of all episodes, so that their charts can be compared; 0 lies in it."""
        values = np.concatenate([episode.values for episode in self.episodes])
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        return (low, high) if high > low else (0.0, 1.0)

    @property
    def observation_range(self) -> tuple[float, float]:
        """The least and the greatest number in the observations of all episodes, and 0."""
        low = min(float(episode.observations.min()) for episode in self.episodes)
        high = max(float(episode.observations.max()) for episode in self.episodes)
        return min(low, 0.0), max(high, 0.0)


def draw_film(film: Film, output: Path, fps: int) -> None:
    """Write a video of all steps, or a contact sheet of a dozen of them, as `write` does; raises as it does."""
    pictures.write(output, fps, lambda: contact_sheet(film), lambda: frames(film, hold=fps))


def frames(film: Film, hold: int) -> Iterator[Image.Image]:
    """A frame a step, all of one size; the last one of each episode ``hold`` times."""
    for number, episode in enumerate(film.episodes):
        for step in range(len(episode)):
            picture = frame(film, number, step)
            for _ in range(hold if step == len(episode) - 1 else 1):
                yield picture


def contact_sheet(film: Film) -> Image.Image:
    """As many frames of each episode, at even distances from its first to its last step."""
    each = max(2, _SHEET_FRAMES // len(film.episodes))
    shown = [
        frame(film, number, step)
        for number, episode in enumerate(film.episodes)
        for step in dict.fromkeys(np.linspace(0, len(episode) - 1, each).round().astype(int).tolist())
    ]
    sheet = pictures.tiled(shown, min(_SHEET_COLUMNS, len(shown)))
    pen = ImageDraw.Draw(sheet)
    for y in range(shown[0].height, sheet.height, shown[0].height):
        pen.line((MARGIN, y, sheet.width - MARGIN, y), fill=LINE)
    return sheet


def frame(film: Film, number: int, step: int) -> Image.Image:
    """One step: the observation, and beside it the reward that its action was paid and the return so far, the value
    estimates so far, and the probabilities of the actions, the one that was taken in orange; or
    the numbers of a continuous action."""
    episode = film.episodes[number]
    left = _observation(film, episode, step)
    if episode.instructions:
        others = {each for played in film.episodes for each in played.instructions}
        left = pictures.with_instruction(left, episode.instructions[step], others)
    right = pictures.stacked([_numbers(episode, step), _chart(film, episode, step), _policy(film, episode, step)])
    top = MARGIN + TITLE + TEXT + 24
    size = (left.width + right.width + 3 * MARGIN, top + max(left.height, right.height) + MARGIN)
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN - 4), film.task, fill=INK, font=font(TITLE, bold=True))
    where = f"episode {number + 1} of {len(film.episodes)}"
    pen.text((size[0] - MARGIN, MARGIN - 2), where, fill=INK, font=font(TITLE - 2), anchor="ra")
    pen.text((MARGIN, MARGIN + TITLE + 4), film.about, fill=GREY, font=font(TEXT))
    picture.paste(left, (MARGIN, top))
    picture.paste(right, (left.width + 2 * MARGIN, top))
    return picture


def _observation(film: Film, episode: PlayedEpisode, step: int) -> Image.Image:
    """An image enlarged pixel by pixel; a short vector as bars, a long one as a heat map of the last steps."""
    seen = episode.observations
    if seen.ndim == 4:
        return pictures.enlarged(pictures.newest_image(seen[step], film.stacked), SCREEN)
    newest = seen[:, -(seen.shape[1] // film.stacked) :]
    if newest.shape[1] > _MOST_ROWS:
        return pictures.recent_vectors(newest.T, step, episode.is_first.tolist())
    names = [f"feature {i}" for i in range(newest.shape[1])]
    texts = [f"{value:.3g}" for value in newest[step]]
    low, high = film.observation_range
    shares = newest[step] / (max(-low, high) or 1.0)
    return _titled("observation", _bars(names, shares, texts, SCREEN, "-1.23e-05", both_signs=low < 0))


def _numbers(episode: PlayedEpisode, step: int) -> Image.Image:
    reward, total = float(episode.rewards[step]), float(episode.rewards[: step + 1].sum())
    colour = GAIN if reward > 0 else LOSS if reward < 0 else INK
    picture = Image.new("RGB", (_WIDTH, 66), PAPER)
    pen = ImageDraw.Draw(picture)
    columns = (
        ("step", str(step), INK),
        ("reward", pictures.signed(reward), colour),
        ("return so far", f"{total:,.6g}", INK),
    )
    for i, (name, text, fill) in enumerate(columns):
        pen.text((i * _WIDTH // 3, 0), name, fill=GREY, font=font(TEXT))
        pen.text((i * _WIDTH // 3, TEXT + 6), text, fill=fill, font=font(TITLE + 4, bold=True))
    return picture


def _titled(title: str, body: Image.Image, note: str = "", colour: str = PAPER) -> Image.Image:
    """A body with a line of text above it, and a note at the line's right end with a field of its colour."""
    head = Image.new("RGB", (body.width, TEXT + 12), PAPER)
    pen = ImageDraw.Draw(head)
    pen.text((0, 0), title, fill=INK, font=font(TEXT + 1, bold=True))
    pen.text((head.width - 1, 0), note, fill=INK, font=font(TEXT + 1, bold=True), anchor="ra")
    x = head.width - 1 - pen.textlength(note, font=font(TEXT + 1, bold=True)) - 18
    pen.rectangle((x, 2, x + 11, 13), fill=colour)
    return pictures.stacked([head, body])


def _chart(film: Film, episode: PlayedEpisode, step: int) -> Image.Image:
    """The value estimates up to this step, on the axes of the whole episode, with marks at the steps that paid."""
    low, high = film.value_range
    left, right, bottom = 58, 8, 24
    width, height, scale = _WIDTH - left - right, _CHART - bottom, _SMOOTHING
    last = max(len(episode) - 1, 1)

    def at(t: float, value: float) -> tuple[float, float]:
        return scale * (4 + (width - 8) * t / last), scale * (4 + (height - 8) * (high - value) / (high - low))

    plot = Image.new("RGB", (scale * width, scale * height), _PALE)
    pen = ImageDraw.Draw(plot)
    pen.line([at(0, 0), at(last, 0)], fill=LINE, width=scale)
    for paid in np.flatnonzero(episode.rewards[: step + 1]).tolist():
        x, colour = at(paid, 0)[0], GAIN if episode.rewards[paid] > 0 else LOSS
        pen.rectangle((x - scale, plot.height - 10 * scale, x + scale, plot.height), fill=colour)
    points = [at(t, float(value)) for t, value in enumerate(episode.values[: step + 1])]
    pen.line(points, fill=_BLUE, width=2 * scale, joint="curve")
    x, y = points[-1]
    pen.ellipse((x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale), fill=_BLUE)
    picture = Image.new("RGB", (_WIDTH, _CHART + 14), PAPER)
    picture.paste(plot.reduce(scale), (left, 0))
    pen = ImageDraw.Draw(picture)
    for value in {low, high}:
        pen.text((left - 6, at(0, value)[1] / scale), f"{value:.2g}", fill=GREY, font=font(TEXT - 1), anchor="rm")
    for t, anchor in ((0, "la"), (len(episode) - 1, "ra")):
        pen.text((left + at(t, 0)[0] / scale, height + 4), str(t), fill=GREY, font=font(TEXT - 1), anchor=anchor)
    pen.text((left + width / 2, height + 4), "step; marks: rewards", fill=GREY, font=font(TEXT - 1), anchor="ma")
    return _titled("value estimate", picture, f"{episode.values[step]:.3g}", _BLUE)


def _policy(film: Film, episode: PlayedEpisode, step: int) -> Image.Image:
    probabilities, taken = episode.probabilities[step], episode.chosen[step].tolist()
    if not taken:
        return _continuous(film, episode, step)
    note = f"taken: {', '.join(film.action_names[i] for i in taken)}"
    if len(probabilities) > _MOST_ROWS:
        return _titled("action probabilities", _columns(probabilities, taken), note, FIRST)
    texts = [f"{100 * p:.0f} %" for p in probabilities]
    bars = _bars(film.action_names, probabilities, texts, _WIDTH, "100 %", taken)
    return _titled("action probabilities", bars, note, FIRST)


def _continuous(film: Film, episode: PlayedEpisode, step: int) -> Image.Image:
    """The numbers of the action as bars, on the scale of all episodes; of many the first ones."""
    largest = max(float(np.abs(played.actions).max()) for played in film.episodes) or 1.0
    names, numbers = film.action_names[:_MOST_ROWS], episode.actions[step][:_MOST_ROWS]
    texts = [f"{number:.3g}" for number in numbers]
    bars = _bars(names, numbers / largest, texts, _WIDTH, "-1.23e-05", both_signs=True)
    rest = len(film.action_names) - len(names)
    return _titled(f"action, the first {_MOST_ROWS} numbers" if rest else "action", bars)


def _bars(
    names: Sequence[str],
    shares: np.ndarray,
    texts: Sequence[str],
    width: int,
    longest: str,
    special: Sequence[int] = (),
    both_signs: bool = False,
) -> Image.Image:
    """A horizontal bar for each share, a number in [-1, 1], between its name and its text, which is given the room that
    ``longest`` takes; the special ones are orange. Zero is at the left, with both signs in the middle."""
    row = min(_ROW, _BARS // len(names))
    letters = font(min(TEXT, row - 3))
    left = math.ceil(max(letters.getlength(name) for name in names)) + 10
    right = width - math.ceil(letters.getlength(longest)) - 10
    picture = Image.new("RGB", (width, row * len(names) + 2), PAPER)
    pen = ImageDraw.Draw(picture)
    zero = (left + right) / 2 if both_signs else left
    reach = right - zero
    for i, (name, share, text) in enumerate(zip(names, shares.tolist(), texts, strict=True)):
        y, middle = i * row, i * row + row / 2
        pen.text((0, middle), name, fill=INK, font=letters, anchor="lm")
        pen.rectangle((left, y + 3, right, y + row - 3), fill=_PALE)
        ends = sorted((zero, zero + share * reach))
        if share:
            pen.rectangle((ends[0], y + 3, ends[1], y + row - 3), fill=FIRST if i in special else _BLUE)
        pen.text((width - 1, middle), text, fill=INK, font=letters, anchor="rm")
    return picture


def _columns(shares: np.ndarray, special: Sequence[int]) -> Image.Image:
    """Upright bars, for more of them than names could stand beside; only the first and the last have their number."""
    height = 160
    picture = Image.new("RGB", (_WIDTH, height + TEXT + 8), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, _WIDTH, height), fill=_PALE)
    for i, share in enumerate(shares.tolist()):
        x, after = (_WIDTH * j / len(shares) for j in (i, i + 1))
        top = height - share * height
        pen.rectangle((x, top, max(x, after - 1), height), fill=FIRST if i in special else _BLUE)
    pen.text((0, height + 3), "0", fill=GREY, font=font(TEXT - 1))
    pen.text((_WIDTH - 1, height + 3), str(len(shares) - 1), fill=GREY, font=font(TEXT - 1), anchor="ra")
    return picture
