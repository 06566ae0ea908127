"""A rule of updates that shows what was lost; in a module of its own, since worker processes import it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Adding:
    """θ <- θ + η: no gradient, no statistics, so that what is lost can be counted."""

    statistic_names: ClassVar[tuple[str, ...]] = ()

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count) -> None:
        """Read, add, write back, as an optimiser does."""
        torch.add(parameters, gradient, alpha=learning_rate, out=scratch[0])
        parameters.copy_(scratch[0])
