"""One contract for every runtime: run W actor-learners, report all they did, leave nothing behind."""

import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from a3c import errors
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.errors import StoreBusy, WorkerDied, WorkerFailed, WorkerHung
from a3c.runtimes import restarts as restarts_module
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.restarts import FailurePolicy, Restarts
from a3c.runtimes.serial import SerialRuntime
from a3c.stores.shared import SharedStore
from a3c.stores.synchronous import SynchronousStore
from a3c.types import Counts, Episode, Update
from leftovers import descendants, nothing_left, nothing_left_of_children

W = 2
P = 4
pytestmark = pytest.mark.timeout(60)
PATIENCE = 1  # how much longer waits and time limits are where messages take longer


@pytest.fixture(params=["serial", "forkserver", "spawn"])
def runtime(request):
    if request.param == "serial":
        return SerialRuntime(report_every_s=0.05)
    return ProcessRuntime(request.param, preload=["torch"], report_every_s=0.05)


@pytest.fixture(params=["forkserver", "spawn"])
def start_method(request):
    return request.param


@pytest.fixture
def runtime_with(start_method):
    """A runtime with a policy for workers that fail."""
    return lambda policy: ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05, policy=policy)


def shared_store(runtime, kind="hogwild", budget=None):
    rule = UpdateRule(RMSProp(), constant(0.1), budget or Budget(env_steps=10**9))
    context = getattr(runtime, "context", None)
    if kind == "synchronous":
        return SynchronousStore(torch.zeros(P), rule, W, "mean", context)
    return SharedStore(torch.zeros(P), rule, W, kind, context)


def learner(worker, handle, life, *, updates=10, pause_s=0.0, at_update=None):
    """A scripted actor-learner: pulls, pushes ones, and reports one episode of return `worker` an update.

    `at_update` is called with the worker and the update, in a later life with an update that counts from 1000 for each.
    """
    theta = torch.empty(P)
    for update in range(updates):
        snapshot = handle.pull(theta)
        if snapshot.stop:
            return
        if at_update is not None:
            at_update(worker, 1000 * life.incarnation + update)
        time.sleep(pause_s)
        life.beat()
        receipt = handle.push(torch.ones(P), Counts(3, 1), snapshot.version)
        yield Update({"entropy": 1.0}, 3, snapshot.env_steps, (Episode(float(worker), update),), receipt)


def make(**options):
    return lambda worker, handle, life: learner(worker, handle, life, **options)


def collect(runtime, recipe, store):
    with contextlib.closing(runtime.run(recipe, store, W)) as reports:
        return list(reports)


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_everything_that_was_done_is_reported(runtime, kind):
    with nothing_left():
        store = shared_store(runtime, kind)
        reports = collect(runtime, make(), store)
        episodes = [e for r in reports for e in r.episodes]
        assert sum(r.updates for r in reports) == 10 * W
        assert sorted((e.worker, e.length) for e in episodes) == [(w, u) for w in range(W) for u in range(10)]
        assert all(e.episode_return == e.worker for e in episodes)
        assert store.counters().env_steps == 3 * 10 * W
        assert store.counters().version == (10 if kind == "synchronous" else 10 * W)


def test_a_budget_ends_all_workers(runtime):
    with nothing_left():
        store = shared_store(runtime, budget=Budget(env_steps=30))
        collect(runtime, make(updates=10**6, pause_s=0.001), store)
        under_way = 1 + getattr(store, "in_flight", 0)  # updates of each worker that the stop may come behind
        assert 30 <= store.counters().env_steps <= 30 + 3 * W * under_way


@pytest.mark.parametrize("kind", ["hogwild", "synchronous"])
def test_a_stop_request_ends_all_workers(runtime, kind):
    with nothing_left():
        store = shared_store(runtime, kind)
        with contextlib.closing(runtime.run(make(updates=10**6, pause_s=0.001), store, W)) as reports:
            for report in reports:
                if report.updates:
                    store.request_stop()
        assert store.counters().env_steps < 10**5


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_a_failure_is_raised_with_the_workers_own_traceback(runtime, kind):
    def explode(worker, update):
        if worker == 1 and update == 3:
            raise ZeroDivisionError("the pole fell over")

    with nothing_left():
        store, seen = shared_store(runtime, kind), []
        with pytest.raises(WorkerFailed) as failure:  # noqa: PT012  (the reports before it are looked at)
            with contextlib.closing(runtime.run(make(updates=10**6, at_update=explode), store, W)) as reports:
                for report in reports:
                    seen.append(report)
        assert failure.value.worker == 1
        assert failure.value.kind == "ZeroDivisionError"
        assert "the pole fell over" in str(failure.value)
        assert "in explode" in failure.value.worker_traceback
        assert [e.length for r in seen for e in r.episodes if e.worker == 1] == [0, 1, 2]


