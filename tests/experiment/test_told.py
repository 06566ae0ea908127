"""Numbers as a person reads them."""

import math

import pytest

from a3c.experiment.told import told, told_return


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0, "0.000"),
        (-0.0001, "0.000"),
        (-0.175, "-0.175"),
        (0.9994, "0.999"),
        (1, "1.00"),
        (-8.25, "-8.25"),
        (22.04, "22.0"),
        (-1425.83, "-1,425.8"),
        (500, "500.0"),
    ],
)
def test_three_digits_count(number, text):
    assert told(number) == text


@pytest.mark.parametrize(
    ("mean", "episodes", "text"),
    [
        (20.5, 300, "20.5"),
        (20.5, 100, "20.5"),
        (20.5, 37, "20.5 (37 episodes)"),
        (None, 0, "-"),
        (20.5, None, "20.5"),
    ],
)
def test_few_episodes_are_told(mean, episodes, text):
    assert told_return(mean, episodes) == text
