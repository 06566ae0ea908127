"""When workers that fail are started anew, by a clock that the tests set."""

import pytest

from a3c.runtimes import restarts
from a3c.runtimes.restarts import Restarts


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(restarts, "time", clock)
    return clock


def wait_of(some, worker, clock):
    """How long a worker that fails now is to wait; the clock goes there, and it is started."""
    assert some.allow(worker)
    wait = some.seconds_to_next()
    clock.now += wait
    assert some.due() == [worker]
    assert not some.waiting
    return wait


def test_each_failure_soon_after_the_last_waits_twice_as_long_up_to_a_bound(clock):
    some = Restarts(100)
    waits = [wait_of(some, 0, clock) for _ in range(12)]
    assert waits == pytest.approx([min(0.1 * 2**n, 30.0) for n in range(12)])


def test_a_worker_that_has_lived_for_a_while_begins_anew(clock):
    some = Restarts(100)
    assert [wait_of(some, 0, clock) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    clock.now += 4.9
    assert wait_of(some, 0, clock) == pytest.approx(0.8)
    clock.now += 5.1
    assert wait_of(some, 0, clock) == pytest.approx(0.1)


def test_workers_wait_by_themselves(clock):
    some = Restarts(100)
    for _ in range(5):
        wait_of(some, 0, clock)
    assert some.allow(0)
    assert some.allow(1)
    assert some.seconds_to_next() == pytest.approx(0.1)
    clock.now += 0.1
    assert some.due(but=[1]) == []
    assert some.due() == [1]
    assert list(some.waiting) == [0]


def test_only_so_many_in_an_hour_all_workers_together(clock):
    some = Restarts(3)
    assert [some.allow(worker) for worker in (0, 1, 2, 0)] == [True, True, True, False]
    clock.now += 3601
    assert some.allow(0)
    assert not any(Restarts(0).allow(worker) for worker in range(2))
