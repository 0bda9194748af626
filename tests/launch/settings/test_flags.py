"""Numbers, paths and places as people write them on the command line."""

import json
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from r2ac.envs import SUITES
from r2ac.launch.cli import main
from r2ac.launch.commands.cluster import read_training
from r2ac.launch.commands.submit import parse_own
from r2ac.launch.runs import run_directory
from r2ac.launch.settings.config import ConfigError
from r2ac.launch.settings.flags import flag_words, training_config, with_flag
from r2ac.launch.settings.parser import parse, parse_known, whole_number
from r2ac.launch.sweeps.sweep_plan import make_plan
from r2ac.launch.sweeps.sweep_settings import SweepSettings

Capture = pytest.CaptureFixture[str]
TrainTiny = Callable[..., Path]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("1000000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("1e6", 1_000_000),
        ("2.5E3", 2_500),
        ("500k", 500_000),
        ("2M", 2_000_000),
        ("1.5M", 1_500_000),
        ("1B", 10**9),
        ("1000000.0", 1_000_000),
        ("18446744073709551615", 2**64 - 1),
        ("-3", -3),
        ("0", 0),
    ],
)
def test_a_whole_number(word: str, number: int) -> None:
    assert whole_number(word) == number


@pytest.mark.parametrize(
    "word", ["", "many", "2.5", "1e-3", "1.0001k", "2m", "1 000", "0x10", "1e999", "inf", "nan", "k", "_1"]
)
def test_what_is_no_whole_number(word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{word!r} is no whole number; write one such as 1000000")):
        whole_number(word)


@pytest.mark.parametrize(("words", "gate"), [([], None), (["true"], True), (["False"], False), (["None"], None)])
def test_true_false_or_neither(words: list[str], gate: bool | None) -> None:
    flags = [f"--output-gate={word}" for word in words]
    assert training_config("memory/tmaze", flags).agent.output_gate is gate


def test_every_command_takes_such_numbers(tmp_path: Path) -> None:
    config = training_config("memory/tmaze", ["--total-steps", "1e6", "--log-steps=20k", "--hidden-size", "1_0"])
    assert (config.total_steps, config.log_steps, config.agent.hidden_size) == (1_000_000, 20_000, 10)
    (trial,) = make_plan(
        "memory/tmaze", ["--total-steps", "2M"], SweepSettings(vary=("log-steps=1e3",), sweep_dir=tmp_path)
    ).trials
    assert (trial.config.total_steps, trial.config.log_steps) == (2_000_000, 1_000)
    settings, _ = parse_known(SweepSettings, "r2ac sweep", ["--perturb-every", "100k"], SweepSettings())
    assert settings.perturb_every == 100_000
    own, words = parse_own(["memory/tmaze", "--total-steps", "2M", "--stop-seconds", "1e3"])
    assert (own.stop_seconds, words) == (1_000, ["memory/tmaze", "--total-steps", "2M"])
    assert "2M" in read_training("memory/tmaze", ["--total-steps", "2M"], str).flags


@pytest.mark.parametrize(
    "command",
    [["train", "memory/tmaze", "--total-steps"], ["evaluate", "run", "--episodes"], ["jobs", "logs", "x", "--tail"]],
)
def test_a_number_that_is_none_is_one_sentence(capsys: Capture, command: list[str]) -> None:
    assert main([*command, "2.5M1"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"r2ac: {command[-1]}: '2.5M1' is no whole number; write one such as 1000000")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--pixels maybe", "Unrecognized options: maybe, after --pixels, which takes no value"),
        ("--pixels=maybe", "Unrecognized options: maybe, after --pixels, which takes no value"),
        ("--layers=2 3 --seed 1", "Unrecognized options: 3, after --layers=2"),
        ("--seed 1 2", "Unrecognized options: 2, after 1"),
        ("--pixels maybe,x", "Unrecognized options: maybe,x, after --pixels, which takes no value"),
        ("--pixels=", "Unrecognized options: '', after --pixels, which takes no value"),
        ("--seed 1 --pixels foo bar", "Unrecognized options: foo, bar"),
        ("--checkpoint-minutes foo", "--checkpoint-minutes: 'foo' is no number; write one such as 0.001 or 1e-3"),
        ("--input-scale foo", "--input-scale: 'foo' is no number; write one such as 0.001 or 1e-3"),
        ("--reward-clip foo", "--reward-clip: 'foo' is no number; write one such as 0.001 or 1e-3, or none"),
    ],
)
def test_a_word_that_cannot_be_read_is_shown_with_its_place(words: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        training_config("memory/tmaze", words.split())


def test_threads_read_flags_at_the_same_time() -> None:
    before = sys.stderr, os.environ.get("COLUMNS")

    def refused(number: int) -> str:
        with pytest.raises(ConfigError) as error:
            training_config("memory/tmaze", [f"--hiden-size-{number}", "3"])
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(refused, range(12)))
    assert [sentence.startswith(f"Unrecognized options: --hiden-size-{n}, 3") for n, sentence in enumerate(said)] == [
        True
    ] * 12
    assert (sys.stderr, os.environ.get("COLUMNS")) == before


