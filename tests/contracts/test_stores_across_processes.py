"""The stores' contract between real processes: gradients, counts, rounds, and workers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch

from a3c.core import moments
from a3c.core.optimizers import Adam, RMSProp
from a3c.core.schedules import Budget
from a3c.types import Counts, Snapshot
from builders import (
    GradientDescent,
    SlowStripes,
    feedback_gradient,
    make_rule,
    make_store,
    pull,
    random_gradients,
    remote_close_gate,
    remote_feedback_rounds,
    remote_hold_lock,
    remote_pull,
    remote_push,
    remote_push_constant,
    remote_push_stripe,
    remote_push_until_stop,
    remote_torn_pulls,
)

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server and /proc"),
]

SHARED = ["hogwild", "locked", "synchronous"]
A_WHILE_S = 0.1  # what has not come back by then is waiting


@pytest.fixture(params=SHARED)
def name(request):
    return request.param


def handles(store, workers):
    return [store.connect(worker) for worker in range(workers)]


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, "forkserver") for name in SHARED), ("hogwild", "spawn"), ("synchronous", "spawn")],
)
def test_a_push_in_a_child_moves_the_parents_theta_and_statistics(name, method, start):
    context = multiprocessing.get_context(method)
    store = make_store(name, torch.zeros(2), make_rule(RMSProp(decay=0.75, epsilon=0.0), 0.5), context=context)
    (child,) = start(store.connect(0), context=context)
    child.call(remote_push, [2.0, -4.0], 7, 1)
    assert store.snapshot().parameters.tolist() == [-1.0, 1.0]  # g = dθ²/4, so a step is 0.5 * 2
    assert store.snapshot().statistics[0].tolist() == [1.0, 4.0]
    assert store.counters() == Snapshot(1, 7, 1, False)
    assert child.call(remote_pull) == ([-1.0, 1.0], Snapshot(1, 7, 1, False))


@pytest.mark.parametrize("optimizer", [RMSProp(), Adam()])
def test_a_scripted_order_of_pushes_equals_one_process_to_the_bit(name, optimizer, start):
    rule = make_rule(optimizer, 0.1, 0.0, Budget(env_steps=40), max_gradient_norm=2.0)
    gradients = random_gradients(12, 5)
    order = [0, 1, 2, 2, 1, 0, 1, 2, 0, 0, 2, 1]  # every worker once in three
    if name == "synchronous":
        expected = make_store(name, torch.ones(5), rule, 3)
        for worker, gradient in zip(order, gradients, strict=True):
            push(expected.connect(worker), gradient)
    else:
        expected = make_store("local", torch.ones(5), rule)
        for gradient in gradients:
            push(expected.connect(0), gradient)

    store = make_store(name, torch.ones(5), rule, 3)
    children = start(*handles(store, 3))
    for worker, gradient in zip(order, gradients, strict=True):
        children[worker].call(remote_push, gradient.tolist(), 3)
    assert_same(store, expected)


def push(handle, gradient):
    _, snapshot = pull(handle, gradient)
    handle.push(gradient, Counts(3, 0), snapshot.version)


def assert_same(store, expected):
    one, other = store.snapshot(), expected.snapshot()
    assert torch.equal(one.parameters, other.parameters)
    assert all(map(torch.equal, one.statistics, other.statistics))
    assert one[2:5] == other[2:5]
    assert torch.equal(one.moments, other.moments)


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_no_count_is_lost(name, start):
    store = make_store(name, torch.zeros(4), make_rule(), 3)
    children = start(*handles(store, 3))
    for child in children:
        child.start(remote_push_constant, 1.0, 2000, 3, 1)
    for child in children:
        child.result()
    assert store.counters() == Snapshot(6000, 18000, 6000, False)
    if name == "locked":
        assert store.snapshot().parameters.tolist() == [-6000.0] * 4


def test_pushes_by_several_workers_equal_as_many_by_one(start):
    rule, store = make_rule(Adam(), 0.01), None
    results = []
    for workers in (1, 3):
        store = make_store("locked", torch.zeros(3), rule, workers)
        children = start(*handles(store, workers))
        for child in children:
            child.start(remote_push_constant, 0.5, 300 // workers)
        for child in children:
            child.result()
        results.append(store)
    assert_same(*results)
    assert results[1].counters().version == 300  # Adam's step count


def test_a_locked_pull_sees_one_version_of_all_parameters(start):
    store = make_store("locked", torch.zeros(50_000), make_rule(), 3)  # pushes of -1: θ is the version
    watcher, *pushers = start(*handles(store, 3))
    for child in pushers:
        child.start(remote_push_constant, -1.0, 400)
    torn = watcher.call(remote_torn_pulls, 400)
    for child in pushers:
        child.result()
    assert torn == 0
    assert store.snapshot().parameters.unique().tolist() == [800.0]


def test_a_snapshot_cuts_between_updates_while_workers_hammer(start):
    # Slow pushes, hardly a gap between them, and three workers: there is next to never a moment without a push.
    size, workers = 300, 3
    store = make_store("hogwild", torch.zeros(size), make_rule(SlowStripes()), workers)
    children = start(*handles(store, workers))
    for worker, child in enumerate(children):
        child.start(remote_push_stripe, worker, workers)
    began, cuts = time.monotonic(), []
    while not cuts or (cuts[-1].version < 150 and time.monotonic() - began < 10):
        cuts.append(store.snapshot())
        time.sleep(0.005)
    assert time.monotonic() - began < 10
    store.request_stop()
    pushed = [child.result() for child in children]
    assert [int(store.parameters[worker]) for worker in range(workers)] == pushed
    for cut in cuts:
        counts = [cut.parameters[worker::workers].unique().tolist() for worker in range(workers)]
        assert [len(values) for values in counts] == [1, 1, 1]  # whole updates of each worker
        assert sum(values[0] for values in counts) == cut.version == cut.env_steps
        assert torch.equal(cut.statistics[0], cut.parameters)
    assert len({cut.version for cut in cuts}) > 5


def test_a_budget_is_crossed_without_waiting_for_anybody(name, start):
    store = make_store(name, torch.zeros(2), make_rule(budget=Budget(env_steps=200)), 3)
    children = start(*handles(store, 3))
    for child in children:
        child.start(remote_push_until_stop)
    versions = [child.result() for child in children]
    final = store.counters()
    assert final.stop
    assert 200 <= final.env_steps <= 202
    if name == "synchronous":
        assert (versions, final.env_steps, final.version) == ([67] * 3, 201, 67)


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_who_is_killed_holding_the_lock_gives_it_back(name, start):
    store = make_store(name, torch.zeros(2), make_rule(), 2)
    doomed, other = start(*handles(store, 2))
    doomed.call(remote_hold_lock)
    other.start(remote_push, [1.0, 2.0])
    assert other.busy_for(A_WHILE_S)
    doomed.kill()
    other.result(5)
    assert store.snapshot().parameters.tolist() == [-1.0, -2.0]


def test_a_gate_closed_by_the_dead_opens_by_itself_and_stays_open(start):
    store = make_store("hogwild", torch.zeros(2), make_rule(), 2)
    doomed, other = start(*handles(store, 2))
    doomed.call(remote_close_gate)
    doomed.kill()
    began = time.monotonic()
    other.call(remote_push_constant, 1.0, 50)
    assert time.monotonic() - began < 5
    assert store.counters().version == 50


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_who_is_killed_inside_an_update_leaves_at_most_that_one_half_done(name, start):
    store = make_store(name, torch.zeros(4), make_rule(GradientDescent(deadly=8.0)), 2)
    doomed, other = start(*handles(store, 2))
    doomed.start(remote_push, [8.0] * 4)
    doomed.process.join()
    other.call(remote_push, [1.0] * 4)
    assert store.snapshot().parameters.tolist() == [-9.0, -9.0, -1.0, -1.0]
    assert store.counters() == Snapshot(1, 2, 0, False)  # its steps count, its update does not


# Rounds of the synchronous store


def test_rounds_in_processes_repeat_to_the_bit_and_equal_one_process(start):
    rule = make_rule(RMSProp(), 0.1, max_gradient_norm=0.5)

    def fresh():
        return make_store("synchronous", torch.linspace(-1, 1, 37), rule, 3)

    serial, rounds = fresh(), 30
    for number in range(rounds):
        for handle in handles(serial, 3):
            theta, snapshot = pull(handle, serial.parameters)
            gradient = feedback_gradient(theta, handle.worker, number)
            handle.push(gradient, Counts(handle.worker + 1, 0), snapshot.version)
    for _ in range(2):
        store = fresh()
        children = start(*handles(store, 3))
        for child in children:
            child.start(remote_feedback_rounds, rounds)
        thetas = [child.result() for child in children]
        assert thetas == [serial.parameters.tolist()] * 3
        assert_same(store, serial)


def test_a_pull_waits_for_the_round_and_only_for_the_round(start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 2)
    first, second = start(*handles(store, 2))
    first.call(remote_push, [2.0])
    assert second.call(remote_pull) == ([0.0], Snapshot(0, 0, 0, False))
    first.start(remote_pull)
    assert first.busy_for(A_WHILE_S)
    second.call(remote_push, [4.0])
    assert first.result() == ([-3.0], Snapshot(1, 2, 0, False))


def test_who_leaves_in_the_middle_of_a_round_is_not_waited_for(start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 3)
    children = start(*handles(store, 3))
    for child in children[:2]:
        child.call(remote_push, [2.0])
        child.start(remote_pull)
    assert children[0].busy_for(A_WHILE_S)
    children[2].call(leave)
    assert [child.result() for child in children[:2]] == [([-2.0], Snapshot(1, 2, 0, False))] * 2


def leave(handle):
    handle.leave()


@pytest.mark.parametrize("pushed", [False, True])
def test_a_killed_worker_is_not_waited_for_and_what_it_pushed_counts(pushed, start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 3)
    first, second, doomed = start(*handles(store, 3))
    first.call(remote_push, [2.0])
    if pushed:
        doomed.call(remote_push, [5.0])
    doomed.kill()
    store.leave(2)
    first.start(remote_pull)
    assert first.busy_for(A_WHILE_S)
    second.call(remote_push, [2.0])
    expected = ([-3.0], Snapshot(1, 3, 0, False)) if pushed else ([-2.0], Snapshot(1, 2, 0, False))
    assert first.result() == expected


def test_a_round_that_somebody_died_closing_is_closed_by_its_leave_and_counted_once(start):
    rule = make_rule(GradientDescent(deadly=8.0))
    store = make_store("synchronous", torch.zeros(2), rule, 2, reduction="sum")
    waiting, doomed = start(*handles(store, 2))
    waiting.call(remote_push, [3.0, 3.0], 5, 1)
    waiting.start(remote_pull)
    doomed.start(remote_push, [5.0, 5.0], 5, 1)  # the sum, 8, kills who applies it
    doomed.process.join()
    assert waiting.busy_for(A_WHILE_S)
    assert store.counters() == Snapshot(0, 0, 0, False)
    store.leave(1)
    assert waiting.result() == ([-16.0, -8.0], Snapshot(1, 10, 2, False))  # the first half twice
    waiting.call(remote_push, [1.0, 1.0])
    assert waiting.call(remote_pull) == ([-17.0, -9.0], Snapshot(2, 11, 2, False))


def test_the_lock_of_a_synchronous_store_is_given_back_by_the_dead(start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 2)
    first, doomed = start(*handles(store, 2))
    doomed.call(remote_hold_lock)
    first.start(remote_push, [1.0])
    assert first.busy_for(A_WHILE_S)
    doomed.kill()
    first.result(5)
    store.leave(1)
    assert first.call(remote_pull) == ([-1.0], Snapshot(1, 1, 0, False))


def test_who_joins_in_the_middle_of_a_round_is_waited_for(start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 2)
    store.leave(1)
    first, second = start(*handles(store, 2))
    first.call(remote_push, [2.0])
    assert first.call(remote_pull) == ([-2.0], Snapshot(1, 1, 0, False))
    store.join(1)
    first.call(remote_push, [2.0])
    first.start(remote_pull)
    assert first.busy_for(A_WHILE_S)
    second.call(remote_push, [4.0])
    assert first.result() == ([-5.0], Snapshot(2, 3, 0, False))


def test_a_stop_requested_during_a_round_is_seen_by_all_when_it_closes(start):
    store = make_store("synchronous", torch.zeros(1), make_rule(), 2)
    first, second = start(*handles(store, 2))
    first.call(remote_push, [2.0])
    store.request_stop()
    assert not second.call(remote_pull)[1].stop  # who has not pushed yet is still waited for
    first.start(remote_pull)
    assert first.busy_for(A_WHILE_S)
    second.call(remote_push, [2.0])
    assert first.result() == second.call(remote_pull) == ([-2.0], Snapshot(1, 2, 0, True))


def test_a_stop_requested_at_any_time_ends_every_worker(name, start):
    for delay_s in np.linspace(0, 0.01, 4):
        store = make_store(name, torch.zeros(2), make_rule(), 2)
        children = start(*handles(store, 2))
        for child in children:
            child.start(remote_push_until_stop)
        time.sleep(delay_s)
        store.request_stop()
        for child in children:
            child.result(10)


# Moments of tracked scalars

M = 3


def rollout_samples(worker, number):
    """What a worker's rollout shows of the tracked scalars, [N, M]; not the same N for each."""
    generator = np.random.default_rng([worker, number])
    return 1e3 * worker + generator.normal(size=(generator.integers(1, 9), M))


