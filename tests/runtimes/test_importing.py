"""Imports during which no garbage is collected."""

import gc
import weakref

import pytest

from a3c.runtimes.importing import collector_paused


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


def tied():
    return weakref.ref(Knot())


def test_nothing_is_collected_meanwhile_and_everything_afterwards():
    gc.collect()
    with collector_paused():
        assert not gc.isenabled()
        knot = tied()
        _ = [[] for _ in range(100_000)]
        assert knot() is not None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert knot() is None


def test_what_was_made_meanwhile_counts_as_old():
    with collector_paused():
        many = [[] for _ in range(100_000)]
    assert len(gc.get_objects(generation=0)) + len(gc.get_objects(generation=1)) < 50_000
    assert any(thing is many for thing in gc.get_objects(generation=2))


def test_who_has_turned_it_off_keeps_it_off():
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_somebody_has_frozen_stays_so():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with collector_paused():
            pass
        assert gc.get_freeze_count() > before / 2  # a frozen object may die meanwhile, for all that
    finally:
        gc.unfreeze()


def test_it_comes_back_where_an_import_fails():
    with pytest.raises(ImportError), collector_paused():
        raise ImportError("no torch")
    assert gc.isenabled()
