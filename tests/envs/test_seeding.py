"""Engine seeds."""

from hypothesis import given
from hypothesis import strategies as st

from r2ac.envs.seeding import engine_seeds

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


@given(SEEDS)
def test_neighbouring_base_seeds_give_other_seeds(seed: int) -> None:
    assert engine_seeds(seed, "train", 3) != engine_seeds(seed + 1, "train", 3)
