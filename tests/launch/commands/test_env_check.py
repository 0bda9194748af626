"""r2ac envs --check: what is in order and what is wrong with environments of users, each with one slip."""

import pytest

from r2ac.launch.cli import main

Capture = pytest.CaptureFixture[str]


def check(name: str, *flags: str) -> int:
    return main(["envs", "--check", f"gym/tests.own_envs:own/{name}-v0", *flags])


def lines(capsys: Capture) -> dict[str, str]:
    """What was printed, by the first word of each line; a word that comes again begins with another line's text."""
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        name, _, text = line.strip().partition(" ")
        found[name] = f"{found.get(name, '')} {text.strip()}".strip()
    return found


def test_what_is_in_order_is_told(capsys: Capture) -> None:
    assert check("Walk", "--env-kwargs", '{"level": 5}', "--wrappers", "tests.own_envs:Louder", "--steps", "50") == 0
    said = lines(capsys)
    assert said["gym/tests.own_envs:own/Walk-v0:"] == "50 steps"
    assert said["observation"] == "Box(-1.0, 1.0, (3,), float32), seen as a vector: float32 [3]"
    assert said["actions"] == "Discrete(2): 2 actions"
    assert said["infos"] == "hint: not used"
    assert said["ends"] == "10 episodes of 5 to 5 steps ended, 0 of them by truncation; no time limit"
    assert said["rewards"].startswith("0 to 10, mean ")
    assert said["rewards"].endswith(" of 50 lie outside of [-1, 1]")
    assert said["speed"].endswith("steps/s on one core, without the agent")
    assert said["seeds"] == "one seed shows the same again"
    assert said["check_env"] == "Gymnasium's own checker has no remarks"
    assert check("OneImage") == 0
    assert "seen as an image: uint8 [3, 8, 8]" in lines(capsys)["observation"]


def test_actions_are_not_the_environments_own_draws(capsys: Capture) -> None:
    assert check("Coin", "--steps", "400") == 0
    assert 0.3 < float(lines(capsys)["rewards"].partition("mean ")[2].split()[0].rstrip(",;")) < 0.7


def test_rewards_that_are_all_zero_are_no_mean(capsys: Capture) -> None:
    assert check("Walk", "--steps", "1") == 0
    assert lines(capsys)["rewards"] == "all 1 are 0: try --steps 10, or another --seed"


def test_a_mask_in_the_infos_counts_as_used_where_it_is_read(capsys: Capture) -> None:
    for flags, unused in (["--mask-from-info"], "prob: not used"), ([], "action_mask, prob: not used"):
        assert main(["envs", "--check", "gym/Taxi-v4", "--steps", "20", *flags]) in (0, 1)
        said = lines(capsys)
        assert said["infos"] == unused
        assert said["actions"].endswith("masked") == bool(flags)


def test_a_step_that_does_not_return_is_wrong(capsys: Capture) -> None:
    assert check("Hangs", "--step-timeout", "0.5") == 1
    said = lines(capsys)
    assert said["steps"].startswith("WRONG: step 1 raises TimeoutError('not back after 0.5 s') (")
    assert "own_envs.py, line " in said["steps"]
    assert said["check_env"].startswith("WRONG: ")


@pytest.mark.parametrize(
    ("name", "about", "words"),
    [
        ("GlobalRandom", "seeds", "WRONG: draws from the global random or np.random"),
        ("Unseeded", "seeds", "WRONG: one seed shows something else each time"),
        ("Unseeded", "check_env", "WRONG: Using `env.reset(seed=123)` is non-deterministic"),
        ("Outside", "observation", "WRONG: what is shown before step 1 does not lie in its space: it holds 7.0, but "),
        ("Falls", "steps", "WRONG: step 3 raises ValueError('the floor is gone')"),
        ("Endless", "rewards", "WRONG: 100 of 100 are not finite, such as nan"),
        ("Endless", "ends", "no episode ended in 100 steps; no time limit"),
        ("Limited", "ends", "20 episodes of 5 to 5 steps ended, 20 of them by truncation; a time limit of 5 steps"),
    ],
)
def test_what_is_wrong_is_told(capsys: Capture, name: str, about: str, words: str) -> None:
    assert check(name) == 1
    captured = capsys.readouterr()
    assert f"own/{name}-v0 is not in order, see " in captured.err
    assert captured.err.count("\n") == 1
    (found,) = (line for line in captured.out.splitlines() if line.strip().startswith(about) and words in line)
    assert ("WRONG" in found) == ("WRONG" in words)


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("dtype", "'place' is float64, not float32"),
        ("shape", "'place' has the shape (3,), not (2,)"),
        ("high", "'place' holds 7.0, but there 0.0 to 1.0 are"),
        ("number", "part 0 is 3, but its space is Discrete(3)"),
        ("array", "it is [0. 0.], but its space is"),
        ("keys", "it has the keys ['place'], not ['phase',"),
    ],
)
def test_why_an_observation_lies_outside_of_its_space_is_told(capsys: Capture, flaw: str, words: str) -> None:
    assert check("Misfit", "--env-kwargs", f'{{"flaw": "{flaw}"}}', "--steps", "3") == 1
    said = lines(capsys)
    assert said["observation"].endswith(f"does not lie in its space: {words}")
    assert said["rewards"] == "WRONG: None is no number"


def test_what_leaves_the_process_is_wrong_too(capsys: Capture) -> None:
    assert main(["envs", "--check", "gym/tests.failing_envs:Leaves-v0"]) == 1
    assert "WRONG: step 50 raises SystemExit(0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FourValues", "step 1: step returned a tuple of 4, but it must return the tuple (observation, reward, "),
        ("OnlyObservation", "step 0: reset returned ndarray, but it must return the tuple (observation, info)"),
    ],
)
def test_what_is_returned_in_another_form_is_named(capsys: Capture, name: str, said: str) -> None:
    assert main(["envs", "--check", f"gym/tests.failing_envs:{name}-v0"]) == 1
    assert lines(capsys)["steps"].startswith(f"WRONG: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gym/tests.own_envs:own/Needy-v0"], "cannot be made with env_kwargs {}"),
        (["gym/tests.own_envs:own/Switches-v0"], "its actions must be Discrete, MultiDiscrete or a Box"),
        (["gym/no_such_module:Env-v0"], "No module named 'no_such_module'"),
        (["memory/tmaze"], "--check is memory/tmaze, but it must be an environment of your own"),
        (["gym/CartPole-v1", "--steps", "0"], "--steps is 0"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(capsys: Capture, words: list[str], said: str) -> None:
    assert main(["envs", "--check", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
