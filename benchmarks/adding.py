"""A rule of updates that shows what was lost; in a module of its own, since worker processes import it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Adding:
    """RMSProp's passes over memory, but with gradients of 1 they add: η to θ, and 1 to the statistic.

    So what is lost can be counted, of θ, which is changed in place, and of the statistic, which is written back later.
    """

    statistic_names: ClassVar[tuple[str, ...]] = ("sums",)

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count) -> None:
        """See `Optimizer.step`."""
        (sums,) = statistics
        new, denominator = scratch
        torch.mul(sums, 1.0, out=new).addcmul_(gradient, gradient)
        torch.div(new, new, out=denominator).sqrt_()
        parameters.addcdiv_(gradient, denominator, value=learning_rate)
        sums.copy_(new)
