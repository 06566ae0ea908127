"""RMSProp and Adam as in-place steps on flat vectors whose statistics may be shared between processes.

Each step computes the new statistics in private scratch, steps from the scratch, and only then writes them
back. A process that writes the same vectors meanwhile can therefore cost part of an update, but never make a
step larger than a single process could: the statistics that divide a gradient always contain that gradient.

What is shared is read once in each operation. `torch.lerp` reads its start twice, and if another process writes in
between, it gives what lies outside of both ends: a negative mean of squares, whose root is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


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
        (square_average,) = statistics
        new, square = scratch
        torch.mul(gradient, gradient, out=square).mul_(1 - self.decay)
        torch.add(square, square_average, alpha=self.decay, out=new)
        # Dividing by sqrt(g / c) + ε is dividing by sqrt(g) + ε sqrt(c), and multiplying by sqrt(c).
        correction = 1 - self.decay**step_count if self.bias_correction else 1.0
        if self.epsilon_inside_root:
            denominator = new.add_(self.epsilon * correction).sqrt_()
        else:
            denominator = new.sqrt_().add_(self.epsilon * math.sqrt(correction))
        parameters.addcdiv_(gradient, denominator, value=-learning_rate * math.sqrt(correction))
        # Anew, and in place: what others have added meanwhile stays.
        torch.add(square, square_average, alpha=self.decay, out=square_average)


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
        average, square_average = statistics
        new_average, new_square, ratio = scratch
        torch.mul(average, self.beta1, out=new_average).add_(gradient, alpha=1 - self.beta1)
        torch.mul(square_average, self.beta2, out=new_square).addcmul_(gradient, gradient, value=1 - self.beta2)
        torch.sqrt(new_square, out=ratio).div_(math.sqrt(1 - self.beta2**step_count)).add_(self.epsilon)
        torch.div(new_average, ratio, out=ratio).div_(1 - self.beta1**step_count)
        bound = self.ratio_bound(step_count)
        parameters.add_(ratio.clamp_(-bound, bound), alpha=-learning_rate)
        # Anew, and in place: what others have added meanwhile stays.
        average.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        square_average.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)

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
    return torch.mul(gradient, max_norm / norm, out=out), norm
