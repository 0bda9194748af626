"""What environments of others cannot do to us, whatever they show, pay and say."""

from typing import Any

import numpy as np
import pytest

from r2ac.envs import EnvironmentFailed, Signals, find_task, make_vector
from r2ac.envs.atari import AtariOptions
from r2ac.envs.gym import GymOptions
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.procgen import ProcgenOptions

ODD = "gym/tests.odd_envs:"


def stepped(env: Any, steps: int) -> list[list[np.ndarray]]:
    """The arrays that some steps gave, with those of the signals."""
    env.reset()
    given = []
    for _ in range(steps):
        *arrays, info = env.step(np.zeros(env.num_envs, dtype=np.int64))
        given.append(arrays + [array for array in vars(Signals.of(info)).values() if array is not None])
    return given


def test_infos_of_an_environment_are_no_signals() -> None:
    env = make_vector(f"{ODD}OddInfos-v0", 4, 0)
    _, info = env.reset()
    assert Signals.of(info) == Signals()
    for _ in range(30):
        *_, terminated, truncated, info = env.step(np.zeros(4, dtype=np.int64))
        signals = Signals.of(info)
        assert signals.instruction is signals.game_over is signals.engine_failed is None
        assert (signals.final_observation is None) == (not terminated.any())
        if signals.has_final is not None:
            np.testing.assert_array_equal(signals.has_final, terminated | truncated)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("memory/tmaze", MemoryOptions(corridor_length=3)),
        ("memory/key_to_door", MemoryOptions(delay=1, pixels=True)),
        ("popgym/RepeatPreviousEasy", None),
        ("minigrid/MemoryS7", None),
        ("atari/Breakout", AtariOptions(max_episode_frames=40, episodic_life=True, threads=1)),
        ("atari/Breakout", AtariOptions(max_episode_frames=40, colour=True, threads=1)),
        ("atari/Breakout,atari/Pong", AtariOptions(max_episode_frames=40, threads=1)),
        ("procgen/coinrun", ProcgenOptions(threads=1)),
        (f"{ODD}Buffer-v0", GymOptions()),
        (f"{ODD}VectorBuffer-v0", GymOptions(frame_stack=3, action_repeat=2)),
    ],
)
def test_no_later_step_writes_into_arrays_that_were_handed_over(task: str, options: Any) -> None:
    if missing := find_task(task.partition(",")[0]).suite.missing():
        pytest.skip(missing)
    env = make_vector(task, 3, 0, options=options)
    given, copies = [], []
    env.reset()
    for _ in range(25):
        *arrays, info = env.step(np.zeros(3, dtype=np.int64))
        given.append(arrays + [array for array in vars(Signals.of(info)).values() if array is not None])
        copies.append([array.copy() for array in given[-1]])
    env.close()
    for arrays, kept in zip(given, copies, strict=True):
        for array, copy in zip(arrays, kept, strict=True):
            np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", ["Buffer", "VectorBuffer"])
@pytest.mark.parametrize("repeat", [1, 2])
def test_stacked_frames_of_one_buffer_are_those_that_were_shown(name: str, repeat: int) -> None:
    options = GymOptions(frame_stack=3, action_repeat=repeat)
    env = make_vector(f"{ODD}{name}-v0", 2, 0, options=options)

    def frames(observation: np.ndarray) -> list[list[int]]:
        return observation.reshape(2, 3, -1)[..., 0].tolist()

    shown = [frames(env.reset()[0])]
    for _ in range(6 // repeat):
        observation, *_, info = env.step(np.zeros(2, dtype=np.int64))
        shown.append(frames(observation))
    last, before, before_that = (60 - 10 * repeat * ago for ago in range(3))
    final = Signals.of(info).final_observation
    assert final is not None
    assert frames(final) == [[before_that, before, last]] * 2
    expected = [[max(0, 10 * repeat * (step - ago)) for ago in (2, 1, 0)] for step in range(6 // repeat)]
    assert shown == [[each] * 2 for each in (*expected, [0, 0, 0])]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NanObservation", "shows nan in step 3 of stream 5"),
        ("InfObservation", "shows -inf in step 3 of stream 5"),
        ("BeginsWithNan", "shows nan in step 0 of stream 5"),
        ("NanReward", "pays nan in step 3 of stream 5"),
        ("InfReward", "pays inf in step 3 of stream 5"),
        ("HugeReward", r"pays 1e\+39 in step 3 of stream 5"),
        ("NanAtLimit", "shows nan in step 3 of stream 5"),
    ],
)
def test_what_is_not_finite_is_one_sentence(name: str, said: str) -> None:
    env = make_vector(f"{ODD}Plain-v0,{ODD}{name}-v0", 3, 0, first_stream=4)
    with pytest.raises(EnvironmentFailed, match=rf"^{ODD}{name}-v0 {said}: [^\n]+$"):
        stepped(env, 10)


def test_what_is_shown_after_the_last_action_is_not_looked_at() -> None:
    assert len(stepped(make_vector(f"{ODD}NanAtEnd-v0", 2, 0), 30)) == 30


def test_observations_that_are_not_of_their_space_are_refused() -> None:
    with pytest.raises(EnvironmentFailed, match=r"an observation is array\(\[0.5, .*not in its space, Box\(.*\(3,\)"):
        stepped(make_vector(f"{ODD}Misshapen-v0", 2, 0), 1)
    with pytest.raises(EnvironmentFailed, match="float64"):
        stepped(make_vector(f"{ODD}Fractions-v0", 2, 0), 1)


def test_what_reset_and_step_must_return_is_said() -> None:
    with pytest.raises(EnvironmentFailed, match="TypeError: terminated is None, but it must be a bool"):
        stepped(make_vector(f"{ODD}Endless-v0", 2, 0), 1)
    with pytest.raises(EnvironmentFailed, match=r"unpack.*reset must return the tuple \(observation, info\)"):
        make_vector(f"{ODD}OldReset-v0", 2, 0).reset()


def test_an_environment_that_draws_from_what_is_global_is_seeded() -> None:
    def drawn(seed: int, split: Any = "train") -> np.ndarray:
        given = stepped(make_vector(f"{ODD}Lottery-v0", 3, seed, split=split), 12)
        return np.stack([np.concatenate([step[0].ravel(), step[1]]) for step in given])

    np.testing.assert_array_equal(drawn(1), drawn(1))
    for other in (drawn(2), drawn(1, "test")):
        luck, *numbers = np.moveaxis((drawn(1) != other).reshape(12, -1)[:, :12].reshape(12, 3, 4), 2, 0)
        assert luck.any()
        assert all(each.mean() > 0.9 for each in numbers)
