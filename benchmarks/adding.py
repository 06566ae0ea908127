"""A rule of updates that shows what was lost; in a module of its own, since worker processes import it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from a3c.core.optimizers import in_pieces


@dataclass(frozen=True)
class Adding:
    """RMSProp's passes over memory, but with gradients of 1 they add: η to θ, and 1 to the statistic.

    So what is lost of both can be counted.
    """

    statistic_names: ClassVar[tuple[str, ...]] = ("sums",)

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
        """See `Optimizer.step`."""
        for theta, dtheta, sums, new, square in in_pieces(parameters, gradient, *statistics, *scratch):
            np.multiply(dtheta, dtheta, out=square)
            square *= 1.0
            np.multiply(sums, 0.0, out=new)
            new += square
            np.sqrt(new, out=new)
            new += 0.0
            np.divide(dtheta, new, out=new)
            new *= learning_rate
            theta += new
            sums *= 1.0
            sums += square
        torch.autograd.graph.increment_version(parameters)  # as RMSProp
