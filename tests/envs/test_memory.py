"""The memory tasks: what perfect memory earns, what cannot be earned without, seeds, episodes, pictures."""

from collections.abc import Callable

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from r2ac.agents.encoders import make_encoder
from r2ac.envs import InvalidOption, Signals, find_task, find_tasks, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.envs.recall_tasks import Parity

PICTURED = [task.short_name for task in find_tasks("memory")]
TASKS = [*PICTURED, "chain"]
WALKED = ["passive_tmaze", "endless_tmaze", "bandit"]
SHOWN = [*((task, False) for task in TASKS), *((task, True) for task in PICTURED)]
SMALL = MemoryOptions(corridor_length=5, symbols=3, sequence_length=4, lag=3, episode_length=9, delay=4, chain_length=6)
STEPS = {
    "tmaze": 6,
    "copy": 8,
    "repeat_previous": 9,
    "repeat_first": 5,
    "parity": 5,
    "match_to_sample": 5,
    "key_to_door": 9,
    "chain": 6,
}
SIZES = st.builds(
    MemoryOptions,
    corridor_length=st.integers(1, 9),
    symbols=st.integers(2, 6),
    sequence_length=st.integers(1, 9),
    lag=st.integers(1, 5),
    episode_length=st.integers(6, 12),
    delay=st.integers(1, 9),
    chain_length=st.integers(2, 9),
)

Policy = Callable[[list[np.ndarray], list[np.ndarray], MemoryOptions], np.ndarray]
"""policy(observations so far, rewards so far, options) -> actions [N]."""


def play(
    task: str, policy: Policy, options: MemoryOptions = SMALL, episodes: int = 3, num_envs: int = 8, seed: int = 0
):
    """Rewards [episodes, steps, N] of a policy that sees one episode at a time."""
    env = make_vector(f"memory/{task}", num_envs, seed, options=options)
    observation, _ = env.reset()
    rewards: list[list[np.ndarray]] = []
    for _ in range(episodes):
        seen, paid, done = [observation], [], np.zeros(num_envs, dtype=bool)
        while not done.any():
            observation, reward, terminated, truncated, _ = env.step(policy(seen, paid, options))
            done = terminated | truncated
            seen.append(observation)
            paid.append(reward)
        assert done.all()
        rewards.append(paid)
    return np.array(rewards)


def walk_to_the_key(observation: np.ndarray) -> np.ndarray:
    """One step from the agent towards the key, or up where there is none."""
    room = observation.reshape(-1, 5, 3, 3)
    keys = room[:, 1:].sum(axis=1)
    away = np.array([np.array(np.unravel_index(place.argmax(), (3, 3))) for place in keys])
    away = away - np.array([np.array(np.unravel_index(place.argmax(), (3, 3))) for place in room[:, 0]])
    down, right = away.T
    step = np.select([down < 0, down > 0, right < 0, right > 0], [0, 1, 2, 3])
    return np.where(keys.any(axis=(1, 2)), step, 0)


def open_door_of(colour: np.ndarray, observation: np.ndarray) -> np.ndarray:
    doors = observation.reshape(-1, 5, 3, 3)[np.arange(len(observation)), 1 + colour]
    return np.stack([doors[:, 0, 1], doors[:, 2, 1], doors[:, 1, 0], doors[:, 1, 2]]).argmax(axis=0)


def remember(task: str) -> Policy:
    """The policy that remembers all it has seen and knows the rules."""

    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        t, now, symbols = len(seen) - 1, seen[-1], options.symbols
        if task == "tmaze":
            return seen[0].argmax(axis=1)
        if task == "copy":
            return seen[max(t - options.sequence_length, 0)][:, :symbols].argmax(axis=1)
        if task == "repeat_previous":
            return seen[max(t - options.lag, 0)].argmax(axis=1)
        if task == "repeat_first":
            return seen[0][:, :symbols].argmax(axis=1)
        if task == "parity":
            return sum(observation[:, 1] for observation in seen).astype(np.int64) % 2
        if task == "chain":
            return (seen[0][:, 2] > 0).astype(np.int64)
        if task == "match_to_sample":
            left = now[:, symbols : 2 * symbols]
            return (left.argmax(axis=1) != seen[0][:, :symbols].argmax(axis=1)).astype(np.int64)
        if t < 4 + options.delay:
            return walk_to_the_key(now)
        return open_door_of(seen[0].reshape(-1, 5, 9)[:, 1:].any(axis=2).argmax(axis=1), now)

    return policy


def always(task: str, action: int) -> Policy:
    """The policy that never reads the cue and always gives the same answer, but takes the key."""

    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        if task == "key_to_door" and len(seen) <= 4:
            return walk_to_the_key(seen[-1])
        return np.full(len(seen[0]), action)

    return policy


