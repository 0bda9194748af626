"""Watching: what is recorded is what the agent meets, and pictures show it pixel by pixel."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from r2ac.agents import DiscreteActions
from r2ac.envs import MissingPackage, Signals, find_task, make_vector
from r2ac.envs.dmlab import DmlabOptions
from r2ac.envs.dmlab.engine import hash_instruction
from r2ac.envs.gym import GymOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.cli import main
from r2ac.launch.runs.loading import TrainedAgent, find_checkpoint
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.watching import pictures
from r2ac.launch.watching.episodes import Scene
from r2ac.launch.watching.pictures import check_output, draw, newest_image
from r2ac.launch.watching.watch import Moment, Recording, record
from r2ac.learner.checkpoint import load_checkpoint, save_checkpoint

Capture = pytest.CaptureFixture[str]
TMAZE = MemoryOptions(corridor_length=4)
ORANGE = (0xE6, 0x9F, 0x00)


def watch(agent: TrainedAgent | None = None, **changes: object) -> Recording:
    scene = Scene("memory/tmaze", TMAZE, seed=3, split="train", max_steps=14)
    return record(replace(scene, **changes), agent)  # type: ignore[arg-type]


def images(*pictures: np.ndarray, stacked: int = 1, rewards: tuple[float, ...] = ()) -> Recording:
    """A recording of pictures; the first begins an episode."""
    moments = tuple(
        Moment(picture, rewards[i] if rewards else 0.0, i == 0, np.array(i)) for i, picture in enumerate(pictures)
    )
    return Recording(
        Scene("suite/Task", SimpleNamespace(frame_stack=stacked), 0, "train"),
        "random actions",
        DiscreteActions(5),
        4,
        moments,
    )


def random_images(count: int, *shape: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(256, size=(count, *shape), dtype=np.uint8))


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def places_of(part: np.ndarray, whole: np.ndarray) -> list[tuple[int, int]]:
    """Where `part` stands in `whole`, pixel for pixel."""
    height, width = part.shape[:2]
    corner = (whole[: len(whole) - height + 1, : whole.shape[1] - width + 1] == part[0, 0]).all(axis=2)
    found = [(int(y), int(x)) for y, x in zip(*np.nonzero(corner), strict=True)]
    return [(y, x) for y, x in found if np.array_equal(whole[y : y + height, x : x + width], part)]


def test_a_recording_is_what_the_agent_meets() -> None:
    recording = watch()
    env = make_vector("memory/tmaze", 1, 3, options=TMAZE)
    observation, reward, ended = env.reset()[0], np.zeros(1), np.ones(1, dtype=bool)
    for moment in recording.moments:
        np.testing.assert_array_equal(moment.observation, observation[0])
        assert (moment.reward, moment.is_first) == (reward[0], ended[0])
        observation, reward, terminated, truncated, _ = env.step(np.array([moment.action]))
        ended = terminated | truncated
    env.close()
    assert [m.is_first for m in recording.moments] == [step % 5 == 0 for step in range(14)]
    assert {m.action for m in recording.moments} == {0, 1}
    assert (recording.player, recording.actions, recording.frames_per_step) == ("random actions", DiscreteActions(2), 1)


def test_what_is_played_follows_from_seed_and_split() -> None:
    def played(**changes: object) -> list[tuple[bytes, float, int]]:
        return [(m.observation.tobytes(), m.reward, m.action) for m in watch(**changes, max_steps=60).moments]

    assert played() == played()
    assert played() != played(seed=4)
    assert played() != played(split="test")


def test_a_trained_agent_plays_by_its_policy(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "run")
    path = find_checkpoint(copy)
    checkpoint = load_checkpoint(path)
    checkpoint.model["policy.weight"][:] = 0
    checkpoint.model["policy.bias"][:] = torch.tensor([0.0, 1.0])
    save_checkpoint(path, checkpoint)
    agent = TrainedAgent.load(copy)
    greedy = watch(agent, options=agent.training.env, greedy=True)
    assert {m.action for m in greedy.moments} == {1}
    assert greedy.player == "rtrl agent of run"
    assert {m.action for m in watch(agent, options=agent.training.env, max_steps=60).moments} == {0, 1}
    assert TrainedAgent.load(path).path == path
    with pytest.raises(ConfigError, match="cannot play atari/Pong"):
        agent.check_plays("atari/Pong")


def test_what_the_agent_is_told_is_recorded_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "envs" / "dmlab" / "double")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # With a limit, too: the environment is wrapped then.
    options = DmlabOptions(image_height=24, image_width=32, instruction=True, max_episode_steps=3)
    task = "dmlab/language_select_located_object"
    recording = record(Scene(task, options, 0, "train", max_steps=7), None)
    told = [moment.instruction for moment in recording.moments]
    # The double says nothing in the first frames of an episode, four words in the others.
    assert [len(words.split()) for words in told] == [0, 4, 4, 0, 4, 4, 0]
    with closing(make_vector(task, 1, 0, options=options)) as env:
        _, info = env.reset()
        for words, moment in zip(told, recording.moments, strict=True):
            np.testing.assert_array_equal(Signals.of(info).instruction[0], hash_instruction(words))
            *_, info = env.step(np.array([moment.action]))
    draw(recording, tmp_path / "told.png", 1)
    untold = replace(recording, moments=tuple(replace(m, instruction="") for m in recording.moments))
    draw(untold, tmp_path / "untold.png", 1)
    with Image.open(tmp_path / "told.png") as picture, Image.open(tmp_path / "untold.png") as other:
        assert picture.height > other.height


def test_the_newest_of_stacked_images_is_shown() -> None:
    (stack,) = random_images(1, 6, 5, 4)
    grey, colour = newest_image(stack, 6), newest_image(stack, 2)
    np.testing.assert_array_equal(grey, stack[5][..., None].repeat(3, axis=2))
    np.testing.assert_array_equal(colour, np.moveaxis(stack[3:], 0, 2))
    np.testing.assert_array_equal(newest_image(stack[:4], 1), np.moveaxis(stack[:3], 0, 2))
    beside = newest_image(stack[:2], 1)
    assert beside.shape == (5, 8, 3)
    np.testing.assert_array_equal(beside[:, 4:, 0], stack[1])


@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 40, 60), (3, 200, 150)])
def test_a_contact_sheet_shows_every_image_pixel_by_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    seen = random_images(11, *shape)
    draw(images(*seen), tmp_path / "sheet.png", 15)
    sheet, scale = opened(tmp_path / "sheet.png"), -(-144 // max(shape[1:]))
    for i, observation in enumerate(seen):
        enlarged = newest_image(observation, 1).repeat(scale, axis=0).repeat(scale, axis=1)
        ((y, x),) = places_of(enlarged, sheet)
        assert (tuple(sheet[y - 1, x]) == ORANGE) == (i == 0)


def test_a_long_sheet_skips_steps_and_keeps_first_ones_and_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, float]] = []
    cell = pictures._cell

    def spy(step: int, moment: Moment, recording: Recording, least: int) -> Image.Image:
        shown.append((step, moment.reward))
        return cell(step, moment, recording, least)

    monkeypatch.setattr(pictures, "_cell", spy)
    recording = images(*random_images(200, 3, 8, 8), rewards=(0.0, *[1.0] * 199))
    moments = [replace(m, is_first=step in (0, 100)) for step, m in enumerate(recording.moments)]
    draw(replace(recording, moments=tuple(moments)), tmp_path / "sheet.png", 15)
    assert [step for step, _ in shown] == sorted({*range(0, 200, 3), 100})
    assert shown[:3] == [(0, 0.0), (3, 3.0), (6, 3.0)]
    assert sum(reward for _, reward in shown) == 198


def test_a_video_has_a_picture_a_step(tmp_path: Path) -> None:
    seen = random_images(7, 1, 84, 84)
    draw(images(*seen), tmp_path / "video.gif", 20)
    with Image.open(tmp_path / "video.gif") as video:
        assert (video.n_frames, video.info["duration"]) == (7, 50)
        assert video.size[0] > 84 * 5


@pytest.mark.parametrize(
    ("values", "size", "steps"), [("zeros", 4, 1), ("ones", 4, 30), ("signed", 1, 30), ("huge", 984, 5)]
)
def test_vectors_of_any_size_and_scale_are_drawn(tmp_path: Path, values: str, size: int, steps: int) -> None:
    random = np.random.default_rng(1).standard_normal((steps, size)).astype(np.float32)
    seen = {"zeros": 0 * random, "ones": 0 * random + 1, "signed": random, "huge": 1e30 * random}[values]
    recording = images(*seen, rewards=tuple(np.linspace(-1, 1, steps)))
    for name in ("sheet.png", "video.gif"):
        draw(recording, tmp_path / name, 15)
        assert opened(tmp_path / name).std() > 1


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("memory/key_to_door", MemoryOptions(pixels=True)),
        ("gym/CartPole-v1", GymOptions(frame_stack=2)),
        ("popgym/BattleshipEasy", None),
        ("minigrid/MemoryS7", None),
        ("atari/Pong", None),
        ("procgen/maze", None),
    ],
)
def test_every_kind_of_task_can_be_watched(tmp_path: Path, task: str, options: object) -> None:
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    chosen = find_task(task).suite.options() if options is None else options
    recording = record(Scene(task, chosen, seed=0, max_steps=3), None)
    draw(recording, tmp_path / "sheet.png", 15)
    assert recording.stacked == (4 if task == "atari/Pong" else 1)
    assert opened(tmp_path / "sheet.png").std() > 1


def test_an_output_that_cannot_be_is_refused_before_playing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("here")
    for path, words in ((tmp_path / "x.jpg", ".png, .gif, .mp4"), (tmp_path / "file" / "x.png", "a file stands")):
        with pytest.raises(RunError, match=words):
            check_output(path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RunError, match=r"folder\.png cannot be written"):
        check_output(tmp_path / "folder.png")
    check_output(tmp_path / "new" / "x.gif")
    assert not (tmp_path / "new" / "x.gif").exists(), "nothing is left behind"
    monkeypatch.setattr(pictures, "missing_modules", lambda *modules: list(modules))
    with pytest.raises(MissingPackage, match=r"pip install 'r2ac\[video\]'"):
        check_output(tmp_path / "x.mp4")


def test_an_mp4_is_written_where_it_can_be(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    draw(images(*random_images(6, 3, 8, 9)), tmp_path / "video.mp4", 10)
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "video.mp4"))[0] == 6


def test_the_command_writes_a_picture(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["envs", "--watch", "memory/tmaze", "--pixels", "--steps", "5"]) == 0
    assert "memory-tmaze.png" in capsys.readouterr().out
    assert (tmp_path / "memory-tmaze.png").exists()
    output = tmp_path / "there" / "agent.gif"
    assert (
        main(["envs", "--watch=memory/tmaze", "--agent", str(finished_run), f"--output={output}", "--steps", "60"]) == 0
    )
    printed = capsys.readouterr().out
    assert "rtrl agent of run" in printed
    assert "episodes ended  11" in printed, "60 steps in the corridor of 4 that the agent was trained in"
    with Image.open(output) as video:
        assert video.n_frames == 60


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["memory/tmaz"], ["memory/tmaze"]),
        (["memory/tmaze", "--steps", "0"], ["--steps is 0"]),
        (["memory/tmaze", "--fps", "0"], ["--fps is 0"]),
        (["memory/tmaze", "--seed", "-1"], ["--seed is -1"]),
        (["memory/tmaze", "--corridor-length", "0"], ["--corridor-length is 0"]),
        (["memory/tmaze", "--agent", "nowhere"], ["nowhere does not exist"]),
        (["memory/tmaze", "--output", "x.bmp"], [".png, .gif, .mp4"]),
        (["memory/tmaze", "--preset", "paper"], ["defaults only"]),
        (["--steps", "3"], ["--watch is given without a value"]),
    ],
)
def test_what_cannot_be_watched_is_one_sentence(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["envs", "--watch", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_sees_something_else_is_refused(
    capsys: Capture, finished_run: Path, tmp_path: Path, train_tiny: Callable[..., Path]
) -> None:
    output = ["--output", str(tmp_path / "x.png")]
    for flags in (["memory/tmaze", "--pixels"], ["memory/copy"], ["gym/CartPole-v1"]):
        assert main(["envs", "--watch", *flags, "--agent", str(finished_run), *output]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
