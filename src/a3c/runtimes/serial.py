"""The serial runtime: N actor-learners in one process, one update each in turn. Deterministic."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from a3c.runtimes.reporting import ReportBatch, worker_failed
from a3c.runtimes.threads import one_thread
from a3c.types import ActorLearner, Life, MakeActorLearner, Report


class SerialRuntime:
    """Interleaves the actor-learners in worker order, so a run repeats to the bit.

    Args:
        report_every_s: seconds between reports.
        episodes_at_once: report whenever an episode has finished.

    Attributes:
        alive: how many workers are running.
        incarnation: 0: nobody is started anew.
    """

    def __init__(self, *, report_every_s: float = 0.25, episodes_at_once: bool = False) -> None:
        self.report_every_s = report_every_s
        self.episodes_at_once = episodes_at_once
        self.alive = 0
        self.incarnation = 0

    def prepare(self) -> None:
        """Nothing to prepare."""

    def check_room(self, workers: int) -> None:
        """There is room for any number, if not a core for each."""

    def close(self) -> None:
        """Nothing to end."""

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """See `a3c.types.Runtime.run`."""
        for worker in range(workers):
            store.join(worker)
        self.alive = workers
        batch = ReportBatch(
            self.report_every_s,
            episodes_at_once=self.episodes_at_once,
            pushed_episodes={worker: store.pushed_episodes(worker) for worker in range(workers)},
        )
        learners = {worker: make_actor_learner(worker, store.connect(worker), Life()) for worker in range(workers)}
        try:
            with one_thread():
                yield from self._take_turns(learners, batch, store)
        finally:
            for learner in learners.values():
                learner.close()

    def _take_turns(
        self, learners: dict[int, ActorLearner], batch: ReportBatch, store: Any
    ) -> Generator[Report, None, None]:
        while learners:
            for worker, learner in list(learners.items()):
                try:
                    update = next(learner)
                except StopIteration:
                    del learners[worker]
                    self.alive = len(learners)
                    store.leave(worker)
                    continue
                except (Exception, SystemExit) as error:
                    yield batch.take()
                    raise worker_failed(worker, error) from error
                report = batch.add(worker, update)
                if report is not None:
                    yield report
        yield batch.take()
