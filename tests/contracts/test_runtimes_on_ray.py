"""The runtimes' contract, on Ray, and what is Ray's own: workers that are lost are always started anew."""

import contextlib
import inspect
import os
import re
import signal
import socket
import sys
import time
import types

import pytest
import ray
import test_runtimes
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from test_runtimes import FAILURES, P, W, collect, explode, fail_at, kill_oneself, learner, make

from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant
from a3c.core.update_rule import UpdateRule
from a3c.errors import UsageError, WorkerDied, WorkerFailed, WorkerHung
from a3c.runtimes import ray as ray_runtime
from a3c.runtimes.ray import ClusterWish, RayRuntime
from a3c.runtimes.ray_worker import check_versions, versions_here
from a3c.runtimes.restarts import FailurePolicy
from leftovers import nothing_left
from ray_cluster import StoreOnUsedServer, ray_cluster

pytestmark = pytest.mark.timeout(150)

globals().update(
    {
        name: test
        for name, test in vars(test_runtimes).items()
        if name.startswith("test_") and {"runtime", "runtime_with"} & set(inspect.signature(test).parameters)
    }
)


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with ray_cluster():
        yield


def shared_store(runtime, kind="hogwild", budget=None):
    rule = UpdateRule(RMSProp(), constant(0.1), budget or Budget(env_steps=10**9))
    reduction, in_flight = ("mean", 0) if kind == "synchronous" else (None, 1)  # as a run has it without being told
    return StoreOnUsedServer(torch.zeros(P), rule, W, reduction=reduction, in_flight=in_flight)


@pytest.fixture(autouse=True)
def _stores_on_ray(monkeypatch):
    monkeypatch.setattr(test_runtimes, "shared_store", shared_store)
    monkeypatch.setattr(test_runtimes, "PATIENCE", 2)


@pytest.fixture
def runtime():
    return RayRuntime(report_every_s=0.05)


@pytest.fixture
def runtime_with():
    return lambda policy: RayRuntime(report_every_s=0.05, policy=policy)


@pytest.mark.parametrize("kind", ["hogwild", "synchronous"])
@pytest.mark.parametrize("how", FAILURES)
def test_a_worker_that_fails_is_started_anew_and_the_run_goes_on(kind, how):
    fail, message = FAILURES[how]
    message = {"killed": "died: ", "exits": "died: "}.get(how, message)
    policy = FailurePolicy(restarts_per_hour=1, timeout_s=2 if how == "hangs" else 600)
    runtime = RayRuntime(report_every_s=0.05, policy=policy)
    with nothing_left():
        store = shared_store(runtime, kind)
        reports = collect(runtime, make(updates=40, pause_s=0.02, at_update=fail_at(fail, 3)), store)
    failures = [text for report in reports for text in report.failures]
    assert len(failures) == 1
    assert failures[0].startswith("worker 1")
    assert message in failures[0]
    assert runtime.incarnation == 1
    episodes = [e for report in reports for e in report.episodes]
    assert sorted(e.length for e in episodes if e.worker == 0) == list(range(40))
    assert [e.length for e in episodes if e.worker == 1][-40:] == list(range(40))  # its last life
    counters = store.counters()
    # What was pushed; but who is gone or stopped at once may take along the one update whose answer was not waited for.
    taken_along = int(kind == "hogwild" and how != "raises")
    assert 40 + 40 + 3 - taken_along <= counters.episodes <= 40 + 40 + 3
    assert counters.env_steps == 3 * counters.episodes
    assert counters.episodes >= len(episodes) - taken_along
    # No number is given twice, and the store knows which are counted.
    numbers, state = [e.number for e in episodes if e.worker == 1], store.state_dict()
    assert len(set(numbers)) == len(numbers)
    missing = sum(last - first + 1 for _, first, last in state.get("uncounted_episodes", ()))
    assert sum(state["worker_episodes"]) - missing == counters.episodes
    (deaths,) = (report.deaths for report in reports if report.deaths)
    assert numbers[-40:] == list(range(deaths[1] + 1, deaths[1] + 41))


