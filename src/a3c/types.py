"""Plain records that travel between the parts.

Dimension key: T time, B environments of one worker (lanes), W workers; O observation, A choices, K numbers of an
action, D numbers that a distribution is read from; P parameters θ; F features, H recurrent units, S recurrent state;
M scalars whose moments are kept, or entries of an action mask; N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Parameter

    Array = NDArray[Any]

State = Any
"""Recurrent state of an acting policy, [B, S]; None where it has none, or before its first step."""

Observation = Any
"""A flat observation: one tensor, or a dict {path: tensor} for Dict and Tuple spaces (`a3c.spaces.parts`)."""

MOST_WORKERS = 4096
"""W is no more than this."""

LIFE_LOST = "life_lost"
"""Key of a step's info: who lost a life, [B] bool. No value follows there, though the episode goes on."""


@dataclass
class Rollout:
    """T steps of B environments: raw facts, never altered rewards.

    Environments follow Gymnasium's NEXT_STEP autoreset: the row after an episode's end is that episode's
    true final observation, and the row after that is the new episode's first. The step between the two is
    no transition at all; `real` tells it apart. The tensors are the actor's own buffers, overwritten by its
    next unroll.
    """

    observations: Observation  # [T+1, B, *O]; the last row is the bootstrap observation
    actions: Tensor  # [T, B, *K], as the distribution over them takes them
    rewards: Tensor  # [T, B]
    terminated: Tensor  # [T, B] bool: no value follows (a life lost is such a step, though the episode goes on)
    truncated: Tensor  # [T, B] bool
    episode_start: Tensor  # [T+1, B] bool: observations[t] is the first of an episode
    state: State = None  # recurrent state at row 0
    passes: Any = None  # what acting has worked out of these very observations, for its model; None is as good

    @cached_property
    def real(self) -> Tensor:
        """[T, B] bool: True where row t is a transition, False where the environment merely reset."""
        import torch  # noqa: PLC0415  (whoever has a rollout has it)

        return torch.from_numpy(~self.episode_start.numpy()[1:])  # NumPy's call is the cheaper one

    @cached_property
    def env_steps(self) -> int:
        """How many real transitions the rollout holds."""
        return int(self.real.numpy().sum())


class Outputs(Protocol):
    """What a model says of a rollout's T+1 rows of observations; unpacks into policy and values."""

    @property
    def policy(self) -> Tensor:
        """Parameters of the distribution over actions, [T+1, B, D]."""

    @property
    def values(self) -> Tensor:
        """[T+1, B]."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def on_host(self) -> tuple[Array, Array]:
        """The two as arrays, without a gradient."""

    def parameter_gradient(self, module: Any, of_policy: Array, of_values: Array) -> Tensor | None:
        """∂L/∂θ, a fresh vector [P], where the chain rule from a module's parameters to these outputs is written down.

        None where it is not: then it is autograd's, whose graph the two tensors belong to.

        Args:
            module: whose parameters.
            of_policy: ∂L/∂policy of the first T rows, [T, B, D]; that of the others is 0.
            of_values: ∂L/∂values, likewise, [T, B].
        """


class PolicyValue(NamedTuple):
    """Outputs that are two tensors of autograd's graph."""

    policy: Tensor  # [T+1, B, D], parameters of the distribution over actions
    values: Tensor  # [T+1, B]

    def on_host(self) -> tuple[Array, Array]:
        """The two as arrays, without a gradient."""
        return self.policy.numpy(force=True), self.values.numpy(force=True)

    def parameter_gradient(self, module: Any, of_policy: Array, of_values: Array) -> None:
        """None: autograd's."""


class Counts(NamedTuple):
    """What one rollout adds to the shared counters and to the shared moments."""

    env_steps: int
    episodes: int
    moments: Tensor | None = None  # of its M tracked scalars, [3, M] float64 (core.moments); None adds nothing


class Snapshot(NamedTuple):
    """What a pull tells about the shared state whose parameters it copied."""

    version: int  # updates applied so far
    env_steps: int  # T
    episodes: int
    stop: bool
    moments: Tensor | None = None  # of all rollouts, [3, M] float64, a copy; None if nothing is tracked or asked for


class Receipt(NamedTuple):
    """What the store did with one push."""

    applied: bool
    staleness: int  # updates applied between this gradient's pull and its application
    learning_rate: float
    gradient_norm: float  # before clipping


class Episode(NamedTuple):
    """One finished episode; the return is the plain sum of raw rewards."""

    episode_return: float
    length: int