def test_one_worker_may_end_before_the_others_in_a_synchronous_round(runtime):
    def leave_early(worker, handle, life):
        return learner(worker, handle, life, updates=3 if worker == 0 else 8, pause_s=0.05)

    with nothing_left():
        store = shared_store(runtime, "synchronous")
        reports = collect(runtime, leave_early, store)
        assert store.counters()[:3] == (8, 3 * 11, 11)
        assert sum(report.updates for report in reports) == 11


def test_closing_the_iterator_ends_the_workers_at_once(runtime):
    with nothing_left():
        store = shared_store(runtime)
        reports = runtime.run(make(updates=10**6, pause_s=0.001), store, W)
        next(reports)
        reports.close()


def test_reports_come_though_nothing_happens(runtime):
    if isinstance(runtime, SerialRuntime):
        pytest.skip("in one process an update is under way, so there is nothing to hand out")
    with nothing_left(), contextlib.closing(runtime.run(make(pause_s=60), shared_store(runtime), W)) as reports:
        assert next(reports).updates == 0


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_a_killed_worker_ends_the_run_within_five_seconds(start_method, kind):
    def die(worker, update):
        if worker == 1 and update == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05)
    with nothing_left():
        store = shared_store(runtime, kind)
        died = last = time.monotonic()
        with pytest.raises(WorkerDied, match="worker 1 died: killed by signal 9") as death:  # noqa: PT012
            with contextlib.closing(
                runtime.run(make(updates=10**6, pause_s=0.001, at_update=die), store, W)
            ) as reports:
                for report in reports:
                    last = time.monotonic()
                    if any(e.worker == 1 for e in report.episodes):
                        died = last
        assert death.value.exit_code == -9
        assert time.monotonic() - died < 5


def test_a_worker_that_exits_without_a_word_is_named(start_method):
    runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05)
    with nothing_left(), pytest.raises(WorkerDied, match="exited with code 7"):
        collect(runtime, make(at_update=lambda worker, update: os._exit(7)), shared_store(runtime))


def fail_at(fail, *updates):
    """What `learner` is to do at some updates of worker 1."""
    return lambda worker, update: fail() if worker == 1 and update in updates else None


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def explode():
    raise ZeroDivisionError("the pole fell over")


def stop_oneself():
    os.kill(os.getpid(), signal.SIGSTOP)


FAILURES = {
    "killed": (kill_oneself, "died: killed by signal 9"),
    "raises": (explode, "failed: ZeroDivisionError"),
    "exits": (lambda: os._exit(3), "exited with code 3"),
    "hangs": (stop_oneself, "hung: one step"),
}


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
@pytest.mark.parametrize("how", FAILURES)
def test_a_worker_that_fails_is_started_anew_and_the_run_goes_on(start_method, kind, how):
    fail, message = FAILURES[how]
    policy = FailurePolicy(restarts_per_hour=2, timeout_s=2 if how == "hangs" else 600)
    runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05, policy=policy)
    recipe = make(updates=60, pause_s=0.02, at_update=fail_at(fail, 3, 1002))
    with nothing_left():
        store = shared_store(runtime, kind)
        reports = collect(runtime, recipe, store)
    failures = [text for report in reports for text in report.failures]
    assert len(failures) == 2
    assert all(text.startswith("worker 1") and message in text for text in failures)
    assert runtime.incarnation == 2
    episodes = [e for report in reports for e in report.episodes]
    assert sorted(e.length for e in episodes if e.worker == 0) == list(range(60))
    assert [e.length for e in episodes if e.worker == 1][-60:] == list(range(60))  # its last life
    counters = store.counters()
    # Each life numbers its episodes on from what the one before it has pushed.
    deaths = [report.deaths[1] for report in reports if report.deaths]
    numbers = [e.number for e in episodes if e.worker == 1]
    assert deaths[0] >= 3
    assert numbers[-60:] == list(range(deaths[1] + 1, deaths[1] + 61))
    assert sorted(set(numbers)) == numbers
    assert store.pushed_episodes(1) == numbers[-1]
    # T is what was pushed: all of worker 0's and of the last life's, and the 3 and 2 updates before.
    assert counters.env_steps == 3 * (60 + 60 + 3 + 2)
    assert counters.episodes == 60 + 60 + 3 + 2 >= len(episodes)


