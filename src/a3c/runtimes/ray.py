"""The Ray runtime: every actor-learner in an actor of its own, anywhere on a cluster."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import multiprocessing
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)
from ray.runtime_env import RuntimeEnv

from a3c.errors import ClusterError, OutOfResources, UsageError, WorkerDied, WorkerError, WorkerFailed, WorkerHung
from a3c.own_code import shortened
from a3c.runtimes.child_process import dumped
from a3c.runtimes.ray_worker import RayWorker, versions_here
from a3c.runtimes.restarts import FailurePolicy, Restarts, Stillness, may_pass
from a3c.runtimes.worker import Done, Failure
from a3c.types import MakeActorLearner, Report

_HELD: list[Any] = []  # handles of actors, which are never freed: see a3c.stores.ray

_CONNECT_S = 5.0
_ANSWER_S = 15  # what the cluster's first answer may take
_START_S = 120.0  # what a start may take besides: a place on the cluster, imports, an environment that is made
_LOST_PER_HOUR = 100  # of each worker's processes and nodes, where nobody says how many
_LOST_AT_ONCE = 5  # in a row, before it has reported anything: it is not the cluster, then
_LOST = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError, WorkerCrashedError)
_LOOK_EVERY_S = 1.0
_LEAST_SHARE = 1e-4  # of a processor or a GPU, to Ray
_LONGEST_REASON = 500
_LINES = 3  # of what Ray says where a worker cannot be made
_SAY_S, _SAY_AGAIN_S = 15.0, 60.0  # how long workers may have no place before that is said, and how often
_SAID = re.compile(r"UsageError: (.*)")  # by what runs there
_MISSING = re.compile(r"No module named '([^']*)'")
_NODE = re.compile(r"\bip=([^,)]+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAUSE = re.compile(r"The actor (?:is dead|died) because (.*)")  # Ray's names and numbers come before it
_MODE = "RAY_AUTH_MODE"
_ASK = """\
import sys
_, address, seconds, modes, *sys.path = sys.argv
import os, signal
from ray._raylet import Config, GcsClient
from ray.exceptions import AuthenticationError
if hasattr(signal, "alarm"):
    signal.alarm(int(seconds))
for mode in modes.split(","):
    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")
    try:
        GcsClient(address=address)
    except AuthenticationError:
        continue
    print(mode, flush=True)
    os._exit(0)
