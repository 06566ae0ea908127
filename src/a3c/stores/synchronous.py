"""The synchronous store: it waits for every member's gradient and applies them as one. It makes A3C an A2C."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from a3c.core.losses import Reduction
from a3c.core.moments import empty, merge, merge_all
from a3c.core.update_rule import UpdateRule
from a3c.errors import RoundCannotFill, StoreError
from a3c.stores.shared_memory import NUMPY_DTYPES, ProcessLock, SharedBlock
from a3c.stores.state import check_deltas, check_gradient, check_vector, cut, pack_state, restore_vectors, unpack_state
from a3c.types import Counts, Receipt, Snapshot, StoreState

# The counters, all changed together: as they were when the last round closed.
_VERSION, _ENV_STEPS, _EPISODES, _STOP, _APPLIED = range(5)

# Control words: how many rounds have closed, and a request to stop.
_CLOSED, _STOP_REQUEST = range(2)

# Columns of a worker's row: whether it is waited for, the round of its latest push (from 1), and that push's
# facts. It is pending while its round has not closed.
_MEMBER, _ROUND, _HAS_GRADIENT, _ROW_ENV_STEPS, _ROW_EPISODES = range(5)

_WORDS = 8  # 64-bit words in a cache line

_FIRST_POLL_S, _LONGEST_POLL_S = 0.00002, 0.001


class SynchronousStore:
    """Owns θ, the optimiser's statistics, the counters and the moments, and changes all of them once a round.

    A round closes when every member has pushed or left. Its gradient is the members' in worker order, weighted
    by their real steps n_i / Σn if losses are means and by 1 if they are sums, so it is the gradient of one
    batch of all their environments; it is clipped after summing and applied once. Their rollouts' moments are
    merged in worker order, too. A dropped rollout fills its place in the round with its counts alone. Versions,
    T, the moments and the stop flag that workers see change with the round, so all of them stop together, and
    the result does not depend on who came first.

    One word closes a round: the number of closed rounds. The counters and the moments are written beside the
    old ones before it, so a process killed while it closes a round leaves the round open and counts nothing
    twice; `leave` then closes it anew. At most that one update is on θ half or twice.

    Bit-reproducible in one process and in several, stops from outside apart. In one process a round that
    nobody can fill raises RoundCannotFill instead of waiting for ever.

    Args:
        initial: the first θ, [P], float32 or float64; copied.
        rule: how a gradient changes θ.
        workers: W, how many rows to keep. Nobody is a member before `join`.
        reduction: how each worker's loss is reduced over its real steps.
        context: the multiprocessing context whose processes will use the store.
        tracked: M, how many scalars to keep moments of.
    """

    def __init__(
        self,
        initial: Tensor,
        rule: UpdateRule,
        workers: int,
        reduction: Reduction,
        context: BaseContext | None = None,
        *,
        tracked: int = 0,
    ) -> None:
        self.rule = rule
        self.tracked = tracked
        self.reduction = reduction
        self.lock = ProcessLock()
        self.home_process = os.getpid()
        dtype, size = NUMPY_DTYPES[initial.dtype], initial.numel()
        self._block = SharedBlock(
            context or multiprocessing.get_context(),
            {
                "parameters": (dtype, (size,)),
                **{f"statistic {name}": (dtype, (size,)) for name in rule.optimizer.statistic_names},
                "gradients": (dtype, (workers, size)),
                "rows": ("i8", (workers, _WORDS)),
                "deltas": ("f8", (workers, 3, tracked)),  # the moments of each row's rollout
                "counters": ("i8", (2, _WORDS)),  # of the last round and of the one before, in turn
                "worker_episodes": ("i8", (2, workers)),  # likewise
                "moments": ("f8", (2, 3, tracked)),  # likewise
                "control": ("i8", (_WORDS,)),
                "receipt": ("f8", (2,)),  # learning rate and gradient norm of the last round
            },
        )
        self._map()
        self.parameters.copy_(initial.detach())

    def _map(self) -> None:
        arrays = self._block.arrays()
        self.rows, self.receipt = arrays["rows"], arrays["receipt"]
        self._counters, self._control = arrays["counters"], arrays["control"]
        self._worker_episodes = arrays["worker_episodes"]
        self._absent: tuple[int, ...] = ()  # those of workers that were here before a resume, beyond the W
        self.deltas, self._moments = torch.from_numpy(arrays["deltas"]), torch.from_numpy(arrays["moments"])
        self.parameters = torch.from_numpy(arrays["parameters"])  # θ, [P]
        self.gradients = torch.from_numpy(arrays["gradients"])  # [W, P]
        self.statistics = tuple(
            torch.from_numpy(arrays[f"statistic {name}"]) for name in self.rule.optimizer.statistic_names
        )
        self._scratch: tuple[Tensor, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        names = ("rule", "reduction", "tracked", "lock", "home_process", "_block")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def connect(self, worker: int) -> SynchronousHandle:
        """That worker's handle."""
        assert 0 <= worker < len(self.rows), f"no row for worker {worker}"
        return SynchronousHandle(self, worker)

    def join(self, worker: int) -> None:
        """Make the worker a member: rounds wait for it from now on."""
        with self.lock.exclusive():
            self.rows[worker, _MEMBER] = 1

    def leave(self, worker: int) -> None:
        """Wait for this worker no more; a gradient of it that lies ready still counts."""
        with self.lock.exclusive():
            self.rows[worker, _MEMBER] = 0
            self.close_round_if_full()

    def waits(self, worker: int) -> bool:
        """Whether the worker has pushed and somebody else has not. If all have, it may be closing the round itself."""
        return bool(self.pending()[worker]) and bool(self.missing())

    def request_stop(self) -> None:
        """Ask for a stop: workers see it once a round that has gradients has closed, or else at once."""
        self._control[_STOP_REQUEST] = 1

    def counters(self) -> Snapshot:
        """The counters as the last round left them."""
        version, env_steps, episodes, stop = (int(n) for n in self.last_round()[: _STOP + 1])
        requested = bool(self._control[_STOP_REQUEST]) and not self.pending().any()
        stop_now = bool(stop) or requested or self.rule.budget.spent(env_steps, episodes)
        return Snapshot(version, env_steps, episodes, stop_now)

    def last_round(self) -> NDArray[np.int64]:
        """The counters' row that the last round wrote."""
        return self._counters[self._control[_CLOSED] % 2]  # type: ignore[no-any-return]

    def last_moments(self) -> Tensor:
        """The moments, [3, M], that the last round wrote."""
        return self._moments[self._control[_CLOSED] % 2]

    def last_worker_episodes(self) -> NDArray[np.int64]:
        """How many episodes of each worker, [W], the last round has counted."""
        return self._worker_episodes[self._control[_CLOSED] % 2]  # type: ignore[no-any-return]

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed, with those that lie ready. It must not be pushing."""
        while True:  # without the lock, which somebody else may keep: again, if a round has closed meanwhile
            closed = int(self._control[_CLOSED])
            lies_ready = int(self.rows[worker, _ROW_EPISODES]) if self.pending()[worker] else 0
            pushed = int(self.last_worker_episodes()[worker]) + lies_ready
            if self._control[_CLOSED] == closed:
                return pushed

    def pending(self) -> NDArray[np.bool_]:
        """Who has pushed in the round that is open, [W]."""
        return self.rows[:, _ROUND] > self._control[_CLOSED]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Nothing to end: it goes with whoever holds it."""

    def snapshot(self) -> StoreState:
        """A copy of the shared state between rounds; gradients that lie ready are not part of it."""
        with self.lock.shared():
            worker_episodes = (*self.last_worker_episodes().tolist(), *self._absent)
            return cut(self.parameters, self.statistics, self.counters(), self.last_moments(), worker_episodes)

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name."""
        return pack_state(self.snapshot(), self.rule)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, and forget gradients that lie ready.

        Raises StoreError if a name is missing or a size does not fit.
        """
        restored = unpack_state(state, self.rule, self.parameters, self.tracked)
        with self.lock.exclusive():
            restore_vectors(restored, self.parameters, self.statistics)
            self.last_moments().copy_(restored.moments)
            counters = self.last_round()
            counters[: _EPISODES + 1] = restored.version, restored.env_steps, restored.episodes
            counters[_APPLIED] = 0
            here = restored.worker_episodes[: len(self.rows)]
            self._absent = restored.worker_episodes[len(here) :]
            self.last_worker_episodes()[:] = 0
            self.last_worker_episodes()[: len(here)] = here
            self.rows[:, _ROUND] = 0

    def lay_ready(self, worker: int, has_gradient: bool, env_steps: int, episodes: int) -> None:
        """Mark the worker's gradient, moments and counts as part of the open round. The caller holds the lock."""
        row = self.rows[worker]
        row[_HAS_GRADIENT], row[_ROW_ENV_STEPS], row[_ROW_EPISODES] = has_gradient, env_steps, episodes
        row[_ROUND] = self._control[_CLOSED] + 1

    def close_round_if_full(self) -> None:
        """Apply the round if nobody is missing. The caller holds the lock."""
        pending = self.pending()
        if not pending.any() or self.missing():
            return
        contributors = np.flatnonzero(pending & (self.rows[:, _HAS_GRADIENT] == 1))
        closed = int(self._control[_CLOSED])
        counters = self._counters[(closed + 1) % 2]
        counters[:] = self._counters[closed % 2]
        counters[_ENV_STEPS] += self.rows[pending, _ROW_ENV_STEPS].sum()
        counters[_EPISODES] += self.rows[pending, _ROW_EPISODES].sum()
        worker_episodes = self._worker_episodes[(closed + 1) % 2]
        worker_episodes[:] = self._worker_episodes[closed % 2]
        worker_episodes[pending] += self.rows[pending, _ROW_EPISODES]
        if self.tracked:
            round_moments = merge_all(self.deltas[np.flatnonzero(pending)])  # in worker order
            self._moments[(closed + 1) % 2] = merge(self._moments[closed % 2], round_moments)
        counters[_APPLIED] = self._apply(contributors, counters)
        counters[_VERSION] += counters[_APPLIED]
        counters[_STOP] |= self._control[_STOP_REQUEST]
        self._control[_CLOSED] = closed + 1  # last: it makes all this valid and lets the waiting ones go

    def missing(self) -> list[int]:
        """Members that have not pushed in the open round."""
        return np.flatnonzero((self.rows[:, _MEMBER] == 1) & ~self.pending()).tolist()

    def _apply(self, contributors: NDArray[np.int64], counters: NDArray[np.int64]) -> bool:
        self.receipt[:] = 0.0
        if not len(contributors):
            return False
        if not self._scratch:
            self._scratch = tuple(torch.empty_like(self.parameters) for _ in range(self.rule.scratch_vectors + 1))
        steps = self.rows[contributors, _ROW_ENV_STEPS]
        weights = steps / max(1, steps.sum()) if self.reduction == "mean" else np.ones(len(contributors))
        total = self._scratch[-1].zero_()  # Σ w_i dθ_i, [P]
        for worker, weight in zip(contributors, weights, strict=True):
            total.add_(self.gradients[worker], alpha=float(weight))
        applied = self.rule.apply(
            self.parameters,
            total,
            self.statistics,
            self._scratch[:-1],
            step_count=int(counters[_VERSION]) + 1,
            env_steps=int(counters[_ENV_STEPS]),
            episodes=int(counters[_EPISODES]),
        )
        self.receipt[:] = applied.learning_rate, applied.gradient_norm
        return applied.done