def test_a_worker_that_is_lost_is_started_anew_whatever_the_policy_and_one_that_raises_is_not(monkeypatch):
    runtime = RayRuntime(report_every_s=0.05)

    def recipe(worker, handle, life):
        at_update = fail_at(kill_oneself if life.incarnation == 0 else explode, 2, 1002)
        return learner(worker, handle, life, updates=10**6, pause_s=0.02, at_update=at_update)

    seen = []
    with nothing_left(), pytest.raises(WorkerFailed, match="the pole fell over"):  # noqa: PT012
        with contextlib.closing(runtime.run(recipe, shared_store(runtime), W)) as reports:
            for report in reports:
                seen += report.failures
    assert len(seen) == 1
    monkeypatch.setattr(ray_runtime, "_LOST_PER_HOUR", 1)  # for each of the two
    recipe = make(updates=10**6, pause_s=0.02, at_update=fail_at(kill_oneself, 2, 1002, 2002))
    with nothing_left(), pytest.raises(WorkerDied, match="worker 1 died: "):
        collect(runtime, recipe, shared_store(runtime))


def test_a_worker_that_dies_at_once_again_and_again_ends_the_run(monkeypatch):
    monkeypatch.setattr(ray_runtime, "_LOST_AT_ONCE", 2)
    recipe = make(updates=10**6, pause_s=0.02, at_update=fail_at(lambda: os._exit(3), 0, 1000, 2000))
    runtime = RayRuntime(report_every_s=0.05)
    with (
        nothing_left(),
        pytest.raises(WorkerDied, match="^worker 1 died: its worker process has died"),
    ):
        collect(runtime, recipe, shared_store(runtime))
    assert runtime.incarnation == 1


def test_workers_without_a_place_are_told_of_and_a_round_does_not_wait_for_them(monkeypatch):
    monkeypatch.setattr(ray_runtime, "_SAY_S", 6.0)
    runtime = RayRuntime(report_every_s=0.05, policy=FailurePolicy(timeout_s=600))
    other = ray.remote(num_cpus=1)(Idle).remote()
    assert ray.get(other.is_there.remote())
    notes = []
    with nothing_left():
        store = shared_store(runtime, "synchronous")
        for report in runtime.run(make(updates=10), store, W):
            notes += report.notes
            if notes:
                ray.kill(other)
    assert notes[0] == (
        "1 of 2 workers have not started on the Ray cluster yet, of which 0 CPUs, 0 GPUs are free: `ray status` shows "
        "who has the rest"
    )
    assert store.counters().episodes == 10 * W


class Idle:
    """Somebody else's."""

    def is_there(self):
        return True


def test_a_worker_that_hangs_ends_the_run_if_nobody_is_to_be_started_anew():
    runtime = RayRuntime(report_every_s=0.05, policy=FailurePolicy(timeout_s=2))
    recipe = make(updates=10**6, pause_s=0.01, at_update=fail_at(lambda: time.sleep(1000), 5))
    with nothing_left(), pytest.raises(WorkerHung, match="worker 1 hung: .* --worker-timeout-s 2"):
        collect(runtime, recipe, shared_store(runtime))


