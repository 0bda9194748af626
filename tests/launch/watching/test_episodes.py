"""Episodes are what the agent plays, with its own thoughts; its Jacobian is that of automatic differentiation."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv

from r2ac.agents import Agent, AgentConfig, DiscreteActions, ObservationSpec
from r2ac.envs import Signals, make_vector
from r2ac.envs.memory import MemoryOptions
from r2ac.launch.watching.episodes import PlayedEpisode
from tests.playing import episodes_of

TMAZE = MemoryOptions(corridor_length=6)


def tmaze_agent(**settings: Any) -> Agent:
    torch.manual_seed(3)
    config = AgentConfig(**{"hidden_size": 8, "encoder": "none", "chrono_steps": 20, **settings})
    return Agent(ObservationSpec((4,), DiscreteActions(2)), config).eval()


def played(agent: Agent, streams: int, episodes: int, max_steps: int = 1000, greedy: bool = False) -> Any:
    env = make_vector("memory/tmaze", streams, 5, options=TMAZE)
    try:
        return episodes_of(agent, env, episodes, max_steps, seed=1, greedy=greedy)
    finally:
        env.close()


def test_the_jacobian_is_that_of_automatic_differentiation() -> None:
    """The whole N x N Jacobian of a step, by reverse mode: diagonal, and a_t on its diagonal."""
    agent = tmaze_agent()
    torch.nn.init.normal_(agent.core.recurrent_weight, std=1.0)
    core = agent.core
    for episode in played(agent, 1, 2):
        last_reward = 0.0
        for t in range(len(episode)):
            x = torch.tensor([*episode.observations[t], last_reward], dtype=torch.float32)
            preactivation = torch.nn.functional.linear(x, core.input_weight.flatten(0, 1), core.bias.flatten())

            def advance(cell: torch.Tensor, p: torch.Tensor = preactivation) -> torch.Tensor:
                return core.cell.step(p.unflatten(0, (2, -1))[None], core.recurrent_weight, cell[None])[0]

            before = torch.from_numpy(episode.cells[t - 1]) if t else torch.zeros(8)
            np.testing.assert_allclose(episode.cells[t], advance(before).detach().numpy(), atol=1e-6)
            jacobian = torch.autograd.functional.jacobian(advance, before).numpy()
            assert np.abs(jacobian - np.diag(np.diag(jacobian))).max() == 0
            expected = np.diag(jacobian) if t else np.zeros(8)
            np.testing.assert_allclose(episode.jacobians[t], expected, atol=1e-6)
            last_reward = float(np.clip(episode.rewards[t], -1, 1))
    assert episode.jacobians[1:].std() > 0.01, "units and steps differ"


def test_both_numbers_of_a_pair_shrink_by_its_radius() -> None:
    """The Jacobian of an LRU is no diagonal: by ones alone it would be read as the sums of its rows."""
    agent = tmaze_agent(core="lru")
    radius = torch.exp(-torch.exp(agent.core.decay[0])).detach().numpy()  # type: ignore[union-attr,index,arg-type]
    (episode,) = played(agent, 1, 1)
    assert episode.cells.shape == episode.jacobians.shape == (7, 2 * 8)
    np.testing.assert_allclose(episode.jacobians[1:], np.tile(radius, (6, 2)), rtol=1e-5)
    assert np.abs(episode.jacobians[0]).max() == 0


def test_an_episode_is_what_the_agent_thinks_and_gets() -> None:
    agent = tmaze_agent()
    episodes = played(agent, 1, 4)
    env = make_vector("memory/tmaze", 1, 5, options=TMAZE)
    observation, random = env.reset()[0], np.random.default_rng(1)
    reward, first, cell = np.zeros(1, np.float32), np.ones(1, bool), torch.zeros(1, 8)
    for episode in episodes:
        assert (len(episode), episode.complete) == (7, True)
        for t in range(7):
            output = agent.step(torch.from_numpy(observation), torch.from_numpy(reward), torch.from_numpy(first), cell)
            cell = output.state
            np.testing.assert_array_equal(episode.observations[t], observation[0])
            np.testing.assert_allclose(episode.cells[t], cell[0], atol=1e-6)
            np.testing.assert_allclose(episode.values[t], output.value[0], atol=1e-6)
            np.testing.assert_allclose(episode.probabilities[t], output.logits[0].softmax(0), atol=1e-6)
            # Drawn from the policy with one number a step.
            assert episode.actions[t] == int(random.random() >= float(output.logits[0].softmax(0)[0]))
            observation, paid, terminated, truncated, _ = env.step(episode.actions[t : t + 1])
            assert (episode.rewards[t], episode.is_first[t]) == (paid[0], t == 0)
            reward, first = paid.astype(np.float32), terminated | truncated
    env.close()
    assert {episode.rewards.sum() for episode in episodes} == {0.0, 1.0}, "what the choice was paid is in its episode"


def test_streams_share_the_episodes_and_what_is_too_long_is_cut_off() -> None:
    agent = tmaze_agent()
    told: list[tuple[int, int]] = []
    env = make_vector("memory/tmaze", 3, 5, options=TMAZE)
    episodes = episodes_of(agent, env, 5, report=lambda number, total: told.append((number, total)))
    env.close()
    assert [len(episode) for episode in episodes] == [7] * 5
    assert told == [(number, 5) for number in range(1, 6)]
    cut = played(agent, 2, 4, max_steps=10)
    assert [(len(episode), episode.complete) for episode in cut] == [(7, True), (7, True), (3, False), (3, False)]


def test_a_greedy_player_takes_the_most_probable_action() -> None:
    agent = tmaze_agent()
    torch.nn.init.normal_(agent.policy.weight, std=3.0)
    for episode in played(agent, 2, 6, greedy=True):
        np.testing.assert_array_equal(episode.actions, episode.probabilities.argmax(axis=1))


def test_a_core_without_memory_has_no_states() -> None:
    (episode,) = played(tmaze_agent(core="feedforward", chrono_steps=0), 1, 1)
    assert episode.cells.shape == episode.jacobians.shape == (7, 0)


class TwoLives(VectorEnv):
    """A life ends after 2 steps, a game after 4; the second engine is lost after 3 steps."""

    num_envs = 2
    single_observation_space, single_action_space = Box(0, 1, (4,), np.float32), Discrete(2)
    steps = 0

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros((2, 4), np.float32), {}

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps += 1
        lost = np.array([False, self.steps == 3])
        life, game = np.full(2, self.steps % 2 == 0), np.full(2, self.steps % 4 == 0) | lost
        info = Signals(game_over=game, engine_failed=lost).info()
        return self.reset()[0], np.ones(2), life & ~lost, lost, info


def test_a_game_of_several_lives_is_one_episode_and_a_lost_engine_cuts_it_off() -> None:
    whole, cut = sorted(episodes_of(tmaze_agent(), TwoLives(), 2, 100), key=len, reverse=True)
    assert isinstance(whole, PlayedEpisode)
    assert (whole.is_first.tolist(), whole.complete) == ([True, False, True, False], True)
    assert (whole.jacobians[2] == 0).all(), "the state was zeroed"
    assert (len(cut), cut.complete) == (3, False)


def test_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    played(tmaze_agent(), 1, 1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_instructions_reach_the_agent() -> None:
    length = 16

    class Told(TwoLives):
        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return super().reset()[0], Signals(instruction=np.full((2, length), 1, np.int32)).info()

        def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            *rest, info = super().step(actions)
            signals = replace(Signals.of(info), instruction=np.full((2, length), 2, np.int32))
            return (*rest, signals.info())  # type: ignore[return-value]

    torch.manual_seed(0)
    spec = ObservationSpec((4,), DiscreteActions(2), length, 10)
    agent = Agent(spec, AgentConfig(hidden_size=8, encoder="none")).eval()
    whole, _ = sorted(episodes_of(agent, Told(), 2, 100), key=len, reverse=True)
    shown = (torch.zeros(1, 4), torch.zeros(1), torch.ones(1, dtype=torch.bool), torch.zeros(1, 8))
    for step, word in ((0, 1), (2, 2)):
        output = agent.step(*shown, torch.full((1, length), word))
        np.testing.assert_allclose(whole.cells[step], output.state[0], atol=1e-6)