class SynchronousHandle:
    """One worker's end of a SynchronousStore."""

    def __init__(self, store: SynchronousStore, worker: int) -> None:
        self.store = store
        self.worker = worker
        self._unsettled: Receipt | None = None  # of a push whose round this worker has not seen closed yet
        self.settled: Receipt | None = None  # of the latest push whose round it has

    def pull(self, out: Tensor) -> Snapshot:
        """Wait for the round that holds this worker's gradient, if there is one, and copy θ into `out`.

        Raises RoundCannotFill in the process that made the store: there nobody else can be running.
        """
        store = self.store
        check_vector(out, store.parameters, "the vector to pull into")
        if not store.rows[self.worker, _MEMBER]:  # counted out, and back again
            store.join(self.worker)
        self._wait_for_round()
        with store.lock.shared():
            if self._unsettled is not None:
                self.settled, self._unsettled = self._settle(self._unsettled), None
            out.copy_(store.parameters)
            counters = store.counters()
            return counters._replace(moments=store.last_moments().clone()) if store.tracked else counters

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """Lay the gradient ready, and close the round if it was the last; the receipt is of the round before."""
        store = self.store
        if store.pending()[self.worker]:
            raise StoreError(f"worker {self.worker} pushed twice in one round; pull between two pushes")
        deltas = check_deltas(counts, store.tracked)
        if gradient is not None:
            store.gradients[self.worker] = check_gradient(gradient, store.parameters)
        if store.tracked:
            store.deltas[self.worker] = empty(store.tracked) if deltas is None else deltas
        with store.lock.exclusive():
            staleness = int(store.last_round()[_VERSION]) - base_version
            self._unsettled = Receipt(gradient is not None, staleness, 0.0, 0.0)
            store.lay_ready(self.worker, gradient is not None, counts.env_steps, counts.episodes)
            store.close_round_if_full()
        return self.settled

    def leave(self) -> None:
        """Be waited for no more."""
        self.store.leave(self.worker)

    def _wait_for_round(self) -> None:
        store, poll_s = self.store, _FIRST_POLL_S
        while store.pending()[self.worker]:
            if os.getpid() == store.home_process:
                raise RoundCannotFill(
                    f"worker {self.worker} pulls before the round has closed: workers {store.missing()} have not "
                    "pushed, and in one process they cannot do so meanwhile; push once for each member before pulling"
                )
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)

    def _settle(self, pushed: Receipt) -> Receipt:
        # A dropped rollout stays one, whatever the round did with the others' gradients.
        if not pushed.applied:
            return pushed
        learning_rate, norm = (float(number) for number in self.store.receipt)
        return Receipt(bool(self.store.last_round()[_APPLIED]), pushed.staleness, learning_rate, norm)