def actions_of(task: str) -> int:
    return int(make_vector(f"memory/{task}", 1, 0, options=SMALL).single_action_space.n)


def scores_of(task: str, options: MemoryOptions = SMALL):
    scores = find_task(f"memory/{task}").reference_scores(options)
    assert scores is not None
    assert (scores.low_name, scores.high_name) == ("chance", "best")
    return scores


def chance_of(task: str) -> float:
    """The mean return of who knows all but the cue; in key_to_door that includes taking the key."""
    return 1 / 4 if task == "key_to_door" else scores_of(task).low


@pytest.mark.parametrize("task", TASKS)
def test_the_lower_score_is_what_random_actions_earn(task: str) -> None:
    choose, actions = np.random.default_rng(2), actions_of(task)
    rewards = play(task, lambda seen, *_: choose.integers(actions, size=len(seen[0])), episodes=5, num_envs=2000)
    returns = rewards.sum(axis=1)
    assert returns.size == 10_000
    assert abs(returns.mean() - scores_of(task).low) < 3.5 * returns.std() / np.sqrt(returns.size)


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=15)
@given(SIZES, st.integers(0, 2**40))
def test_perfect_memory_earns_exactly_the_best_return(task: str, options: MemoryOptions, seed: int) -> None:
    returns = play(task, remember(task), options, seed=seed).sum(axis=1)
    assert (returns == scores_of(task, options).high).all()


@pytest.mark.parametrize("task", TASKS)
def test_no_answers_chosen_by_the_step_alone_beat_chance(task: str) -> None:
    """A counter that knows the step but never reads the cue: the best constant answer to each question."""
    rewards = [play(task, always(task, a), episodes=20, num_envs=400) for a in range(actions_of(task))]
    by_step = np.stack([reward.mean(axis=(0, 2)) for reward in rewards])
    asked = by_step.any(axis=0)
    chance = chance_of(task) / asked.sum()
    np.testing.assert_allclose(by_step[:, asked], chance, atol=0.03)
    assert scores_of(task).high == asked.sum()


@pytest.mark.parametrize("task", TASKS)
def test_no_answers_chosen_by_the_sight_of_the_moment_beat_chance(task: str) -> None:
    """The best that an agent without memory can do, having taken the key."""
    choose = np.random.default_rng(1)
    table: dict[tuple[bytes, int], list[float]] = {}

    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        if task == "key_to_door" and len(seen) <= 4:
            return walk_to_the_key(seen[-1])
        actions = choose.integers(actions_of_task, size=len(seen[0]))
        asked.append((seen[-1], actions))
        return actions

    actions_of_task = actions_of(task)
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    rewards = play(task, policy, episodes=20, num_envs=400)
    skipped = 4 if task == "key_to_door" else 0
    paid = rewards[:, skipped:].reshape(-1, 400)
    at_question = np.tile(rewards.any(axis=(0, 2))[skipped:], 20)
    for (observation, actions), reward, question in zip(asked, paid, at_question, strict=True):
        for stream in range(0, 400 if question else 0):
            table.setdefault((observation[stream].tobytes(), int(actions[stream])), []).append(float(reward[stream]))
    chance = chance_of(task) / scores_of(task).high
    often = [values for values in table.values() if len(values) > 50]
    assert len(often) >= actions_of_task
    for values in often:
        assert abs(np.mean(values) - chance) < 5 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("task", TASKS)
def test_trying_answers_and_keeping_the_one_that_pays_does_not_beat_chance(task: str) -> None:
    """An agent sees its last reward: win, stay; lose, shift."""

    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        if task == "key_to_door" and len(seen) <= 4:
            return walk_to_the_key(seen[-1])
        lost = sum((reward == 0).astype(np.int64) for reward in paid)
        return np.zeros(len(seen[0]), dtype=np.int64) + lost % actions_of_task

    actions_of_task = actions_of(task)
    mean = play(task, policy, episodes=30, num_envs=400).sum(axis=1).mean()
    assert abs(mean - chance_of(task)) < 0.03 * scores_of(task).high


@pytest.mark.parametrize("task", [task for task in TASKS if task != "key_to_door"])
def test_a_wrong_answer_pays_nothing_and_in_the_chain_one_less(task: str) -> None:
    actions_of_task = actions_of(task)
    rewards = play(task, lambda *so_far: (remember(task)(*so_far) + 1) % actions_of_task, episodes=20)
    assert (rewards[:, -1] == (-1 if task == "chain" else 0)).all()
    assert not rewards[:, :-1].any()