@pytest.mark.usefixtures("no_fork_server")
@pytest.mark.parametrize("kind", ["hogwild", "synchronous"])
def test_restarts_are_limited(start_method, kind):
    runtime = ProcessRuntime(
        start_method, preload=["torch"], report_every_s=0.05, policy=FailurePolicy(restarts_per_hour=1)
    )
    recipe = make(updates=10**6, pause_s=0.001, at_update=fail_at(explode, 2, 1002))
    seen = []
    with nothing_left(), pytest.raises(WorkerFailed, match="the pole fell over"):  # noqa: PT012
        with contextlib.closing(runtime.run(recipe, shared_store(runtime, kind), W)) as reports:
            for report in reports:
                seen += report.failures
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_a_worker_that_hangs_ends_the_run_if_nobody_is_to_be_started_anew(start_method, kind):
    runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05, policy=FailurePolicy(timeout_s=2))
    recipe = make(updates=10**6, pause_s=0.001, at_update=fail_at(stop_oneself, 5))
    with nothing_left(), pytest.raises(WorkerHung, match="worker 1 hung: .* --worker-timeout-s 2"):
        collect(runtime, recipe, shared_store(runtime, kind))


def slow_to_start(worker, handle, life):
    if worker == 1:
        time.sleep(5)
    return learner(worker, handle, life)


def test_a_start_may_take_longer_than_a_step(runtime_with):
    runtime = runtime_with(FailurePolicy(timeout_s=2))
    with nothing_left():
        store = shared_store(runtime)
        collect(runtime, slow_to_start, store)
        assert store.counters().version == 10 * W


def test_who_waits_for_a_slow_one_does_not_hang(runtime_with):
    waits = 30 * PATIENCE

    def recipe(worker, handle, life):
        def at_update(worker, update):
            for _ in range(0 if worker == 0 else waits):
                time.sleep(0.1)
                life.beat()

        return learner(worker, handle, life, updates=2, at_update=at_update)

    runtime = runtime_with(FailurePolicy(timeout_s=2 * PATIENCE))
    with nothing_left():
        store = shared_store(runtime, "synchronous")
        collect(runtime, recipe, store)
        assert store.counters().version == 2


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_a_worker_killed_in_a_push_keeps_nobody_out(start_method, kind):
    def recipe(worker, handle, life):
        if worker == 1 and life.incarnation == 0:
            rule, plain = handle.store.rule, UpdateRule.apply

            def apply(*arguments, **options):
                if options["step_count"] > 5:
                    kill_oneself()
                return plain(rule, *arguments, **options)

            object.__setattr__(rule, "apply", apply)
        return learner(worker, handle, life, updates=40, pause_s=0.01)

    runtime = ProcessRuntime(
        start_method, preload=["torch"], report_every_s=0.05, policy=FailurePolicy(restarts_per_hour=1)
    )
    with nothing_left():
        store = shared_store(runtime, kind)
        reports = collect(runtime, recipe, store)
    assert sum(len(report.failures) for report in reports) == 1
    assert bool(torch.isfinite(store.snapshot().parameters).all())
    assert store.counters().env_steps >= 3 * 2 * 40


@pytest.mark.parametrize("kind", ["hogwild", "locked", "synchronous"])
def test_a_worker_stopped_in_an_update_keeps_nobody_for_ever(start_method, kind):
    def recipe(worker, handle, life):
        if worker == 1 and life.incarnation == 0:
            rule, plain = handle.store.rule, UpdateRule.apply

            def apply(*arguments, **options):
                if options["step_count"] > 5:
                    stop_oneself()
                return plain(rule, *arguments, **options)

            object.__setattr__(rule, "apply", apply)
        return learner(worker, handle, life, updates=40, pause_s=0.01)

    policy = FailurePolicy(restarts_per_hour=3, timeout_s=2)
    runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05, policy=policy)
    busy, failures = False, []
    with nothing_left():
        store = shared_store(runtime, kind)
        with contextlib.closing(runtime.run(recipe, store, W)) as reports:
            for report in reports:
                failures += report.failures
                try:
                    busy or store.snapshot()
                except StoreBusy:
                    busy = True
    assert any("worker 1 hung" in text for text in failures)
    assert busy
    store.snapshot()  # who held it up is gone
    assert store.counters().env_steps >= 3 * 2 * 40


def test_who_has_waited_is_not_taken_for_hanging(runtime_with):
    waits = 40 * PATIENCE

    def recipe(worker, handle, life):
        def at_update(worker, update):
            if worker == 1 and update == 0:
                for _ in range(waits):
                    time.sleep(0.1)
                    life.beat()
            else:
                time.sleep(1.0)  # its first step after the wait, without a beat before it

        return learner(worker, handle, life, updates=2, at_update=at_update)

    runtime = runtime_with(FailurePolicy(timeout_s=2 * PATIENCE))
    with nothing_left():
        store = shared_store(runtime, "synchronous")
        collect(runtime, recipe, store)
        assert store.counters().version == 2


