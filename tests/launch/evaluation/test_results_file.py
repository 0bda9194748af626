"""evaluation.json: what is written is read back, damage is told, results stay side by side, one writer at a time."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from r2ac.envs import find_task
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.evaluation.evaluate import EvaluatedEpisode, Evaluation
from r2ac.launch.evaluation.protocols import EvaluationConfig
from r2ac.launch.evaluation.results_file import EvaluationFile, read_evaluation
from r2ac.launch.runtime.errors import RunError
from r2ac.launch.settings.config import TrainConfig

TRAINING = TrainConfig("memory/tmaze", MemoryOptions(corridor_length=4))
CONFIG = EvaluationConfig(episodes=2, seeds=3, device="cpu")
WANTED = Evaluation(
    Path("run/checkpoints/step.safetensors"), "0" * 64, 2000, "memory/tmaze", TRAINING.env, CONFIG, TRAINING
)


def seed(number: int, *returns: float) -> list[EvaluatedEpisode]:
    return [EvaluatedEpisode(number, value, 5, False) for value in returns]


TWO_SEEDS = WANTED.with_seed(seed(0, 1.0, 0.0), engines_lost=2).with_seed(seed(2, 1.0, 0.5), engines_lost=1)


def put(path: Path, *evaluations: Evaluation) -> None:
    with EvaluationFile(path) as file:
        for evaluation in evaluations:
            file.put(evaluation)


def test_seeds_may_come_in_any_order() -> None:
    evaluation = TWO_SEEDS
    assert (evaluation.seeds_played, evaluation.seeds_missing, evaluation.complete) == ([0, 2], [1], False)
    done = evaluation.with_seed(seed(1, 0.0, 0.0))
    assert done.complete
    assert [episode.seed for episode in done.episodes] == [0, 0, 1, 1, 2, 2]
    assert done.seed_means == [0.5, 0.0, 0.75]
    assert done.mean_return == pytest.approx(1.25 / 3)
    assert done.std_return == pytest.approx(statistics.stdev([0.5, 0.0, 0.75]))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    options = MemoryOptions(corridor_length=9)
    other = replace(TWO_SEEDS, sha256="1" * 64, protocol="paper", changed=("episodes",), environment=options)
    put(tmp_path / "evaluation.json", TWO_SEEDS, other)
    (tmp_path / "config.json").write_text("{}")
    assert read_evaluation(tmp_path / "evaluation.json") == (TWO_SEEDS, other)
    assert read_evaluation(tmp_path) == (TWO_SEEDS, other)
    assert TWO_SEEDS.engines_lost == 3
    # Earlier versions did not count them.
    values = json.loads((tmp_path / "evaluation.json").read_text())
    del values["results"][0]["engines_lost"]
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    assert read_evaluation(tmp_path)[0] == replace(TWO_SEEDS, engines_lost=0)


def test_the_page_beside_it_states_the_protocol_and_the_numbers(tmp_path: Path) -> None:
    other = replace(TWO_SEEDS.with_seed(seed(1, 0.0, 0.0)), protocol="machado2018", changed=("greedy",))
    put(tmp_path / "evaluation.json", TWO_SEEDS, other)
    lines = (tmp_path / "evaluation.md").read_text().splitlines()
    assert "- Protocol machado2018 with other greedy: 3 x 2 episodes, split test, sampled actions" in lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| memory/tmaze")]
    assert [row[4:7] for row in rows] == [
        ["2 of 3 x 2", "0.625 ± 0.177", "25.0 %"],
        ["3 x 2", "0.417 ± 0.382", "-16.7 %"],
    ]
    assert [row[7] for row in rows] == ["default", "machado2018 with other greedy"]
    assert rows[0][9] == (TWO_SEEDS.date or "")[:16].replace("T", " ")


def test_means_over_tasks_are_those_of_the_complete_ones(tmp_path: Path) -> None:
    whole = TWO_SEEDS.with_seed(seed(1, 0.0, 0.0))
    copy = replace(whole, task="memory/copy", episodes=tuple(e for n in range(3) for e in seed(n, 25.0, 25.0)))
    parity = replace(TWO_SEEDS, task="memory/parity")
    put(tmp_path / "evaluation.json", whole, parity, replace(whole, protocol="paper"), copy)
    put(tmp_path / "evaluation.json", replace(whole, task="memory/bandit", changed=("greedy",)))
    (means,) = json.loads((tmp_path / "evaluation.json").read_text())["means"]
    scores = find_task("memory/copy").reference_scores()
    assert scores is not None
    tmaze, copied = (1.25 / 3 - 0.5) / 0.5, (25.0 - scores.low) / (scores.high - scores.low)
    assert copied > 1
    assert means == {
        "sha256": "0" * 64,
        "protocol": "default",
        "split": "test",
        "tasks": 2,
        "normalised_return": pytest.approx((tmaze + copied) / 2),
        "capped_normalised_return": pytest.approx((tmaze + 1) / 2),
    }


def test_going_on_takes_the_seeds_that_were_played_just_so(tmp_path: Path) -> None:
    put(tmp_path / "evaluation.json", TWO_SEEDS)
    with EvaluationFile(tmp_path / "evaluation.json") as file:
        assert file.go_on(WANTED) == (TWO_SEEDS, None)
        more, _ = file.go_on(replace(WANTED, config=replace(CONFIG, seeds=5)))
        assert (more.episodes, more.seeds_missing) == (TWO_SEEDS.episodes, [1, 3, 4])
        less, _ = file.go_on(replace(WANTED, config=replace(CONFIG, seeds=1)))
        assert (less.episodes, less.complete) == (TWO_SEEDS.episodes[:2], True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": replace(CONFIG, episodes=4)}, "episodes was 2, is 4"),
        ({"config": replace(CONFIG, greedy=True, num_envs=7)}, "greedy was False, is True; num_envs was 25, is 7"),
        ({"config": replace(CONFIG, device="cuda")}, "device was cpu, is cuda"),
        ({"environment": MemoryOptions(corridor_length=8)}, "corridor_length was 4, is 8"),
    ],
)
def test_other_settings_begin_anew_and_say_so(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    put(tmp_path / "evaluation.json", TWO_SEEDS)
    wanted = replace(WANTED, **change)
    with EvaluationFile(tmp_path / "evaluation.json") as file:
        assert file.go_on(wanted) == (wanted, f"memory/tmaze (test) begins anew: {sentence}")
        # Until the first seed has been played the old result stays.
        assert file.results == (TWO_SEEDS,)
        file.put(wanted.with_seed(seed(0, *[1.0] * wanted.config.episodes)))
    (result,) = read_evaluation(tmp_path)
    assert result.seeds_played == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"task": "memory/parity"},
        {"protocol": "paper"},
        {"config": replace(CONFIG, split="train")},
    ],
)
def test_other_checkpoints_tasks_splits_and_protocols_stay_side_by_side(tmp_path: Path, change: dict[str, Any]) -> None:
    put(tmp_path / "evaluation.json", TWO_SEEDS)
    other = replace(WANTED, **change)
    with EvaluationFile(tmp_path / "evaluation.json") as file:
        assert file.go_on(other) == (other, None)
        played = other.with_seed(seed(0, 1.0, 1.0))
        file.put(played)
    assert read_evaluation(tmp_path) == (TWO_SEEDS, played)


def test_fresh_begins_anew(tmp_path: Path) -> None:
    put(tmp_path / "evaluation.json", TWO_SEEDS)
    with EvaluationFile(tmp_path / "evaluation.json", fresh=True) as file:
        assert file.go_on(WANTED) == (WANTED, None)


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def damaged(text: str) -> str:
        values = json.loads(text)
        change(values)
        return json.dumps(values)

    return damaged


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"task": "memory/tmaze", "episodes": []}',
        damage(lambda values: values.update(format_version=99)),
        damage(lambda values: values.update(results=3)),
        damage(lambda values: values["results"][0].pop("sha256")),
        damage(lambda values: values["results"][0]["environment"].update(corridor_length="long")),
        damage(lambda values: values["results"][0]["evaluation"].update(colour=1)),
        damage(lambda values: values["results"][0]["episodes"].pop()),
        damage(lambda values: values["results"][0]["episodes"][0].update(seed=9)),
        damage(lambda values: values["results"][0]["episodes"][0].update(episode_return="much")),
        damage(lambda values: values["results"][0]["episodes"][0].update(episode_return=float("inf"))),
        damage(lambda values: values["results"][0].update(episodes=[])),
    ],
)
def test_damage_is_one_sentence_and_fresh_mends_it(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = tmp_path / "evaluation.json"
    put(path, TWO_SEEDS)
    path.write_text(change(path.read_text()))
    with pytest.raises(RunError, match=r"evaluation\.json is damaged or of another r2ac: .+ --fresh begins anew"):
        read_evaluation(path)
    with pytest.raises(RunError, match="damaged"):
        EvaluationFile(path)
    with EvaluationFile(path, fresh=True) as file:
        file.put(TWO_SEEDS)
    assert read_evaluation(path) == (TWO_SEEDS,)


@pytest.mark.parametrize("of", [(), ("training",)])
def test_a_file_of_a_task_that_is_not_here_is_not_damaged(tmp_path: Path, of: Sequence[str]) -> None:
    path = tmp_path / "evaluation.json"
    put(path, TWO_SEEDS)
    values = json.loads(path.read_text())
    reduce(getitem, of, values["results"][0])["task"] = "gym/no_such_module:Env-v0"
    path.write_text(json.dumps(values))
    for read in (read_evaluation, EvaluationFile):
        with pytest.raises(RunError, match=r"\.json is of a task that is not here: .+ No module named") as error:
            read(path)
        assert "damaged" not in str(error.value)


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no evaluation"):
        read_evaluation(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot hold an evaluation"):
        EvaluationFile(tmp_path / "file" / "evaluation.json")


def test_one_evaluation_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with EvaluationFile(path), pytest.raises(RunError, match="is being evaluated by another process"):
        EvaluationFile(path)
    EvaluationFile(path).close()


def test_seeds_beyond_those_asked_for_are_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    put(path, TWO_SEEDS)
    before = path.read_bytes()
    with EvaluationFile(path) as file:
        going_on, _ = file.go_on(replace(WANTED, config=replace(CONFIG, seeds=2)))
        file.put(going_on.with_seed(seed(1, 0.0, 1.0)))
    (kept,) = tmp_path.glob("evaluation-*.json")
    assert kept.read_bytes() == before
    assert read_evaluation(path)[0].seeds_played == [0, 1]


def test_nothing_is_copied_where_nothing_is_dropped(tmp_path: Path) -> None:
    put(tmp_path / "evaluation.json", TWO_SEEDS)
    with EvaluationFile(tmp_path / "evaluation.json") as file:
        done, _ = file.go_on(replace(WANTED, config=replace(CONFIG, seeds=1)))
        assert done.complete
        file.put(replace(WANTED, task="memory/parity").with_seed(seed(0, 1.0, 1.0)))
        assert TWO_SEEDS in file.results
    assert not list(tmp_path.glob("evaluation-*.json"))


def test_what_is_dropped_is_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    put(path, TWO_SEEDS)
    before = path.read_bytes()
    shorter = replace(WANTED, config=replace(CONFIG, episodes=1))
    with EvaluationFile(path) as file:
        file.go_on(shorter)
        assert list(tmp_path.glob("evaluation-*.json")) == [], "nothing is written over yet"
        file.put(shorter.with_seed(seed(0, 1.0)))
        file.put(shorter.with_seed(seed(1, 1.0)))
    (kept,) = tmp_path.glob("evaluation-*.json")
    assert kept.read_bytes() == before
    assert read_evaluation(path)[0].config.episodes == 1
