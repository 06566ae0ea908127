"""What runs in the actor that holds θ, g and T on a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import pickle
import time
import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from threadpoolctl import threadpool_limits

from a3c.core.losses import Reduction
from a3c.core.update_rule import UpdateRule
from a3c.errors import StoreError
from a3c.stores.local import LocalStore
from a3c.stores.state import MOST_UNCOUNTED, uncounted_episodes
from a3c.stores.synchronous import SynchronousHandle, SynchronousStore
from a3c.types import Counts, Receipt, Snapshot, StoreHandle

if TYPE_CHECKING:
    from a3c.types import Array

_KEEP_EVERY_S, _POLL_S = 2.0, 0.01
_KEEPER_S = 60.0  # what the keeper may take to take anything of what it is told, before it is taken to hang
SENT_WITH_THE_CALL = 64 * 1024  # bytes; a longer θ goes by Ray's object store, once for all who ask for that version

Session = tuple[int, int]
"""One life of a worker, as one life of the server has numbered it: later ones are greater."""


class Contents(NamedTuple):
    """What a parameter server is made of.

    With a `reduction` it waits for every worker's gradient and applies them as one (a2c), else it applies each at once.
    """

    size: int  # P
    dtype: str  # of θ, as NumPy names it
    rule: UpdateRule
    workers: int
    reduction: Reduction | None
    tracked: int  # M


class Push(NamedTuple):
    """What a worker hands in: a rollout's gradient, counts and moments."""

    gradient: Array | None  # dθ, [P]
    env_steps: int
    episodes: int
    moments: Array | None  # [3, M]
    base: tuple[int, int]  # the server's incarnation and version that dθ was computed at
    pushed_episodes: int  # of the worker, with these, in all its lives


class Numbers(NamedTuple):
    """Which of a worker's episodes are counted: 1 to `highest`, but for what is missing, from first to last."""

    highest: int
    missing: tuple[tuple[int, int], ...]

    def with_the_last(self, episodes: int, last: int) -> Numbers:
        """These, and the so many numbers that end with `last`: the next ones, or such as come late or after a loss."""
        first = last - episodes + 1
        gaps = [*self.missing, (self.highest + 1, first - 1)]
        if episodes:
            gaps = [part for begin, end in gaps for part in ((begin, min(end, first - 1)), (max(begin, last + 1), end))]
        return Numbers(max(self.highest, last), tuple(gap for gap in gaps if gap[0] <= gap[1]))


_NONE = Numbers(0, ()), Numbers(0, ())


class Reply(NamedTuple):
    """What the server answers: what a pull tells, and what became of the push."""

    parameters: Any  # θ, [P]: an array, or the reference of one
    snapshot: Snapshot  # without moments
    moments: Array | None  # [3, M]
    receipt: Receipt | None  # of this worker's latest settled push
    incarnation: int


class Cut(NamedTuple):
    """A cut through a server, from which another one goes on: long, and kept now and then."""

    state: Mapping[str, Any]
    sequences: Mapping[int, tuple[Session, int]]  # of each worker: its session, and its latest push that is in `state`


class Standing(NamedTuple):
    """What must not be forgotten: short, and kept at each change."""

    members: frozenset[int]
    stop: bool
    sessions: Mapping[int, Session]  # the latest of each worker