def test_a_parent_that_was_away_judges_nobody(runtime_with):
    runtime = runtime_with(FailurePolicy(timeout_s=2 * PATIENCE))
    with (
        nothing_left(),
        contextlib.closing(
            runtime.run(make(updates=120 * PATIENCE, pause_s=0.05), shared_store(runtime), W)
        ) as reports,
    ):
        for number, _ in enumerate(reports):
            if number == 3:
                time.sleep(5.0 * PATIENCE)  # the workers' pipes fill meanwhile, or their beats are old


def test_others_go_on_while_a_worker_of_a_round_is_started_anew(runtime_with):
    def recipe(worker, handle, life):
        if life.incarnation:
            time.sleep(3.0)  # an environment that takes its time
        yield from learner(worker, handle, life, updates=60, pause_s=0.05, at_update=fail_at(explode, 3))

    runtime = runtime_with(FailurePolicy(restarts_per_hour=3))
    with nothing_left():
        store, meanwhile, anew = shared_store(runtime, "synchronous"), None, False
        with contextlib.closing(runtime.run(recipe, store, W)) as reports:
            for report in reports:
                if meanwhile is None and report.failures:
                    meanwhile = 0
                elif meanwhile is not None:
                    anew = anew or any(episode.worker == 1 for episode in report.episodes)
                    meanwhile += 0 if anew else len(report.episodes)
    assert anew
    assert meanwhile > 10


@pytest.mark.parametrize("kind", ["NonFiniteError", "UsageError"])
def test_what_would_only_fail_again_is_not_started_anew(runtime_with, kind):
    def fail():
        raise getattr(errors, kind)("for good")

    runtime = runtime_with(FailurePolicy(restarts_per_hour=9))
    with nothing_left(), pytest.raises(WorkerFailed, match="for good"):
        collect(runtime, make(updates=10**6, pause_s=0.01, at_update=fail_at(fail, 2)), shared_store(runtime))
    assert runtime.incarnation == 0


def test_each_failure_of_a_worker_waits_longer_than_the_one_before(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(restarts_module.time, "monotonic", lambda: Clock.now)
    restarts, waits = Restarts(per_hour=20), []
    for _ in range(12):
        assert restarts.allow(0)
        waits.append(restarts.seconds_to_next())
        assert restarts.due() == []
        Clock.now += waits[-1]
        assert restarts.due() == [0]
        assert not restarts.waiting
    assert waits == pytest.approx([min(0.1 * 2**k, 30.0) for k in range(12)])
    Clock.now += 60  # it has lived
    assert restarts.allow(0)
    assert restarts.seconds_to_next() == pytest.approx(0.1)
    assert all(restarts.allow(worker) for worker in range(1, 8))
    assert not restarts.allow(8)
    Clock.now += 3700
    assert restarts.allow(8)


def test_system_exit_in_an_environment_is_a_failure(runtime):
    def leave(worker, update):
        raise SystemExit(3)

    with nothing_left(), pytest.raises(WorkerFailed, match="SystemExit"):
        collect(runtime, make(at_update=leave), shared_store(runtime))


@pytest.mark.usefixtures("no_fork_server")
def test_a_worker_has_one_torch_thread(start_method):
    def check(worker, update):
        assert torch.get_num_threads() == 1, torch.get_num_threads()

    runtime = ProcessRuntime(start_method, preload=["torch"])
    with nothing_left():
        collect(runtime, make(updates=1, at_update=check), shared_store(runtime))


@pytest.mark.usefixtures("no_fork_server")
def test_a_worker_collects_garbage_but_not_among_what_was_imported(start_method):
    def look(worker, handle, life):
        import gc

        yield Update({"on": float(gc.isenabled()), "frozen": float(gc.get_freeze_count())}, 0, 0, (), None)

    with nothing_left():
        runtime = ProcessRuntime(start_method, preload=["torch"], report_every_s=0.05)
        reports = collect(runtime, look, shared_store(runtime))
    assert sum(report.sums.get("on", 0) for report in reports) == W
    assert sum(report.sums.get("frozen", 0) for report in reports) > W * 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_a_worker_keeps_what_it_frees():
    def check(worker, update):
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**21)  # 8 MiB: 2048 fresh pages, if they were given back
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        assert faults < 100, faults

    runtime = ProcessRuntime("forkserver", preload=["torch"])
    with nothing_left():
        collect(runtime, make(updates=1, at_update=check), shared_store(runtime))


