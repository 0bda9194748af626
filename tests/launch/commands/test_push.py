"""Runs on the Hugging Face Hub: pushed there, with a card, and read from there."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2ac.launch.cli import main
from r2ac.launch.commands.model_card import write_card
from r2ac.launch.evaluation.results_file import read_evaluation
from tests.launch.commands.hub_double import Repositories, hub

constants = pytest.importorskip("huggingface_hub.constants")
Capture = pytest.CaptureFixture[str]
URL = "hf://somebody/tmaze"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repositories]:
    """The repositories of a hub on which we may write."""
    with hub("secret") as (address, repositories):
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield repositories


def test_a_run_is_pushed_read_by_every_command_and_pushed_again(
    there: Repositories, finished_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "profile").mkdir()
    (run / "profile" / "trace.json").write_text("{}")
    assert main(["evaluate", str(run), "--episodes=3", "--seeds=2", "--workers=0"]) == 0
    assert main(["push", str(run), URL, "--licence=mit"]) == 0
    files = there["somebody/tmaze"]
    [checkpoint] = [name for name in files if name.endswith(".safetensors")]
    named = {"README.md", "config.json", "metrics.jsonl", "evaluation.json", "evaluation.md", "curves.png"}
    assert set(files) == {*named, checkpoint}
    assert files[checkpoint] == (run / checkpoint).read_bytes()
    card = files["README.md"].decode()
    mean = f"{read_evaluation(run)[0].mean_return:.2f}"
    wanted = ('license: "mit"', "memory/tmaze", f"r2ac evaluate {URL}", "![Learning curve](curves.png)", mean)
    assert [words for words in (*wanted, "bootstrap interval", "hidden_size | 8 |") if words not in card] == []
    front = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    assert json.loads(front["model-index"])[0]["results"][0]["metrics"][0]["value"].startswith(mean)

    files["program.py"] = b"raise SystemExit('this must not run')"
    before = dict(files)
    assert main(["plot", URL, "--output", str(tmp_path / "curves.csv")]) == 0
    assert main(["evaluate", URL, "--episodes=2", "--seeds=1", "--workers=0"]) == 0
    assert files == before
    said = capsys.readouterr().out
    assert "r2ac push brings it to a repository" in said
    [copy] = (tmp_path / "cache" / "r2ac" / "reading").glob("*/tmaze")
    assert len(read_evaluation(copy)[0].episodes) == 2
    assert not (copy / "program.py").exists()
    assert main(["train", "--resume", URL, "--total-steps=2400"]) == 2
    assert "r2ac push" in capsys.readouterr().err

    assert main(["train", "--resume", str(run), "--total-steps=2400"]) == 0
    assert main(["push", str(run), URL]) == 0
    [newer] = [name for name in files if name.endswith(".safetensors")]
    assert newer > checkpoint
    assert main(["plot", URL, "--output", str(tmp_path / "curves.csv")]) == 0
    assert not list((copy / "checkpoints").iterdir())


def test_what_goes_wrong_is_said_in_a_sentence(
    there: Repositories, finished_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> tuple[int, str]:
        return main(words), capsys.readouterr().err

    assert said("plot", URL)[1].startswith(f"r2ac: {URL} cannot be read:")
    assert said("push", str(finished_run), "s3://bucket/run") == (
        2,
        "r2ac: s3://bucket/run is no repository of the hub, which has the form hf://USER/NAME\n",
    )
    for url in ("hf://somebody", "hf://"):
        sentence = f"r2ac: {url} is no repository of the hub, which has the form hf://USER/NAME\n"
        assert said("evaluate", url) == (2, sentence)
    code, sentence = said("push", str(tmp_path / "lost"), URL)
    assert (code, "lost does not exist" in sentence) == (2, True)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    code, sentence = said("push", str(finished_run), URL)
    assert (code, "call hf auth login, or set HF_TOKEN" in sentence) == (2, True)
    monkeypatch.setenv("HF_TOKEN", "another")
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    code, sentence = said("push", str(run), URL)
    assert (code, sentence.count("\n")) == (1, 1)
    assert f"{URL} cannot be written" in sentence
    assert there == {}


def test_programs_can_read_the_result_of_a_card(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    assert main(["evaluate", str(run), "--episodes=3", "--seeds=2", "--workers=0"]) == 0
    values = json.loads((run / "evaluation.json").read_text())
    for episode in values["results"][0]["episodes"]:
        episode["episode_return"] = 2345.0 + episode["seed"]
    (run / "evaluation.json").write_text(json.dumps(values))
    card = write_card(run, "somebody/tmaze", "mit").read_text()
    [line] = [line for line in card.splitlines() if line.startswith("model-index: ")]
    value = json.loads(line.partition(": ")[2])[0]["results"][0]["metrics"][0]["value"]
    assert [float(part) for part in value.split(" +/- ")] == [2345.5, 0.71]
