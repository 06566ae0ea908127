"""Running moments: count, mean and sum of squared deviations of M scalars, merged by Chan's formula.

Moments are one float64 tensor [3, M] on the CPU. Its rows are n, how many samples; m, their mean; and M2, the sum of
their squared deviations from m. A column with n = 0 is empty: zeros. They are so small that what counts is the number
of calls, and NumPy's cost a third of torch's: these functions look at the tensors' memory as arrays.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_EXACTLY = 256  # the sum of so many squares of bytes is below 2^24
_ROWS_AT_ONCE = 256  # rows of `_EXACTLY` bytes: as float32 256 KiB, which stay in a core's cache


def empty(size: int) -> Tensor:
    """Moments of no samples of `size` scalars, [3, M]: what changes nothing that it is merged with."""
    return torch.zeros(3, size, dtype=torch.float64)


def of(samples: Tensor) -> Tensor:
    """Moments of a batch.

        m = Σ x / N,    M2 = Σ (x - m)²

    in two passes, so M2 keeps its digits however large m is, and is exactly 0 for samples that are all the same.
    Where the scalars were not all seen equally often, join the columns of several calls with torch.cat(dim=1).

    Args:
        samples: x, [N, M], of any real dtype; N may be 0.

    Returns:
        The moments, [3, M].
    """
    return torch.from_numpy(of_rows(samples.detach().cpu().double().numpy()))


def of_rows(samples: Array) -> Array:
    """The same of an array [N, M] as an array [3, M]."""
    assert samples.ndim == 2, f"samples {samples.shape} must be [N, M]"
    moments = np.zeros((3, samples.shape[1]))
    if len(samples):
        # Zeros, not rounding errors, where the samples are all the same.
        offsets = np.subtract(samples, samples[0], dtype=np.float64)  # [N, M]
        shift = np.add.reduce(offsets, 0)  # [M]
        shift /= len(samples)
        offsets -= shift
        moments[0] = len(samples)
        np.add(samples[0], shift, out=moments[1])
        np.einsum("nm,nm->m", offsets, offsets, out=moments[2])
    return moments


def of_bytes(samples: Tensor, unit: float) -> Tensor:
    """Moments of one scalar of which a batch has many bytes, each divided by `unit`: those of `of`, without rounding.

        m = Σ x / N,    M2 = Σ x² - (Σ x)² / N

    in whole numbers, which lose nothing: float32 holds the sum of 256 squares of bytes exactly, float64 their sums.

    Args:
        samples: unit · x, uint8 of any shape.
        unit: what the bytes are divided by.

    Returns:
        The moments, [3, 1].
    """
    assert samples.dtype == torch.uint8, f"{samples.dtype} are not bytes"
    order = sorted(range(samples.ndim), key=samples.stride, reverse=True)
    flat = samples.detach().cpu().permute(order).reshape(-1).numpy()  # as in memory, so that nothing is copied
    whole = len(flat) - len(flat) % _EXACTLY
    rows, ones = flat[:whole].reshape(-1, _EXACTLY), np.ones(_EXACTLY, np.float32)
    sums = np.empty((2, len(rows)), np.float32)  # of bytes and of their squares
    numbers = np.empty((_ROWS_AT_ONCE, _EXACTLY), np.float32)
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[begin : begin + _ROWS_AT_ONCE]
        here, (sums_here, squares_here) = numbers[: len(some)], sums[:, begin : begin + _ROWS_AT_ONCE]
        np.copyto(here, some)
        np.dot(here, ones, out=sums_here)
        np.multiply(here, here, out=here)
        np.dot(here, ones, out=squares_here)
    rest = flat[whole:].astype(np.int64)
    total, squares = (int(part) for part in np.add.reduce(sums, 1, np.float64))
    total += int(np.add.reduce(rest))
    squares += int(np.dot(rest, rest))
    count = len(flat)
    moments = empty(1)
    if count:
        moments[:, 0] = torch.tensor(
            [count, total / count / unit, (count * squares - total * total) / count / unit**2], dtype=torch.float64
        )
    return moments


def merge(a: Tensor, b: Tensor) -> Tensor:
    """Moments of the samples of both.

        n = n_a + n_b,    δ = m_b - m_a
        m = m_a + δ n_b / n
        M2 = M2_a + M2_b + δ² n_a n_b / n

    Merged with an empty column, the other one comes back to the bit.

    Args:
        a: moments, [3, M].
        b: moments, [3, M].

    Returns:
        New moments, [3, M].

    Source: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    assert a.shape == b.shape, f"moments {a.shape} and {b.shape} must agree"
    (count_a, mean_a, deviations_a), (count_b, mean_b, deviations_b) = a.numpy(), b.numpy()  # [M] each
    merged = np.empty(a.shape)
    merged[0] = count_a + count_b
    distance = mean_b - mean_a
    step = distance * (count_b / np.maximum(merged[0], 1))  # 0 if b is empty, mean_b if a is
    merged[1] = mean_a + step
    merged[2] = deviations_a + deviations_b + step * count_a * distance
    return torch.from_numpy(merged)


def merge_all(parts: Tensor) -> Tensor:
    """Moments of the samples of K parts at once: `merge` for any number of them, in a few operations.

        n = Σ n_k,    m = r + Σ n_k (m_k - r) / n,    M2 = Σ M2_k + n_k (m_k - m)²

    where r is the mean of the part that has most samples, so that large means cost no digits. K = 2 is `merge`;
    beyond it, merging one after the other gives the same but for rounding. If one part alone is not empty, it
    comes back to the bit.

    Args:
        parts: moments, [K, 3, M], K >= 1.

    Returns:
        New moments, [3, M].
    """
    assert parts.shape[1:-1] == (3,), f"parts {parts.shape} must be [K, 3, M]"
    counts, means, deviations = parts.numpy().transpose(1, 0, 2)  # [K, M] each
    merged = np.empty(parts.shape[1:])
    np.add.reduce(counts, 0, out=merged[0])
    reference = means[counts.argmax(0), np.arange(means.shape[1])]  # [M]
    distances = means - reference  # [K, M]
    distances *= counts
    np.add(reference, np.add.reduce(distances, 0) / np.maximum(merged[0], 1), out=merged[1])
    offsets = means - merged[1]  # [K, M]
    np.add.reduce(deviations + counts * offsets * offsets, 0, out=merged[2])
    return torch.from_numpy(merged)


def mean(moments: Tensor) -> Tensor:
    """The means, [M]; 0 where nothing was seen."""
    return moments[1]


def variance(moments: Tensor) -> Tensor:
    """The population variances M2 / n, [M]; 1 where nothing was seen, so that normalising changes nothing there."""
    count, _, deviations = moments.numpy()
    return torch.from_numpy(np.where(count == 0, 1.0, deviations / np.maximum(count, 1)))
