"""Random streams: one seed in, independent streams out, equal between runs and different between workers."""

from __future__ import annotations

from typing import NamedTuple

from numpy.random import SeedSequence

# First element of a stream's spawn key: what the stream is for.
_MODEL, _WORKER, _EVALUATION = range(3)


class WorkerSeeds(NamedTuple):
    """The seeds of one worker: for its vector environment, its action sampling, and libraries' global streams."""

    environments: list[int]  # one for each of B environments, in [0, 2^31)
    vector_environment: int  # for a native vector environment, which takes one for all
    actions: int
    libraries: int


def model_seed(seed: int) -> int:
    """For the initial weights."""
    return _integers(SeedSequence(seed, spawn_key=(_MODEL,)), 1)[0]


def worker_seeds(seed: int, worker: int, incarnation: int, envs: int) -> WorkerSeeds:
    """For worker `worker` in its `incarnation`-th life (0, and one more at every restart or resume)."""
    sequence = SeedSequence(seed, spawn_key=(_WORKER, worker, incarnation))
    vector_environment, actions, libraries, *environments = _integers(sequence, 3 + envs)
    return WorkerSeeds(environments, vector_environment, actions, libraries)


def evaluation_seeds(seed: int, count: int) -> list[int]:
    """For `count` environments of an evaluation; apart from any training seed."""
    return _integers(SeedSequence(seed, spawn_key=(_EVALUATION,)), count)


def _integers(sequence: SeedSequence, count: int) -> list[int]:
    # 31 bits: Gymnasium and many environments refuse negative or NumPy integers, some anything over 2^31.
    return [int(word) >> 1 for word in sequence.generate_state(count)]
