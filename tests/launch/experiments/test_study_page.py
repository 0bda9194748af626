"""The page of the study."""

from dataclasses import replace
from pathlib import Path

import pytest

from r2ac.launch.experiments.experiment import Claim, Experiment, SeededTraining, find_experiment
from r2ac.launch.experiments.records import TrainingRecord, read_records, write_records
from r2ac.launch.experiments.study_page import cells_of, part_of, write_part
from r2ac.launch.runtime.errors import RunError

ROOT = Path(__file__).parents[3]
TASKS, AGENTS = ("maze, L = 4", "maze, L = 8"), ("RTRL", "TBPTT")
EXPERIMENT = Experiment(
    "grid",
    "small",
    tuple(
        SeededTraining(task, agent, seed, ("memory/tmaze",)) for task in TASKS for agent in AGENTS for seed in (1, 2)
    ),
    title="Grid",
    shows="Nothing.",
    figure="L",
)


def record(task: str, agent: str, seed: int, result: float, solved: tuple[int, float] | None) -> TrainingRecord:
    about = {"digest": "0", "threshold": 0.95, "reference": (-1.0, 1.0), "peak_mb": 400.0}
    curve = (*[None] * 20, *[result] * 20)
    return TrainingRecord(
        task, agent, seed, "r2ac train memory/tmaze", steps=1000, curve=curve, solved=solved, evaluation=result,
        seconds=3.0, cpu_seconds=360.0, versions="r2ac 1", hardware="2 cores", date=f"2026-11-{20 + seed}", **about,
    )  # fmt: skip


RECORDS = [
    record(TASKS[0], "RTRL", 1, 1.0, (2000, 4.0)),
    record(TASKS[0], "RTRL", 2, 0.96, (4000, 6.0)),
    record(TASKS[0], "TBPTT", 1, 0.5, None),
    record(TASKS[1], "RTRL", 1, 0.8, None),
]


def part(experiment: Experiment = EXPERIMENT, records: list[TrainingRecord] = RECORDS) -> str:
    return part_of(experiment, cells_of(experiment, records))


def test_the_table() -> None:
    lines, known = part().splitlines(), {each.key for each in RECORDS}
    assert "| maze, L = 4 | 0.98 [0.96, 1.00]<br>2 of 2: 3k steps, 5 s | 0.50<br>0 of 1 |" in lines
    assert "| maze, L = 8 | 0.80<br>0 of 1 |  |" in lines
    assert "4 of 8 trainings, 0.40 CPU hours; 2 cores; r2ac 1; 2026-11-21 to 2026-11-22." in lines[-1]
    whole = replace(EXPERIMENT, trainings=tuple(each for each in EXPERIMENT.trainings if each.key in known))
    assert " seconds. 4 trainings, 0.40 CPU hours" in part(whole)
    assert "Not measured yet" in part(records=[])


def test_results_of_another_command_are_not_shown() -> None:
    assert part(records=[*RECORDS[:3], replace(RECORDS[3], command="r2ac train memory/tmaze --seed 9")]) == part(
        records=RECORDS[:3]
    )


def test_what_was_lost_again_is_not_solved() -> None:
    lost = [RECORDS[0], replace(RECORDS[1], evaluation=0.9)]
    assert "<br>1 of 2: 2k steps, 4 s |" in part(records=lost)
    claim = Claim("solved", "RTRL", 1.0, tasks=TASKS[:1])
    assert "- solved: missed (the share of seeds is 0.50)." in part(replace(EXPERIMENT, claims=(claim,)), lost)


def test_published_columns_and_mapped_returns() -> None:
    tasks = {"paper": {TASKS[0]: "0.97", TASKS[1]: "0.10"}}
    text = part(replace(EXPERIMENT, score="unit", published=tasks))
    assert "|  | RTRL | TBPTT | paper |" in text
    assert "| maze, L = 4 | 0.99 [0.98, 1.00]<br>2 of 2: 3k steps, 5 s | 0.75<br>0 of 1 | 0.97 |" in text
    # Of 1.0 and 0.98 of the first task and 0.9 of the second no quarter can be left out: each task counts the same.
    assert "| IQM over tasks | 0.95 [0.94, 0.95] |  |  |" in text


def test_prices() -> None:
    text = part(replace(EXPERIMENT, score="price"))
    assert "| maze, L = 4 | 360000 µs<br>400 MB | 360000 µs<br>400 MB |" in text


def test_claims() -> None:
    claims = (
        Claim("solved", "RTRL", 1.0, tasks=TASKS[:1]),
        Claim("all solved", "RTRL", 0.5),
        Claim("good", "RTRL", 0.8, "score"),
        Claim("beats", "RTRL", 1, "above"),
        Claim("no data", "TBPTT", 0.0),
        Claim("missed already", "TBPTT", 1.0),
        Claim("may beat", "TBPTT", 1, "above"),
        Claim("cannot beat", "TBPTT", 2, "above"),
    )
    text = part(replace(EXPERIMENT, claims=claims, published={"paper": {TASKS[0]: "0.9", TASKS[1]: "0.9"}}))
    assert "- solved: met (the share of seeds is 1.00)." in text
    assert "- all solved: missed so far (the share of seeds is least in maze, L = 8: 0.00; 3 of 4 trainings)." in text
    assert "- good: met so far (the mean score is least in maze, L = 8: 0.80; 3 of 4 trainings)." in text
    assert "- beats: met so far (1 of 2; 3 of 4 trainings)." in text
    assert "- no data: not measured on 1 of 2 tasks yet." in text
    least, yet = "the share of seeds is least in maze, L = 4: 0.00", "not measured on 1 of 2 tasks yet"
    assert f"- missed already: missed so far ({least}; 1 of 2 trainings; {yet})." in text
    assert f"- may beat: {yet}." in text
    assert f"- cannot beat: missed so far (0 of 2; 1 of 2 trainings; {yet})." in text


def test_a_part_is_replaced_where_it_stands(tmp_path: Path) -> None:
    page, other = tmp_path / "study.md", replace(EXPERIMENT, name="other", figure="")
    write_part(page, EXPERIMENT, [])
    write_part(page, other, RECORDS)
    assert not (tmp_path / "study" / "grid-small.svg").exists()
    page.write_text(page.read_text() + "\nBy hand.\n")
    write_part(page, EXPERIMENT, RECORDS)
    text = page.read_text()
    assert text.startswith("# The study\n")
    assert text.endswith("\nBy hand.\n")
    assert text.index(part()) < text.index(part(other))
    for name in ("grid", "other"):
        drawn = (tmp_path / "study" / f"{name}-small.svg").read_text()
        assert "RTRL" in drawn
    page.write_text(text.replace("<!-- end grid small -->", ""))
    with pytest.raises(RunError, match="is damaged"):
        write_part(page, EXPERIMENT, RECORDS)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results" / "grid-small.json"
    assert read_records(path) == {}
    write_records(path, EXPERIMENT, RECORDS)
    assert read_records(path) == {each.key: each for each in RECORDS}
    path.write_text('{"trainings": [{"task": "x"}]}')
    with pytest.raises(RunError, match=r"grid-small\.json is damaged"):
        read_records(path)


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_the_page_of_the_study_says_what_the_results_say(path: Path) -> None:
    experiment = find_experiment(*path.stem.rsplit("-", 1))
    assert part(experiment, list(read_records(path).values())) in (ROOT / "docs" / "study.md").read_text()
