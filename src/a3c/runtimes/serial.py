"""The serial runtime: N actor-learners in one process, one update each in turn. Deterministic."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from a3c.runtimes.reporting import ReportBatch, worker_failed
from a3c.types import MakeActorLearner, Report


class SerialRuntime:
    """Interleaves the actor-learners in worker order, so a run repeats to the bit.

    Args:
        report_every_s: seconds between reports.
        episodes_at_once: report whenever an episode has finished.

    Attributes:
        alive: how many workers are running.
    """

    def __init__(self, *, report_every_s: float = 0.25, episodes_at_once: bool = False) -> None:
        self.report_every_s = report_every_s
        self.episodes_at_once = episodes_at_once
        self.alive = 0

    def prepare(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to end."""

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """See `a3c.types.Runtime.run`."""
        import torch  # noqa: PLC0415  (the caller starts other processes before it pays for torch)

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker process: the networks are small, and results the same to the bit
        batch = ReportBatch(self.report_every_s, episodes_at_once=self.episodes_at_once)
        for worker in range(workers):
            store.join(worker)
        self.alive = workers
        learners = {worker: make_actor_learner(worker, store.connect(worker)) for worker in range(workers)}
        try:
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
        finally:
            for learner in learners.values():
                learner.close()
            torch.set_num_threads(threads)
