"""Random streams: different between everything that must differ, equal between runs."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from a3c.core.seeding import WorkerSeeds, evaluation_seeds, model_seed, worker_seeds


def all_numbers(seeds: WorkerSeeds) -> list[int]:
    return [*seeds.environments, seeds.vector_environment, seeds.actions, seeds.libraries]


def test_every_stream_differs_from_every_other():
    streams = [
        [
            *chain.from_iterable(
                all_numbers(worker_seeds(seed, worker, incarnation, envs=8))
                for worker in range(8)
                for incarnation in range(3)
            ),
            model_seed(seed),
            *evaluation_seeds(seed, 20),
        ]
        for seed in (0, 1, 2)
    ]
    numbers = list(chain.from_iterable(streams))
    assert len(numbers) == 3 * (8 * 3 * 11 + 1 + 20)
    assert len(set(numbers)) == len(numbers)


def test_streams_repeat_between_runs():
    assert worker_seeds(3, 1, 0, envs=4) == worker_seeds(3, 1, 0, envs=4)
    assert model_seed(3) == model_seed(3)
    assert evaluation_seeds(3, 5) == evaluation_seeds(3, 5)
    # A change of these numbers changes every published run: say so in the changelog.
    assert model_seed(0) == 1878776328
    assert worker_seeds(0, 0, 0, envs=1) == WorkerSeeds([1489719038], 238126281, 543215367, 2135382785)
    assert evaluation_seeds(0, 2) == [1620722436, 1915344897]


@pytest.mark.parametrize("envs", [1, 3, 8])
def test_a_worker_gets_one_seed_for_each_environment(envs):
    seeds = worker_seeds(0, 0, 0, envs)
    assert len(seeds.environments) == envs
    # More environments leave the other streams, and the first environments, as they were.
    assert seeds == worker_seeds(0, 0, 0, 100)._replace(environments=worker_seeds(0, 0, 0, 100).environments[:envs])


def test_more_evaluation_environments_leave_the_first_ones_as_they_were():
    assert evaluation_seeds(5, 20)[:3] == evaluation_seeds(5, 3)


def test_seeds_are_python_ints_of_31_bits():
    numbers = list(
        chain.from_iterable(
            [*all_numbers(worker_seeds(seed, 0, 0, 4)), model_seed(seed), *evaluation_seeds(seed, 4)]
            for seed in range(200)
        )
    )
    assert {type(number) for number in numbers} == {int}
    assert all(0 <= number < 2**31 for number in numbers)
    assert max(numbers) > 2**30  # and all 31 of them are used


def test_the_global_streams_are_not_touched():
    np.random.seed(0)
    torch.manual_seed(0)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    worker_seeds(0, 0, 0, 4)
    model_seed(0)
    evaluation_seeds(0, 4)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)