print("refused")
"""  # in a process of its own: where nobody answers, Ray cannot be stopped, and what it has been told once it keeps
_NO_OVERRIDE = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"  # what Ray will do by default, and warns of until somebody chooses


class ClusterWish(NamedTuple):
    """What a run wants of Ray."""

    address: str | None = None  # of a running cluster; None: RAY_ADDRESS, or else one of this machine alone
    worker_cpus: float = 1.0
    worker_gpus: float = 0.0
    runtime_env: Mapping[str, Any] = {}  # as Ray takes it: packages, modules, variables that workers need
    wait_s: float = 0.0  # for nodes that are still to come


class RayRuntime:
    """Runs W actor-learners in W actors on a Ray cluster and hands out their reports.

    A worker whose process or node is lost is started anew, where there is room, whatever the policy says of workers
    that fail by themselves; while that goes on, the others go on. The run's actors end with the iterator of `run`, and
    all of them when the caller's process dies. The connection to Ray is closed with the runtime, unless the caller had
    made it before.

    Args:
        wish: what is wanted of Ray.
        report_every_s: seconds between a worker's reports.
        episodes_at_once: report whenever an episode has finished.
        policy: what becomes of a worker that fails.

    Attributes:
        alive: how many workers are running.
        incarnation: the highest that any worker has had: 0, and more where some were started anew.
        context: of multiprocessing, for what a run does in processes beside the workers.
    """

    def __init__(
        self,
        wish: ClusterWish = ClusterWish(),  # noqa: B008  (immutable)
        *,
        report_every_s: float = 0.25,
        episodes_at_once: bool = False,
        policy: FailurePolicy = FailurePolicy(),  # noqa: B008  (immutable)
    ) -> None:
        self.wish = wish
        self.report_every_s = report_every_s
        self.episodes_at_once = episodes_at_once
        self.policy = policy
        self.alive = 0
        self.incarnation = 0
        self.context = multiprocessing.get_context("spawn")
        self._connected = False
        self._has_set_mode = False

    def prepare(self) -> None:
        """Connect to the cluster, or begin one of this machine alone.

        Raises UsageError if it cannot be reached, or the runtime environment is none that Ray knows.
        """
        if ray.is_initialized():
            if self.wish.runtime_env:
                raise UsageError(
                    "Ray is in use in this process already: hand the runtime environment to your own ray.init, and "
                    "leave --ray-runtime-env out"
                )
            here = str(ray.get_runtime_context().gcs_address)
            if not _may_be(self.wish.address, here):
                raise UsageError(
                    f"Ray is in use in this process already, with the cluster at {here}, and not at "
                    f"{self.wish.address}: leave --ray-address out, or call ray.shutdown() first"
                )
            return
        if unknown := [name for name in self.wish.runtime_env if name not in RuntimeEnv.known_fields]:
            known = ", ".join(sorted(name for name in RuntimeEnv.known_fields if not name.startswith("_")))
            raise UsageError(f"--ray-runtime-env: Ray knows no {', '.join(map(repr, unknown))}, but {known}")
        os.environ.setdefault(_NO_OVERRIDE, "0")
        address = self.wish.address or os.environ.get("RAY_ADDRESS")
        if found := _found(address):
            _check_reachable(found, named=bool(address))
            self._take_mode(_mode_wanted(found))
        options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
        if self.wish.runtime_env:
            options["runtime_env"] = dict(self.wish.runtime_env)
        try:
            with _sigterm_ends():
                ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:  # where its processes are slow to come up, Ray raises nothing more special
            if self.wish.runtime_env and isinstance(error, ValueError | TypeError):  # before it has tried to connect
                raise UsageError(f"--ray-runtime-env: {_one_line(error)}") from error
            what = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
            raise UsageError(
                f"{what} cannot be used ({_one_line(error)}): see `ray status` there, and whether this machine has the "
                "cluster's token (docs/cluster.md)"
            ) from error
        self._connected = True

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """See `a3c.types.Runtime.run`.

        Raises:
            UsageError: the actor-learner cannot be sent.
            WorkerFailed: an actor-learner raised.
            WorkerDied: processes or nodes of workers are lost again and again.
            WorkerHung: it made no step for too long, and was killed.
            OutOfResources: a worker finds no place, and no other is running.
        """
        recipe = dumped(make_actor_learner)
        crew = _Crew(self, recipe, store, workers)
        try:
            for number in range(workers):
                store.join(number)
            for number in range(workers):
                crew.start(number)
            yield from self._reports(crew, store, workers)
        finally:
            crew.end()

    def close(self) -> None:
        """Close the connection, if this runtime has made it."""
        if self._connected:
            self._connected = False
            ray.shutdown()
            _sigterm_is_as_before()
        if self._has_set_mode:  # the next cluster may want another
            self._take_mode(None)

    def _take_mode(self, mode: str | None) -> None:
        """Have Ray show this machine's token, or not; None: as it was."""
        self._has_set_mode = mode is not None and _MODE not in os.environ
        if mode is None:
            os.environ.pop(_MODE, None)
        else:
            os.environ[_MODE] = mode
        with contextlib.suppress(ImportError, AttributeError):  # what Ray has read when it was imported, read anew
            importlib.import_module("ray._raylet").Config.initialize("")

    def _reports(self, crew: _Crew, store: Any, workers: int) -> Iterator[Report]:
        restarts, losses = Restarts(self.policy.restarts_per_hour), Restarts(_LOST_PER_HOUR, each=True)
        self.alive = len(crew.active)
        failure: WorkerError | OutOfResources | None = None
        while (crew.active or restarts.waiting or losses.waiting) and failure is None:
            wait_s = min(self.report_every_s, restarts.seconds_to_next(), losses.seconds_to_next())
            ready = crew.with_news(wait_s)
            if not ready:
                yield Report()
            for worker in ready:
                message = worker.next_message()
                if isinstance(message, Report):
                    crew.has_reported(worker, message)
                    yield message
                    continue
                failed = crew.dismiss(worker, message)
                self.alive = len(crew.active)
                if failed is None or failure is not None:
                    continue
                lost = isinstance(failed, WorkerDied)
                anew = isinstance(failed, WorkerError) and may_pass(failed) and not crew.is_hopeless(worker.number)
                if anew and (losses if lost else restarts).allow(worker.number):
                    yield Report(failures=[str(failed)], deaths={worker.number: crew.pushed_episodes(worker.number)})
                else:
                    failure = failed
            crew.kill_who_hangs()
            if note := crew.who_waits():
                yield Report(notes=[note])
            if (restarts.waiting or losses.waiting) and store.counters().stop:
                restarts.waiting.clear()
                losses.waiting.clear()
            for number in (*restarts.due(), *losses.due()):
                crew.start(number)  # its first pull counts it in: the others need not wait for it to be up
                self.alive = len(crew.active)
        if failure is not None:
            raise failure

    def check_room(self, workers: int) -> None:
        """Raise UsageError unless so many workers fit on the cluster, now or within `wait_s`."""
        wants = self.wish.worker_cpus, self.wish.worker_gpus
        if any(0 < amount < _LEAST_SHARE for amount in wants) or (wants[1] > 1 and wants[1] % 1):
            raise UsageError(
                f"Ray cannot give each worker {self._needs()}: take 0 or at least {_LEAST_SHARE:g}, and of GPUs a "
                "whole number or a part of one, with --worker-cpus and --worker-gpus"
            )
        deadline = time.monotonic() + self.wish.wait_s
        while (places := self._places()) < workers:
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"{workers} workers with {self._needs()} each do not fit on this Ray cluster, {places:g} do ("
                    f"{_described(_alive_nodes())}): take fewer --workers, --worker-cpus or --worker-gpus, or, if "
                    "nodes are still to come, --ray-wait-s"
                )
            time.sleep(0.5)

    def _places(self) -> float:
        """How many workers the nodes have room for, whoever uses them now."""
        wants = {"CPU": self.wish.worker_cpus, "GPU": self.wish.worker_gpus}
        wants = {name: amount for name, amount in wants.items() if amount > 0}
        if not wants:
            return math.inf
        return sum(
            min(_fit(name, node["Resources"].get(name, 0.0), amount) for name, amount in wants.items())
            for node in _alive_nodes()
        )

    def _needs(self) -> str:
        gpus = f" and {self.wish.worker_gpus:g} GPUs" if self.wish.worker_gpus else ""
        return f"{self.wish.worker_cpus:g} CPUs{gpus}"