@pytest.mark.parametrize("words", ["train", "submit --cluster=http://127.0.0.1:1", "sweep --vary=seed=1,2", "bench"])
def test_tasks_in_several_words_are_told_to_be_joined(
    words: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *flags = words.split()
    assert main([command, "memory/tmaze,", "memory/chain", *flags, "--seed", "2"]) == 2
    joined = "but several tasks are joined by commas: memory/tmaze,memory/chain"
    assert capsys.readouterr().err == f"r2ac: 'memory/tmaze, memory/chain' are several words, {joined}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train memory/tmaze --seed 1 --seed=2", "--seed is given twice"),
        ("train --resume run --total-steps 1 --total_steps 2", "--total-steps is given twice"),
        ("sweep memory/tmaze --vary seed=1,2 --trials 1 --trials 1", "--trials is given twice"),
        ("report run --baseline a --baseline b", "--baseline is given twice"),
        ("watch run --greedy --no-greedy", "--no-greedy is given beside --greedy"),
        ("jobs logs x --tail 3 --tail 4", "--tail is given twice"),
    ],
)
def test_a_flag_is_given_once(words: str, sentence: str, capsys: Capture) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"r2ac: {sentence}: a flag is given once, with all its values\n"


@pytest.mark.parametrize(
    "words",
    [
        "sweep memory/tmaze --scheduler pbt --vary none=1 --vary=other=1 --bounds none=1,2 --bounds=other=1,2",
        "submit memory/tmaze --env A=1 --env=B=2 --with-module none --with-module=other",
        "report --title -3 -- --title none none",
    ],
)
def test_flags_that_may_be_repeated_and_words_that_are_no_flags(words: str, capsys: Capture) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert "none" in error
    assert "given" not in error


def test_an_option_of_another_suite_names_its_suites() -> None:
    for flag, suites in (("--wrappers", "gym"), ("--no-sticky-actions", "atari"), ("--threads=2", "atari or procgen")):
        with pytest.raises(ConfigError, match=f"^{flag.partition('=')[0]} is an option of the suite {suites}, "):
            training_config("memory/tmaze", [flag, "x"])


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["train", "memory/tmaze", "--lag", "3"], "--lag is an option of memory/repeat_previous: it would have no"),
        (["train", "memory/tmaze,memory/copy", "--no-random-lengths"], "no effect on memory/tmaze, memory/copy"),
        (["train", "--suite", "memory/tmaze,memory/copy", "--isi=20"], "no effect on memory/tmaze, memory/copy"),
        (
            ["sweep", "memory/tmaze", "--vary", "delay=1,2"],
            "--delay is an option of memory/repeat_first, memory/",
        ),
        (["envs", "--watch", "memory/tmaze", "--arms=3"], "--arms is an option of memory/bandit: it would have no"),
        (["train", "dmlab/lasertag_one_opponent_small", "--dataset-path=x"], "an option of dmlab/psychlab_arbitrary"),
    ],
)
def test_an_option_that_the_task_does_not_read_is_refused(
    command: list[str], sentence: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_one_of_several_tasks_reads_is_for_all(tmp_path: Path, capsys: Capture) -> None:
    tiny = ["--num-actors", "0", "--streams-per-actor", "8", "--batch-size", "8", "--total-steps", "40"]
    names, symbols = "memory/tmaze,memory/copy", ["--symbols", "3"]
    assert training_config(names, symbols).env.symbols == 3
    assert main(["train", "--suite", names, *tiny, *symbols, "--run-dir", str(tmp_path / "suite")]) == 0
    assert main(["train", "--resume", str(tmp_path / "suite"), "--total-steps", "160"]) == 0
    config = json.loads((tmp_path / "suite" / "memory-tmaze" / "config.json").read_text())
    assert (config["total_steps"], config["env"]["symbols"]) == (160, 3)
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "suite" / "memory-tmaze"), "--symbols", "4"]) == 2
    assert "it would have no effect on memory/tmaze" in capsys.readouterr().err


def test_the_help_of_an_option_names_the_tasks_that_read_it() -> None:
    options, suite = training_config("memory/tmaze", []).env, SUITES["memory"]
    told = {field.name: field.metadata["help"] for field in fields(options)}
    for option, tasks in suite.read_by.items():
        named = re.findall(r"\w+", " ".join(re.findall(r"\(.*?\)", told[option])))
        assert [name for name in named if name in suite.list_tasks()] == list(tasks)


def test_a_run_that_goes_on_has_its_task(capsys: Capture) -> None:
    assert main(["train", "--resume", "run", "memory/copy"]) == 2
    assert "goes on with the task of the run: 'memory/copy'" in capsys.readouterr().err


