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
from torch import Tensor

from a3c.core.losses import Reduction
from a3c.core.update_rule import UpdateRule
from a3c.errors import RoundCannotFill, StoreError
from a3c.stores.memory import NUMPY_DTYPES, ProcessLock, SharedBlock
from a3c.stores.state import check_gradient, pack_state, unpack_state
from a3c.types import Counts, Receipt, Snapshot, StoreState

# Columns of the counters: as they were when the last round closed, all changed together.
_VERSION, _ENV_STEPS, _EPISODES, _STOP, _APPLIED = range(5)
_STOP_REQUEST = 5  # from outside; taken over when a round closes

# Columns of a worker's row: whether it is waited for, whether its gradient lies ready, and that rollout's counts.
_MEMBER, _PENDING, _HAS_GRADIENT, _ROW_ENV_STEPS, _ROW_EPISODES = range(5)
_ROW_WIDTH = 8

_LEARNING_RATE, _GRADIENT_NORM = range(2)

_FIRST_POLL_S, _LONGEST_POLL_S = 0.00002, 0.001


class SynchronousStore:
    """Owns θ, the optimiser's statistics and the counters, and changes all of them once a round.

    A round closes when every member has pushed or left. Its gradient is the members' in worker order, weighted
    by their real steps n_i / Σn if losses are means and by 1 if they are sums, so it is the gradient of one
    batch of all their environments; it is clipped after summing and applied once. A dropped rollout fills its
    place in the round with its counts alone. Versions, T and the stop flag that workers see change with the
    round, so all of them stop together, and the result does not depend on who came first.

    Bit-reproducible in one process and in several, stops from outside apart. In one process a round that
    nobody can fill raises RoundCannotFill instead of waiting for ever.

    Args:
        initial: the first θ, [P], float32 or float64; copied.
        rule: how a gradient changes θ.
        workers: W, how many rows to keep. Nobody is a member before `join`.
        reduction: how each worker's loss is reduced over its real steps.
        context: the multiprocessing context whose processes will use the store.
    """

    def __init__(
        self,
        initial: Tensor,
        rule: UpdateRule,
        workers: int,
        reduction: Reduction,
        context: BaseContext | None = None,
    ) -> None:
        self.rule = rule
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
                "rows": ("i8", (workers, _ROW_WIDTH)),
                "counters": ("i8", (8,)),
                "receipt": ("f8", (2,)),
            },
        )
        self._map()
        self.parameters.copy_(initial.detach())

    def _map(self) -> None:
        arrays = self._block.arrays()
        self.rows, self.counts, self.receipt = arrays["rows"], arrays["counters"], arrays["receipt"]
        self.parameters = torch.from_numpy(arrays["parameters"])  # θ, [P]
        self.gradients = torch.from_numpy(arrays["gradients"])  # [W, P]
        self.statistics = tuple(
            torch.from_numpy(arrays[f"statistic {name}"]) for name in self.rule.optimizer.statistic_names
        )
        self._scratch: tuple[Tensor, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rule", "reduction", "lock", "home_process", "_block")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def connect(self, worker: int) -> SynchronousHandle:
        """That worker's handle."""
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

    def request_stop(self) -> None:
        """Ask for a stop: workers learn of it together, when a round that has gradients closes, or else at once."""
        with self.lock.exclusive():
            self.counts[_STOP_REQUEST] = 1
            if not self.rows[:, _PENDING].any():
                self.counts[_STOP] = 1

    def counters(self) -> Snapshot:
        """The counters as the last round left them."""
        version, env_steps, episodes, stop = (int(n) for n in self.counts[: _STOP + 1])
        return Snapshot(version, env_steps, episodes, bool(stop) or self.rule.budget.spent(env_steps, episodes))

    def snapshot(self) -> StoreState:
        """A copy of the shared state between rounds."""
        with self.lock.exclusive():
            counters = self.counters()
            return StoreState(
                self.parameters.clone(),
                tuple(statistic.clone() for statistic in self.statistics),
                counters.version,
                counters.env_steps,
                counters.episodes,
            )

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name."""
        return pack_state(self.snapshot(), self.rule)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises StoreError if a name is missing or a size does not fit."""
        restored = unpack_state(state, self.rule, self.parameters)
        with self.lock.exclusive():
            self.parameters.copy_(restored.parameters)
            for statistic, value in zip(self.statistics, restored.statistics, strict=True):
                statistic.copy_(value)
            self.counts[: _EPISODES + 1] = restored.version, restored.env_steps, restored.episodes

    def close_round_if_full(self) -> None:
        """Apply the round if nobody is missing. The caller holds the lock."""
        pending = self.rows[:, _PENDING] == 1
        if not pending.any() or (self.rows[:, _MEMBER] > self.rows[:, _PENDING]).any():
            return
        self.counts[_ENV_STEPS] += self.rows[pending, _ROW_ENV_STEPS].sum()
        self.counts[_EPISODES] += self.rows[pending, _ROW_EPISODES].sum()
        contributors = np.flatnonzero(pending & (self.rows[:, _HAS_GRADIENT] == 1))
        self.counts[_APPLIED] = self._apply(contributors) if len(contributors) else 0
        self.counts[_VERSION] += self.counts[_APPLIED]
        self.counts[_STOP] |= self.counts[_STOP_REQUEST]
        self.rows[:, _PENDING] = 0  # last: it lets the waiting ones go

    def _apply(self, contributors: Any) -> bool:
        if not self._scratch:
            self._scratch = tuple(torch.empty_like(self.parameters) for _ in range(self.rule.scratch_vectors + 1))
        steps = self.rows[contributors, _ROW_ENV_STEPS]
        weights = steps / steps.sum() if self.reduction == "mean" else np.ones(len(contributors))
        total = self._scratch[-1].zero_()  # Σ w_i dθ_i, [P]
        for worker, weight in zip(contributors, weights, strict=True):
            total.add_(self.gradients[worker], alpha=float(weight))
        applied = self.rule.apply(
            self.parameters,
            total,
            self.statistics,
            self._scratch[:-1],
            step_count=int(self.counts[_VERSION]) + 1,
            env_steps=int(self.counts[_ENV_STEPS]),
            episodes=int(self.counts[_EPISODES]),
        )
        self.receipt[:] = applied.learning_rate, applied.gradient_norm
        return applied.done


class SynchronousHandle:
    """One worker's end of a SynchronousStore."""

    def __init__(self, store: SynchronousStore, worker: int) -> None:
        self.store = store
        self.worker = worker
        self._unsettled = False  # whether a push of this worker has not been accounted for yet
        self._receipt: Receipt | None = None

    def pull(self, out: Tensor) -> Snapshot:
        """Wait for the round that holds this worker's gradient, if there is one, and copy θ into `out`.

        Raises RoundCannotFill in the process that made the store: there nobody else can be running.
        """
        store, poll_s = self.store, _FIRST_POLL_S
        while store.rows[self.worker, _PENDING]:
            if os.getpid() == store.home_process:
                missing = np.flatnonzero(store.rows[:, _MEMBER] > store.rows[:, _PENDING]).tolist()
                raise RoundCannotFill(
                    f"worker {self.worker} pulls before the round has closed: workers {missing} have not pushed, "
                    "and in one process they cannot do so meanwhile; push once for each member before pulling"
                )
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)
        with store.lock.shared():
            if self._unsettled:
                learning_rate, norm = (float(n) for n in store.receipt)
                self._receipt = Receipt(bool(store.counts[_APPLIED]), 0, learning_rate, norm)
                self._unsettled = False
            out.copy_(store.parameters)
            return store.counters()

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """Lay the gradient ready, and close the round if it was the last; the receipt is of the round before."""
        store = self.store
        if store.rows[self.worker, _PENDING]:
            raise StoreError(f"worker {self.worker} pushed twice in one round; pull between two pushes")
        if gradient is not None:
            store.gradients[self.worker] = check_gradient(gradient, store.parameters)
        with store.lock.exclusive():
            row = store.rows[self.worker]
            row[_HAS_GRADIENT], row[_ROW_ENV_STEPS], row[_ROW_EPISODES] = gradient is not None, *counts
            row[_PENDING] = 1
            self._unsettled = True
            store.close_round_if_full()
        return self._receipt

    def leave(self) -> None:
        """Be waited for no more."""
        self.store.leave(self.worker)
