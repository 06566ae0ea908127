"""One contract for every parameter store: what it applies, counts, reports, refuses and restores."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from a3c.core import moments
from a3c.core.optimizers import Adam, RMSProp
from a3c.core.schedules import Budget
from a3c.errors import StoreError
from a3c.types import Counts, Receipt, Snapshot
from builders import STORE_NAMES, make_rule, make_store, pull, push_each, random_gradients

AT_ONCE = ["local", "hogwild", "locked", "delayed-0"]
INITIAL = torch.tensor([1.0, 2.0, 3.0])
ONE_STEP = Counts(1, 0)


@pytest.fixture(params=STORE_NAMES)
def name(request):
    return request.param


def finish(store, *workers):
    """Leave, so that what a delayed store holds back is applied."""
    for worker in workers or (0,):
        store.leave(worker)


def theta(store):
    return store.snapshot().parameters.tolist()


def test_a_pull_copies_theta_and_reports_the_counters(name):
    store = make_store(name, INITIAL, make_rule())
    out, snapshot = pull(store.connect(0), INITIAL)
    assert out.tolist() == [1.0, 2.0, 3.0]
    assert snapshot == Snapshot(version=0, env_steps=0, episodes=0, stop=False)
    out.zero_()
    assert theta(store) == [1.0, 2.0, 3.0]


def test_the_store_keeps_a_copy_of_the_initial_parameters(name):
    initial = INITIAL.clone()
    store = make_store(name, initial, make_rule())
    initial.zero_()
    assert theta(store) == [1.0, 2.0, 3.0]


def test_known_gradients_are_applied_exactly_each_once(name):
    store = make_store(name, INITIAL, make_rule(learning_rate=0.5))
    push_each(store.connect(0), [torch.tensor(g) for g in ([2.0, 0, 0], [0, 4.0, 0], [0, 0, 8.0])], ONE_STEP)
    finish(store)
    assert theta(store) == [0.0, 0.0, -1.0]


@pytest.mark.parametrize("name", [*AT_ONCE, "synchronous"])
def test_the_next_pull_sees_each_gradient(name):
    store = make_store(name, torch.zeros(2), make_rule())
    handle, seen = store.connect(0), []
    for gradient in ([1.0, 0.0], [0.0, 2.0], [4.0, 0.0]):
        push_each(handle, [torch.tensor(gradient)], ONE_STEP)
        seen.append(pull(handle, torch.zeros(2))[0].tolist())
    assert seen == [[-1.0, 0.0], [-1.0, -2.0], [-5.0, -2.0]]


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        (RMSProp(decay=0.9, epsilon=1e-3), lambda p: torch.optim.RMSprop(p, alpha=0.9, eps=1e-3)),
        (Adam(beta1=0.8, beta2=0.95), lambda p: torch.optim.Adam(p, betas=(0.8, 0.95))),
    ],
)
def test_a_run_equals_torch_optim_with_the_rate_set_by_hand(name, optimizer, reference):
    gradients = random_gradients(12, 5, torch.float64)
    store = make_store(name, torch.ones(5, dtype=torch.float64), make_rule(optimizer, 0.1, 0.0, Budget(48)))
    push_each(store.connect(0), gradients, Counts(3, 0))
    finish(store)

    parameter = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    stepper = reference([parameter])
    for number, gradient in enumerate(gradients, 1):
        stepper.param_groups[0]["lr"] = 0.1 * (1 - 3 * number / 48)
        parameter.grad = gradient.clone()
        stepper.step()
    torch.testing.assert_close(store.snapshot().parameters, parameter.data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_the_pushed_gradient_is_left_alone_and_may_be_reused_at_once(name, max_norm):
    store = make_store(name, torch.zeros(2), make_rule(max_gradient_norm=max_norm))
    handle, gradient = store.connect(0), torch.empty(2)
    for value in (3.0, 4.0):
        gradient.copy_(torch.tensor([value, 0.0]))
        push_each(handle, [gradient], ONE_STEP)
        assert gradient.tolist() == [value, 0.0]
        gradient.fill_(99.0)
    finish(store)
    assert theta(store) == [-7.0 if max_norm is None else -2.0, 0.0]


def test_counters_are_exact_and_dropped_rollouts_count_their_steps(name):
    store = make_store(name, torch.zeros(1), make_rule())
    counts = Counts(5, 1), Counts(7, 0), Counts(11, 2)
    push_each(store.connect(0), [torch.ones(1), None, torch.ones(1)], *counts)
    finish(store)
    assert store.counters()[:3] == (2, 23, 3)
    assert theta(store) == [-2.0]


def test_counts_go_beyond_32_bits(name):
    store = make_store(name, torch.zeros(1), make_rule())
    store.load_state_dict(store.state_dict() | {"version": 2**31 - 1, "env_steps": 2**31 - 1, "episodes": 2**40})
    push_each(store.connect(0), [torch.ones(1)], Counts(2**31, 2**32))
    finish(store)
    assert store.counters()[:3] == (2**31, 2**32 - 1, 2**40 + 2**32)
    assert store.snapshot()[2:5] == (2**31, 2**32 - 1, 2**40 + 2**32)


@pytest.mark.parametrize("name", AT_ONCE)
def test_staleness_counts_the_updates_since_the_pull(name):
    store = make_store(name, torch.zeros(1), make_rule(), workers=2)
    first, second = store.connect(0), store.connect(1)
    pulled = [pull(handle, torch.zeros(1))[1].version for handle in (first, second)]
    receipts = [
        first.push(torch.ones(1), ONE_STEP, pulled[0]),
        second.push(torch.ones(1), ONE_STEP, pulled[1]),
        second.push(torch.ones(1), ONE_STEP, pulled[1]),
    ]
    assert [receipt.staleness for receipt in receipts] == [0, 1, 2]


def test_the_learning_rate_follows_the_steps_of_all_workers_together(name):
    store = make_store(name, torch.zeros(1), make_rule(learning_rate=1.0, final=0.0, budget=Budget(env_steps=8)), 2)
    first, second = store.connect(0), store.connect(1)
    for handle, steps, together in ((first, 1, 1), (second, 1, 2), (first, 2, 4), (second, 2, 6)):
        push_each(handle, [-torch.ones(1)], Counts(steps, 0))
        while name in ("ray", "ray-1") and store.counters().env_steps < together:  # it is still on its way
            time.sleep(0.01)
    finish(store, 0, 1)
    # At once: T = 1, 2, 4, 6 gives 7/8 + 6/8 + 4/8 + 2/8. Rounds of two, averaged: T = 2, 6.
    assert theta(store) == [6 / 8 + 2 / 8 if name.endswith("synchronous") else 19 / 8]


def test_the_learning_rate_goes_on_where_it_was_after_a_resume(name):
    rule = make_rule(learning_rate=1.0, final=0.0, budget=Budget(env_steps=8))
    store = make_store(name, torch.zeros(1), rule)
    push_each(store.connect(0), [-torch.ones(1)], Counts(4, 0))
    finish(store)
    resumed = make_store(name, torch.zeros(1), rule)
    resumed.load_state_dict(store.state_dict())
    push_each(resumed.connect(0), [-torch.ones(1)], Counts(2, 0))
    finish(resumed)
    assert theta(store) == [4 / 8]
    assert theta(resumed) == [4 / 8 + 2 / 8]


@pytest.mark.parametrize("name", AT_ONCE)
def test_receipts_of_a_store_that_applies_at_once(name):
    rule = make_rule(learning_rate=1.0, final=0.0, budget=Budget(env_steps=8), max_gradient_norm=1.0)
    handle = make_store(name, torch.zeros(2), rule).connect(0)
    gradients = [torch.tensor([3.0, 4.0]), None, torch.tensor([torch.nan, 0.0])]
    applied, dropped, poisoned = push_each(handle, gradients, Counts(2, 0))
    assert applied == Receipt(True, 0, 0.75, 5.0)
    assert dropped == Receipt(False, 0, 0.0, 0.0)
    assert (poisoned.applied, poisoned.staleness, poisoned.learning_rate) == (False, 0, 0.25)


@pytest.mark.parametrize("name", ["synchronous"])
def test_receipts_of_a_store_that_waits_come_one_push_later(name):
    rule = make_rule(learning_rate=1.0, final=0.0, budget=Budget(env_steps=8), max_gradient_norm=1.0)
    handle = make_store(name, torch.zeros(2), rule).connect(0)
    gradients = [torch.tensor([3.0, 4.0]), None, torch.tensor([0.0, torch.inf]), torch.zeros(2)]
    none, applied, dropped, poisoned = push_each(handle, gradients, Counts(2, 0))
    assert none is None
    assert applied == Receipt(True, 0, 0.75, 5.0)
    assert dropped == Receipt(False, 0, 0.0, 0.0)
    assert poisoned == Receipt(False, 0, 0.25, torch.inf)


@pytest.mark.parametrize(
    ("budget", "spends"),
    [(Budget(env_steps=6), Counts(3, 0)), (Budget(episodes=2), Counts(9, 1)), (Budget(10**6, 2), Counts(9, 1))],
)
def test_a_spent_budget_stops(name, budget, spends):
    store = make_store(name, torch.zeros(1), make_rule(budget=budget), workers=1)
    handle = store.connect(0)
    push_each(handle, [torch.ones(1)], spends)
    assert not store.counters().stop
    push_each(handle, [torch.ones(1)], spends)
    finish(store)
    assert pull(handle, torch.zeros(1))[1].stop
    assert store.counters().stop


def test_a_requested_stop_is_seen_at_the_next_pull(name):
    store = make_store(name, torch.zeros(1), make_rule(), workers=2)
    handles = store.connect(0), store.connect(1)
    store.request_stop()
    store.request_stop()
    assert store.counters().stop
    assert all(pull(handle, torch.zeros(1))[1].stop for handle in handles)


@pytest.mark.parametrize("optimizer", [RMSProp(), Adam()])
def test_a_saved_state_restores_to_the_bit_and_goes_on_as_if_never_interrupted(name, optimizer):
    def fresh():
        return make_store(name, torch.ones(5), make_rule(optimizer, 0.01, 0.0, Budget(env_steps=100)))

    gradients = random_gradients(6, 5)
    whole = fresh()
    push_each(whole.connect(0), gradients, Counts(3, 1))
    finish(whole)
    begun = fresh()
    push_each(begun.connect(0), gradients[:3], Counts(3, 1))
    finish(begun)
    resumed = fresh()
    resumed.load_state_dict(begun.state_dict())
    assert_same_state(resumed.state_dict(), begun.state_dict())
    push_each(resumed.connect(0), gradients[3:], Counts(3, 1))
    finish(resumed)
    assert_same_state(resumed.state_dict(), whole.state_dict())


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def test_a_saved_state_has_names_and_is_a_copy(name):
    store = make_store(name, torch.zeros(2), make_rule(Adam()))
    state = store.state_dict()
    push_each(store.connect(0), [torch.ones(2)], ONE_STEP)
    finish(store)
    names = {
        "parameters",
        "average",
        "square_average",
        "version",
        "env_steps",
        "episodes",
        "worker_episodes",
        "moments",
    }
    assert set(state) == names
    assert (state["parameters"].tolist(), state["average"].tolist()) == ([0.0, 0.0], [0.0, 0.0])


def test_episodes_are_counted_worker_by_worker_and_go_on_after_a_resume(name):
    begun = make_store(name, torch.zeros(2), make_rule(), workers=2)
    first, second = begun.connect(0), begun.connect(1)
    for handle, episodes in ((first, 3), (second, 5), (first, 1)):
        handle.pull(torch.empty(2))
        handle.push(torch.ones(2), Counts(9, episodes), 0)
        if handle is second:
            second.leave()
    if not name.startswith("ray"):  # there a push may still be on its way
        assert [begun.pushed_episodes(worker) for worker in range(2)] == [4, 5]  # though it may be counted later
    finish(begun, 0, 1)
    assert begun.state_dict()["worker_episodes"] == [4, 5]
    assert [begun.pushed_episodes(worker) for worker in range(2)] == [4, 5]  # from there another life numbers on
    fewer = make_store(name, torch.zeros(2), make_rule())
    fewer.load_state_dict(begun.state_dict())
    assert fewer.pushed_episodes(0) == 4
    push_each(fewer.connect(0), [torch.ones(2)], Counts(9, 2))
    finish(fewer)
    assert fewer.counters().episodes == 11
    again = make_store(name, torch.zeros(2), make_rule(), workers=3)
    again.load_state_dict(fewer.state_dict())
    assert [again.pushed_episodes(worker) for worker in range(3)] == [6, 5, 0]
    assert again.counters().episodes == 11


@pytest.mark.parametrize(
    "wrong", [7, [1.5], [-1], ["1"], [2**62, 2**62], [0] * 5_000], ids=lambda value: str(value)[:30]
)
def test_what_counts_no_episodes_is_refused(name, wrong):
    store = make_store(name, torch.zeros(2), make_rule())
    with pytest.raises(StoreError, match="worker_episodes"):
        store.load_state_dict(store.state_dict() | {"worker_episodes": wrong, "parameters": torch.ones(2)})
    assert theta(store) == [0.0, 0.0]


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(1), torch.ones(1, 2), torch.ones(2).double()])
def test_vectors_unlike_theta_are_refused_and_change_nothing(name, wrong):
    store = make_store(name, torch.zeros(2), make_rule(RMSProp()))
    handle = store.connect(0)
    with pytest.raises(StoreError, match="gradient"):
        handle.push(wrong, Counts(5, 1), 0)
    with pytest.raises(StoreError, match="pull"):
        handle.pull(wrong.clone())
    for key in ("parameters", "square_average"):
        with pytest.raises(StoreError, match="saved state"):
            store.load_state_dict(store.state_dict() | {"env_steps": 9, key: wrong})
    finish(store)
    assert store.counters() == Snapshot(0, 0, 0, False)
    assert theta(store) == [0.0, 0.0]


@pytest.mark.parametrize("counter", ["version", "env_steps", "episodes"])
@pytest.mark.parametrize("wrong", [-1, 1.5, float("inf"), float("nan"), 2**63, "7", None])
def test_counters_that_are_no_counts_are_refused_and_change_nothing(name, counter, wrong):
    store = make_store(name, torch.zeros(2), make_rule(RMSProp()))
    state = store.state_dict() | {"parameters": torch.ones(2), counter: wrong}
    with pytest.raises(StoreError, match=f"the saved state's {counter} is .*: a whole number"):
        store.load_state_dict(state)
    assert store.counters() == Snapshot(0, 0, 0, False)
    assert theta(store) == [0.0, 0.0]


def test_a_saved_state_of_another_optimiser_is_refused(name):
    store = make_store(name, torch.zeros(2), make_rule(RMSProp()))
    state = store.state_dict()
    with pytest.raises(StoreError, match="'average'"):
        make_store(name, torch.zeros(2), make_rule(Adam())).load_state_dict(state)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_a_non_finite_gradient_is_counted_and_changes_nothing(name, poison, max_norm):
    store = make_store(name, torch.ones(2), make_rule(Adam(), max_gradient_norm=max_norm))
    handle = store.connect(0)
    push_each(handle, [torch.ones(2)], Counts(2, 1))
    finish(store)
    before = store.snapshot()
    store.join(0)
    push_each(handle, [torch.tensor([1.0, poison])], Counts(2, 1))
    finish(store)
    after = store.snapshot()
    assert torch.equal(after.parameters, before.parameters)
    assert all(map(torch.equal, after.statistics, before.statistics))
    assert after[2:5] == (1, 4, 2)


def test_the_gradient_is_clipped_by_its_global_norm(name):
    store = make_store(name, torch.zeros(2), make_rule(max_gradient_norm=1.25))
    push_each(store.connect(0), [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])], ONE_STEP)
    finish(store)
    assert theta(store) == [-0.75, -2.0]


def test_who_has_left_is_not_waited_for_and_may_leave_again(name):
    store = make_store(name, torch.zeros(1), make_rule(), workers=2)
    first, second = store.connect(0), store.connect(1)
    second.leave()
    store.leave(1)
    push_each(first, [torch.ones(1), torch.ones(1)], ONE_STEP)
    first.leave()
    assert pull(first, torch.zeros(1)) == (torch.tensor([-2.0]), Snapshot(2, 2, 0, False))


@pytest.mark.parametrize("name", ["hogwild", "locked", "synchronous"])
def test_only_workers_with_a_place_can_connect(name):
    store = make_store(name, torch.zeros(1), make_rule(), workers=2)
    for worker in (-1, 2):
        with pytest.raises(AssertionError):
            store.connect(worker)


# Moments of tracked scalars


def deltas(seed, size=2):
    generator = torch.Generator().manual_seed(seed)
    return moments.of(torch.randn(5, size, generator=generator, dtype=torch.float64))


def tracking(name, tracked=2, optimizer=None):
    return make_store(name, torch.zeros(2), make_rule(optimizer), tracked=tracked)


def test_pushed_moments_are_merged_and_come_back_at_a_pull_as_a_copy(name):
    store = tracking(name)
    handle = store.connect(0)
    assert torch.equal(pull(handle, torch.zeros(2))[1].moments, moments.empty(2))
    push_each(handle, [torch.ones(2)] * 3, *(Counts(5, 0, deltas(seed)) for seed in range(3)))
    finish(store)
    pulled = pull(handle, torch.zeros(2))[1].moments
    expected = moments.merge_all(torch.stack([deltas(seed) for seed in range(3)]))
    torch.testing.assert_close(pulled, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(store.snapshot().moments, pulled)
    kept = pulled.clone()
    for copy in (pulled, store.snapshot().moments, store.state_dict()["moments"]):
        copy.fill_(-1.0)
    assert torch.equal(pull(handle, torch.zeros(2))[1].moments, kept)
    assert store.counters().moments is None


@pytest.mark.parametrize("seed", [0, 1])
def test_moments_are_those_of_all_data_whoever_comes_first(name, seed):
    generator = np.random.default_rng(seed)
    store, samples = make_store(name, torch.zeros(1), make_rule(), 3, tracked=2), []
    handles = [store.connect(worker) for worker in range(3)]
    for _ in range(4):
        for handle in handles:
            pull(handle, torch.zeros(1))
        for worker in generator.permutation(3):
            samples.append(1e3 * worker + generator.normal(size=(generator.integers(1, 9), 2)))
            tracked = moments.of(torch.from_numpy(samples[-1]))
            handles[worker].push(torch.ones(1), Counts(len(samples[-1]), 0, tracked), 0)
    for handle in handles:
        pull(handle, torch.zeros(1))
    finish(store, 0, 1, 2)
    expected = moments.of(torch.from_numpy(np.concatenate(samples)))
    torch.testing.assert_close(store.snapshot().moments, expected, rtol=1e-11, atol=0)


def test_where_nothing_is_tracked_nothing_comes_back(name):
    store = make_store(name, torch.zeros(2), make_rule())
    push_each(store.connect(0), [torch.ones(2)] * 2, ONE_STEP, Counts(1, 0, moments.empty(0)))
    finish(store)
    assert pull(store.connect(0), torch.zeros(2))[1].moments is None
    assert store.snapshot().moments.shape == (3, 0)


def test_a_rollout_without_moments_changes_none_and_one_with_them_adds_them_whatever_its_gradient(name):
    store = tracking(name)
    gradients = [torch.ones(2), None, torch.ones(2), torch.tensor([torch.nan, 0.0])]
    added = Counts(5, 0, deltas(0)), Counts(5, 0), Counts(5, 0), Counts(5, 0, deltas(1))
    push_each(store.connect(0), gradients, *added)
    finish(store)
    assert torch.equal(store.snapshot().moments, moments.merge(deltas(0), deltas(1)))
    assert store.counters().env_steps == 20


def test_pushed_moments_may_be_reused_at_once(name):
    store = tracking(name)
    own = deltas(0)
    push_each(store.connect(0), [torch.ones(2)], Counts(5, 0, own))
    own.fill_(-1.0)
    finish(store)
    assert torch.equal(store.snapshot().moments, deltas(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (moments.empty(3), r"\[3, 3\].*tracked=2"),
        (moments.empty(0), r"\[3, 0\].*tracked=2"),
        (torch.zeros(2, dtype=torch.float64), r"\[2\]"),
        (torch.zeros(2, 2, dtype=torch.float64), r"\[2, 2\]"),
        (torch.zeros(3, 2), "float32"),
        (torch.tensor([[1, 1], [0, torch.nan], [0, 0]], dtype=torch.float64), r"mean of nan \(column 1\)"),
        (torch.tensor([[1, 1], [0, 0], [torch.inf, 0]], dtype=torch.float64), r"deviations of inf \(column 0\)"),
    ],
)
def test_moments_of_another_shape_or_not_finite_are_refused_and_change_nothing(name, wrong, message):
    store = tracking(name, optimizer=RMSProp())
    handle = store.connect(0)
    with pytest.raises(StoreError, match=f"the rollout's moments.*{message}"):
        handle.push(torch.ones(2), Counts(5, 1, wrong), 0)
    with pytest.raises(StoreError, match=f"the saved state's moments.*{message}"):
        store.load_state_dict(store.state_dict() | {"env_steps": 9, "parameters": torch.ones(2), "moments": wrong})
    finish(store)
    assert store.counters() == Snapshot(0, 0, 0, False)
    assert theta(store) == [0.0, 0.0]
    assert torch.equal(store.snapshot().moments, moments.empty(2))


def test_a_gradient_that_is_refused_takes_its_moments_with_it(name):
    store = tracking(name)
    with pytest.raises(StoreError, match="gradient"):
        store.connect(0).push(torch.ones(3), Counts(5, 1, deltas(0)), 0)
    finish(store)
    assert torch.equal(store.snapshot().moments, moments.empty(2))


def test_saved_moments_are_restored_to_the_bit_and_go_on(name):
    first, later = ([Counts(5, 0, deltas(seed)) for seed in seeds] for seeds in (range(3), range(3, 5)))
    begun, whole = tracking(name), tracking(name)
    push_each(begun.connect(0), [torch.ones(2)] * 3, *first)
    push_each(whole.connect(0), [torch.ones(2)] * 5, *first, *later)
    finish(begun)
    finish(whole)
    resumed = tracking(name)
    push_each(resumed.connect(0), [torch.ones(2)], Counts(5, 0, deltas(9)))  # forgotten
    state = begun.state_dict()
    resumed.load_state_dict(state)
    state["moments"].fill_(-1.0)
    assert_same_state(resumed.state_dict(), begun.state_dict())
    push_each(resumed.connect(0), [torch.ones(2)] * 2, *later)
    finish(resumed)
    torch.testing.assert_close(resumed.snapshot().moments, whole.snapshot().moments, rtol=1e-13, atol=1e-13)


def test_a_state_saved_without_moments_is_one_where_nothing_was_tracked(name):
    state = tracking(name, 0).state_dict()
    del state["moments"]
    store = tracking(name, 0)
    store.load_state_dict(state | {"env_steps": 7})
    assert store.counters().env_steps == 7
    with pytest.raises(StoreError, match="normalisation settings"):
        tracking(name, 2).load_state_dict(state)
