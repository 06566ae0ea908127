"""The store on Ray: equal to those in one process, and what becomes of it when its server dies."""

import os
import signal
import sys
import time

import pytest
import torch

from a3c.core.optimizers import RMSProp
from a3c.errors import ClusterError, StoreError
from a3c.stores.parameter_server import Push
from a3c.stores.ray import RayStore, answer
from a3c.types import Counts, Snapshot
from builders import initial_parameters, make_rule, make_store, pull, push_each, random_gradients, train_serially
from ray_cluster import kill_process_of, process_of, ray_cluster

pytestmark = pytest.mark.timeout(150)
ONE_STEP = Counts(1, 0)


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with ray_cluster():
        yield


def assert_same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


@pytest.mark.parametrize(
    ("name", "same", "workers"),
    [("ray", "local", 1), ("ray-1", "delayed-1", 1), ("ray-synchronous", "synchronous", 2)],
)
def test_training_through_ray_equals_a_store_of_this_process_to_the_bit(name, same, workers):
    rule = make_rule(RMSProp(), 0.01, max_gradient_norm=0.5)
    stores, tapes = [], []
    for kind in (name, same):
        store = make_store(kind, initial_parameters(), rule, workers)
        tapes.append(train_serially(store, workers))
        stores.append(store)
    assert_same_state(*stores)
    assert [update.losses for update in tapes[0]] == [update.losses for update in tapes[1]]
    assert [update.env_steps for update in tapes[0]] == [update.env_steps for update in tapes[1]]


def test_receipts_come_with_the_answer_that_a_pull_waits_for():
    gradients = random_gradients(5, 3)
    for name, late in (("ray", 1), ("ray-1", 2)):
        at_once = push_each(make_store("local", torch.zeros(3), make_rule()).connect(0), gradients, ONE_STEP)
        receipts = push_each(make_store(name, torch.zeros(3), make_rule()).connect(0), gradients, ONE_STEP)
        assert receipts[:late] == [None] * late
        assert [r.gradient_norm for r in receipts[late:]] == [r.gradient_norm for r in at_once[:-late]]
        assert [r.staleness for r in receipts[late:]] == [0, *[late - 1] * (4 - late)]


def test_a_push_that_comes_twice_counts_once():
    store = make_store("ray", torch.zeros(2), make_rule(), 2)
    session, _ = answer(store.server.enter.remote(0))
    push = Push(torch.ones(2).numpy(), 5, 1, None, (0, 0), 1)
    for sequence in (1, 1, 2, 1, 2):
        reply = answer(store.server.exchange.remote(0, session, sequence, push))
    assert reply.snapshot == store.counters() == Snapshot(2, 10, 2, False)
    assert store.snapshot().parameters.tolist() == [-2.0, -2.0]
    assert store.state_dict()["worker_episodes"] == [1]


def test_a_push_that_overtakes_another_waits_for_it():
    store = make_store("ray", torch.zeros(2), make_rule(RMSProp(), 0.1), 2)
    session, _ = answer(store.server.enter.remote(0))
    pushes = [Push(gradient.numpy(), 1, 0, None, (0, 0), 0) for gradient in random_gradients(3, 2)]
    leaves = store.server.leave.remote(0, session, 3)
    calls = [store.server.exchange.remote(0, session, number, pushes[number - 1]) for number in (3, 2, 1)]
    assert [answer(call).snapshot.version for call in calls] == [3, 2, 1]
    answer(leaves)
    same = make_store("local", torch.zeros(2), make_rule(RMSProp(), 0.1))
    for push in pushes:
        same.push(torch.from_numpy(push.gradient), ONE_STEP, 0)
    assert_same_state(store, same)


def test_a_push_that_comes_twice_in_a_round_fills_one_place():
    store = make_store("ray-synchronous", torch.zeros(2), make_rule(), 2)
    session, _ = answer(store.server.enter.remote(0))
    push = Push(torch.ones(2).numpy(), 5, 2, None, (0, 0), 2)
    calls = [store.server.exchange.remote(0, session, 1, push) for _ in range(2)]
    while store.pushed_episodes(0) != 2:
        time.sleep(0.01)
    assert store.state_dict()["worker_episodes"] == [0]  # it waits for the round
    push_each(store.connect(1), [torch.ones(2)], Counts(3, 1))
    assert [answer(call).snapshot for call in calls] == [Snapshot(1, 8, 3, False)] * 2
    assert store.state_dict()["worker_episodes"] == [2, 1]


