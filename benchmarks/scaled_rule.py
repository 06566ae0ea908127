"""A rule of updates that looks at staleness; in a module of its own, since worker processes import it by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from a3c.core.update_rule import Applied, UpdateRule


@dataclass(frozen=True)
class ScaledRule(UpdateRule):
    """An update rule whose rate is divided by 1 + the staleness that was last told to it."""

    staleness: tuple[list[int], ...] = ()

    def apply(self, *arguments: Any, **options: Any) -> Applied:
        """As `UpdateRule.apply`, with a smaller rate."""
        rate = self.schedule.initial / (1 + self.staleness[0][0]), self.schedule.final / (1 + self.staleness[0][0])
        schedule = replace(self.schedule, initial=rate[0], final=rate[1])
        return UpdateRule(self.optimizer, schedule, self.budget, self.max_gradient_norm).apply(*arguments, **options)
