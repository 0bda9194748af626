"""DeepMind Lab without an engine: levels, scores, options, instructions and the cache of maps."""

import math
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.envs import InvalidOption
from r2ac.envs.dmlab import SUITE, DmlabOptions, engine_settings, level_seeds
from r2ac.envs.dmlab.cache import LevelCache
from r2ac.envs.dmlab.engine import ACTION_SETS, INSTRUCTION_IDS, INSTRUCTION_LENGTH, hash_instruction
from r2ac.envs.dmlab.levels import BASIC_LEVELS, DMLAB30_RANDOM_HUMAN, HAS_HOLD_OUT, TASKS
from r2ac.envs.seeding import HALF
from r2ac.envs.suite import Task

PRESET = DmlabOptions()
# fmt: off
WORDS = (
    "apple ball balloon banana bottle cake can car cassette chair cherries cow flower fork fridge guitar hair_brush "
    "hammer hat ice_lolly jug key knife ladder mug pencil pig pincer plant saxophone shoe spoon suitcase "
    "tennis_racket tomato toothbrush tree tv wine_glass zebra chequered crosses diagonal_stripe discs hex pinstripe "
    "solid spots swirls small medium large red green blue cyan magenta yellow black white every object near any all "
    "are is most room pick the in "
)
# fmt: on


def test_the_tasks_are_those_of_dmlab_30_and_the_basic_levels() -> None:
    assert len(DMLAB30_RANDOM_HUMAN) == 30
    assert len(BASIC_LEVELS) == 12
    assert len(set(TASKS)) == len(TASKS) == 42
    assert SUITE.list_tasks() == TASKS


def test_a_hold_out_level_is_played_in_tests_only() -> None:
    for task in TASKS:
        if task in ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition"):
            continue
        train, test = (engine_settings(task, split, PRESET) for split in ("train", "test"))
        folder = "" if task in BASIC_LEVELS else "contributed/dmlab30/"
        variants = ("_train", "_test") if task in HAS_HOLD_OUT else ("", "")
        assert (train.level, test.level) == (f"{folder}{task}{variants[0]}", f"{folder}{task}{variants[1]}")
        assert train.config == {"width": "96", "height": "72", "logLevel": "WARN"}
        hold_out = {"allowHoldOutLevels": "true"} if task in HAS_HOLD_OUT else {}
        assert test.config == {**train.config, "mixerSeed": str(0x600D5EED), **hold_out}


@given(st.integers(0, HALF))
def test_no_test_seed_is_a_training_seed(count: int) -> None:
    options = DmlabOptions(num_levels=count)
    first, number = level_seeds("train", options)
    assert (first, number) == (0, count or HALF)
    first_test, number_test = level_seeds("test", options)
    assert first + number <= first_test
    assert first_test + number_test <= 2**31


def test_the_two_action_sets() -> None:
    assert np.array(ACTION_SETS[9]).tolist() == [
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, -1, 0, 0, 0],
        [0, 0, -1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [-20, 0, 0, 0, 0, 0, 0],
        [20, 0, 0, 0, 0, 0, 0],
        [-20, 0, 0, 1, 0, 0, 0],
        [20, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
    ]
    larger = np.array(ACTION_SETS[15])
    assert len(np.unique(larger, axis=0)) == 15
    assert larger[:, 0].tolist() == [0, 0, 0, 0, -10, 10, -60, 60, 0, 0, -10, 10, -60, 60, 0]
    assert larger[:, 1].tolist() == [0] * 8 + [10, -10] + [0] * 5
    assert larger[:, 3].tolist() == [1, -1] + [0] * 8 + [1] * 4 + [0]
    assert larger[:, 4].tolist() == [0] * 14 + [1]
    assert not larger[:, 5:].any()


def test_scores() -> None:
    task = Task(SUITE, "rooms_collect_good_objects")
    scores = task.reference_scores()
    assert scores is not None
    assert (scores.low, scores.high, scores.low_name, scores.high_name) == (0.073, 10.0, "random", "human")
    assert Task(SUITE, "lt_chasm").reference_scores() is None
    assert Task(SUITE, "psychlab_continuous_recognition").reference_scores() is not None
    assert task.frames_per_step() == 4
    assert task.frames_per_step(DmlabOptions(action_repeat=2)) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (DmlabOptions(actions=10), "actions is 10, but it must be one of 9, 15"),
        (DmlabOptions(renderer="none"), "renderer is 'none'"),
        (DmlabOptions(action_repeat=0), "action_repeat is 0"),
        (DmlabOptions(image_width=90), "image_width is 90"),
        (DmlabOptions(image_height=0), "image_height is 0"),
        (DmlabOptions(num_levels=2**30 + 1), "num_levels is 1073741825"),
        (DmlabOptions(num_levels=-1), "num_levels is -1"),
        (DmlabOptions(parallel_resets=-1), "parallel_resets is -1"),
        (DmlabOptions(max_engine_failures=0), "max_engine_failures is 0"),
        (DmlabOptions(step_timeout=0.0), "step_timeout is 0.0"),
        (DmlabOptions(reset_timeout=math.inf), "reset_timeout is inf"),
        (DmlabOptions(step_timeout=math.nan), "step_timeout is nan"),
    ],
)
def test_a_bad_option_is_named(options: DmlabOptions, named: str) -> None:
    with pytest.raises(InvalidOption, match=r"^[^\n]*$") as error:
        Task(SUITE, "rooms_watermaze").checked_options(options)
    assert named in str(error.value)


