"""Running moments: count, mean and sum of squared deviations of M scalars, merged by Chan's formula.

Moments are one float64 tensor [3, M]. Its rows are n, how many samples; m, their mean; and M2, the sum of their
squared deviations from m. A column with n = 0 is empty: zeros.
"""

import torch
from torch import Tensor


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
        The moments, [3, M], on the device of the samples.
    """
    assert samples.ndim == 2, f"samples {samples.shape} must be [N, M]"
    samples = samples.detach().double()
    if not len(samples):
        return samples.new_zeros(3, samples.shape[1])
    offsets = samples - samples[0]  # [N, M]; zeros, not rounding errors, where the samples are all the same
    shift = offsets.mean(0)  # [M]
    count = torch.full_like(shift, len(samples))
    return torch.stack([count, samples[0] + shift, (offsets - shift).square().sum(0)])


def of_bytes(samples: Tensor, unit: float) -> Tensor:
    """Moments of one scalar of which a batch has many bytes, each divided by `unit`: those of `of`, by counting.

    Args:
        samples: unit · x, uint8 of any shape.
        unit: what the bytes are divided by.

    Returns:
        The moments, [3, 1], on the device of the samples.
    """
    assert samples.dtype == torch.uint8, f"{samples.dtype} are not bytes"
    counts = torch.bincount(samples.reshape(-1), minlength=256).double()  # [256]
    count = counts.sum()
    offsets = torch.arange(256, dtype=torch.float64, device=samples.device) / unit
    mean = counts @ offsets / count.clamp(min=1)
    return torch.stack([count, mean, counts @ (offsets - mean).square()]).unsqueeze(1)


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
    (count_a, mean_a, deviations_a), (count_b, mean_b, deviations_b) = a, b  # [M] each
    count = count_a + count_b
    distance = mean_b - mean_a
    step = distance * (count_b / count.clamp(min=1))  # 0 if b is empty, mean_b if a is
    deviations = deviations_a + deviations_b + step * count_a * distance
    return torch.stack([count, mean_a + step, deviations])


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
    counts, means, deviations = parts.unbind(1)  # [K, M] each
    count = counts.sum(0)  # [M]
    reference = means.gather(0, counts.argmax(0, keepdim=True))  # [1, M]
    total_mean = reference[0] + (counts * (means - reference)).sum(0) / count.clamp(min=1)  # [M]
    offsets = means - total_mean  # [K, M]
    return torch.stack([count, total_mean, (deviations + counts * offsets * offsets).sum(0)])


def mean(moments: Tensor) -> Tensor:
    """The means, [M]; 0 where nothing was seen."""
    return moments[1]


def variance(moments: Tensor) -> Tensor:
    """The population variances M2 / n, [M]; 1 where nothing was seen, so that normalising changes nothing there."""
    return torch.where(moments[0] == 0, 1.0, moments[2] / moments[0].clamp(min=1))
