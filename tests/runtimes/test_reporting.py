"""Reports as they travel from a worker to the run."""

import pickle
import select
import time
from types import SimpleNamespace

import pytest
import torch

from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.runtimes.processes import ProcessRuntime, _Crew
from a3c.runtimes.reporting import report_parts
from a3c.stores.shared import SharedStore
from a3c.types import Episode, FinishedEpisode, Report, Update
from leftovers import nothing_left


def report(episodes):
    times = [time.time() + number / 7 for number in range(episodes)]
    each = [
        FinishedEpisode(10**4, 10**12 + number, now, now * 1e-5, 10**6, 10**9 + number)
        for number, now in enumerate(times)
    ]
    names = ("policy_loss", "value_loss", "entropy", "gradient_norm", "explained_variance", "value", "kl", "clipped")
    staleness = dict.fromkeys(range(10**6, 10**6 + episodes), 10**6)
    dropped = [
        f"worker 12345 dropped a rollout: non-finite observation at env step {number:15,}" for number in range(99)
    ]
    return Report(10**6, dict.fromkeys(names, 1 / 3 + episodes), staleness, 1 / 3, each, dropped)


@pytest.mark.parametrize("episodes", [0, 1, 50, 51, 5_000])
def test_each_part_of_a_report_goes_into_a_pipe_at_one_stroke(episodes):
    whole, merged = report(episodes), Report()
    for part in report_parts(whole):
        assert len(pickle.dumps(part)) + 4 <= 4096 == select.PIPE_BUF  # with its length in front
        merged.merge(part)
    assert merged == whole


def test_workers_send_their_reports_in_parts():
    def recipe(worker, handle, life):
        yield Update({}, 1, 0, tuple(Episode(1.0, number) for number in range(1_000)), None)

    runtime = ProcessRuntime(preload=["torch"], report_every_s=0.05)
    store = SharedStore(torch.zeros(1), UpdateRule(RMSProp(), constant(0.1), Budget()), 1, "hogwild", runtime.context)
    with nothing_left():
        reports = list(runtime.run(recipe, store, 1))
    assert [each.length for report in reports for each in report.episodes] == list(range(1_000))
    assert [each.number for report in reports for each in report.episodes] == list(range(1, 1_001))
    assert max(len(report.episodes) for report in reports) == 50


@pytest.mark.parametrize("when", ["join", "kill"])
def test_who_is_interrupted_while_workers_leave_leaves_none(when):
    interruptions = []

    class Process:
        """Leaves only when it is killed, and is waited for by somebody who does not want to."""

        def __init__(self):
            self.killed = self.closed = False

        def join(self, timeout=None):
            assert self.killed or when == "join"
            if not self.killed:
                raise KeyboardInterrupt

        def kill(self):
            if when == "kill" and not interruptions:
                interruptions.append(1)
                raise KeyboardInterrupt
            self.killed = True

        def close(self):
            self.closed = True

    pipe = SimpleNamespace(close=lambda: None)
    crew = _Crew(ProcessRuntime(), b"", None, 3)
    workers = [SimpleNamespace(number=number, process=Process(), pipe=pipe) for number in range(3)]
    crew.active, crew._done = {0: workers[0]}, workers[1:]
    with pytest.raises(KeyboardInterrupt):
        crew.end()
    assert all(worker.process.killed and worker.process.closed for worker in workers)