@pytest.mark.parametrize("wrong", [7, "abc", [[1, 2]], [[0, 1.5, 2]], [["0", 1, 2]], [[0, -1, 2]], [[0, 1, 2]] * 2_000])
def test_what_tells_of_no_lost_episodes_is_refused(wrong):
    store = make_store("ray", torch.zeros(2), make_rule())
    with pytest.raises(StoreError, match="uncounted_episodes"):
        store.load_state_dict(store.state_dict() | {"uncounted_episodes": wrong, "parameters": torch.ones(2)})
    assert store.snapshot().parameters.tolist() == [0.0, 0.0]


def test_a_worker_that_has_begun_anew_is_the_only_one_of_its_number():
    store = make_store("ray", torch.zeros(2), make_rule())
    old, new = store.connect(0), store.connect(0)
    push_each(old, [torch.ones(2)], ONE_STEP)
    pull(old, torch.zeros(2))  # what was pushed has arrived, before the other comes
    push_each(new, [torch.ones(2)], ONE_STEP)
    _, snapshot = pull(new, torch.zeros(2))
    old.push(torch.ones(2), ONE_STEP, snapshot.version)
    with pytest.raises(StoreError, match="worker 0 has begun anew"):
        pull(old, torch.zeros(2))
    assert store.counters() == Snapshot(2, 2, 0, False)


@pytest.mark.parametrize("names", [("ray", "local"), ("ray-1", "delayed-1")])
@pytest.mark.parametrize("size", [3, 100_000])
def test_a_large_theta_travels_as_a_small_one_does(names, size):
    rule, gradients = make_rule(), random_gradients(4, size)
    stores = [make_store(name, torch.ones(size), rule, tracked=2) for name in names]
    for store in stores:
        handle = store.connect(0)
        push_each(handle, gradients, ONE_STEP)
        handle.leave()
    assert torch.equal(pull(stores[0].connect(0), gradients[0])[0], pull(stores[1].connect(0), gradients[0])[0])
    assert_same_state(*stores)


@pytest.mark.parametrize("size", [2, 100_000])
def test_a_server_that_is_killed_goes_on_from_what_was_kept(size):
    store = RayStore(torch.zeros(size), make_rule(RMSProp(), 0.1), 2)
    state = store.state_dict()
    state["square_average"].fill_(0.25)
    store.load_state_dict(state | {"version": 7, "env_steps": 70, "episodes": 3})  # kept, as a join, a leave and a stop
    handle = store.connect(0)
    theta, snapshot = pull(handle, torch.zeros(size))
    assert snapshot == Snapshot(7, 70, 3, False)
    kill_process_of(store.server)
    # Its gradient is of the life before: it is not applied, but its steps count.
    handle.push(torch.ones(size), Counts(5, 1), snapshot.version)
    again, snapshot = pull(handle, torch.zeros(size))
    assert torch.equal(again, theta)
    assert snapshot == Snapshot(7, 75, 4, False)
    receipt = handle.push(torch.ones(size), Counts(5, 1), snapshot.version)
    assert receipt is not None
    assert not receipt.applied
    moved, snapshot = pull(handle, torch.zeros(size))
    assert snapshot == Snapshot(8, 80, 5, False)
    assert not torch.equal(moved, theta)
    store.request_stop()
    kill_process_of(store.server)
    assert store.counters().stop


def test_a_server_that_hangs_is_started_anew(monkeypatch):
    store = RayStore(torch.zeros(2), make_rule(RMSProp(), 0.1), 2)
    store.load_state_dict(store.state_dict() | {"version": 7, "env_steps": 70})  # kept
    handle = store.connect(0)
    _, snapshot = pull(handle, torch.zeros(2))
    os.kill(process_of(store.server), signal.SIGSTOP)
    handle.push(torch.ones(2), Counts(5, 1), snapshot.version)
    with pytest.raises(ClusterError, match="has not answered for 1 s.*a3c resume"):
        answer(store.server.counters.remote(), 1.0)
    monkeypatch.setattr("a3c.stores.ray._ANSWER_S", 1.0)
    assert store.counters().env_steps in (70, 75)  # what was kept, and perhaps already what was on its way
    assert pull(handle, torch.zeros(2))[1] == Snapshot(7, 75, 1, False)


