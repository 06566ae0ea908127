"""The store on a Ray cluster: θ, g and T live in an actor, and workers exchange vectors with it."""

from __future__ import annotations

import contextlib
import pickle
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError, RuntimeEnvSetupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from a3c.core.losses import Reduction
from a3c.core.update_rule import UpdateRule
from a3c.errors import A3CError, ClusterError, UsageError
from a3c.stores.keeper import RayKeeper
from a3c.stores.parameter_server import SENT_WITH_THE_CALL, Contents, ParameterServer, Push, Reply, Session, tensor_of
from a3c.stores.state import check_deltas, check_vector, uncounted_episodes, unpack_state
from a3c.types import Counts, Receipt, Snapshot, StoreState

if TYPE_CHECKING:
    from a3c.types import Array

# Ray numbers actors anew in each of a process's sessions, and counts the handles of each: one of an earlier session, if
# freed during a later one, would end somebody else's actor. So handles are never freed; actors are ended by `close`.
_HELD: list[Any] = []

_LIVES = 100  # of the server, and of its keeper: each is started anew so often
_START_S = 120.0  # what a start may take
_ANSWER_S = 120.0  # what an answer may take, as long as a start, before the server is taken to hang
_SOME_MEMORY = 1  # byte: Ray places an actor that asks for nothing on any node, whatever its strategy says
_FIX = "the run's last checkpoint is in its run directory, and `a3c resume` goes on from it"
_OTHER_CALLS = 64  # at once, besides those of workers