def rollout_counts(worker, number):
    samples = torch.from_numpy(rollout_samples(worker, number))
    return Counts(len(samples), 0, moments.of(samples))


def push_rollout(handle, number):
    _, snapshot = pull(handle, handle.store.parameters)
    handle.push(torch.ones_like(handle.store.parameters), rollout_counts(handle.worker, number), snapshot.version)


def remote_push_rollouts(handle, times):
    """Push so many rollouts, then leave."""
    for number in range(times):
        push_rollout(handle, number)
    handle.leave()


def remote_pull_moments(handle):
    return pull(handle, handle.store.parameters)[1].moments.tolist()


def test_moments_pushed_at_once_are_those_of_all_data_and_of_a_serial_run_to_the_bit(name, start):
    times = 300, 200, 100
    store, serial = (make_store(name, torch.zeros(2), make_rule(), 3, tracked=M) for _ in range(2))
    children = start(*handles(store, 3))
    for child, number in zip(children, times, strict=True):
        child.start(remote_push_rollouts, number)
    for child in children:
        child.result()

    if name == "synchronous":
        for number in range(max(times)):
            for handle in handles(serial, 3):
                push_rollout(handle, number) if number < times[handle.worker] else handle.leave()
    else:
        for handle in handles(serial, 3):
            remote_push_rollouts(handle, times[handle.worker])
    found = store.snapshot().moments
    assert torch.equal(found, serial.snapshot().moments)
    assert [child.call(remote_pull_moments) for child in children] == [found.tolist()] * 3
    samples = np.concatenate([rollout_samples(worker, n) for worker in range(3) for n in range(times[worker])])
    torch.testing.assert_close(found, moments.of(torch.from_numpy(samples)), rtol=1e-11, atol=0)