def _fit(name: str, there: float, amount: float) -> int:
    """How many workers find so much of a resource on a node. A part of a GPU is of one GPU."""
    if name == "GPU" and amount < 1:
        return int(there) * int(1 / amount + 1e-9)
    return int(there / amount + 1e-9)


class _Worker:
    """One life of a worker."""

    def __init__(self, number: int, actor: Any, stream: Any) -> None:
        self.number = number
        self.actor = actor
        self.stream = stream
        self.beats = 0  # what the latest pulse said; none while it is still on its way to the first step
        self.pulse: Any = None  # the reference of one that is under way
        self.began = time.monotonic()
        self.started = False
        self.reported = False

    def next_message(self) -> Report | Done | Failure | WorkerDied:
        """What it has said next; there must be something."""
        try:
            message = ray.get(next(self.stream))
            self.started = True
            self.reported = self.reported or isinstance(message, Report)
            return message  # type: ignore[no-any-return]
        except StopIteration:
            return Done()
        except _LOST as error:
            text = _one_line(error)
            if isinstance(error, RayActorError) and "creation task" in text:  # it could not even be made
                return _not_made(error)
            cause = _CAUSE.search(text)
            return WorkerDied(self.number, None, (cause[1] if cause else text)[:_LONGEST_REASON])
        except RayError as error:
            return Failure(type(error).__name__, _one_line(error)[:_LONGEST_REASON], str(error))

    def look(self) -> bool:
        """Whether it has made a step since the last look, as far as is known."""
        if self.pulse is None:
            self.pulse = self.actor.pulse.remote()
            return False
        if not ray.wait([self.pulse], timeout=0)[0]:
            return False
        try:
            beats = int(ray.get(self.pulse))
        except RayError:  # it is gone, as its stream will say
            return True
        self.pulse = None
        moved, self.beats, self.started = beats != self.beats, beats, True
        return moved

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(RayError, ValueError):
            ray.kill(self.actor, no_restart=True)


