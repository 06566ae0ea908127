"""How one gradient changes θ: what every store does, whoever's gradient it is and wherever θ lives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from a3c.core.optimizers import Optimizer, clip_by_global_norm
from a3c.core.schedules import Budget, Schedule


class Applied(NamedTuple):
    """What `UpdateRule.apply` did."""

    done: bool  # False if the gradient was not finite: then nothing has changed
    learning_rate: float
    gradient_norm: float  # before clipping


@dataclass(frozen=True)
class UpdateRule:
    """Clip, take the learning rate by the global T, step the optimiser."""

    optimizer: Optimizer
    schedule: Schedule
    budget: Budget
    max_gradient_norm: float | None = None

    @property
    def scratch_vectors(self) -> int:
        """How many private vectors [P] `apply` wants."""
        return len(self.optimizer.statistic_names) + 2

    def apply(
        self,
        parameters: Tensor,
        gradient: Tensor,
        statistics: tuple[Tensor, ...],
        scratch: tuple[Tensor, ...],
        *,
        step_count: int,
        env_steps: int,
        episodes: int,
    ) -> Applied:
        """Change θ and the statistics by one gradient, unless its norm is not finite.

        Args:
            parameters: θ, [P], changed in place.
            gradient: dθ, [P], left as it is.
            statistics: the optimiser's, [P] each, changed in place.
            scratch: `scratch_vectors` private vectors [P].
            step_count: updates of θ, this one included.
            env_steps: T, this gradient's rollout included.
            episodes: finished episodes, this rollout's included.

        Returns:
            What was done: nothing if the gradient's norm is not finite.
        """
        learning_rate = self.schedule(self.budget.used(env_steps, episodes))
        gradient, norm = clip_by_global_norm(gradient, self.max_gradient_norm, out=scratch[-1])
        if not math.isfinite(norm):
            return Applied(False, learning_rate, norm)
        self.optimizer.step(
            parameters,
            gradient,
            statistics,
            scratch[:-1],
            learning_rate=learning_rate,
            step_count=step_count,
        )
        return Applied(True, learning_rate, norm)
