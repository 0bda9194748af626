"""Many tensors as one vector, and back."""

import pytest
import torch

from r2ac.learner.vectors import copy_vector_, to_vector


def test_tensors_get_back_their_numbers_where_they_lie() -> None:
    whole = torch.arange(12.0).view(3, 4)
    tensors = [whole[:, 1:3].t(), torch.tensor(-1.0), torch.nn.Parameter(torch.ones(2, 1)), torch.zeros(0, 3)]
    vector = to_vector(tensors)
    assert vector.tolist() == [1, 5, 9, 2, 6, 10, -1, 1, 1]
    places = [tensor.data_ptr() for tensor in tensors]
    copy_vector_(tensors, vector + 100)
    assert whole.tolist() == [[0, 101, 102, 3], [4, 105, 106, 7], [8, 109, 110, 11]]
    assert [tensor.tolist() for tensor in tensors[1:]] == [99, [[101], [101]], []]
    assert [tensor.data_ptr() for tensor in tensors] == places
    assert not vector.requires_grad


def test_a_vector_is_a_copy_and_of_the_widest_dtype() -> None:
    narrow, wide = torch.tensor([1 / 3]), torch.tensor([1 / 3], dtype=torch.float64)
    vector = to_vector([narrow, wide])
    assert vector.dtype == torch.float64
    copy_vector_([narrow, wide], vector)
    assert (narrow.item(), wide.item()) == (torch.tensor(1 / 3).item(), 1 / 3)
    alone = to_vector([narrow])
    narrow.zero_()
    assert alone.item() != 0


@pytest.mark.parametrize("size", [3, 5])
def test_a_vector_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        copy_vector_([torch.zeros(2), torch.zeros(2)], torch.ones(size))