class _Crew:
    """The workers of a run.

    Attributes:
        active: those that have not ended, by number.
    """

    def __init__(self, runtime: RayRuntime, recipe: bytes, store: Any, workers: int) -> None:
        self.active: dict[int, _Worker] = {}
        self._died_at_once = [0] * workers  # in a row
        self._next_word = time.monotonic() + _SAY_S
        self._runtime, self._store = runtime, store
        self._recipe: Any = ray.put(recipe)
        self._actor_class: Any = ray.remote(concurrency_groups={"pulse": 1})(RayWorker)  # type: ignore[call-overload]
        self._lives = [0] * workers
        self._reported_episodes = [0] * workers
        self._run = secrets.token_hex(3)
        self._versions = versions_here()
        self._stillness = Stillness(runtime.policy.timeout_s, _START_S, _LOOK_EVERY_S)

    def start(self, number: int) -> None:
        """Start a worker, for the first time or anew."""
        pushed_episodes = self.pushed_episodes(number)
        life, self._lives[number] = self._lives[number], self._lives[number] + 1
        runtime, wish = self._runtime, self._runtime.wish
        runtime.incarnation = max(runtime.incarnation, life)
        actor = self._actor_class.options(
            name=f"a3c-worker-{number}-{self._run}" + (f"-life-{life}" if life else ""),
            num_cpus=wish.worker_cpus,
            num_gpus=wish.worker_gpus,
            scheduling_strategy="SPREAD",
        ).remote(self._versions)
        _HELD.append(actor)
        stream = actor.run.remote(
            number,
            self._recipe,
            self._store.connect(number, pushed_episodes),
            life,
            runtime.report_every_s,
            runtime.episodes_at_once,
            pushed_episodes,
        )
        self.active[number] = _Worker(number, actor, stream)
        self._stillness.begin(number)

    def with_news(self, timeout_s: float) -> list[_Worker]:
        """Whoever has said something, as soon as somebody has."""
        streams = {worker.stream: worker for worker in self.active.values()}
        if not streams:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=timeout_s, fetch_local=False)
        others = [stream for stream in streams if stream not in ready]
        if ready and others:
            ready += ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        return [streams[stream] for stream in ready]

    def dismiss(self, worker: _Worker, message: Done | Failure | WorkerDied) -> WorkerError | OutOfResources | None:
        """Count a worker out that has said its last word, or died without one; what it failed with, if it did."""
        del self.active[worker.number]
        worker.stream = worker.pulse = None
        hung = self._stillness.end(worker.number)
        worker.kill()
        self._store.leave(worker.number)
        at_once = isinstance(message, WorkerDied) and not worker.reported and not hung
        self._died_at_once[worker.number] = self._died_at_once[worker.number] + 1 if at_once else 0
        if isinstance(message, Failure):
            return WorkerFailed(worker.number, message.kind, message.summary, message.worker_traceback)
        if isinstance(message, Done):
            return None
        if hung and not worker.started:
            waited_s = _START_S + self._runtime.policy.timeout_s
            nodes = _described(_alive_nodes())
            if self.active:  # the others go on, and a place may come
                return WorkerDied(worker.number, None, f"no place on the Ray cluster for {waited_s:g} s ({nodes})")
            return OutOfResources(
                f"worker {worker.number} has found no place on the Ray cluster for {waited_s:g} s ({nodes}): take "
                "fewer --workers, or see `ray status`"
            )
        return WorkerHung(worker.number, self._runtime.policy.timeout_s) if hung else message

    def has_reported(self, worker: _Worker, report: Report) -> None:
        """A worker has made a step, the first one perhaps, of which a pulse that comes later could not tell."""
        self._stillness.step(worker.number)
        if report.episodes:
            self._reported_episodes[worker.number] = report.episodes[-1].number

    def pushed_episodes(self, number: int) -> int:
        """How many episodes a worker that is not running has pushed; a push may have been lost after its report."""
        return max(int(self._store.pushed_episodes(number)), self._reported_episodes[number])

    def is_hopeless(self, number: int) -> bool:
        """Whether a worker has died at once, several times in a row."""
        return self._died_at_once[number] >= _LOST_AT_ONCE

    def who_waits(self) -> str | None:
        """What is to be said of workers that do not start, for want of a place perhaps, if it is time to.

        The others need not wait for them meanwhile: a worker's first pull counts it in again.
        """
        now = time.monotonic()
        if now < self._next_word:
            return None
        self._next_word = now + _SAY_S
        waiting = [w.number for w in self.active.values() if not w.started and now - w.began >= _SAY_S]
        if not waiting:
            return None
        self._next_word = now + _SAY_AGAIN_S
        for number in waiting:
            self._store.leave(number)
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        amounts = ", ".join(f"{free.get(name, 0.0):g} {name}s" for name in ("CPU", "GPU"))
        return (
            f"{len(waiting)} of {len(self._lives)} workers have not started on the Ray cluster yet, of which {amounts} "
            "are free: `ray status` shows who has the rest"
        )

    def kill_who_hangs(self) -> None:
        """Kill the worker that has stood still for too long, if there is one."""
        hung = self._stillness.look(self._moves)
        if hung is not None:
            self.active[hung].kill()

    def _moves(self, number: int) -> bool:
        late = self._stillness.still_s[number] > self._runtime.policy.timeout_s / 2  # before that nobody need be asked
        return self.active[number].look() or (late and bool(self._store.waits(number)))

    def end(self) -> None:
        """End all workers at once."""
        for worker in self.active.values():
            worker.kill()
            worker.stream = worker.pulse = None  # while this session of Ray lasts
            with contextlib.suppress(ClusterError):
                self._store.leave(worker.number)  # what it has on its way does not count any more: T stands still
        self.active, self._recipe = {}, None


