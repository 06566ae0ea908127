"""A store that applies every push late, by a fixed count: asynchrony that is deterministic."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from a3c.stores.state import check_deltas, check_vector
from a3c.types import Counts, ParameterStore, Receipt, Snapshot, StoreHandle, StoreState


class _Push(NamedTuple):
    worker: int
    handle: StoreHandle
    gradient: Tensor | None
    counts: Counts
    base_version: int


class DelayedStore:
    """Wraps a store and applies each push, whoever's it is, k pushes late; k = 0 is the wrapped store.

    With one worker every gradient is k updates stale from the k-th on. What still waits when the last worker
    leaves is applied then, so counts are true at the end. A rollout's moments wait with its gradient: they are
    merged when the late push is applied. One process only.

    Args:
        store: the wrapped store, one that applies at once.
        delay: k.
    """

    def __init__(self, store: ParameterStore, delay: int) -> None:
        if delay < 0:
            raise ValueError(f"delay must be 0 or more pushes, not {delay}")
        self.store = store
        self.delay = delay
        state = store.snapshot()
        self._like = state.parameters.to("meta")  # θ's shape and dtype, without its numbers
        self._tracked = state.moments.shape[1]
        self._waiting: deque[_Push] = deque()
        self._members: set[int] = set()

    def connect(self, worker: int) -> DelayedHandle:
        """That worker's handle."""
        return DelayedHandle(self, worker, self.store.connect(worker))

    def join(self, worker: int) -> None:
        """Count the worker in."""
        self._members.add(worker)
        self.store.join(worker)

    def leave(self, worker: int) -> None:
        """Count the worker out; after the last one, apply what still waits."""
        self._members.discard(worker)
        if not self._members:
            self._apply_all_but(0)
        self.store.leave(worker)

    def waits(self, worker: int) -> bool:
        """Nobody waits for anybody."""
        return False

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed, with those that wait."""
        waiting = sum(push.counts.episodes for push in self._waiting if push.worker == worker)
        return self.store.pushed_episodes(worker) + waiting

    def request_stop(self) -> None:
        """Ask every worker to stop at its next pull."""
        self.store.request_stop()

    def counters(self) -> Snapshot:
        """The wrapped store's counters: what waits is not counted yet."""
        return self.store.counters()

    def close(self) -> None:
        """End what the wrapped store has elsewhere."""
        self.store.close()

    def snapshot(self) -> StoreState:
        """The wrapped store's state; what waits is not part of it."""
        return self.store.snapshot()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped store's state by name."""
        return self.store.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the wrapped store and forget what waits."""
        self._waiting.clear()
        self.store.load_state_dict(state)

    def accept(self, push: _Push) -> Receipt | None:
        """Queue a push and apply the one that is now k pushes old."""
        # Checked now, as later is too late to tell whose it was.
        if push.gradient is not None:
            check_vector(push.gradient, self._like, "the gradient")
        check_deltas(push.counts, self._tracked)
        self._waiting.append(push)
        return self._apply_all_but(self.delay)

    def _apply_all_but(self, kept: int) -> Receipt | None:
        receipt = None
        while len(self._waiting) > kept:
            late = self._waiting.popleft()
            receipt = late.handle.push(late.gradient, late.counts, late.base_version)
        return receipt


class DelayedHandle:
    """One worker's end of a DelayedStore."""

    def __init__(self, store: DelayedStore, worker: int, handle: StoreHandle) -> None:
        self.store = store
        self.worker = worker
        self.handle = handle

    def pull(self, out: Tensor) -> Snapshot:
        """Copy the wrapped store's θ into `out`."""
        return self.handle.pull(out)

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """Queue this push; the receipt is of the push that was applied in its stead, if one was."""
        kept = None if gradient is None else gradient.clone()
        if counts.moments is not None:
            counts = counts._replace(moments=counts.moments.clone())
        return self.store.accept(_Push(self.worker, self.handle, kept, counts, base_version))

    def leave(self) -> None:
        """Count this worker out."""
        self.store.leave(self.worker)
