"""Moments in the stores: whose rollout came first makes no difference, and no store differs from another."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from a3c.core import moments
from a3c.types import Counts
from builders import make_rule, make_store, pull, push_each

M = 4


def deltas(seed, count=6, size=M):
    generator = torch.Generator().manual_seed(seed)
    return moments.of(1e3 + torch.randn(count, size, generator=generator, dtype=torch.float64))


def rollouts(seeds):
    return [Counts(6, 0, deltas(seed)) for seed in seeds]


def store_of(name, workers=1, **options):
    return make_store(name, torch.zeros(2), make_rule(), workers, tracked=M, **options)


@pytest.mark.parametrize("name", ["hogwild", "locked", "synchronous", "delayed-0"])
def test_one_worker_keeps_the_local_stores_moments_to_the_bit(name):
    store, local = store_of(name), store_of("local")
    for counts in [*rollouts(range(5)), Counts(6, 1), *rollouts([9])]:
        for handle in (store.connect(0), local.connect(0)):
            push_each(handle, [torch.ones(2)], counts)
        pulled, expected = (pull(each.connect(0), torch.zeros(2))[1] for each in (store, local))
        assert torch.equal(pulled.moments, expected.moments)
    assert torch.equal(store.snapshot().moments, local.snapshot().moments)


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_any_interleaving_of_the_workers_gives_the_same_bits(name):
    found = set()
    for order in set(itertools.permutations([0, 0, 0, 1, 1, 2])):
        store = store_of(name, 3)
        seeds = [iter(range(10 * worker, 10 * worker + 10)) for worker in range(3)]
        for worker in order:
            push_each(store.connect(worker), [torch.ones(2)], *rollouts([next(seeds[worker])]))
        found.add(str(store.snapshot().moments.view(torch.int64).tolist()))
    assert len(found) == 1


def test_any_order_within_a_round_gives_the_same_bits():
    found = set()
    for order in itertools.permutations(range(4)):
        store = store_of("synchronous", 4)
        for number in range(2):
            for worker in order:
                push_each(store.connect(worker), [torch.ones(2)], *rollouts([10 * number + worker]))
        found.add(str(store.snapshot().moments.view(torch.int64).tolist()))
    assert len(found) == 1


def test_a_rounds_moments_are_seen_when_the_round_has_closed_and_dropped_rollouts_add_none():
    store = store_of("synchronous", 3)
    first, second, third = (store.connect(worker) for worker in range(3))
    first.push(torch.ones(2), *rollouts([0]), 0)
    second.push(None, Counts(6, 0), 0)
    for seen in (pull(third, torch.zeros(2))[1].moments, store.snapshot().moments):
        assert torch.equal(seen, moments.empty(M))
    third.push(torch.ones(2), *rollouts([2]), 0)
    expected = moments.merge_all(torch.stack([deltas(0), deltas(2)]))
    for handle in (first, second, third):
        assert torch.equal(pull(handle, torch.zeros(2))[1].moments, expected)
        handle.push(None, Counts(6, 0), 0)  # and what lay in the rows is not merged again
    assert torch.equal(store.snapshot().moments, expected)
    assert store.counters().env_steps == 36


def test_a_restored_synchronous_store_forgets_moments_that_lie_ready():
    store = store_of("synchronous", 2)
    for handle in map(store.connect, (0, 1)):
        handle.push(torch.ones(2), *rollouts([0]), 0)
    state = store.state_dict()
    pull(store.connect(0), torch.zeros(2))
    store.connect(0).push(torch.ones(2), *rollouts([1]), 1)
    store.load_state_dict(state)
    for handle in map(store.connect, (0, 1)):
        handle.push(None, Counts(6, 0), 1)
    assert torch.equal(store.snapshot().moments, state["moments"])


def test_delayed_moments_are_merged_when_their_push_is_applied():
    store = store_of("delayed-2")
    handle = store.connect(0)
    seen = []
    for counts in rollouts(range(4)):
        push_each(handle, [torch.ones(2)], counts)
        counts.moments.fill_(-1.0)  # the caller's own again
        seen.append(pull(handle, torch.zeros(2))[1].moments)
    once = deltas(0)
    expected = [moments.empty(M), moments.empty(M), once, moments.merge(once, deltas(1))]
    assert all(map(torch.equal, seen, expected))
    store.leave(0)
    assert store.snapshot().moments[0].tolist() == [24.0] * M


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_workers_go_on_beside_what_a_resume_brought_along(name):
    begun = store_of(name, 2)
    for worker in (0, 1):
        push_each(begun.connect(worker), [torch.ones(2)], *rollouts([worker]))
    resumed = store_of(name, 3)
    push_each(resumed.connect(2), [torch.ones(2)] * 2, *rollouts([98, 99]))  # forgotten, in both buffers
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(resumed.snapshot().moments, begun.snapshot().moments)
    push_each(resumed.connect(1), [torch.ones(2)], *rollouts([2]))
    expected = moments.merge_all(torch.stack([deltas(seed) for seed in range(3)]))
    torch.testing.assert_close(resumed.snapshot().moments, expected, rtol=1e-12, atol=0)


class _Interrupted(np.ndarray):
    """Its first read is half of what was there before `interruption`, half of what is there after it."""

    def __getitem__(self, where):
        found = super().__getitem__(where)
        if (interruption := self.__dict__.pop("interruption", None)) is not None:
            half = np.array(found)
            interruption()
            half[..., ::2] = super().__getitem__(where)[..., ::2]
            return half
        return found


@pytest.mark.parametrize("pushes", [1, 2, 3])
def test_a_read_that_pushes_overtake_is_made_again(pushes):
    store = store_of("hogwild", 2)
    writer = copy.copy(store).connect(0)  # the same memory, as another process would map it
    push_each(writer, [torch.ones(2)] * 2, *rollouts([0, 1]))

    def overtake():
        push_each(writer, [torch.ones(2)] * pushes, *rollouts(range(2, 2 + pushes)))

    store.moments = store.moments.view(_Interrupted)
    store.moments.interruption = overtake
    seen = store.connect(1).pull(torch.zeros(2)).moments
    assert torch.equal(seen, writer.store.snapshot().moments)
    assert seen[0].tolist() == [6.0 * (2 + pushes)] * M


def test_slots_share_no_cache_line():
    store = store_of("hogwild", 3)
    starts = [store.moments[slot].__array_interface__["data"][0] for slot in range(4)]
    assert all(start % 64 == 0 for start in starts)