@contextlib.contextmanager
def _sigterm_ends() -> Iterator[None]:
    """Have SIGTERM end the process in order, with 143, where Ray puts handlers of its own that exit with 1 or 15.

    Afterwards, too, until `_sigterm_is_as_before`, unless the caller had a handler: then with that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        _terminate()
    finally:
        signal.signal(signal.SIGTERM, _terminate if before in (None, signal.SIG_DFL) else before)


def _sigterm_is_as_before() -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _may_be(address: str | None, here: str) -> bool:
    """Whether an address that was named may be that of the cluster at `here`, HOST:PORT."""
    if address in (None, "", "auto", "local"):
        return True
    named, there = str(address).rpartition(":"), here.rpartition(":")
    hosts = _addresses(named[0])
    loops = any(host.startswith("127.") or host == "::1" for host in hosts)  # this machine, whatever Ray calls it
    return named[2] == there[2] and (loops or bool(hosts & _addresses(there[0])))


def _addresses(host: str) -> set[str]:
    host = host.strip("[]")
    with contextlib.suppress(OSError):
        return {host} | {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    return {host}


def _found(address: str | None) -> str | None:
    """HOST:PORT of the cluster that Ray would connect to; None where it would begin one."""
    if address not in (None, "", "auto"):
        return None if address == "local" else address
    with contextlib.suppress(Exception):  # Ray's own; it raises where there is none
        services = importlib.import_module("ray._private.services")
        found: str | None = services.canonicalize_bootstrap_address(address or None)
        return found
    return None


def _check_reachable(address: str, *, named: bool = True) -> None:
    """Raise UsageError for a Ray Client's, and at once where nobody listens: Ray itself would try for minutes."""
    if "://" in address:
        raise UsageError(
            f"the address {address} is that of a Ray Client, which does not carry what workers report: give the "
            "cluster's own, HOST:6379, on a machine of the cluster"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--ray-address {address} is no HOST:PORT, such as 192.0.2.10:6379: `ray start --head` prints it"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            pass
    except OSError as error:
        fix = "`ray start --head` on its first machine prints the address for --ray-address"
        fix = fix if named else "it is from an earlier `ray start` on this machine, and `ray stop` forgets it"
        raise UsageError(f"no Ray cluster answers at {address} ({error}): {fix}") from error


def _mode_wanted(address: str) -> str:
    """The RAY_AUTH_MODE with which the cluster answers this machine: the environment's own, if it has one.

    A cluster refuses who shows no token where it wants one, and tokens where it wants none. Ray by itself shows one
    never where an address is given, and always where it finds the cluster; and any local `ray.init` leaves one behind.

    Raises UsageError if it does not answer, for which Ray itself would wait for minutes, or refuses this machine.
    """
    there = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    there = there or (Path.home() / ".ray" / "auth_token").exists()
    given = os.environ.get(_MODE)
    modes = [given] if given else ["disabled", "token"] if there else ["disabled"]
    command = [sys.executable, "-c", _ASK, address, str(_ANSWER_S), ",".join(modes), *sys.path]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * _ANSWER_S
        )  # its imports take their time, too
        silent = asked.returncode == -getattr(signal, "SIGALRM", 0) != 0
    except subprocess.TimeoutExpired:
        silent = True
    if silent:
        raise UsageError(
            f"what listens at {address} does not answer within {_ANSWER_S} s as a Ray cluster does: give the port that "
            "`ray start --head` has printed, mostly 6379, and see `ray status` on the cluster's first machine"
        )
    said = asked.stdout.strip()
    if said == "refused":
        why = f"{_MODE} is {given} here" if given else "this machine's is another" if there else "this machine has none"
        raise UsageError(
            f"the Ray cluster at {address} wants its token shown, and {why}: bring ~/.ray/auth_token from the "
            f"cluster's first machine, and leave {_MODE} unset (docs/cluster.md)"
        )
    return said if said in modes else modes[-1]  # where Ray cannot be asked so, it will say itself


