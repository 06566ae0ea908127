"""RMSProp and Adam as in-place steps on flat vectors whose statistics may be shared between processes.

Each step computes the new statistics in private scratch, steps from the scratch, and only then writes them
back. A process that writes the same vectors meanwhile can therefore cost part of an update, but never make a
step larger than a single process could: the statistics that divide a gradient always contain that gradient.

What is shared is read once in each operation. A linear interpolation that reads its start twice gives what lies outside
of both ends if another process writes in between: a negative mean of squares, whose root is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

_AT_ONCE = 2**18  # numbers of each vector


class Optimizer(Protocol):
    """An update rule for θ that keeps running statistics of the gradients it sees."""

    statistic_names: ClassVar[tuple[str, ...]]

    def step(
        self,
        parameters: Tensor,
        gradient: Tensor,
        statistics: tuple[Tensor, ...],
        scratch: tuple[Tensor, ...],
        *,
        learning_rate: float,
        step_count: int,
    ) -> None:
        """Change `parameters` and `statistics` in place.

        All vectors are on the CPU, and none requires a gradient. Whoever writes to θ past torch tells it so
        (`torch.autograd.graph.increment_version`), since passes that are kept hold as long as θ's version.

        Args:
            parameters: θ, [P].
            gradient: dθ, [P]; left as it is.
            statistics: one [P] vector for each name in `statistic_names`, zeros before the first step.
            scratch: `len(statistic_names) + 1` private vectors [P] of any content.
            learning_rate: η.
            step_count: how many steps θ will have seen, this one included; from 1.
        """


@dataclass(frozen=True)
class RMSProp:
    """RMSProp without momentum or centring.

        g <- α g + (1 - α) dθ²
        θ <- θ - η dθ / sqrt(g + ε)        epsilon_inside_root, as in the paper (Mnih et al. 2016, eq. S2-S3)
        θ <- θ - η dθ / (sqrt(g) + ε)      otherwise, as torch.optim.RMSprop

    No element moves further than η / sqrt(1 - α) in one step, and in the first step every element moves that
    far, because g starts at 0: ten times η for α = 0.99. `bias_correction` divides g / (1 - α^t) in g's place,
    as Adam does: the first step is η. The two forms of ε differ greatly at the paper's ε = 0.1.
    """

    decay: float = 0.99
    epsilon: float = 1e-5
    epsilon_inside_root: bool = False
    bias_correction: bool = False

    statistic_names: ClassVar[tuple[str, ...]] = ("square_average",)

    @np.errstate(invalid="ignore", over="ignore", divide="ignore")  # NaN and infinity are silent, as with torch
    def step(
        self,
        parameters: Tensor,
        gradient: Tensor,
        statistics: tuple[Tensor, ...],
        scratch: tuple[Tensor, ...],
        *,
        learning_rate: float,
        step_count: int,
    ) -> None:
        """One step; see `Optimizer.step`."""
        # Dividing by sqrt(g / c) + ε is dividing by sqrt(g) + ε sqrt(c), and multiplying by sqrt(c).
        correction = 1 - self.decay**step_count if self.bias_correction else 1.0
        vectors = (parameters, gradient, *statistics, *scratch)
        for theta, dtheta, square_average, new, square in in_pieces(*vectors):
            np.multiply(dtheta, dtheta, out=square)
            square *= 1 - self.decay
            np.multiply(square_average, self.decay, out=new)
            new += square
            if self.epsilon_inside_root:
                new += self.epsilon * correction
                np.sqrt(new, out=new)
            else:
                np.sqrt(new, out=new)
                new += self.epsilon * math.sqrt(correction)
            np.divide(dtheta, new, out=new)
            new *= learning_rate * math.sqrt(correction)
            theta -= new
            # Anew, and in place: what others have added meanwhile stays.
            square_average *= self.decay
            square_average += square
        torch.autograd.graph.increment_version(parameters)  # of what NumPy writes torch sees nothing


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1).

        m <- β1 m + (1 - β1) dθ,    v <- β2 v + (1 - β2) dθ²
        θ <- θ - η m̂ / (sqrt(v̂) + ε),    m̂ = m / (1 - β1^t),    v̂ = v / (1 - β2^t)

    In one process |m̂| / sqrt(v̂) has a bound that follows from Cauchy-Schwarz (`ratio_bound`). Processes that
    write m and v at once can break it, so the ratio is clamped there: a serial run never notices.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    statistic_names: ClassVar[tuple[str, ...]] = ("average", "square_average")

    @np.errstate(invalid="ignore", over="ignore", divide="ignore")  # NaN and infinity are silent, as with torch
    def step(
        self,
        parameters: Tensor,
        gradient: Tensor,
        statistics: tuple[Tensor, ...],
        scratch: tuple[Tensor, ...],
        *,
        learning_rate: float,
        step_count: int,
    ) -> None:
        """One step; see `Optimizer.step`."""
        bound = self.ratio_bound(step_count)
        vectors = (parameters, gradient, *statistics, *scratch)
        for theta, dtheta, average, square_average, ratio, root, part in in_pieces(*vectors):
            np.multiply(dtheta, 1 - self.beta1, out=part)
            np.multiply(average, self.beta1, out=ratio)
            ratio += part
            np.multiply(dtheta, dtheta, out=part)
            part *= 1 - self.beta2
            np.multiply(square_average, self.beta2, out=root)
            root += part
            np.sqrt(root, out=root)
            root /= math.sqrt(1 - self.beta2**step_count)
            root += self.epsilon
            ratio /= root
            ratio /= 1 - self.beta1**step_count
            np.minimum(np.maximum(ratio, -bound, out=ratio), bound, out=ratio)
            ratio *= learning_rate
            theta -= ratio
            # Anew, and in place: what others have added meanwhile stays.
            square_average *= self.beta2
            square_average += part
            np.multiply(dtheta, 1 - self.beta1, out=part)
            average *= self.beta1
            average += part
        torch.autograd.graph.increment_version(parameters)  # of what NumPy writes torch sees nothing

    def ratio_bound(self, step_count: int) -> float:
        """The largest |m̂| / sqrt(v̂) that t steps of one process can reach, with a hair's breadth for rounding.

        |m| <= (1 - β1) sqrt(Σ_{j<t} (β1²/β2)^j) sqrt(v / (1 - β2)), by Cauchy-Schwarz; 1 at t = 1.
        """
        r = self.beta1**2 / max(self.beta2, 1e-300)  # β2 may be 0
        if r > 1 and step_count * math.log(r) > 700:
            return math.inf  # where β1² > β2 the bound grows like r^(t/2), and here r^t would overflow
        geometric = float(step_count) if r == 1 else (1 - r**step_count) / (1 - r)
        raw = (1 - self.beta1) / math.sqrt(1 - self.beta2) * math.sqrt(geometric)
        correction = math.sqrt(1 - self.beta2**step_count) / (1 - self.beta1**step_count)
        return raw * correction * (1 + 1e-5)


def clip_by_global_norm(gradient: Tensor, max_norm: float | None, out: Tensor) -> tuple[Tensor, float]:
    """The gradient, shortened to `max_norm` if it is longer, and its Euclidean norm before that.

    `gradient` [P] is left as it is: a shortened one is written to `out` [P]. With `max_norm` None only the norm
    is taken; it is infinite where its square is too large for the dtype. A norm of 0, NaN or infinity leaves the
    gradient unscaled.
    """
    numbers = gradient.numpy()
    norm = math.sqrt(np.vdot(numbers, numbers))
    if max_norm is None or not max_norm < norm < math.inf:
        return gradient, norm
    np.multiply(numbers, max_norm / norm, out=out.numpy())
    return out, norm


def in_pieces(*vectors: Tensor) -> Iterator[list[Array]]:
    """The vectors' memory for NumPy, whose calls are the cheaper ones; long ones piece by piece, for the caches."""
    arrays = [vector.numpy() for vector in vectors]
    for begin in range(0, len(arrays[0]), _AT_ONCE):
        yield [array[begin : begin + _AT_ONCE] for array in arrays]