class ParameterServer:
    """Owns the shared state of a run on a cluster: an ordinary store, and who has pushed what.

    Its methods run in turn, in one thread, but for waits. Each worker numbers its pushes: one that comes twice, because
    a call was tried again, is applied once, and one that overtakes another, as Ray lets long ones be overtaken, waits
    for it. Ray starts the server anew when its process dies; it then goes on from the cut that the keeper has. Versions
    may then come a second time, so a gradient says in which of the server's lives its base was: one of an earlier life
    is not applied, its steps count.

    Args:
        keeper: the name of the actor that knows what it is made of, and remembers it.
    """

    def __init__(self, keeper: str) -> None:
        torch.set_num_threads(1)
        threadpool_limits(1)  # NumPy's
        self.keeper_name = keeper
        self._keeper: Any = ray.get_actor(keeper)
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of a wait that holds everybody up: they must wait
        begun: Any = None
        while begun is None:
            time.sleep(_POLL_S)
            begun = ray.get(self._keeper.begin.remote())
        self.incarnation: int = begun[0]
        contents: Contents = pickle.loads(begun[1])
        kept = {name: pickle.loads(what) for name, what in begun[2].items()}
        # The cut has θ, if there is one.
        initial = torch.from_numpy(np.array(kept.get("initial", np.zeros(contents.size, contents.dtype))))
        self._waits_for_all: bool = contents.reduction is not None
        self._store: Any = (
            LocalStore(initial, contents.rule, tracked=contents.tracked)
            if contents.reduction is None
            else SynchronousStore(
                initial, contents.rule, contents.workers, contents.reduction, tracked=contents.tracked
            )
        )
        self._handles: dict[int, StoreHandle] = {w: self._store.connect(w) for w in range(contents.workers)}
        self._sequences: dict[int, tuple[Session, int]] = {}
        self._receipts: dict[int, Receipt | None] = {}
        # Which episodes of each worker are in θ, by its own count, which does not go with a server: without its latest
        # push, and with it.
        self._episodes: dict[int, tuple[Numbers, Numbers]] = {}
        self._members: set[int] = set()
        self._doubtful: dict[int, float] = {}  # up to which push a server that is gone may have answered, since the cut
        self._late: dict[int, int] = {}  # the push that may still come although the one behind it has
        self._entered: int = 0  # in this life
        self._stop: bool = False
        self._published: tuple[int, Any] | None = None  # the reference of a version's θ
        self._changed: asyncio.Event = asyncio.Event()
        self._next_keep: float = time.monotonic() + _KEEP_EVERY_S
        self._unheard: set[asyncio.Future[None]] = set()  # what the keeper has been told, and not yet taken
        self._latest_cut: asyncio.Future[None] | None = None  # of these
        self._watch: asyncio.Future[None] | None = None
        if self.incarnation:
            self._go_on_from(kept.get("cut"), kept.get("standing"))

    async def enter(self, worker: int) -> tuple[Session, Reply]:
        """Begin a session, for a worker that begins, and pull. Pushes of its former ones are refused from now on."""
        session = self._end_session(worker)
        await self.join(worker)  # before any wait: it may be counted out meanwhile
        await self._round(worker)
        return session, self._reply(worker)

    async def pull(self, worker: int) -> Reply:
        """θ as it is, or once the round that holds this worker's gradient has closed. Counts the worker in."""
        await self._round(worker)
        if worker not in self._members:
            await self.join(worker)
        return self._reply(worker)

    async def exchange(self, worker: int, session: Session, sequence: int, push: Push) -> Reply:
        """Take a push, unless it has been taken already, then as `pull`."""
        while (taken := self._taken(worker, session)) < sequence - 1 and not self._may_be_gone(worker, sequence - 1):
            await self._changed.wait()
        if taken < sequence or sequence == self._late.get(worker):
            if self._waits_for_all and worker not in self._members:
                raise StoreError(f"worker {worker} has been counted out, and no round waits for it")
            self._take(worker, push)
            self._count(worker, session, sequence, taken)
            self._wake()
            if time.monotonic() >= self._next_keep and not self._pending() and not self._late and self._cut_is_kept():
                self._next_keep = time.monotonic() + _KEEP_EVERY_S
                self._keep_cut()
        await self._round(worker)
        return self._reply(worker)

    async def join(self, worker: int) -> None:
        """See `a3c.types.ParameterStore`."""
        self._members.add(worker)
        self._store.join(worker)
        await self._keep_standing()

    async def leave(self, worker: int, session: Session | None = None, sequence: int = 0) -> None:
        """See `a3c.types.ParameterStore`. A worker that leaves by itself says what its last push was.

        One that is counted out by somebody else may still have pushes on their way: they are refused.
        """
        if session is None:
            self._end_session(worker)
        else:
            while self._taken(worker, session) < sequence and not self._may_be_gone(worker, sequence):
                await self._changed.wait()
        self._members.discard(worker)
        self._late.pop(worker, None)  # who leaves by itself has had all its answers
        self._store.leave(worker)
        self._wake()
        await self._keep_standing()

    async def waits(self, worker: int) -> bool:
        """See `a3c.types.ParameterStore`."""
        return bool(self._store.waits(worker))

    async def request_stop(self) -> None:
        """See `a3c.types.ParameterStore`."""
        self._stop = True
        self._store.request_stop()
        await self._keep_standing()

    async def counters(self) -> Snapshot:
        """See `a3c.types.ParameterStore`."""
        return self._store.counters()  # type: ignore[no-any-return]

    async def state_dict(self) -> dict[str, Any]:
        """See `a3c.types.ParameterStore`; tensors are arrays."""
        return self._state()

    async def pushed_episodes(self, worker: int) -> int:
        """How many episodes a worker has pushed; those that wait for a round count with it."""
        _, with_latest = self._episodes.get(worker, _NONE)
        return with_latest.highest

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `a3c.types.ParameterStore`; tensors are arrays."""
        self._load(state)
        self._published = None
        await self._keep_cut()

    def _state(self) -> dict[str, Any]:
        pending, highest, missing = self._pending(), [0] * (max(self._episodes, default=-1) + 1), []
        for worker, (before, with_latest) in sorted(self._episodes.items()):
            counted = before if worker in pending else with_latest
            highest[worker] = counted.highest
            missing += [[worker, *each] for each in counted.missing]
        state = _with_arrays(self._store.state_dict()) | {"worker_episodes": highest}
        return state | ({"uncounted_episodes": missing[-MOST_UNCOUNTED:]} if missing else {})

    def _load(self, state: Mapping[str, Any]) -> None:
        self._store.load_state_dict(_with_tensors(state))
        missing, self._episodes = uncounted_episodes(state), {}
        for worker, highest in enumerate(state.get("worker_episodes", ())):
            own = tuple((first, last) for whose, first, last in missing if whose == worker)
            self._episodes[worker] = Numbers(highest, own), Numbers(highest, own)

    def _end_session(self, worker: int) -> Session:
        """Refuse the pushes of a worker's session from now on; its next one."""
        session = self.incarnation, self._entered
        self._entered += 1
        self._sequences[worker] = session, 0
        self._doubtful.pop(worker, None)
        self._late.pop(worker, None)
        return session

    def _take(self, worker: int, push: Push) -> None:
        incarnation, version = push.base
        gradient = None if push.gradient is None else tensor_of(push.gradient)
        if incarnation != self.incarnation:
            gradient, version = None, self._store.counters().version
        moments = None if push.moments is None else tensor_of(push.moments)
        counts = Counts(push.env_steps, push.episodes, moments)
        self._receipts[worker] = self._handles[worker].push(gradient, counts, version)
        _, before = self._episodes.get(worker, _NONE)
        self._episodes[worker] = before, before.with_the_last(push.episodes, push.pushed_episodes)

    def _taken(self, worker: int, session: Session) -> int:
        """The number of a session's latest push that is in θ. Raises StoreError for a former session."""
        known, latest = self._sequences.get(worker, (session, 0))
        if session < known:
            raise StoreError(f"worker {worker} has begun anew, or was counted out: this is not its latest life")
        return latest if session == known else 0

    def _may_be_gone(self, worker: int, sequence: int) -> bool:
        """Whether this push, if it is not here, may never come: a server before this one may have answered it."""
        return sequence <= self._doubtful.get(worker, 0)

    def _count(self, worker: int, session: Session, sequence: int, taken: int) -> None:
        """Remember that a push has been taken, `taken` before it.

        Of a worker that a server before this one has known, two calls may have been under way when that died, with one
        update in flight. Either may come first, for both are tried again, unless the other has been answered: so the
        one before this may come late, once, and the one behind it never, which the next must not wait for.
        """
        if sequence - 1 > taken:
            self._late[worker] = sequence - 1
        else:
            self._late.pop(worker, None)
        if self._doubtful.get(worker) == math.inf:
            self._doubtful[worker] = sequence if self._waits_for_all else sequence + 1
        self._sequences[worker] = session, max(taken, sequence)

    async def _round(self, worker: int) -> None:
        """Wait until the round that this worker has pushed in, if it has, is closed."""
        while worker in self._pending():
            await self._changed.wait()

    def _pending(self) -> Collection[int]:
        """Whose push waits for the others of its round."""
        return np.flatnonzero(self._store.pending()).tolist() if self._waits_for_all else ()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _reply(self, worker: int) -> Reply:
        store, handle = self._store, self._handles[worker]
        if self._waits_for_all and worker not in self._members:  # gone meanwhile; a pull would count it in
            return Reply(self._theta(), store.counters(), None, None, self.incarnation)
        snapshot = handle.pull(store.parameters)  # onto itself: what is wanted is the rest
        receipt = handle.settled if isinstance(handle, SynchronousHandle) else self._receipts.get(worker)
        moments = None if snapshot.moments is None else snapshot.moments.numpy()
        return Reply(self._theta(), snapshot._replace(moments=None), moments, receipt, self.incarnation)

    def _theta(self) -> Any:
        # A reply is turned into bytes in another thread, while the next push may change θ: a copy, then, or what Ray's
        # own store has copied already.
        array = self._store.parameters.numpy()
        if array.nbytes <= SENT_WITH_THE_CALL:
            return array.copy()
        version = self._store.counters().version
        if self._published is None or self._published[0] != version:
            self._published = version, ray.put(array)
        return self._published[1]

    def _keep_cut(self) -> Any:
        cut = Cut(self._state(), dict(self._sequences))
        self._keep_standing()  # with it, for a keeper that has been started anew
        told, self._latest_cut = self._tell_keeper("cut", cut)
        return told

    def _cut_is_kept(self) -> bool:
        """Whether the keeper has the latest cut: until then there is no next, or they would pile up on their way."""
        return self._latest_cut is None or self._latest_cut.done()

    def _keep_standing(self) -> Any:
        sessions = {worker: session for worker, (session, _) in self._sequences.items()}
        return self._tell_keeper("standing", Standing(frozenset(self._members), self._stop, sessions))[0]

    def _tell_keeper(self, name: str, what: Cut | Standing) -> tuple[Any, asyncio.Future[None]]:
        """What to wait for, and what is done when the keeper has taken it."""
        told = self._keeper.keep.remote(self.incarnation, name, pickle.dumps(what, protocol=5))
        end = asyncio.ensure_future(_end_of(told))
        self._unheard.add(end)
        end.add_done_callback(self._unheard.discard)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._watch_keeper())
        return told, end

    async def _watch_keeper(self) -> None:
        """While there is something that the keeper has not taken: kill it if it takes nothing for long.

        Ray starts it anew, and tells it again.
        """
        while self._unheard:
            taken, _ = await asyncio.wait(self._unheard, timeout=_KEEPER_S, return_when=asyncio.FIRST_COMPLETED)
            if not taken:
                with contextlib.suppress(RayError):
                    ray.kill(self._keeper, no_restart=False)

    def _go_on_from(self, cut: Cut | None, standing: Standing | None) -> None:
        self._doubtful = dict.fromkeys(range(len(self._handles)), math.inf)
        if cut is not None:
            self._load(cut.state)
            self._sequences = dict(cut.sequences)
        if standing is not None:
            for worker, session in standing.sessions.items():
                if worker not in self._sequences or session > self._sequences[worker][0]:
                    self._sequences[worker] = session, 0  # it has begun after the cut
            self._members, self._stop = set(standing.members), standing.stop
            for worker in standing.members:
                self._store.join(worker)
            if standing.stop:
                self._store.request_stop()


async def _end_of(call: Any) -> None:
    """However it ends."""
    with contextlib.suppress(RayError):
        await call


def tensor_of(array: Array) -> torch.Tensor:
    """The array as a tensor that shares its memory, though that may be read only, as Ray's is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _with_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def _with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor_of(value) if isinstance(value, np.ndarray) else value for name, value in state.items()}
