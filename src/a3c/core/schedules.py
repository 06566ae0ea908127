"""The training budget, and learning rates that follow the share of it that all workers have used together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """When training ends: after `env_steps` steps or `episodes` episodes, whichever comes first; None is no limit."""

    env_steps: int | None = None
    episodes: int | None = None

    def used(self, env_steps: int, episodes: int) -> float:
        """The share of the budget that is used, in [0, 1]; 0 without limits."""
        shares = [
            done / limit
            for done, limit in ((env_steps, self.env_steps), (episodes, self.episodes))
            if limit is not None
        ]
        return min(1.0, max(shares, default=0.0))

    def spent(self, env_steps: int, episodes: int) -> bool:
        """Whether a limit is reached."""
        return self.used(env_steps, episodes) >= 1.0


@dataclass(frozen=True)
class Schedule:
    """A learning rate that goes linearly from `initial` to `final` over the budget.

        η(u) = η_0 + (η_1 - η_0) u,    u = T / T_max, T the step count of all workers together

    `final` = 0 is the paper's annealing, `final` = `initial` a constant.
    """

    initial: float
    final: float

    def __call__(self, used: float) -> float:
        """The rate when the share `used`, in [0, 1], of the budget is gone."""
        return self.initial + (self.final - self.initial) * used


def linear(learning_rate: float) -> Schedule:
    """Annealed to zero at the end of the budget."""
    return Schedule(learning_rate, 0.0)


def constant(learning_rate: float) -> Schedule:
    """The same throughout."""
    return Schedule(learning_rate, learning_rate)
