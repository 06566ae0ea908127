"""A rule of updates that shows what was lost; in a module of its own, since worker processes import it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Adding:
    """RMSProp's passes over memory, but with gradients of 1 they add: η to θ, and 1 to the statistic.

    So what is lost of both can be counted.
    """

    statistic_names: ClassVar[tuple[str, ...]] = ("sums",)

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count) -> None:
        """See `Optimizer.step`."""
        (sums,) = statistics
        new, square = scratch
        torch.mul(gradient, gradient, out=square)
        torch.add(sums, square, out=new)
        denominator = new.div_(new).sqrt_()
        parameters.addcdiv_(gradient, denominator, value=learning_rate)
        sums.add_(square)
