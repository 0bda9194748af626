"""Which files of a run travel to another machine."""

from pathlib import Path

from r2ac.launch.runs.run_files import changed_files, files_below, shared, wanted

STEPS = [f"checkpoints/step_{step:012d}.safetensors" for step in (0, 900, 1000)]


def test_locks_and_unfinished_files_stay_and_checkpoints_come_last() -> None:
    names = [*STEPS, "run.lock", "writer.json", ".config.json.12", "checkpoints/.step_1.safetensors", "metrics.jsonl"]
    assert wanted(names, "all") == ["metrics.jsonl", *reversed(STEPS)]
    assert wanted(names) == ["metrics.jsonl", STEPS[-1]]
    assert wanted(names, "none") == ["metrics.jsonl"]


def test_of_a_list_of_runs_each_keeps_its_newest_checkpoint() -> None:
    names = [f"{run}/{step}" for run in "ab" for step in STEPS]
    assert wanted([*names, "suite.json", "a/run.lock"]) == ["suite.json", names[5], names[2]]


def test_links_are_not_followed_and_changes_are_found(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (*STEPS, "config.json", "run.lock"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert sorted(files_below(tmp_path)) == sorted([*STEPS, "config.json", "run.lock"])
    known = changed_files(tmp_path, {})
    assert list(known) == ["config.json", *reversed(STEPS)]
    (tmp_path / "config.json").write_text("another")
    (tmp_path / STEPS[0]).unlink()
    assert list(changed_files(tmp_path, known)) == ["config.json"]


def test_strangers_share_numbers_pictures_and_weights_alone() -> None:
    names = ["config.json", "metrics.jsonl", STEPS[0], "curves.png", "evaluation.md"]
    others = ["events.out.tfevents.1.host.2", "program.py", "weights.pt", "profile/trace.json", "environment-error.txt"]
    others += ["wandb.id", "wandb/run-1/files/wandb-metadata.json"]
    assert shared([*names, *others]) == names
