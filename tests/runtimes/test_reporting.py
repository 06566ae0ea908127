"""Reports as they travel from a worker to the run."""

import pickle
import select
import time
from types import SimpleNamespace

import pytest

from a3c.runtimes.processes import ProcessRuntime, _Crew
from a3c.runtimes.reporting import parts
from a3c.types import FinishedEpisode, Report


def report(episodes):
    times = [time.time() + number / 7 for number in range(episodes)]
    each = [FinishedEpisode(10**4, 10**12 + number, now, now * 1e-5, 10**6) for number, now in enumerate(times)]
    names = ("policy_loss", "value_loss", "entropy", "gradient_norm", "explained_variance", "value", "kl", "clipped")
    staleness = dict.fromkeys(range(64), 10**6)
    return Report(10**6, dict.fromkeys(names, 1 / 3 + episodes), staleness, 1 / 3, each, ["dropped: " + "x" * 200])


@pytest.mark.parametrize("episodes", [0, 1, 50, 51, 5_000])
def test_each_part_of_a_report_goes_into_a_pipe_at_one_stroke(episodes):
    whole, merged = report(episodes), Report()
    for part in parts(whole):
        assert len(pickle.dumps(part)) + 4 <= select.PIPE_BUF  # with its length in front
        merged.merge(part)
    assert merged == whole


def test_who_is_interrupted_while_workers_leave_leaves_none():
    class Process:
        """Leaves only when it is killed, and is waited for by somebody who does not want to."""

        def __init__(self):
            self.killed = self.closed = False

        def join(self, timeout=None):
            if not self.killed:
                raise KeyboardInterrupt

        def kill(self):
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