@pytest.mark.parametrize("size", [2, 200_000])
def test_a_keeper_that_hangs_is_started_anew_and_told_again(size):
    store = RayStore(torch.zeros(size), make_rule(RMSProp(), 0.1), 2)
    store.load_state_dict(store.state_dict() | {"version": 7, "env_steps": 70})

    def hurry(server):
        parameter_server = sys.modules[type(server).__module__]
        parameter_server._KEEPER_S, parameter_server._KEEP_EVERY_S = 1.0, 0.0
        server._next_keep = 0.0

    server, keeper = process_of(store.server), process_of(store.keeper)
    answer(store.server.__ray_call__.remote(hurry))
    os.kill(keeper, signal.SIGSTOP)
    store.join(0)  # of which the keeper is to hear
    assert process_of(store.keeper) != keeper
    assert process_of(store.server) == server
    handle = store.connect(0)
    push_each(handle, [torch.ones(size)] * 3, ONE_STEP)
    pull(handle, torch.zeros(size))
    while not answer(store.keeper.__ray_call__.remote(lambda keeper: "cut" in keeper._kept)):
        time.sleep(0.05)
    kill_process_of(store.server)
    assert 71 <= store.counters().env_steps <= 73  # by the latest cut that the new keeper has heard of


@pytest.mark.parametrize("size", [2, 100_000])
def test_a_server_may_die_while_an_update_is_in_flight(size):
    store = RayStore(torch.zeros(size), make_rule(RMSProp(), 0.1), 1, in_flight=1)
    handle = store.connect(0)
    for _ in range(3):
        _, snapshot = pull(handle, torch.zeros(size))
        handle.push(torch.ones(size), ONE_STEP, snapshot.version)
        kill_process_of(store.server)
    for _ in range(4):
        theta, snapshot = pull(handle, torch.zeros(size))
        handle.push(torch.ones(size), ONE_STEP, snapshot.version)
    handle.leave()
    assert store.counters().version >= 2  # those of its latest life
    assert not torch.equal(pull(store.connect(0), torch.zeros(size))[0], theta)


def test_a_server_keeps_itself_now_and_then():
    store = RayStore(torch.zeros(2), make_rule(), 1)
    handle, began = store.connect(0), time.monotonic()
    while time.monotonic() - began < 3:
        push_each(handle, [torch.ones(2)], ONE_STEP)
    pull(handle, torch.zeros(2))  # what was pushed last has arrived
    before = store.counters()
    kill_process_of(store.server)
    _, after = pull(store.connect(0), torch.zeros(2))
    assert 0 < after.version <= before.version
    assert after.env_steps == after.version  # a cut between updates
    assert store.snapshot().parameters.tolist() == [-float(after.version)] * 2


def test_a_round_outlives_the_server():
    store = RayStore(torch.zeros(2), make_rule(), 2, reduction="mean")
    for worker in range(2):
        store.join(worker)
    first, second = store.connect(0), store.connect(1)
    versions = [pull(handle, torch.zeros(2))[1].version for handle in (first, second)]
    first.push(torch.ones(2), ONE_STEP, versions[0])
    kill_process_of(store.server)
    second.push(torch.ones(2), ONE_STEP, versions[1])
    # Ray tries both calls again; their gradients are of the life before, or were never taken.
    for handle in (first, second):
        assert pull(handle, torch.zeros(2))[1].env_steps == 2
    before = store.counters()
    for handle in (first, second):
        handle.push(torch.ones(2), ONE_STEP, before.version)
    theta, snapshot = pull(first, torch.zeros(2))
    assert (snapshot.version, snapshot.env_steps) == (before.version + 1, 4)
    assert theta.tolist() == [-float(snapshot.version)] * 2