def remote_push_stamped(handle, size):
    """Push moments whose columns are all the same, another one each time, until the store says stop."""
    gradient, generator = torch.zeros_like(handle.store.parameters), np.random.default_rng(handle.worker)
    while not (snapshot := handle.pull(torch.empty_like(gradient))).stop:
        column = torch.from_numpy(generator.normal(size=(4, 1)))
        handle.push(gradient, Counts(4, 0, moments.of(column).expand(3, size)), snapshot.version)
    handle.leave()  # who pushed before the stop was seen may be waiting for it


def remote_torn_moments(handle, times):
    """How many pulls gave moments whose columns differ, and how many different moments there were."""
    pulled = [pull(handle, handle.store.parameters)[1].moments for _ in range(times)]
    torn = sum(not torch.equal(seen, seen[:, :1].expand_as(seen)) for seen in pulled)
    return torn, len({seen[0, 0].item() for seen in pulled})


@pytest.mark.parametrize("name", ["hogwild", "locked"])
def test_a_pull_sees_whole_moments_while_workers_write_theirs(name, start):
    size = 20_000  # so that writing them takes long enough to be seen
    store = make_store(name, torch.zeros(1), make_rule(), 3, tracked=size)
    watcher, *pushers = start(*handles(store, 3))
    for child in pushers:
        child.start(remote_push_stamped, size)
    torn, different = watcher.call(remote_torn_moments, 200)
    store.request_stop()
    for child in pushers:
        child.result()
    assert torn == 0
    assert different > 5


