"""Numbers as a person reads them."""

from __future__ import annotations

from a3c.experiment.loggers import finite_number

ENOUGH_EPISODES = 100
"""So many episodes a mean return is taken over, where there are as many."""


def told(value: object) -> str:
    """A number with three digits that count, and one decimal at the least; a dash where there is none."""
    number = finite_number(value)
    if number is None:
        return "-"
    size = abs(number)
    text = f"{number:,.{1 if size >= 10 else 2 if size >= 1 else 3}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def told_return(mean: object, episodes: object) -> str:
    """A mean return, and over how many episodes where these are few."""
    count = finite_number(episodes)
    few = mean is not None and count is not None and count < ENOUGH_EPISODES
    return told(mean) + (f" ({count:.0f} episodes)" if few else "")
