"""Running moments: by hand, against NumPy in extended precision, and to the bit where nothing is to be added."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a3c.core import moments


def bits(tensor):
    return tensor.contiguous().view(torch.int64).tolist()


def random_moments(seed, size=3, count=5):
    return moments.of(torch.from_numpy(np.random.default_rng(seed).normal(7.0, 3.0, (count, size))))


def reference(samples):
    """The moments in extended precision, in two passes."""
    wide = samples.astype(np.longdouble)
    mean = wide.mean(0)
    return np.stack([np.full_like(mean, len(wide)), mean, ((wide - mean) ** 2).sum(0)]).astype(np.float64)


def assert_moments(actual, samples):
    count, mean, deviations = reference(samples)
    assert actual[0].tolist() == count.tolist()
    np.testing.assert_allclose(actual[1].numpy(), mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(actual[2].numpy(), deviations, rtol=1e-8, atol=1e-9)  # naive sums miss it at 1e6


def test_a_batch_by_hand():
    found = moments.of(torch.tensor([[1.0, -1.0], [2.0, -1.0], [6.0, 5.0]]))
    assert found.tolist() == [[3.0, 3.0], [3.0, 1.0], [14.0, 24.0]]
    assert moments.mean(found).tolist() == [3.0, 1.0]
    assert moments.variance(found).tolist() == [14 / 3, 8.0]


@given(st.lists(st.integers(0, 255), max_size=60), st.sampled_from([1.0, 255.0]))
def test_bytes_are_counted_to_the_same_moments(values, unit):
    samples = torch.tensor(values, dtype=torch.uint8)
    expected = moments.of(samples.reshape(-1, 1).double() / unit)
    torch.testing.assert_close(moments.of_bytes(samples, unit), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 65_535, 65_536, 65_537, 2 * 65_536 + 300])
@pytest.mark.parametrize("lowest", [0, 255])
def test_any_number_of_bytes_is_counted_without_rounding(count, lowest):
    values = np.random.default_rng(count).integers(lowest, 256, count).astype(np.uint8)
    total, squares = sum(values.tolist()), sum(value * value for value in values.tolist())
    found = moments.of_bytes(torch.from_numpy(values), 1.0)[:, 0].tolist()
    assert found == [count, total / max(count, 1), (count * squares - total * total) / max(count, 1)]


def test_bytes_in_any_order_in_memory():
    images = torch.randint(0, 256, (6, 50, 60, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for view in (images.permute(0, 3, 1, 2), images[::2], images[:, :, 5:-3], images.transpose(1, 2)[:, 1:]):
        expected = moments.of(view.reshape(-1, 1))
        torch.testing.assert_close(moments.of_bytes(view, 1.0), expected, rtol=1e-12, atol=0)


def test_bytes_that_are_all_the_same_hardly_vary():
    (count, mean, deviations) = moments.of_bytes(torch.full((3, 9, 9), 87, dtype=torch.uint8), 255.0)
    assert (count.item(), mean.item()) == (243, pytest.approx(87 / 255, rel=1e-15))
    assert deviations.item() < 1e-25


def test_a_merge_by_hand():
    # {0, 2} and {5, 6, 7, 6}: 6 samples, their mean 26/6, deviations about it 2 + 2 + (5)² 2·4/6
    merged = moments.merge(torch.tensor([[2.0], [1.0], [2.0]]).double(), torch.tensor([[4.0], [6.0], [2.0]]).double())
    torch.testing.assert_close(merged.squeeze(1), torch.tensor([6.0, 26 / 6, 4 + 25 * 8 / 6]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16])
def test_samples_of_any_dtype_give_float64(dtype):
    found = moments.of(torch.tensor([[0], [1], [1], [1]]).to(dtype))
    assert found.dtype == torch.float64
    assert found.tolist() == [[4.0], [0.75], [0.75]]


def test_no_samples_are_empty_moments():
    for found in (moments.of(torch.zeros(0, 2)), moments.empty(2)):
        assert (found.tolist(), found.dtype) == ([[0.0] * 2] * 3, torch.float64)
    assert moments.empty(0).shape == moments.of(torch.zeros(4, 0)).shape == (3, 0)


def test_columns_seen_differently_often_are_joined():
    found = torch.cat([moments.of(torch.tensor([[1.0], [3.0]])), moments.of(torch.tensor([[5.0]]))], dim=1)
    assert found.tolist() == [[2.0, 1.0], [2.0, 5.0], [2.0, 0.0]]


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -3e-9])
def test_what_never_changes_has_no_variance_at_all(value):
    batches = [moments.of(torch.full((n, 1), value, dtype=torch.float64)) for n in (7, 1, 30)]
    found = moments.merge(moments.merge(batches[0], batches[1]), batches[2])
    assert found.tolist() == moments.merge_all(torch.stack(batches)).tolist() == [[38.0], [value], [0.0]]


def test_moments_carry_no_graph():
    samples = torch.ones(3, 1, requires_grad=True)
    assert not moments.of(samples * 2).requires_grad


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    offset=st.sampled_from([0.0, -50.0, 1e6]),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_merged_in_any_order_has_the_moments_of_all(sizes, offset, order, seed):
    samples = offset + np.random.default_rng(seed).normal(size=(1 + sum(sizes), 3)) * [1.0, 1e-2, 4.0]
    parts = [moments.of(torch.from_numpy(part)) for part in np.split(samples, np.cumsum(sizes))]
    order.shuffle(parts)
    assert_moments(moments.merge_all(torch.stack(parts)), samples)
    while len(parts) > 1:  # any tree, too
        one, other = parts.pop(order.randrange(len(parts))), parts.pop(order.randrange(len(parts)))
        parts.append(moments.merge(one, other))
    assert_moments(parts[0], samples)


def test_many_small_batches_far_from_zero_lose_no_digits():
    samples = 1e6 + np.random.default_rng(0).normal(size=(20_000, 1))
    found = moments.empty(1)
    for batch in np.split(samples, 4000):
        found = moments.merge(found, moments.of(torch.from_numpy(batch)))
    np.testing.assert_allclose(found.numpy(), reference(samples), rtol=1e-9)


@pytest.mark.parametrize("merge", [moments.merge, lambda a, b: moments.merge_all(torch.stack([a, b]))])
def test_merging_with_an_empty_one_gives_the_other_to_the_bit(merge):
    some, none = random_moments(0), moments.empty(3)
    assert bits(merge(some, none)) == bits(merge(none, some)) == bits(some)
    assert bits(merge(none, none)) == bits(none)
    mixed = torch.cat([some[:, :1], none[:, :2]], dim=1)
    other = torch.cat([none[:, :1], random_moments(1)[:, 1:2], none[:, :1]], dim=1)
    assert bits(merge(mixed, other)) == bits(torch.cat([some[:, :1], other[:, 1:2], none[:, :1]], dim=1))


@given(seed=st.integers(0, 2**32 - 1), place=st.integers(0, 4), scale=st.sampled_from([1e-30, 1.0, 1e60]))
def test_the_only_part_that_is_not_empty_comes_back_to_the_bit(seed, place, scale):
    some = random_moments(seed) * torch.tensor([[1.0], [scale], [scale**2]], dtype=torch.float64)
    parts = torch.zeros(5, 3, 3, dtype=torch.float64)
    parts[place] = some
    assert bits(moments.merge_all(parts)) == bits(some)
    assert bits(moments.merge(some, parts[place - 1])) == bits(moments.merge(parts[place - 1], some)) == bits(some)


def test_counts_go_far_beyond_32_bits():
    count = 2.0**33  # twice so many samples of variance 1, their means 2 apart
    halves = [torch.tensor([[count], [1e6 + side], [count]], dtype=torch.float64) for side in (-1.0, 1.0)]
    for merged in (moments.merge(*halves), moments.merge_all(torch.stack(halves))):
        assert merged.tolist() == [[2.0**34], [1e6], [2.0**35]]
    one_more = moments.merge(moments.merge(*halves), moments.of(torch.tensor([[1e6]], dtype=torch.float64)))
    assert one_more[0].item() == 2**34 + 1


def test_merging_leaves_its_arguments_alone_and_gives_a_tensor_of_its_own():
    some, none = random_moments(0), moments.empty(3)
    before = some.clone()
    for merged in (moments.merge(some, none), moments.merge(none, some), moments.merge_all(some[None])):
        merged.fill_(-1.0)
    assert torch.equal(some, before)
    assert not none.any()


def test_what_was_never_seen_has_mean_zero_and_variance_one():
    found = torch.cat([moments.empty(1), moments.of(torch.tensor([[5.0], [5.0]]))], dim=1)
    assert moments.mean(found).tolist() == [0.0, 5.0]
    assert moments.variance(found).tolist() == [1.0, 0.0]