class RayStore:
    """Owns θ, the optimiser's statistics, the counters and the moments, in an actor on a Ray cluster.

    Gradients are applied as they come, or, with a `reduction`, once a round, as in the synchronous store. A push and
    the next pull are one round trip. With `in_flight=1` a worker does not wait for it: it acts on the θ that the
    answer before has brought, so each of its gradients is one update of its own late. One worker alone then equals a
    DelayedStore(1), and without it a LocalStore, to the bit.

    The server is started anew, by Ray, when it dies, with what it was some seconds before; workers go on with it. One
    that has not answered the caller for two minutes is killed, and started anew like that.

    Args:
        initial: the first θ, [P]; copied.
        rule: how a gradient changes θ.
        workers: W, how many may push.
        reduction: how each worker's loss is reduced over its real steps, for rounds; None applies each at once.
        in_flight: pushes whose answer a worker does not wait for, 0 or 1; 0 with rounds.
        tracked: M, how many scalars to keep moments of.

    Raises:
        ClusterError: the server cannot be started.
    """

    def __init__(
        self,
        initial: Tensor,
        rule: UpdateRule,
        workers: int,
        *,
        reduction: Reduction | None = None,
        in_flight: int = 0,
        tracked: int = 0,
    ) -> None:
        assert in_flight in ((0, 1) if reduction is None else (0,)), "a round cannot be waited for later"
        self.rule, self.workers, self.tracked, self.in_flight = rule, workers, tracked, in_flight
        self.rounds = reduction is not None
        self.like = initial.detach().to("meta")  # θ's shape and dtype, without its numbers
        first = initial.detach().cpu().numpy()
        contents = Contents(first.size, str(first.dtype), rule, workers, reduction, tracked)
        self.server, self.keeper = self.start(cloudpickle.dumps(contents))
        self._handles: dict[int, RayHandle] = {}
        _HELD.extend((self.server, self.keeper))
        try:
            # Not with the constructor's arguments: Ray does not keep long ones for an actor that it starts anew.
            self.keeper.keep.remote(-1, "initial", pickle.dumps(first, protocol=5))
            answer(self.server.counters.remote(), _START_S)
        except BaseException:
            self.close()
            raise

    def start(self, contents: bytes) -> tuple[Any, Any]:
        """A server made of this, on the caller's node as long as that is there, and its keeper, which stays there."""
        here = ray.get_runtime_context().get_node_id()
        run = secrets.token_hex(3)
        keeper = (
            ray.remote(RayKeeper)
            .options(
                num_cpus=0,
                name=f"a3c-keeper-{run}",
                max_restarts=_LIVES,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
            )
            .remote(contents)
        )
        server_class: Any = ray.remote(ParameterServer)
        server = server_class.options(
            num_cpus=0,
            memory=_SOME_MEMORY,
            name=f"a3c-parameter-server-{run}",
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
            max_restarts=_LIVES,
            max_task_retries=-1,
            max_concurrency=2 * self.workers + _OTHER_CALLS,  # a call that waits for a round holds a place
        ).remote(f"a3c-keeper-{run}")
        return server, keeper

    def connect(self, worker: int, pushed_episodes: int | None = None) -> RayHandle:
        """That worker's handle, which counts on from so many episodes; it may be sent to another node."""
        assert 0 <= worker < self.workers, f"no place for worker {worker}"
        if pushed_episodes is None:
            pushed_episodes = self.pushed_episodes(worker)
        self._handles[worker] = RayHandle(
            self.server, worker, self.like, self.tracked, self.in_flight, self.rounds, pushed_episodes
        )
        return self._handles[worker]

    def close(self) -> None:
        """End the server: what it holds is lost."""
        for actor in (self.server, self.keeper):
            with contextlib.suppress(RayError):
                ray.kill(actor)

    def join(self, worker: int) -> None:
        """Count the worker in."""
        self._ask("join", worker)

    def leave(self, worker: int) -> None:
        """Count the worker out; if it has pushed in this process, after its last push."""
        if worker in self._handles and self._handles[worker].entered:
            self._handles[worker].leave()
        else:
            self._ask("leave", worker)

    def waits(self, worker: int) -> bool:
        """Whether the worker is waiting for others."""
        return bool(self._ask("waits", worker))

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed, as far as the server knows."""
        return int(self._ask("pushed_episodes", worker))

    def request_stop(self) -> None:
        """Ask every worker to stop at its next pull."""
        self._ask("request_stop")

    def counters(self) -> Snapshot:
        """The counters as they stand."""
        found: Snapshot = self._ask("counters")
        return found

    def snapshot(self) -> StoreState:
        """A copy of the shared state, cut between updates."""
        return unpack_state(self.state_dict(), self.rule, self.like, self.tracked)

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name."""
        state = self._ask("state_dict")
        return {
            name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
            for name, value in state.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises StoreError if a name is missing or a size does not fit."""
        unpack_state(state, self.rule, self.like, self.tracked)
        uncounted_episodes(state)
        arrays = {n: value.cpu().numpy() if isinstance(value, Tensor) else value for n, value in state.items()}
        self._ask("load_state_dict", arrays)

    def _ask(self, what: str, *arguments: Any) -> Any:
        """What the server answers. One that does not is started anew, and answers then: Ray repeats the call.

        Raises ClusterError if it is gone for good, or its next life does not answer either.
        """
        reference = getattr(self.server, what).remote(*arguments)
        with contextlib.suppress(_Silent):
            return answer(reference, _ANSWER_S)
        with contextlib.suppress(RayError):
            ray.kill(self.server, no_restart=False)
        return answer(reference, _START_S)


class RayHandle:
    """One worker's end of a RayStore."""

    def __init__(
        self,
        server: Any,
        worker: int,
        like: Tensor,
        tracked: int,
        in_flight: int,
        rounds: bool,
        pushed_episodes: int,
    ) -> None:
        self.worker = worker
        self._pushed_episodes = pushed_episodes
        self._server, self._like, self._tracked, self._in_flight = server, like, tracked, in_flight
        self._rounds = rounds
        self._session: Session | None = None
        self._sequence = 0
        self._under_way: deque[Callable[[], Reply]] = deque()  # what waits for each answer
        self._latest: Reply | None = None
        self._fetcher: ThreadPoolExecutor | None = None

    @property
    def entered(self) -> bool:
        """Whether it has been used, in this process."""
        return self._session is not None

    def pull(self, out: Tensor) -> Snapshot:
        """Copy θ into `out`: as the answer to the latest push but `in_flight` has it."""
        check_vector(out, self._like, "the vector to pull into")
        if self._session is None:
            self._session, self._latest = answer(self._server.enter.remote(self.worker))
        elif not self._under_way:
            self._latest = answer(self._server.pull.remote(self.worker))
        while len(self._under_way) > self._in_flight:
            self._settle_one()
        out.copy_(tensor_of(self._theta()))
        reply = self._latest
        assert reply is not None
        moments = None if reply.moments is None else torch.from_numpy(np.array(reply.moments))
        return reply.snapshot._replace(moments=moments)

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """Send the gradient off; the receipt is that of the latest push whose answer a pull has waited for."""
        if gradient is not None:
            check_vector(gradient, self._like, "the gradient")
        deltas = check_deltas(counts, self._tracked)
        if self._session is None:
            self._session, self._latest = answer(self._server.enter.remote(self.worker))
        assert self._latest is not None
        self._pushed_episodes += counts.episodes
        push = Push(
            None if gradient is None else gradient.detach().cpu().numpy(),
            counts.env_steps,
            counts.episodes,
            None if deltas is None else deltas.numpy(),
            (self._latest.incarnation, base_version),
            self._pushed_episodes,
        )
        self._sequence += 1
        self._under_way.append(
            self._waiting(self._server.exchange.remote(self.worker, self._session, self._sequence, push))
        )
        return self._latest.receipt

    def leave(self) -> None:
        """Be waited for no more; what has been pushed counts."""
        if self._session is None:
            answer(self._server.leave.remote(self.worker))
            return
        while self._under_way and not self._rounds:  # the answer of a round waits for others
            self._settle_one()
        # Calls may overtake one another: what was pushed last is said.
        answer(self._server.leave.remote(self.worker, self._session, self._sequence))

    def _settle_one(self) -> None:
        self._latest = self._under_way[0]()
        self._under_way.popleft()

    def _waiting(self, reference: Any) -> Callable[[], Reply]:
        """What gives an answer. A θ that does not come with it is fetched by a thread, while the worker acts."""
        if not self._in_flight or self._like.nbytes <= SENT_WITH_THE_CALL:
            return lambda: answer(reference)
        if self._fetcher is None:
            self._fetcher = ThreadPoolExecutor(1, "a3c-fetch")
        return self._fetcher.submit(lambda: _with_theta(answer(reference))).result

    def _theta(self) -> Array:
        """θ as the latest answer has it; a new answer where it was lost on the way."""
        assert self._latest is not None
        while not isinstance((theta := _with_theta(self._latest).parameters), np.ndarray):
            self._latest = answer(self._server.pull.remote(self.worker))
        return theta


def _with_theta(reply: Reply) -> Reply:
    """The answer with θ itself in place of its reference, unless it was lost with the server."""
    if not isinstance(reply.parameters, np.ndarray):
        with contextlib.suppress(ObjectLostError):
            return reply._replace(parameters=ray.get(reply.parameters))
    return reply


class _Silent(ClusterError):
    """An actor does not answer."""


def answer(reference: Any, timeout_s: float | None = None) -> Any:
    """What a call of an actor returns, or the error of this library that it raised.

    Raises ClusterError if the actor is gone for good, or does not answer in time.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise _Silent(
            f"the parameter server has not answered for {timeout_s:g} s, as `ray status` and its log may explain: "
            f"{_FIX}"
        ) from error
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, A3CError):
            raise cause from None
        if not isinstance(cause, RayError):
            raise
        lost: Exception = cause
    except RuntimeEnvSetupError as error:
        raise UsageError(
            f"Ray cannot make the runtime environment that --ray-runtime-env asks for ({_last_line(error)})"
        ) from None
    except RayError as error:
        lost = error
    raise ClusterError(
        f"the parameter server cannot be started, or is gone for good ({_last_line(lost)}): {_FIX}"
    ) from lost


def _last_line(error: BaseException) -> str:
    """Of what an error says: Ray's begin with a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