def test_the_chain_shows_its_bit_first_and_the_time_always() -> None:
    env = make_vector("memory/chain", 64, 0, options=MemoryOptions(chain_length=4))
    shown = [env.reset()[0], *(env.step(np.zeros(64, dtype=np.int64))[0] for _ in range(3))]
    np.testing.assert_array_equal(np.array(shown)[:, :, 0], np.array([[1, 0.75, 0.5, 0.25]]).T.repeat(64, axis=1))
    assert [step[:, 1].tolist() for step in shown] == [[query] * 64 for query in (0, 0, 0, 1)]
    assert set(shown[0][:, 2].tolist()) == {-1.0, 1.0}
    assert not np.array(shown)[1:, :, 2].any()


@pytest.mark.parametrize("missed", range(SMALL.sequence_length))
def test_who_misses_one_bit_of_a_parity_scores_chance(missed: int) -> None:
    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        return remember("parity")(seen[:missed] + seen[missed + 1 :] or seen, paid, options)

    assert abs(play("parity", policy, episodes=10, num_envs=400).sum(axis=1).mean() - 0.5) < 0.04


def test_without_the_key_no_door_opens() -> None:
    """Going up and down, the agent takes only the key that lies straight above it."""
    above: list[np.ndarray] = []

    def policy(seen: list[np.ndarray], paid: list[np.ndarray], options: MemoryOptions) -> np.ndarray:
        if len(seen) == 1:
            above.append(seen[0].reshape(-1, 5, 3, 3)[:, 1:, 0, 1].any(axis=1))
        if len(seen) <= 4:
            return np.full(len(seen[0]), (len(seen) - 1) % 2)
        return remember("key_to_door")(seen, paid, options)

    returns = play("key_to_door", policy, episodes=20, num_envs=50).sum(axis=1)
    np.testing.assert_array_equal(returns, np.array(above))
    assert 0.05 < returns.mean() < 0.2, "one key of eight"


@pytest.mark.parametrize(("task", "pixels"), SHOWN)
def test_shapes_dtypes_and_episodes(task: str, pixels: bool) -> None:
    options = MemoryOptions(**{**vars(SMALL), "pixels": pixels})
    env = make_vector(f"memory/{task}", 3, 0, options=options)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observation, info = env.reset()
    choose = np.random.default_rng(0)
    assert info == {}
    for step in range(1, 3 * STEPS[task] + 1):
        kept = observation.copy()
        before = observation
        observation, reward, terminated, truncated, info = env.step(choose.integers(env.single_action_space.n, size=3))
        np.testing.assert_array_equal(before, kept)
        assert observation in env.observation_space
        assert observation.dtype == (np.uint8 if pixels else np.float32)
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert not truncated.any()
        assert terminated.all() == terminated.any() == (step % STEPS[task] == 0)
        signals = Signals.of(info)
        assert (signals.final_observation is not None) == terminated.any()
        if terminated.any():
            assert signals.has_final.all()
            np.testing.assert_array_equal(signals.final_observation, before)
            observation[:] = 7
    if pixels:
        assert observation.shape == (3, 3, 24, 24)
        make_encoder(env.single_observation_space.shape, "patch", 16)


@pytest.mark.parametrize("task", PICTURED)
def test_pictures_show_the_same_episodes_and_all_that_the_vectors_tell(task: str) -> None:
    options = MemoryOptions(symbols=8, delay=3, corridor_length=3)
    plain = make_vector(f"memory/{task}", 40, 3, options=options)
    drawn = make_vector(f"memory/{task}", 40, 3, options=MemoryOptions(**{**vars(options), "pixels": True}))
    features, images = plain.reset()[0], drawn.reset()[0]
    choose = np.random.default_rng(0)
    pairs = set()
    for _ in range(200):
        pairs |= {(f.tobytes(), image.tobytes()) for f, image in zip(features, images, strict=True)}
        actions = choose.integers(plain.single_action_space.n, size=40)
        features, *plain_rest, _ = plain.step(actions)
        images, *drawn_rest, _ = drawn.step(actions)
        np.testing.assert_array_equal(plain_rest, drawn_rest)
    assert len({f for f, _ in pairs}) == len({image for _, image in pairs}) == len(pairs)


def first_observations(task: str, seed: int, split: str = "train", num_envs: int = 16) -> np.ndarray:
    """[60, N, features] under the same actions."""
    env = make_vector(f"memory/{task}", num_envs, seed, split=split, options=SMALL)
    actions = np.random.default_rng(0).integers(2, size=(60, 64))[:, :num_envs]
    return np.stack([env.reset()[0], *(env.step(action)[0] for action in actions)])


