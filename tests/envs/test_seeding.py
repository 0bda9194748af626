"""Engine seeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2ac.envs.seeding import engine_seeds, stream_generators

SEEDS = st.integers(min_value=0, max_value=2**200)


@given(SEEDS, SEEDS, st.integers(1, 300))
def test_training_and_test_never_share_a_seed(train: int, test: int, count: int) -> None:
    train_seeds = engine_seeds(train, "train", count)
    test_seeds = engine_seeds(test, "test", count)
    assert len(set(train_seeds)) == len(set(test_seeds)) == count
    assert min(train_seeds) >= 0
    assert max(train_seeds) < 2**30 <= min(test_seeds)
    assert max(test_seeds) < 2**31


@given(SEEDS, st.integers(1, 50), st.integers(1, 50))
def test_a_stream_keeps_its_seed_whatever_the_number_of_streams(seed: int, few: int, more: int) -> None:
    assert engine_seeds(seed, "train", few) == engine_seeds(seed, "train", few + more)[:few]


def test_generators_of_streams_are_those_of_their_seeds() -> None:
    def drawn(seed: int | list[int] | None, count: int) -> list[int]:
        return [int(each.integers(2**40)) for each in stream_generators(seed, count)]

    assert drawn(5, 3) == drawn([5, 6, 7], 3)
    assert drawn([7], 1) == drawn(5, 3)[2:]
    assert len(set(drawn(None, 3))) == 3
    with pytest.raises(ValueError, match="got 2 seeds for 3 streams"):
        stream_generators([1, 2], 3)


@given(SEEDS)
def test_neighbouring_base_seeds_give_other_seeds(seed: int) -> None:
    assert engine_seeds(seed, "train", 3) != engine_seeds(seed + 1, "train", 3)
