"""Stores in shared memory that apply every push as it comes: without a lock (Hogwild) or under one."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from a3c.core.moments import merge, merge_all
from a3c.core.update_rule import UpdateRule
from a3c.stores.shared_memory import NUMPY_DTYPES, ProcessLock, SharedBlock
from a3c.stores.state import check_deltas, check_gradient, check_vector, cut, pack_state, restore_vectors, unpack_state
from a3c.types import Counts, Receipt, Snapshot, StoreState

# Columns of a worker's slot: three counters, and how often it has merged moments. The parity of that word says
# which of its two buffers of moments is whole.
_UPDATES, _ENV_STEPS, _EPISODES, _MERGES = range(4)
_SLOT_WIDTH = 8  # 64-bit numbers in a cache line, so that no two workers write the same one
_STOP, _GATE = range(2)  # control words: a flag, and until when (monotonic ns) pushes wait at the gate

_GATE_PATIENCE_NS = 1_000_000_000  # whoever closed the gate is dead if it takes longer
_GATE_POLL_S = 0.0002


class SharedStore:
    """Owns θ, the optimiser's statistics, the counters and the moments in memory that worker processes map.

    `locking="hogwild"`: pushes and pulls run side by side (Recht et al. 2011, as in the A3C paper). A pull may
    see part of an update and one of two simultaneous pushes may lose some of its elements; counters are one
    slot a worker, so no count is lost.
    `locking="locked"`: one push at a time, and a pull sees whole updates.

    Moments are one slot a worker, too, so none is lost: each worker merges its rollouts' into its own, in the order
    of its pushes, and who reads merges the slots in worker order. The result is the same to the bit however the
    workers interleave; of one worker it is that of LocalStore. A worker that dies while it writes leaves its
    moments as they were.

    Either way `snapshot` cuts between updates, and the lock is the kernel's: a worker that dies inside a push
    leaves at most that update half done, and nobody waits for it.

    The store, with its handles, can be sent to a process that is being started.

    Args:
        initial: the first θ, [P], float32 or float64; copied.
        rule: how a gradient changes θ.
        workers: W, how many slots to keep.
        locking: see above.
        context: the multiprocessing context whose processes will use the store.
        tracked: M, how many scalars to keep moments of.
    """

    def __init__(
        self,
        initial: Tensor,
        rule: UpdateRule,
        workers: int,
        locking: Literal["hogwild", "locked"] = "hogwild",
        context: BaseContext | None = None,
        *,
        tracked: int = 0,
    ) -> None:
        self.rule = rule
        self.locking = locking
        self.tracked = tracked
        self.lock = ProcessLock()
        vector = (NUMPY_DTYPES[initial.dtype], (initial.numel(),))
        whole_lines = -(-tracked // _SLOT_WIDTH) * _SLOT_WIDTH
        self._block = SharedBlock(
            context or multiprocessing.get_context(),
            {
                "parameters": vector,
                **{f"statistic {name}": vector for name in rule.optimizer.statistic_names},
                "slots": ("i8", (workers + 1, _SLOT_WIDTH)),  # the last one: what a resume brought along
                "moments": ("f8", (workers + 1, 2, 3, whole_lines)),  # of each slot, in turn in one of two buffers
                "control": ("i8", (2,)),
            },
        )
        self._map()
        self.parameters.copy_(initial.detach())

    def _map(self) -> None:
        arrays = self._block.arrays()
        self.slots, self.control = arrays["slots"], arrays["control"]
        self.moments = arrays["moments"][..., : self.tracked]  # [W+1, 2, 3, M]
        self.parameters = torch.from_numpy(arrays["parameters"])  # θ, [P]
        self.statistics = tuple(
            torch.from_numpy(arrays[f"statistic {name}"]) for name in self.rule.optimizer.statistic_names
        )
        self.scratch: tuple[Tensor, ...] = ()  # this process's own, made at its first push
        self._absent: tuple[int, ...] = ()  # the episodes of workers that were here before a resume, beyond the W

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rule", "locking", "tracked", "lock", "_block")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def connect(self, worker: int) -> SharedHandle:
        """That worker's handle."""
        assert 0 <= worker < len(self.slots) - 1, f"no slot for worker {worker}"
        return SharedHandle(self, worker)

    def join(self, worker: int) -> None:
        """Nothing to do: nobody waits for anybody here."""

    def leave(self, worker: int) -> None:
        """Nothing to do: nobody waits for anybody here."""

    def waits(self, worker: int) -> bool:
        """Nobody waits for anybody."""
        return False

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed."""
        return int(self.slots[worker, _EPISODES])

    def request_stop(self) -> None:
        """Ask every worker to stop at its next pull."""
        self.control[_STOP] = 1

    def counters(self) -> Snapshot:
        """The counters as they stand."""
        updates, env_steps, episodes = np.add.reduce(self.slots, 0).tolist()[:_MERGES]
        stop = bool(self.control[_STOP]) or self.rule.budget.spent(env_steps, episodes)
        return Snapshot(updates, env_steps, episodes, stop)

    def merged_moments(self) -> Tensor:
        """The moments of all slots merged in their order, [3, M]."""
        read = self.slots[:, _MERGES].copy()  # what the word beside each part was when it was copied
        parts = self.moments[np.arange(len(read)), read % 2]  # [W+1, 3, M]
        # A buffer is written to only after the word has changed: the part is whole if the word is still the same.
        while (changed := np.flatnonzero(self.slots[:, _MERGES] != read)).size:
            read[changed] = self.slots[changed, _MERGES]
            parts[changed] = self.moments[changed, read[changed] % 2]
        return merge_all(torch.from_numpy(parts))

    def add_moments(self, worker: int, deltas: Tensor) -> None:
        """Merge a rollout's moments, [3, M], into the worker's own. The caller is that worker, inside its turn."""
        merges = int(self.slots[worker, _MERGES])
        own = torch.from_numpy(self.moments[worker, merges % 2])  # [3, M]
        self.moments[worker, (merges + 1) % 2] = merge(own, deltas).numpy()
        self.slots[worker, _MERGES] = merges + 1  # last: it makes them valid

    def close(self) -> None:
        """Nothing to end: it goes with whoever holds it."""

    def snapshot(self) -> StoreState:
        """A copy of the shared state between updates: running pushes finish first, new ones wait meanwhile."""
        with self._between_updates():
            worker_episodes = (*self.slots[:-1, _EPISODES].tolist(), *self._absent)
            return cut(self.parameters, self.statistics, self.counters(), self.merged_moments(), worker_episodes)

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name."""
        return pack_state(self.snapshot(), self.rule)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises StoreError if a name is missing or a size does not fit."""
        restored = unpack_state(state, self.rule, self.parameters, self.tracked)
        with self._between_updates():
            restore_vectors(restored, self.parameters, self.statistics)
            self.slots[:] = 0
            here = restored.worker_episodes[: len(self.slots) - 1]
            self._absent = restored.worker_episodes[len(here) :]
            self.slots[: len(here), _EPISODES] = here
            self.slots[-1, :_MERGES] = restored.version, restored.env_steps, restored.episodes - sum(here)
            self.moments[:] = 0.0
            self.moments[-1, 0] = restored.moments.numpy()

    def turn(self) -> AbstractContextManager[None]:
        """What a push holds. Hogwild pushes share the lock: it keeps out a snapshot, not one another."""
        while time.monotonic_ns() < self.control[_GATE]:
            time.sleep(_GATE_POLL_S)
        return self.lock.exclusive() if self.locking == "locked" else self.lock.shared()

    @contextlib.contextmanager
    def _between_updates(self) -> Iterator[None]:
        # The gate, as record locks alone would let a stream of sharers starve whoever wants it exclusively.
        # It opens by itself in the end, in case that one dies meanwhile.
        self.control[_GATE] = time.monotonic_ns() + _GATE_PATIENCE_NS
        try:
            with self.lock.exclusive():
                yield
        finally:
            self.control[_GATE] = 0


class SharedHandle:
    """One worker's end of a SharedStore."""

    def __init__(self, store: SharedStore, worker: int) -> None:
        self.store = store
        self.worker = worker

    def pull(self, out: Tensor) -> Snapshot:
        """Copy θ into `out`: as it is (hogwild), or between updates (locked)."""
        store = self.store
        check_vector(out, store.parameters, "the vector to pull into")
        with store.lock.shared() if store.locking == "locked" else contextlib.nullcontext():
            snapshot = store.counters()
            out.copy_(store.parameters)
            return snapshot._replace(moments=store.merged_moments()) if store.tracked else snapshot

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt:
        """Count the rollout, merge its moments and apply its gradient, if it has any."""
        store = self.store
        if gradient is not None:
            gradient = check_gradient(gradient, store.parameters)
        deltas = check_deltas(counts, store.tracked)
        if not store.scratch:
            store.scratch = tuple(torch.empty_like(store.parameters) for _ in range(store.rule.scratch_vectors))
        with store.turn():
            slot = store.slots[self.worker]
            slot[_ENV_STEPS] += counts.env_steps
            slot[_EPISODES] += counts.episodes
            if deltas is not None:
                store.add_moments(self.worker, deltas)
            now = store.counters()
            staleness = now.version - base_version
            if gradient is None:
                return Receipt(False, staleness, 0.0, 0.0)
            applied = store.rule.apply(
                store.parameters,
                gradient,
                store.statistics,
                store.scratch,
                step_count=now.version + 1,
                env_steps=now.env_steps,
                episodes=now.episodes,
            )
            slot[_UPDATES] += applied.done
        return Receipt(applied.done, staleness, applied.learning_rate, applied.gradient_norm)

    def leave(self) -> None:
        """Nothing to do: nobody waits for anybody here."""