def test_a_snapshots_moments_agree_with_its_counters_while_workers_hammer(name, start):
    store = make_store(name, torch.zeros(1), make_rule(), 3, tracked=M)
    children = start(*handles(store, 3))
    for child in children:
        child.start(remote_push_stamped, M)
    began, cuts, versions = time.monotonic(), [], set()
    while (not cuts or cuts[-1].version < 300 or len(versions) <= 5) and time.monotonic() - began < 10:
        cuts.append(store.snapshot())
        versions.add(cuts[-1].version)
    store.request_stop()
    for child in children:
        child.result()
    assert cuts[-1].version >= 300
    assert len(versions) > 5
    assert all(cut.moments[0].tolist() == [cut.env_steps] * M for cut in cuts)


class _Deadly(np.ndarray):
    """Kills the process that writes to it, with half of what it writes written."""

    def __setitem__(self, where, what):
        super().__setitem__((*where, slice(None), slice(None, None, 2)), -1.0)
        os.kill(os.getpid(), signal.SIGKILL)


def remote_die_writing_moments(handle):
    handle.store.moments = handle.store.moments.view(_Deadly)
    push_rollout(handle, 7)


@pytest.mark.parametrize("name", ["hogwild", "locked"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_who_is_killed_writing_moments_leaves_its_former_ones(name, before, start):
    store = make_store(name, torch.zeros(2), make_rule(), 2, tracked=M)
    doomed, other = start(*handles(store, 2))
    doomed.call(remote_push_rollouts, before)
    other.call(remote_push_rollouts, 3)
    kept = store.snapshot().moments
    doomed.start(remote_die_writing_moments)
    doomed.process.join()
    assert torch.equal(store.snapshot().moments, kept)
    assert other.call(remote_pull_moments) == kept.tolist()
    (replacement,) = start(store.connect(0))  # goes on where it was
    replacement.call(push_rollout, before)
    expected = [rollout_counts(0, n).moments for n in range(before + 1)] + [
        rollout_counts(1, n).moments for n in range(3)
    ]
    torch.testing.assert_close(store.snapshot().moments, moments.merge_all(torch.stack(expected)), rtol=1e-12, atol=0)


def remote_push_with_moments(handle, gradient, number):
    _, snapshot = pull(handle, handle.store.parameters)
    handle.push(torch.tensor(gradient), rollout_counts(handle.worker, number), snapshot.version)


def test_a_rounds_moments_are_merged_once_though_somebody_died_closing_it(start):
    rule = make_rule(GradientDescent(deadly=8.0))
    store = make_store("synchronous", torch.zeros(2), rule, 2, reduction="sum", tracked=M)
    waiting, doomed = start(*handles(store, 2))
    waiting.call(remote_push_with_moments, [3.0, 3.0], 0)
    doomed.start(remote_push_with_moments, [5.0, 5.0], 0)  # the sum, 8, kills who applies it
    doomed.process.join()
    assert torch.equal(store.snapshot().moments, moments.empty(M))
    store.leave(1)
    expected = moments.merge_all(torch.stack([rollout_counts(worker, 0).moments for worker in range(2)]))
    assert waiting.call(remote_pull_moments) == expected.tolist()
    waiting.call(remote_push_with_moments, [1.0, 1.0], 1)
    expected = moments.merge(expected, rollout_counts(0, 1).moments)
    assert waiting.call(remote_pull_moments) == expected.tolist()