def test_settings_become_words_of_a_command_line() -> None:
    words = flag_words({"env_kwargs": {"length": 20}, "seed": -1, "run_dir": "a b", "freeze_core": True})
    assert words == ["--env-kwargs", '{"length": 20}', "--seed=-1", "--run-dir", "a b", "--freeze-core"]


@dataclass(frozen=True)
class Places:
    """Paths in all their forms."""

    one: Path
    maybe: Path | None = None
    several: tuple[Path, ...] = ()


def test_the_home_directory_is_put_in_where_no_shell_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["--one=~/a", "--maybe=~", "--several", "~/b", "c/~/d"]
    assert parse(Places, "test", words) == Places(tmp_path / "a", tmp_path, (tmp_path / "b", Path("c/~/d")))
    with pytest.raises(ConfigError, match="home directory of a user who has none"):
        parse(Places, "test", ["--one=~no-such-user-here/a"])


def test_every_command_knows_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train_tiny: TrainTiny, capsys: Capture
) -> None:
    """Also where a place may be a URL, and is no path to begin with."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    train_tiny(Path("~/run"), {"--total-steps": "40"})
    assert json.loads((home / "run" / "config.json").read_text())["run_dir"] == str(home / "run")
    tiny = ["--num-actors", "0", "--streams-per-actor", "8", "--batch-size", "8", "--total-steps", "80"]
    assert main(["train", "--suite", "memory/tmaze", *tiny, "--run-dir", "~/suite"]) == 0
    assert main(["train", "--resume", "~/run", "--total-steps", "80"]) == 0
    assert main(["evaluate", "~/run", "--episodes", "1", "--seeds", "1", "--workers", "0", "--output=~/results"]) == 0
    assert main(["envs", "--watch", "memory/tmaze", "--agent=~/run", "--steps", "2", "--output=~/seen.png"]) == 0
    for name in ("suite/memory-tmaze/config.json", "results/evaluation.json", "seen.png"):
        assert (home / name).is_file()
    assert list(here.iterdir()) == []
    capsys.readouterr()
    assert main(["sweep", "--resume", "~/run"]) == 2
    assert f"{home / 'run'} is not a sweep" in capsys.readouterr().err


def test_two_trainings_that_begin_in_one_second_have_two_directories(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class StandingClock(run_directory.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "StandingClock":
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(run_directory, "datetime", StandingClock)
    monkeypatch.chdir(tmp_path)
    tiny = ["--num-actors", "0", "--streams-per-actor", "8", "--batch-size", "8", "--total-steps", "40"]
    for _ in range(3):
        assert main(["train", "memory/tmaze", *tiny]) == 0
    runs = tmp_path / "runs" / "memory-tmaze"
    assert sorted(path.name for path in runs.iterdir()) == [
        f"ppo-rtrl-seed1-20260101-120000{suffix}" for suffix in ("", "-2", "-3")
    ]
    assert all((run / "config.json").is_file() for run in runs.iterdir())


def test_a_training_that_cannot_begin_leaves_no_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "memory/tmaze", "--num-actors", "0", "--encoder", "impala"]) == 2
    assert main(["train", "memory/tmaze", "--num-actors", "0", "--run-dir", "."]) == 2
    assert main(["sweep", "memory/tmaze", "--vary", "seeds=1,2"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_of_a_sweep_is_its_directory(tmp_path: Path) -> None:
    words = ["--vary", "seed=1,2", "--run-dir", str(tmp_path / "sweep"), "--seed", "3"]
    settings, flags = parse_known(SweepSettings, "r2ac sweep", words, SweepSettings())
    assert (settings.sweep_dir, flags) == (tmp_path / "sweep", ["--seed", "3"])
    assert [trial.config.run_dir for trial in make_plan("memory/tmaze", [], settings).trials] == [
        tmp_path / "sweep" / name for name in ("trial-01", "trial-02")
    ]
    with pytest.raises(ConfigError, match="must be a folder, not a URL"):
        SweepSettings(vary=("seed=1,2",), sweep_dir=Path("s3://bucket/sweep")).check()


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        (
            "pixels is True, but with engine 'e' it must be False: M",
            "--pixels is set, but with engine 'e' it must be --no-p",
        ),
        (
            "--freeze-core is False, but it began, with True",
            "--no-freeze-core is set, but it began, with --freeze-core",
        ),
        ("output_gate is True, but it must be False", "--output-gate is True, but it must be False"),
        ("pixels is 1, but it must be True or False", "--pixels is 1, but it must be True or False"),
        ("encoder is 'patch', but observations of", "--encoder is 'patch', but observations of"),
        ("refresh_every must be 0 where", "--refresh-every must be 0 where"),
        ("--core is nothing, but it must be one of", "--core is nothing, but it must be one of"),
        ("there is no task 'pixels'", "there is no task 'pixels'"),
    ],
)
def test_an_error_names_the_flag_in_place_of_the_field(sentence: str, shown: str) -> None:
    assert with_flag(sentence).startswith(shown)