def test_a_worker_has_one_torch_thread():
    def check(worker, update):
        assert torch.get_num_threads() == 1, torch.get_num_threads()

    runtime = RayRuntime()
    with nothing_left():
        collect(runtime, make(updates=1, at_update=check), shared_store(runtime))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (ClusterWish(worker_cpus=2), "2 workers with 2 CPUs each do not fit on this Ray cluster, 1 do"),
        (ClusterWish(worker_gpus=1), "1 CPUs and 1 GPUs each do not fit on this Ray cluster, 0 do"),
        (ClusterWish(worker_cpus=2, wait_s=1.0), "--ray-wait-s"),
    ],
)
def test_more_than_the_cluster_has_is_refused_at_once(wish, message):
    runtime = RayRuntime(wish)
    began = time.monotonic()
    with nothing_left(), pytest.raises(UsageError, match=message):
        runtime.check_room(W)
    assert wish.wait_s <= time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("gpus", "amount", "fit"),
    [(2, 0.4, 4), (2, 0.6, 2), (1, 0.25, 4), (4, 1, 4), (5, 2, 2), (0, 0.5, 0), (1, 1 / 3, 3)],
)
def test_parts_of_a_gpu_are_of_one_gpu(monkeypatch, gpus, amount, fit):
    monkeypatch.setattr(ray_runtime, "_alive_nodes", lambda: [{"Resources": {"CPU": 64.0, "GPU": float(gpus)}}])
    assert RayRuntime(ClusterWish(worker_gpus=amount))._places() == fit


def test_another_cluster_than_the_one_in_use_is_refused():
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    for same in (None, "auto", "", f"{host}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"):
        RayRuntime(ClusterWish(address=same)).prepare()
    with pytest.raises(UsageError, match=rf"already, with the cluster at .*:{port}, and not at {host}:9: leave"):
        RayRuntime(ClusterWish(address=f"{host}:9")).prepare()


def test_a_cluster_that_nobody_answers_at_is_named():
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        ray_runtime._check_reachable("127.0.0.1:9")


@pytest.mark.parametrize("address", ["foo", "foo:", ":6379", "foo:bar"])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(UsageError, match=rf"--ray-address {address} is no HOST:PORT"):
        ray_runtime._check_reachable(address)


def test_a_runtime_environment_that_ray_does_not_take_is_named(monkeypatch):
    def refuse(**options):
        raise ValueError(f"directory {options['runtime_env']['working_dir']} must be an existing directory")

    monkeypatch.setattr(ray_runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_runtime, "_found", lambda address: None)
    monkeypatch.setattr(ray_runtime.ray, "init", refuse)
    with pytest.raises(UsageError, match="^--ray-runtime-env: directory nowhere must be an existing directory$"):
        RayRuntime(ClusterWish(runtime_env={"working_dir": "nowhere"})).prepare()


def test_a_cluster_that_ray_remembers_and_that_has_gone_is_named(monkeypatch):
    monkeypatch.setattr(ray_runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_runtime, "_found", lambda address: "127.0.0.1:9")
    with pytest.raises(UsageError, match=r"at 127\.0\.0\.1:9 .*an earlier `ray start` .* `ray stop` forgets it"):
        RayRuntime().prepare()


def test_who_accepts_connections_and_never_answers_is_named_soon(monkeypatch):
    monkeypatch.setattr(ray_runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_runtime, "_ANSWER_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UsageError, match=rf"{address} does not answer within 2 s as a Ray cluster does: give"):
            RayRuntime(ClusterWish(address=address)).prepare()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 32}, "this machine's is another"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is disabled here"),
        ({"HOME": "/nowhere"}, "this machine has none"),
    ],
)
def test_a_cluster_that_wants_another_token_is_named(monkeypatch, variables, message):
    address = ray.get_runtime_context().gcs_address
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert ray_runtime._mode_wanted(address) == "token"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{address} wants its token shown, and {message}: bring"):
        ray_runtime._mode_wanted(address)


def test_what_ray_was_told_of_the_token_is_undone(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    runtime = RayRuntime()
    runtime._take_mode("token")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    runtime.close()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    runtime._take_mode("token")
    runtime.close()
    assert os.environ["RAY_AUTH_MODE"] == "token"  # by whoever has set it


@pytest.mark.parametrize("rays_code", [1, 15])
def test_sigterm_while_ray_is_starting_is_not_answered_by_ray(rays_code):
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with pytest.raises(SystemExit) as end, ray_runtime._sigterm_ends():
            sys.exit(rays_code)  # as its handlers do
        assert end.value.code == 143
        ray_runtime._sigterm_is_as_before()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with ray_runtime._sigterm_ends():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(rays_code))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # the caller's
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_address_of_a_ray_client_is_refused(monkeypatch):
    monkeypatch.setattr(ray_runtime.ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"ray://head:10001 is that of a Ray Client"):
        RayRuntime(ClusterWish(address="ray://head:10001")).prepare()


