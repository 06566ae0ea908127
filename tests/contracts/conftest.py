"""Processes for the stores' contract."""

from __future__ import annotations

import multiprocessing

import pytest

from builders import Remote
from leftovers import nothing_left


@pytest.fixture
def start(fork_server):
    """`start(*handles)` starts a process for each, `start(*handles, context=...)` elsewhere; no trace is left."""
    started = []

    def start_remotes(*handles, context=fork_server):
        started.extend(Remote(context, handle) for handle in handles)
        return started[-len(handles) :]

    with nothing_left():
        yield start_remotes
        for remote in started:
            remote.close()
        assert not multiprocessing.active_children()
