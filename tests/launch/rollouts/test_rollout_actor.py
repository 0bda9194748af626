"""The rollout actor: what it hands over, how rollouts join, and what its random numbers follow from."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs import find_task
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.rollouts.ended_episodes import Episodes
from r2ac.launch.rollouts.rollout_actor import ORDER, ActorConfig, Collected, RolloutActor
from r2ac.launch.rollouts.transport.shared_weights import SharedWeights, Weights
from r2ac.learner import DeviceFeed, Rollout

CORRIDOR = 3
CONFIG = ActorConfig(
    task="memory/tmaze",
    env=MemoryOptions(corridor_length=CORRIDOR),
    agent=AgentConfig(hidden_size=6, encoder="mlp", encoder_features=5),
    seed=7,
    rollout_length=6,
    num_streams=5,
    index=2,
)
SPEC = ObservationSpec((4,), DiscreteActions(2))


def make_weights(version: int, config: AgentConfig = CONFIG.agent, spec: ObservationSpec = SPEC) -> Weights:
    torch.manual_seed(version)
    values = parameters_to_vector(Agent(spec, config).parameters()).detach()
    return Weights(version, (3 * values).numpy())


def agent_with(weights: Weights) -> Agent:
    agent = Agent(SPEC, CONFIG.agent)
    vector_to_parameters(torch.from_numpy(weights.values.copy()), agent.parameters())
    return agent


def rollout_of(collected: Collected) -> Rollout[np.ndarray]:
    assert collected.rollout is not None
    return collected.rollout


def collect(config: ActorConfig, rollouts: int) -> tuple[list[Rollout[np.ndarray]], list[Episodes]]:
    """``rollouts`` rollouts, each with weights of its own."""
    actor = RolloutActor(config)
    collected = [actor.collect(make_weights(number + 1), number) for number in range(rollouts)]
    actor.close()
    return [rollout_of(each) for each in collected], [each.episodes for each in collected]


def arrays(rollout: Rollout[np.ndarray]) -> dict[str, np.ndarray]:
    return rollout.arrays()


def same(a: Rollout[np.ndarray], b: Rollout[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(arrays(a).values(), arrays(b).values(), strict=True))


@pytest.mark.parametrize(("task", "shape"), [("memory/tmaze", (4,)), ("procgen/chaser", (3, 64, 64))])
def test_shapes_and_dtypes(task: str, shape: tuple[int, ...]) -> None:
    if missing := find_task(task).suite.missing():
        pytest.skip(missing)
    agent = AgentConfig(hidden_size=6, encoder_features=5)
    config = replace(CONFIG, task=task, env=find_task(task).suite.options(), agent=agent, rollout_length=2)
    actor = RolloutActor(config)
    spec = actor.spec
    assert spec.shape == shape
    rollout = rollout_of(actor.collect(make_weights(9, agent, spec), 4))
    actor.close()
    pixels = np.uint8 if len(shape) == 3 else np.float32
    expected: dict[str, tuple[tuple[int, ...], Any]] = {
        "observation": ((3, 5, *shape), pixels),
        "reward": ((3, 5), np.float32),
        "is_first": ((3, 5), np.bool_),
        "action": ((2, 5), np.int64),
        "behaviour_logits": ((2, 5, spec.actions.parameters), np.float32),
        "first_state": ((5, 6), np.float32),
        "stream": ((5,), np.int64),
        "sequence": ((5,), np.int64),
        "weights_version": ((5,), np.int64),
    }
    assert {name: (array.shape, array.dtype.type) for name, array in arrays(rollout).items()} == expected
    assert rollout.stream.tolist() == [10, 11, 12, 13, 14]
    assert set(rollout.sequence.tolist()) == {4}
    assert set(rollout.weights_version.tolist()) == {9}
    assert rollout.is_first[0].all()
    assert not rollout.first_state.any()


def test_rollouts_join_without_a_seam() -> None:
    rollouts, _ = collect(CONFIG, 4)
    for before, after in pairwise(rollouts):
        for name in ("observation", "reward", "is_first"):
            np.testing.assert_array_equal(getattr(before, name)[-1], getattr(after, name)[0])


def test_an_actor_may_share_an_agents_weights() -> None:
    agent = Agent(SPEC, CONFIG.agent)
    with closing(RolloutActor(CONFIG, weights_of=agent)) as sharing, closing(RolloutActor(CONFIG)) as copying:
        for number in range(2):
            weights = make_weights(number + 1)
            weights.load_into(agent)
            shared = sharing.collect(Weights(weights.version, None), number)
            assert same(rollout_of(shared), rollout_of(copying.collect(weights, number)))


def test_cells_and_logits_are_those_of_the_agent_that_acted() -> None:
    rollouts, _ = collect(CONFIG, 4)
    for number, rollout in enumerate(rollouts):
        agent, batch = (
            agent_with(make_weights(number + 1)),
            Rollout(**DeviceFeed(torch.device("cpu"))(rollout.arrays())),
        )
        cell = batch.first_state
        for t in range(CONFIG.rollout_length):
            output = agent.step(batch.observation[t], batch.reward[t], batch.is_first[t], cell)
            cell = output.state
            assert torch.equal(output.logits, batch.behaviour_logits[t])
        if number + 1 < len(rollouts):
            np.testing.assert_array_equal(cell.numpy(), rollouts[number + 1].first_state)
            assert cell.abs().max() > 0


def test_rewards_follow_actions_and_episodes_are_counted() -> None:
    rollouts, reported = collect(CONFIG, 5)
    cue = np.full(CONFIG.num_streams, -1)
    returns, lengths = np.zeros(CONFIG.num_streams), np.zeros(CONFIG.num_streams, dtype=int)
    paid = 0.0
    for rollout, episodes in zip(rollouts, reported, strict=True):
        expected = Episodes()
        for t in range(CONFIG.rollout_length):
            seen = rollout.observation[t].argmax(axis=1)
            cue = np.where(rollout.is_first[t], seen, cue)
            assert set(cue.tolist()) <= {0, 1}
            chooses = seen == 3
            reward = np.where(chooses, rollout.action[t] == cue, 0.0)
            np.testing.assert_array_equal(rollout.reward[t + 1], reward)
            np.testing.assert_array_equal(rollout.is_first[t + 1], chooses)
            returns, lengths, paid = returns + reward, lengths + 1, paid + reward.sum()
            ended = np.flatnonzero(chooses)
            expected.extend(Episodes(returns[ended].tolist(), lengths[ended].tolist(), [CONFIG.task] * len(ended)))
            returns[chooses], lengths[chooses] = 0, 0
        assert episodes == expected
        assert set(episodes.lengths) <= {CORRIDOR + 1}
    count = sum(len(episodes.returns) for episodes in reported)
    assert count == CONFIG.num_streams * (5 * CONFIG.rollout_length // (CORRIDOR + 1))
    assert 0 < paid < count


def test_a_rollout_does_not_change_when_the_actor_goes_on() -> None:
    actor = RolloutActor(CONFIG)
    first = rollout_of(actor.collect(make_weights(1), 0))
    kept = {name: array.copy() for name, array in arrays(first).items()}
    actor.collect(make_weights(2), 1)
    actor.close()
    assert all(np.array_equal(kept[name], array) for name, array in arrays(first).items())


def test_one_seed_index_and_incarnation_give_one_sequence_of_rollouts() -> None:
    (once, _), (again, _) = collect(CONFIG, 3), collect(CONFIG, 3)
    assert all(same(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("change", [{"seed": 8}, {"index": 0}, {"incarnation": 1}])
def test_another_seed_index_or_incarnation_gives_others(change: dict[str, int]) -> None:
    (rollouts, _), (others, _) = collect(CONFIG, 4), collect(replace(CONFIG, **change), 4)
    for name in ("observation", "action"):
        assert any(
            not np.array_equal(getattr(a, name), getattr(b, name)) for a, b in zip(rollouts, others, strict=True)
        )


def test_streams_and_rollouts_draw_different_numbers() -> None:
    rollouts, _ = collect(replace(CONFIG, rollout_length=40), 2)
    actions = np.stack([rollout.action for rollout in rollouts])
    columns = [tuple(column) for rollout in actions for column in rollout.T]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("read", [False, True])
def test_serve_ends(read: bool, tmp_path: Path) -> None:
    """Also where the learner has not read the last rollout: its end is then a reset."""
    shared = SharedWeights.create(make_weights(1).values.size)
    shared.publish(make_weights(1))
    address = str(tmp_path / "orders")
    with (
        closing(RolloutActor(CONFIG, weights=shared.handle())) as actor,
        Listener(address, "AF_UNIX") as listener,
        ThreadPoolExecutor(1) as threads,
    ):
        served = threads.submit(actor.serve, address, 17)
        with listener.accept() as orders:
            assert ORDER.unpack(orders.recv_bytes()) == (17,)
            orders.send_bytes(ORDER.pack(3))
            assert orders.poll(60)
            if read:
                assert rollout_of(orders.recv()).sequence[0] == 3
        served.result(60)
    shared.close()


def test_staggered_streams_begin_where_their_numbers_say_and_count_whole_episodes_only() -> None:
    staggered = replace(CONFIG, index=0, num_streams=8, stagger_streams=True, final_observations=True)
    rollouts, reported = collect(staggered, 3)
    halves = [collect(replace(staggered, index=index, num_streams=4), 3)[0] for index in (0, 1)]
    for whole, *parts in zip(rollouts, *halves, strict=True):
        for name in ("is_first", "truncated"):
            np.testing.assert_array_equal(getattr(whole, name), np.hstack([getattr(part, name) for part in parts]))
    begins = np.concatenate([rollout.is_first[:-1] for rollout in rollouts])
    truncated = np.concatenate([np.asarray(rollout.truncated) for rollout in rollouts])
    second = begins[1:].argmax(axis=0) + 1
    assert len(set(second.tolist())) > 1
    assert truncated.sum() == (second < CORRIDOR + 1).sum() > 0
    assert truncated[second - 1, np.arange(8)].tolist() == (second < CORRIDOR + 1).tolist()
    lengths = [length for episodes in reported for length in episodes.lengths]
    assert set(lengths) == {CORRIDOR + 1}
    assert len(lengths) == begins[1:].sum() + np.asarray(rollouts[-1].is_first[-1]).sum() - truncated.sum()
