"""The drawing of actions, against the softmax."""

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from r2ac.learner.algorithms.actions import choose_actions


def test_sampled_frequencies_are_those_of_the_softmax() -> None:
    logits = np.array([[0.0, 1.0, -2.0, 3.0, 0.5]], dtype=np.float32)
    draws = 200_000
    actions = choose_actions(np.repeat(logits, draws, axis=0), np.random.default_rng(1).random(draws))
    expected = torch.softmax(torch.from_numpy(logits[0]).double(), dim=0).numpy()
    # Five standard deviations.
    bound = 5 * np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(np.bincount(actions, minlength=5) / draws - expected) < bound).all()


def test_actions_are_drawn_by_inverting_the_cumulative_probability() -> None:
    logits = np.log(np.array([[0.25, 0.5, 0.25]]))
    uniforms = np.array([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53])
    assert choose_actions(np.repeat(logits, 6, axis=0), uniforms).tolist() == [0, 0, 1, 1, 2, 2]


finite = st.floats(-1e4, 1e4, width=32)


@given(
    logits=st.lists(st.one_of(finite, st.just(float("-inf"))), min_size=1, max_size=18).filter(
        lambda row: max(row) > float("-inf")
    ),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 2**-60])),
)
@example(logits=[float("-inf"), 0.0, float("-inf")], uniform=0.0)
@example(logits=[0.0, 0.0, 0.0, float("-inf"), -1e4], uniform=1 - 2**-53)
def test_every_draw_is_an_action_of_positive_probability(logits: list[float], uniform: float) -> None:
    row = np.array([logits], dtype=np.float32)
    action = choose_actions(row, np.array([uniform]))
    assert action.dtype == np.int64
    assert action.shape == (1,)
    assert 0 <= action[0] < len(logits)
    assert np.exp(row[0, action[0]].astype(np.float64) - row.max()) > 0


def test_without_random_numbers_the_most_probable_actions_are_taken() -> None:
    logits = np.array([[0.0, 3.0, -1.0], [2.0, 1.0, 2.0]], dtype=np.float32)
    assert choose_actions(logits, None).tolist() == [1, 0]
