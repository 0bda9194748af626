"""What commands say of themselves."""

import pytest

from r2ac.launch.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["train", "evaluate", "plot", "envs", "--resume"]),
        (["train"], ["--total-steps", "--gradient", "--learning-rate", "--run-dir", "--encoder-from"]),
        (["train", "memory/key_to_door"], ["--delay", "1500000"]),
        (["train", "procgen/chaser"], ["--distribution-mode", "200000000"]),
        (["train", "atari/Pong"], ["--preset", "machado2018", "--sticky-actions", "(default: 0.0)"]),
        (["train", "atari/Pong", "--preset", "machado2018"], ["(default: 0.25)"]),
        (["envs", "--watch", "memory/tmaze"], ["--agent", "--output", "--corridor-length"]),
        (["evaluate"], ["--episodes", "--seeds", "--greedy", "--split"]),
        (["plot"], ["--output", "--metric", "--smoothing"]),
        (["envs"], ["suite"]),
    ],
)
def test_help_names_the_flags(capsys: Capture, command: list[str], words: list[str]) -> None:
    try:
        code = main([*command, "--help"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    assert code == 0
    assert captured.err == ""
    assert all(word in captured.out for word in words)


def test_help_of_a_task_has_the_options_that_it_reads(capsys: Capture) -> None:
    def said(*command: str) -> str:
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        return capsys.readouterr().out

    maze, both = said("train", "memory/tmaze"), said("train", "memory/tmaze,memory/bandit")
    assert all(flag in maze for flag in ("--corridor-length", "--curriculum", "--pixels", "--max-episode-steps"))
    assert "--arms" not in maze
    assert "--arms" in both
    assert "--lag" not in both
    assert "--arms" not in said("envs", "--watch", "memory/tmaze")


def test_help_breaks_lines_where_the_terminal_ends_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1200")
    with pytest.raises(SystemExit):
        main(["train", "memory/tmaze", "--help"])
    printed = capsys.readouterr().out
    assert "those for which it has no CPU yet wait for one; 0: one in this process, without Ray" in printed
    assert "or the feed-forward one of the eLSTM's capacity" in printed


def test_version_and_envs(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("r2ac 0.")
    assert main(["envs"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("memory/tmaze", "atari/Breakout", "procgen/chaser", "runs here"))