@pytest.mark.parametrize("lost", [OutOfMemoryError("killed by Ray's memory monitor"), NodeDiedError("its node")])
def test_a_worker_that_ray_has_lost_has_not_failed_by_itself(monkeypatch, lost):
    def get(reference):
        raise lost

    monkeypatch.setattr(ray_runtime.ray, "get", get)
    message = ray_runtime._Worker(1, None, iter([None])).next_message()
    assert isinstance(message, WorkerDied)
    assert str(lost) in str(message)


def test_a_runtime_environment_comes_too_late_where_ray_is_in_use():
    with pytest.raises(UsageError, match=r"Ray is in use in this process already.*--ray-runtime-env"):
        RayRuntime(ClusterWish(runtime_env={"env_vars": {"A": "1"}})).prepare()


def test_a_runtime_environment_that_ray_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr(ray_runtime.ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"--ray-runtime-env: Ray knows no 'workingdir', but .*env_vars.* working_dir"):
        RayRuntime(ClusterWish(runtime_env={"workingdir": ".", "pip": ["minatar"]})).prepare()


def test_a_worker_where_other_versions_are_ends_the_run_before_it_begins(monkeypatch):
    monkeypatch.setattr(ray_runtime, "versions_here", lambda: versions_here() | {"torch": "1.0"})
    runtime = RayRuntime()
    with (
        nothing_left(),
        pytest.raises(WorkerFailed, match=r"UsageError: node .* has torch .* has 1\.0: install") as failed,
    ):
        collect(runtime, make(updates=1), shared_store(runtime))
    assert "\n" not in str(failed.value)  # what Ray says besides


def test_a_node_without_the_library_is_named_first_and_shortly(monkeypatch):
    module = types.ModuleType("a3c_only_here")
    worker_class = type("Worker", (ray_runtime.RayWorker,), {"__module__": module.__name__})
    module.Worker = worker_class
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(ray_runtime, "RayWorker", worker_class)
    runtime = RayRuntime()
    with nothing_left(), pytest.raises(WorkerFailed) as failed:
        collect(runtime, make(updates=1), shared_store(runtime))
    first, _, rest = str(failed.value).partition("\n")
    assert re.fullmatch(
        r"worker \d failed: UsageError: the node at [\d.]+ cannot import a3c_only_here: is the same a3c installed on "
        r"every node\? See docs/cluster\.md",
        first,
    )
    assert rest.endswith("\nModuleNotFoundError: No module named 'a3c_only_here'")
    assert len(rest) < 650
    assert "\x1b" not in rest


def test_a_worker_that_cannot_be_made_otherwise_says_why():
    text = "an error raised in its creation task, \x1b[36mray::RayWorker.__init__()\x1b[39m (pid=1)\n  ^^^\nOSError: no"
    failed = ray_runtime._not_made(RayActorError("1", text))
    assert failed.summary == (
        "its node cannot start it (OSError: no): is the same a3c installed on every node? See docs/cluster.md"
    )


def test_another_version_on_a_node_is_named():
    here = versions_here()
    assert set(here) == {"a3c", "torch", "gymnasium", "numpy"}
    check_versions(here)
    with pytest.raises(UsageError, match=rf"node .* has torch {here['torch']}, .* has 1\.0: install the same"):
        check_versions(here | {"torch": "1.0"})


def test_what_a_node_cannot_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def learner(worker, handle, life):\n    yield\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    runtime = RayRuntime()
    with nothing_left(), pytest.raises(WorkerFailed, match="No module named 'only_here'"):
        collect(runtime, only_here.learner, shared_store(runtime))
    del sys.modules["only_here"]
