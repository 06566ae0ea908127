"""The store of one process: every push is applied at once, in the order of the calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from a3c.core.moments import empty, merge
from a3c.core.update_rule import UpdateRule
from a3c.stores.state import check_deltas, check_gradient, check_vector, cut, pack_state, restore_vectors, unpack_state
from a3c.types import Counts, Receipt, Snapshot, StoreState


class LocalStore:
    """Owns θ, the optimiser's statistics, the counters and the moments as ordinary memory of this process.

    Args:
        initial: the first θ, [P]; copied.
        rule: how a gradient changes θ.
        tracked: M, how many scalars to keep moments of.
    """

    def __init__(self, initial: Tensor, rule: UpdateRule, *, tracked: int = 0) -> None:
        self.rule = rule
        self.parameters = initial.detach().to("cpu", copy=True)  # θ, [P]
        self.statistics = tuple(torch.zeros_like(self.parameters) for _ in rule.optimizer.statistic_names)
        self.scratch = tuple(torch.empty_like(self.parameters) for _ in range(rule.scratch_vectors))
        self.version = 0
        self.env_steps = 0
        self.episodes = 0
        self.worker_episodes = Counter[int]()
        self.moments = empty(tracked)  # [3, M]; replaced, never written to
        self.stop_requested = False

    @property
    def tracked(self) -> int:
        """M, how many scalars' moments it keeps."""
        return self.moments.shape[1]

    def connect(self, worker: int) -> LocalHandle:
        """That worker's handle."""
        return LocalHandle(self, worker)

    def pull(self, out: Tensor) -> Snapshot:
        """Copy θ into `out`."""
        check_vector(out, self.parameters, "the vector to pull into")
        out.copy_(self.parameters)
        counters = self.counters()
        return counters._replace(moments=self.moments.clone()) if self.tracked else counters

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int, worker: int = 0) -> Receipt:
        """Count the rollout, merge its moments and apply its gradient, if it has any."""
        if gradient is not None:
            gradient = check_gradient(gradient, self.parameters)
        deltas = check_deltas(counts, self.tracked)
        self.env_steps += counts.env_steps
        self.episodes += counts.episodes
        self.worker_episodes[worker] += counts.episodes
        if deltas is not None:
            self.moments = merge(self.moments, deltas)
        staleness = self.version - base_version
        if gradient is None:
            return Receipt(False, staleness, 0.0, 0.0)
        applied = self.rule.apply(
            self.parameters,
            gradient,
            self.statistics,
            self.scratch,
            step_count=self.version + 1,
            env_steps=self.env_steps,
            episodes=self.episodes,
        )
        self.version += applied.done
        return Receipt(applied.done, staleness, applied.learning_rate, applied.gradient_norm)

    def join(self, worker: int = 0) -> None:
        """Nothing to do: nobody waits for anybody here."""

    def leave(self, worker: int = 0) -> None:
        """Nothing to do: nobody waits for anybody here."""

    def waits(self, worker: int) -> bool:
        """Nobody waits for anybody."""
        return False

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed."""
        return self.worker_episodes[worker]

    def request_stop(self) -> None:
        """Ask every worker to stop at its next pull."""
        self.stop_requested = True

    def counters(self) -> Snapshot:
        """The counters as they stand."""
        stop = self.stop_requested or self.rule.budget.spent(self.env_steps, self.episodes)
        return Snapshot(self.version, self.env_steps, self.episodes, stop)

    def close(self) -> None:
        """Nothing to end: it goes with whoever holds it."""

    def snapshot(self) -> StoreState:
        """A copy of the shared state."""
        worker_episodes = tuple(
            self.worker_episodes[worker] for worker in range(max(self.worker_episodes, default=-1) + 1)
        )
        return cut(self.parameters, self.statistics, self.counters(), self.moments, worker_episodes)

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name."""
        return pack_state(self.snapshot(), self.rule)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises StoreError if a name is missing or a size does not fit."""
        restored = unpack_state(state, self.rule, self.parameters, self.tracked)
        restore_vectors(restored, self.parameters, self.statistics)
        self.version, self.env_steps, self.episodes = restored.version, restored.env_steps, restored.episodes
        self.worker_episodes = Counter(dict(enumerate(restored.worker_episodes)))
        self.moments = restored.moments.clone()


class LocalHandle:
    """One worker's end of a LocalStore."""

    def __init__(self, store: LocalStore, worker: int) -> None:
        self.store = store
        self.worker = worker

    def pull(self, out: Tensor) -> Snapshot:
        """Copy θ into `out`."""
        return self.store.pull(out)

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt:
        """Count the rollout, merge its moments and apply its gradient, if it has any."""
        return self.store.push(gradient, counts, base_version, self.worker)

    def leave(self) -> None:
        """Nothing to do: nobody waits for anybody here."""