@pytest.mark.parametrize("task", [*TASKS, *WALKED])
def test_episodes_follow_the_seed(task: str) -> None:
    once = first_observations(task, 5)
    np.testing.assert_array_equal(once, first_observations(task, 5))
    assert (once != first_observations(task, 6)).any()
    assert (once != first_observations(task, 5, split="test")).any()
    np.testing.assert_array_equal(once, first_observations(task, 5, num_envs=20)[:, :16])
    assert len(np.unique(once.swapaxes(0, 1), axis=0)) == 16, "every stream has episodes of its own"


def test_the_t_maze_shows_the_cues_that_it_always_showed() -> None:
    env = make_vector("memory/tmaze", 8, 1)
    cues = []
    observation, _ = env.reset()
    for _ in range(3):
        cues.append(observation.argmax(axis=1).tolist())
        for _ in range(41):
            observation, _, terminated, _, _ = env.step(np.zeros(8, dtype=np.int64))
        assert terminated.all()
    assert cues == [[1, 0, 1, 1, 0, 1, 1, 1], [0, 1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0, 0, 1]]


def test_a_later_reset_goes_on_and_seeds_are_one_a_stream() -> None:
    env = Parity(64, 3)
    first, _ = env.reset(seed=1)
    second, _ = env.reset()
    assert (first != second).any()
    np.testing.assert_array_equal(env.reset(seed=range(1, 65))[0], first)
    with pytest.raises(ValueError, match="got 3 seeds for 64 streams"):
        env.reset(seed=[1, 2, 3])
    assert Parity(2, 3).reset()[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        ("copy", {"symbols": 1}, "symbols is 1"),
        ("copy", {"sequence_length": 0}, "sequence_length is 0"),
        ("copy", {"symbols": 9, "pixels": True}, "symbols is 9"),
        ("repeat_previous", {"lag": 0}, "lag is 0"),
        ("repeat_previous", {"lag": 50}, "less than episode_length, which is 50"),
        ("repeat_previous", {"episode_length": 0}, "episode_length is 0"),
        ("repeat_first", {"delay": 0}, "delay is 0"),
        ("parity", {"sequence_length": 2.0}, "sequence_length is 2.0"),
        ("match_to_sample", {"symbols": True}, "symbols is True"),
        ("key_to_door", {"delay": -1}, "delay is -1"),
        ("tmaze", {"pixels": 1}, "pixels is 1"),
        ("chain", {"chain_length": 1}, "chain_length is 1"),
        ("chain", {"pixels": True}, "must be False with chain"),
        ("trace_conditioning", {"isi": 5}, "isi is 5"),
        ("trace_conditioning", {"distractors": -1}, "distractors is -1"),
    ],
)
def test_a_bad_option_is_named(task: str, options: dict, named: str) -> None:
    with pytest.raises(InvalidOption, match=r"^[^\n]*$") as error:
        make_vector(f"memory/{task}", 1, 0, options=MemoryOptions(**options))
    assert named in str(error.value)


def test_options_of_other_tasks_do_not_matter() -> None:
    make_vector("memory/parity", 1, 0, options=MemoryOptions(delay=0, symbols=0, lag=0, corridor_length=0))
    make_vector("memory/copy", 1, 0, options=MemoryOptions(symbols=9))


@pytest.mark.parametrize("task", [*TASKS, *WALKED, "active_tmaze"])
def test_streams_that_begin_at_any_time_are_as_each_alone(task: str) -> None:
    streams = 3
    together = make_vector(f"memory/{task}", streams, 0, options=SMALL)
    alone = [make_vector(f"memory/{task}", 1, 0, options=SMALL) for _ in range(streams)]
    shown = together.reset(seed=[5, 6, 7])[0]
    np.testing.assert_array_equal(shown, np.concatenate([env.reset(seed=5 + i)[0] for i, env in enumerate(alone)]))
    choose = np.random.default_rng(1)
    for _ in range(200):
        actions = choose.integers(together.single_action_space.n, size=streams)
        *ours, info = together.step(actions)
        theirs = [env.step(actions[i : i + 1]) for i, env in enumerate(alone)]
        for our, *their in zip(ours, *(each[:4] for each in theirs), strict=True):
            np.testing.assert_array_equal(our, np.concatenate(their))
        for i in np.flatnonzero(ours[2]):
            final = Signals.of(theirs[i][4]).final_observation
            np.testing.assert_array_equal(Signals.of(info).final_observation[i], final[0])
        mask = choose.random(streams) < choose.choice([0, 0, 0.1, 0.5])
        if mask.any():
            shown = together.reset(options={"reset_mask": mask})[0]
            for i in np.flatnonzero(mask):
                np.testing.assert_array_equal(shown[i], alone[i].reset()[0][0])
