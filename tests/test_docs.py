"""The programs and command lines that the pages show are in order.

Pages with a ```python block have tests of their own (see TESTED). Command lines of `r2ac` are run up to where they
would train, connect or read a run; those of envs, bench and new sweeps, and those that leave a choice open, are not. Of
benchmarks it is checked that they and their flags exist.
"""

import re
import shlex
from pathlib import Path

import pytest

from r2ac.kernels import CELLS
from r2ac.launch.cli import main
from r2ac.launch.settings.flags import replace_flags

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
TESTED = {
    "docs/deployment.md": "launch/commands/test_export.py",
    "docs/environments/your-own.md": "test_own_environment_page.py",
    "docs/python.md": "api/test_api.py",
    "docs/rtrl.md": "benchmarks/test_exactness.py",
}

STANDS_FOR = {"TASK": "memory/tmaze", "LIST": "procgen-16", "hf://USER/NAME": "hf://user/name"}
STANDS_FOR |= {"L": "20", "2L": "40", "LAMBDA": "0.9", "NAME": "delay"}
"""For words in capitals; others, such as RUN, are names of files that are not there."""
ENDS = {
    "train": (["--run-dir=taken"], "taken already holds a run"),
    "train --resume": ([], "does not exist"),
    "sweep --resume": ([], "is not a sweep"),
    "submit": (["--cluster=http://127.0.0.1:1"], "there is no Ray cluster at"),
    "jobs": (["--cluster=http://127.0.0.1:1"], "there is no Ray cluster at"),
    "reproduce": (["--no-train", "--results-dir=none", "--page=study.md"], ""),
    "cluster": ([], ""),
    **dict.fromkeys(["evaluate", "plot", "watch", "inspect", "report", "export", "push"], ([], "does not exist")),
}
"""What is added to a command line so that it ends early, and what is then said; nothing where it succeeds."""


def indented_blocks() -> list[tuple[str, str]]:
    """Every indented block that is not within a fenced one, with the name of its page."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for block in re.findall(r"\n\n((?: {4}.*\n|\n(?= {4}))+)", text):
            found.append((str(page.relative_to(ROOT)), re.sub(r"^ {4}", "", block, flags=re.MULTILINE)))
    return found


def command_lines(program: str) -> list[list[str]]:
    """The words of every command line of a program, which is left out; without what is said beside it."""
    lines = [line for _, block in indented_blocks() for line in block.replace("\\\n", "").splitlines()]
    shown = [match[1] for line in lines if (match := re.match(rf"(?:\$ )?{program}(?: (.*)|$)", line))]
    commands = [shlex.split(re.split(r" #|(?<=\S) {4,}(?=[^\s-])", text or "")[0]) for text in shown]
    return [[word.strip("[]") for word in words if word not in ("…", "[--flags]")] for words in commands]


def beginnings() -> dict[str, list[list[str]]]:
    """The command lines of r2ac by their first words, as ENDS has them; each once."""
    found: dict[str, list[list[str]]] = {name: [] for name in ENDS}
    for command, *rest in command_lines("r2ac"):
        words = [STANDS_FOR.get(word, word) for word in rest if word != "--suite" or command != "train"]
        name = f"{command} --resume" if words[:1] == ["--resume"] and command in ("train", "sweep") else command
        elsewhere = any(
            "|" in word or "gym/corridor" in word or word in ("--help", "--ray-address", "--log") for word in words
        )
        at_a_url = command != "push" and any(word.startswith(("hf://", "s3://")) for word in words)
        if name in found and not elsewhere and not at_a_url and [command, *words] not in found[name]:
            found[name].append([command, *words])
    return found


COMMANDS = beginnings()


def test_programs_of_fenced_blocks_have_tests_of_their_own() -> None:
    assert [str(page.relative_to(ROOT)) for page in PAGES if "```python" in page.read_text()] == list(TESTED)
    for page, test in TESTED.items():
        assert f'"{Path(page).name}"' in (ROOT / "tests" / test).read_text()


def test_programs_of_indented_blocks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "toy", CELLS["elstm"])  # a page adds it; taken out again
    programs = [(page, block) for page, block in indented_blocks() if re.match("import |from ", block)]
    assert [page for page, _ in programs] == ["README.md", "docs/cells.md"]
    for page, program in programs:
        exec(compile(program, page, "exec"), {})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "train" else ()) for name in ENDS]
)
def test_command_lines_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "none")
    Path("taken").mkdir()
    Path("taken", "config.json").write_text("{}")
    Path("study.md").write_text((ROOT / "docs" / "study.md").read_text())
    more, said = ENDS[name]
    assert COMMANDS[name]
    for words in COMMANDS[name]:
        shown = shlex.join(words)
        code = main(replace_flags(words, more))
        printed = capsys.readouterr().err
        assert (code, said in printed) == (2 if said else 0, True), f"{shown}: {printed}"


def test_benchmarks_and_their_flags_exist() -> None:
    commands = command_lines(r"python(?= benchmarks/)")
    assert len(commands) >= 8
    for script, *words in commands:
        source = (ROOT / script).read_text()
        for flag in (word.partition("=")[0] for word in words if word.startswith("--") and " " not in word):
            assert re.search(rf"{flag}\b|\b{flag[2:].replace('-', '_')}:", source), f"{script} has no {flag}"


def test_targets_of_make_exist() -> None:
    targets = {words[0] for words in command_lines("make")}
    assert targets >= {"train", "test"}
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