PAUSES = {
    "busy": "time.sleep(0.01)",
    "stuck": "time.sleep(1000)",
    "stuck in compiled code": "sum(range(10**12))",  # without giving way to another thread
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("pause", PAUSES)
def test_workers_go_when_the_parent_is_gone(start_method, pause, tmp_path):
    if sys.platform != "linux" and pause in ("stuck in compiled code", "stopped"):
        pytest.skip("nobody but the system can end such a process")
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal, sys, time, torch
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
            import test_runtimes as t
            runtime = t.ProcessRuntime({start_method!r}, preload=["torch"], report_every_s=0.01)
            pause = lambda worker, update: time.sleep(0.1) if update < 3 else {PAUSES[pause]}
            for report in runtime.run(t.make(updates=10**6, at_update=pause), t.shared_store(runtime), 2):
                if report.updates:
                    print("running", flush=True)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with nothing_left():
        assert parent.stdout is not None
        assert parent.stdout.readline() == "running\n"
        children = descendants(parent.pid)
        assert len(children) >= W
        time.sleep(1)  # until the workers are at it
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 5
        while alive := {c for c in children if _alive(c)}:
            assert time.monotonic() < deadline, f"still alive: {alive}"
            time.sleep(0.05)


def test_a_process_that_is_still_importing_notices_that_the_parent_is_gone(start_method, tmp_path):
    (tmp_path / "slow_import.py").write_text(
        textwrap.dedent(
            f"""
            import pathlib, time
            pathlib.Path({str(tmp_path)!r}, "importing").touch()
            time.sleep(60)
            class Slow: pass
            """
        )
    )
    (tmp_path / "parent.py").write_text(
        textwrap.dedent(
            f"""
            import sys, types
            from a3c.runtimes.processes import ProcessRuntime
            class Slow: pass
            Slow.__module__ = "slow_import"
            sys.modules["slow_import"] = types.SimpleNamespace(Slow=Slow)
            store = types.SimpleNamespace(join=print, connect=lambda number: Slow(), pushed_episodes=lambda number: 0)
            runtime = ProcessRuntime({start_method!r}, preload=["slow_import"])
            runtime.prepare()
            list(runtime.run(print, store, 2))
            """
        )
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])  # a fork server knows no other path
    environment = os.environ | {"PYTHONPATH": path}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], env=environment, stdout=subprocess.DEVNULL)
    with nothing_left():
        while not (tmp_path / "importing").exists():
            assert parent.poll() is None
            time.sleep(0.05)
        children = descendants(parent.pid)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 5
        while alive := {c for c in children if _alive(c)}:
            assert time.monotonic() < deadline, f"still alive: {alive}"
            time.sleep(0.05)


def test_a_fork_server_whose_parent_has_gone_before_it_could_look_goes_too(tmp_path):
    (tmp_path / "slow_import.py").write_text("import time; time.sleep(60)")
    (tmp_path / "parent.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            from a3c.runtimes.processes import ProcessRuntime
            ProcessRuntime("forkserver", preload=["slow_import"]).prepare()
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    with nothing_left(), nothing_left_of_children(patience_s=5) as environment:
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
        parent = subprocess.run([sys.executable, str(tmp_path / "parent.py")], env=environment, timeout=30)
        assert parent.returncode == -signal.SIGKILL


def test_a_fork_server_that_is_merely_ended_leaves_the_parents_own_sockets(tmp_path):
    script = """
        import os
        from multiprocessing import forkserver, util
        from a3c.runtimes.processes import ProcessRuntime
        ProcessRuntime("forkserver").prepare()
        open(os.path.join(util.get_temp_dir(), "mine"), "w").close()
        forkserver._forkserver._stop()
        print(os.listdir(util.get_temp_dir()), [name for name in os.environ if name.startswith("A3C")])
    """
    with nothing_left():
        command = [sys.executable, "-c", textwrap.dedent(script)]
        assert subprocess.check_output(command, text=True, timeout=30) == "['mine'] []\n"


def test_the_serial_runtime_takes_turns_in_worker_order():
    turns = []
    collect(SerialRuntime(), make(updates=3, at_update=lambda w, u: turns.append((u, w))), shared_store(None))
    assert turns == [(u, w) for u in range(3) for w in range(W)]


def test_finished_episodes_come_at_once_if_asked_for():
    runtime = SerialRuntime(report_every_s=1000, episodes_at_once=True)
    assert [len(r.episodes) for r in collect(runtime, make(updates=3), shared_store(None))] == [1] * 6 + [0]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