def test_tasks_with_pictures_ask_for_them(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        options = DmlabOptions(dataset_path=folder)
        with pytest.raises(InvalidOption, match="psychlab_continuous_recognition shows the pictures"):
            SUITE.make("psychlab_continuous_recognition", 1, 0, "train", options)
    squares = DmlabOptions(dataset_path="dummy")
    assert engine_settings("psychlab_continuous_recognition", "train", squares).config["datasetPath"] == "dummy"
    (tmp_path / "0001.png").touch()
    options = DmlabOptions(dataset_path=str(tmp_path))
    assert engine_settings("psychlab_continuous_recognition", "train", options).config["datasetPath"] == str(tmp_path)


def test_a_missing_engine_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    sentence = SUITE.missing()
    assert sentence is not None
    assert "dmlab-gym build" in sentence
    assert "\n" not in sentence


def test_words_have_the_same_ids_everywhere() -> None:
    ids = hash_instruction("Pick the red hat.")
    assert (ids.shape, ids.dtype) == ((INSTRUCTION_LENGTH,), np.int32)
    assert (ids[:4] > 0).all()
    assert not ids[4:].any()
    np.testing.assert_array_equal(hash_instruction("pick THE red, hat"), ids)
    assert (hash_instruction("pick the hat red") != ids).any()
    assert not hash_instruction("").any()
    code = "from r2ac.envs.dmlab.engine import hash_instruction\nprint(hash_instruction('Pick the red hat.').tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout
    assert printed.strip() == str(ids.tolist())


@given(st.text())
def test_any_text_has_ids(text: str) -> None:
    ids = hash_instruction(text)
    assert ids.shape == (INSTRUCTION_LENGTH,)
    assert ids.min() >= 0
    assert ids.max() < INSTRUCTION_IDS


def test_the_words_of_the_levels_have_different_ids() -> None:
    assert len({int(hash_instruction(word)[0]) for word in WORDS.split()}) == len(WORDS.split())


def archive(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("maze.map", text * 5000)
    return path


def test_the_cache_gives_back_what_was_written(tmp_path: Path) -> None:
    cache = LevelCache(tmp_path / "deep" / "cache")
    target = tmp_path / "target.pk3"
    assert not cache.fetch("../a/maze", str(target))
    assert not target.exists()
    cache.write("../a/maze", str(archive(tmp_path / "source.pk3", "one")))
    assert LevelCache(tmp_path / "deep" / "cache").fetch("../a/maze", str(target))
    assert target.read_bytes() == (tmp_path / "source.pk3").read_bytes()
    assert not cache.fetch("../a/other", str(tmp_path / "other.pk3"))
    assert [path.parent for path in tmp_path.rglob("*.pk3")].count(tmp_path / "deep" / "cache") == 1


def test_a_broken_entry_is_a_miss_and_is_mended(tmp_path: Path) -> None:
    cache = LevelCache(tmp_path / "cache")
    source, target = archive(tmp_path / "source.pk3", "one"), tmp_path / "target.pk3"
    cache.write("key", str(source))
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(source.read_bytes()[:-30])
    assert not cache.fetch("key", str(target))
    assert not target.exists(), "the engine would add to it"
    cache.write("key", str(source))
    assert cache.fetch("key", str(target))


def test_errors_of_the_disk_are_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    cache = LevelCache(tmp_path / "cache")
    cache.write("key", str(archive(tmp_path / "source.pk3", "one")))
    assert not cache.fetch("key", str(tmp_path / "target.pk3"))
    good = LevelCache(tmp_path / "good")
    good.write("key", str(tmp_path / "source.pk3"))
    assert not good.fetch("key", str(tmp_path / "no folder" / "target.pk3"))
    good.write("other", str(tmp_path / "no source"))
    assert not good.fetch("other", str(tmp_path / "target.pk3"))
    assert len(list((tmp_path / "good").iterdir())) == 1
    assert capsys.readouterr().err.count("level cache: ") == 3


def test_many_workers_share_a_cache(tmp_path: Path) -> None:
    """A reader never sees half of what one of many writers writes."""
    sources = [archive(tmp_path / f"{i}.pk3", f"{i}") for i in range(4)]
    contents = {source.read_bytes() for source in sources}
    wrong: list[int] = []
    found: list[bool] = []

    def work(worker: int) -> None:
        cache, target = LevelCache(tmp_path / "cache"), tmp_path / f"target{worker}.pk3"
        for _ in range(60):
            cache.write("key", str(sources[worker]))
            found.append(cache.fetch("key", str(target)))
            if target.read_bytes() not in contents:
                wrong.append(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert wrong == []
    assert len(list((tmp_path / "cache").iterdir())) == 1