@dataclass(frozen=True)
class Update:
    """What one turn of an actor-learner did."""

    losses: Mapping[str, float]
    rollout_steps: int  # real transitions in this rollout
    env_steps: int  # T when the rollout began
    episodes: tuple[Episode, ...]
    receipt: Receipt | None  # None until the store has settled one of this worker's pushes
    dropped: str | None = None  # why the rollout was dropped, None if it was not


class FinishedEpisode(NamedTuple):
    """One finished episode, with who finished it and when."""

    worker: int
    env_steps: int  # T as the worker last saw it
    time: float  # seconds since the epoch
    episode_return: float
    length: int
    number: int  # among those of its worker, from 1, through all its lives


@dataclass
class Report:
    """The updates of one or more workers over a short while, added up.

    Reports add: `a.merge(b)` is the report of both. Means are taken only when a line is written.
    """

    updates: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)  # how many applied updates had how much of it
    learning_rate: float | None = None  # the latest
    episodes: list[FinishedEpisode] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # one line for each dropped rollout
    failures: list[str] = field(default_factory=list)  # what workers failed with that were started anew
    notes: list[str] = field(default_factory=list)  # what else whoever waits should know, from the runtime
    deaths: dict[int, int] = field(default_factory=dict)  # who has died, and how many episodes it had pushed

    def add(self, worker: int, update: Update, time: float, episodes_before: int) -> None:
        """Count one more update, finished at `time` (seconds since the epoch), of a worker with so many episodes."""
        self.episodes.extend(
            FinishedEpisode(worker, update.env_steps, time, episode.episode_return, episode.length, number)
            for number, episode in enumerate(update.episodes, episodes_before + 1)
        )
        if update.receipt is not None and update.receipt.applied:
            self._count(update.receipt.staleness, 1)
            self.learning_rate = update.receipt.learning_rate
            self._accumulate("gradient_norm", update.receipt.gradient_norm)
        if update.dropped is not None:
            self.dropped.append(f"worker {worker} dropped a rollout: {update.dropped}")
            return
        self.updates += 1
        for name, value in update.losses.items():
            self._accumulate(name, value)

    def merge(self, other: Report) -> None:
        """Add another report to this one."""
        self.updates += other.updates
        for staleness, count in other.staleness.items():
            self._count(staleness, count)
        self.learning_rate = self.learning_rate if other.learning_rate is None else other.learning_rate
        self.episodes.extend(other.episodes)
        self.dropped.extend(other.dropped)
        self.failures.extend(other.failures)
        self.notes.extend(other.notes)
        self.deaths.update(other.deaths)
        for name, value in other.sums.items():
            self._accumulate(name, value)

    def means(self) -> dict[str, Any]:
        """Each quantity's mean over the updates, None where there was none; of staleness the distribution, too."""
        means: dict[str, Any] = {}
        for name in ("policy_loss", "value_loss", "entropy"):
            means[name] = self.sums.get(name, 0.0) / self.updates if self.updates else None
        applied = sum(self.staleness.values())
        means["gradient_norm"] = self.sums.get("gradient_norm", 0.0) / applied if applied else None
        stale = sum(staleness * count for staleness, count in self.staleness.items())
        means["staleness_mean"] = stale / applied if applied else None
        means["staleness_max"] = max(self.staleness, default=None)
        means["staleness_counts"] = {str(staleness): count for staleness, count in sorted(self.staleness.items())}
        means["learning_rate"] = self.learning_rate
        return means

    def _count(self, staleness: int, count: int) -> None:
        self.staleness[staleness] = self.staleness.get(staleness, 0) + count

    def _accumulate(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value


class StoreState(NamedTuple):
    """A cut through a store between updates: what a checkpoint keeps and what a resume restores."""

    parameters: Tensor  # [P]
    statistics: tuple[Tensor, ...]  # the optimiser's running statistics, [P] each
    version: int
    env_steps: int
    episodes: int
    moments: Tensor  # of all rollouts, [3, M] float64; [3, 0] if nothing is tracked
    worker_episodes: tuple[int, ...] = ()  # the number of each worker's last one that is counted


class StoreHandle(Protocol):
    """One worker's end of a parameter store."""

    def pull(self, out: Tensor) -> Snapshot:
        """Copy θ into `out` ([P], any device); say which version it is, whether to stop, and the moments."""

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt | None:
        """Hand in dθ ([P], or None for a dropped rollout) computed at `base_version`.

        The rollout's counts and moments join the shared ones together with it, whatever becomes of dθ. Raises
        StoreError, with nothing changed, if a shape or dtype does not fit or a moment is not finite.

        Returns the receipt of the latest push that was settled: this one where the store applies at once,
        an earlier one (None if there is none) where it does not.
        """

    def leave(self) -> None:
        """Say that this worker will push no more, so that nobody waits for it."""


class ParameterStore(Protocol):
    """Owner of what actor-learners share: θ, the optimiser's statistics, T, the other counters, and moments.

    Moments of M tracked scalars (`core.moments`) are merged exactly: no delta is lost, whatever the interleaving.
    """

    def connect(self, worker: int) -> StoreHandle:
        """That worker's handle; it may be sent to another process where the store allows that."""

    def join(self, worker: int) -> None:
        """Count the worker in: a synchronous round waits for it from now on."""

    def leave(self, worker: int) -> None:
        """Count the worker out, dead or done. If it begins anew, its handle's first pull counts it in again."""

    def waits(self, worker: int) -> bool:
        """Whether the worker is waiting for others."""

    def pushed_episodes(self, worker: int) -> int:
        """How many finished episodes the worker has pushed in all its lives, counted or not yet."""

    def request_stop(self) -> None:
        """Ask every worker to stop at its next pull."""

    def counters(self) -> Snapshot:
        """The counters as they stand, read without waiting for anybody; without the moments."""

    def close(self) -> None:
        """End what the store has elsewhere; it is not used any more."""

    def snapshot(self) -> StoreState:
        """A copy of the shared state, cut between updates."""

    def state_dict(self) -> dict[str, Any]:
        """The shared state by name; `load_state_dict` takes it back."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises StoreError if a size does not fit or a name is missing."""


class Actor(Protocol):
    """Whoever makes rollouts."""

    def unroll(self, length: int) -> Rollout:
        """Act for `length` steps and say what happened."""

    def finished_episodes(self) -> tuple[Episode, ...]:
        """Episodes that have ended since the last call."""

    def reset_state(self) -> None:
        """Forget the recurrent state."""


class PolicyDistribution(Protocol):
    """How a network's outputs are read as a distribution over actions (`a3c.core.distributions`)."""

    def gradients(self, parameters: Array, actions: Array) -> tuple[Array, Array, Array, Array]:
        """log π(a) and H(π), [...] each, and their gradients with respect to the parameters, [..., D] each.

        For parameters [..., D] and actions [..., *K].
        """


class RolloutNormaliser(Protocol):
    """What shared moments do to observations and rewards (`a3c.core.normalisation`)."""

    def load(self, moments: Tensor | None) -> None:
        """Take the moments [3, M] of a pull."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """The rewards to learn from, [T, B]."""

    def deltas(self, rollout: Rollout) -> Tensor | None:
        """What the rollout adds to the moments, [3, M]."""

    def forget_returns(self) -> None:
        """Begin the running returns anew."""


class Model(Protocol):
    """A network whose parameters are views of one flat vector."""

    flat: Tensor  # θ', [P]

    @property
    def distribution(self) -> PolicyDistribution:
        """Over actions."""

    @property
    def normaliser(self) -> RolloutNormaliser:
        """Of observations and rewards."""

    def __call__(self, rollout: Rollout) -> Outputs:
        """Policy parameters [T+1, B, D] and values [T+1, B] of a rollout's observations."""

    def parameters(self) -> Iterator[Parameter]:
        """The parameters, in the order in which they lie in `flat`."""


def no_beat() -> None:
    """Tell nobody that a worker lives."""


class Life(NamedTuple):
    """One of a worker's lives: from its start, or restart, to its end."""

    incarnation: int = 0  # 0, and one more at every restart; random streams go by it
    beat: Callable[[], None] = no_beat  # to be called at every step, by which others know that it lives


ActorLearner = Generator[Update, None, None]
MakeActorLearner = Callable[[int, StoreHandle, Life], ActorLearner]


class Runtime(Protocol):
    """Whoever runs W actor-learners and hands out their reports."""

    alive: int  # workers that are running
    incarnation: int  # the highest that any worker has had

    def run(self, make_actor_learner: MakeActorLearner, store: Any, workers: int) -> Generator[Report, None, None]:
        """Run until every actor-learner has ended; yield reports, now and then an empty one.

        Raises the first failure in the caller. Closing the iterator ends all workers at once.
        """