def _not_made(error: RayActorError) -> Failure:
    """What a worker fails with whose actor could not be made where it was to run."""
    lines = [line for line in _COLOUR.sub("", str(error)).splitlines() if line.strip(" ^")]
    if said := _SAID.search("\n".join(lines)):
        return Failure("UsageError", said[1], "")
    node = _NODE.search(lines[0])
    where = f"the node at {node[1]}" if node else "its node"
    missing = _MISSING.search(lines[-1])
    summary = f"{where} cannot import {missing[1]}" if missing else f"{where} cannot start it ({lines[-1]})"
    told = "\n".join(map(shortened, lines[-_LINES:]))
    return Failure("UsageError", f"{summary}: is the same a3c installed on every node? See docs/cluster.md", told)


def _alive_nodes() -> list[dict[str, Any]]:
    try:
        return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    except RayError as error:
        raise ClusterError(f"the Ray cluster does not answer ({_one_line(error)}): see `ray status`") from error


def _described(nodes: list[dict[str, Any]]) -> str:
    def of(node: dict[str, Any]) -> str:
        amounts = ((name, node["Resources"].get(name, 0.0)) for name in ("CPU", "GPU"))
        return " and ".join(f"{amount:g} {name}s" for name, amount in amounts if amount) or "none to spare"

    return f"{len(nodes)} nodes: " + ", ".join(map(of, nodes))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
