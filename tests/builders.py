"""Stores, update rules and tiny learners for tests, and processes that do to a store what a test tells them.

It imports no pytest, so that the processes start quickly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core.distributions import Categorical
from a3c.core.optimizers import Optimizer
from a3c.core.schedules import Budget, Schedule
from a3c.core.update_rule import UpdateRule
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.runtimes.serial import SerialRuntime
from a3c.stores.delayed import DelayedStore
from a3c.stores.local import LocalStore
from a3c.stores.shared import SharedStore
from a3c.stores.synchronous import SynchronousStore
from a3c.types import Counts, Receipt, Snapshot, StoreHandle, Update
from scripted_env import vectorise

STORE_NAMES = ("local", "hogwild", "locked", "synchronous", "delayed-0", "delayed-2")
RAY_STORE_NAMES = ("ray", "ray-1", "ray-synchronous")


@dataclass(frozen=True)
class GradientDescent:
    """θ <- θ - η dθ: exact for numbers with short fractions, and the order of gradients does not matter.

    In a process that was started for a test, a gradient that begins with `deadly` kills it with θ half updated.
    """

    deadly: float | None = None
    statistic_names: ClassVar[tuple[str, ...]] = ()

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count):
        half = len(parameters) // 2
        parameters[:half].add_(gradient[:half], alpha=-learning_rate)
        if self.deadly is not None and gradient[0] == self.deadly and parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        parameters[half:].add_(gradient[half:], alpha=-learning_rate)


@dataclass(frozen=True)
class SlowStripes:
    """θ <- θ - η dθ where dθ is not 0, piece by piece: pushes on disjoint stripes lose nothing to one another."""

    pieces: int = 10
    statistic_names: ClassVar[tuple[str, ...]] = ("touched",)

    def step(self, parameters, gradient, statistics, scratch, *, learning_rate, step_count):
        for where in gradient.nonzero().squeeze(1).chunk(self.pieces):
            parameters[where] -= learning_rate * gradient[where]
            statistics[0][where] += 1
            time.sleep(0.0005)  # let others in between


def make_rule(
    optimizer: Optimizer | None = None,
    learning_rate: float = 1.0,
    final: float | None = None,
    budget: Budget | None = None,
    max_gradient_norm: float | None = None,
) -> UpdateRule:
    """By default θ <- θ - dθ without end."""
    schedule = Schedule(learning_rate, learning_rate if final is None else final)
    return UpdateRule(optimizer or GradientDescent(), schedule, budget or Budget(), max_gradient_norm)


def make_store(
    name: str,
    initial: Tensor,
    rule: UpdateRule,
    workers: int = 1,
    *,
    reduction: Any = "mean",
    context: Any = None,
    tracked: int = 0,
) -> Any:
    """The store of that name, with all its workers joined."""
    if name == "local":
        store: Any = LocalStore(initial, rule, tracked=tracked)
    elif name.startswith("delayed-"):
        store = DelayedStore(LocalStore(initial, rule, tracked=tracked), int(name.removeprefix("delayed-")))
    elif name == "synchronous":
        store = SynchronousStore(initial, rule, workers, reduction, context, tracked=tracked)
    elif name in RAY_STORE_NAMES:
        from ray_cluster import StoreOnUsedServer  # the tests' processes need not load it

        rounds = reduction if name == "ray-synchronous" else None
        store = StoreOnUsedServer(
            initial, rule, workers, reduction=rounds, in_flight=int(name == "ray-1"), tracked=tracked
        )
    else:
        store = SharedStore(initial, rule, workers, name, context, tracked=tracked)  # type: ignore[arg-type]
    for worker in range(workers):
        store.join(worker)
    return store


def pull(handle: StoreHandle, like: Tensor) -> tuple[Tensor, Snapshot]:
    """A fresh copy of θ and what the store says of it."""
    out = torch.full_like(like, torch.nan)
    return out, handle.pull(out)


def push_each(handle: StoreHandle, gradients: Sequence[Tensor | None], *counts: Counts) -> list[Receipt | None]:
    """Pull and push in turn, each rollout with its counts, or with those of the last one given."""
    receipts = []
    for index, gradient in enumerate(gradients):
        like = next(g for g in gradients if g is not None)
        version = handle.pull(torch.empty_like(like)).version
        receipts.append(handle.push(gradient, counts[min(index, len(counts) - 1)], version))
    return receipts


def random_gradients(count: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, size, generator=generator, dtype=dtype))


# A short training that is the same every time.


def box_network(observation_shape: tuple[int, ...], actions: int, **options: Any) -> ActorCritic:
    """A network between a Box of this shape and so many actions; options are Network's, and device and dtype."""
    placed = {name: options.pop(name) for name in ("device", "dtype") if name in options}
    space = gym.spaces.Box(-np.inf, np.inf, observation_shape, np.float32)
    return ActorCritic(space, Categorical(actions), Network(**options), **placed)


def cartpole_learner(updates: int, worker: int, store: StoreHandle, tape: list[Update]) -> Iterator[Update]:
    """Two CartPoles and a small network; every update is written to `tape`; ends after `updates` of them."""
    torch.manual_seed(0)
    model = box_network((4,), 2, hidden_sizes=(8,))
    envs = vectorise(gym.make("CartPole-v1"), gym.make("CartPole-v1"))
    seeds = [2 * worker, 2 * worker + 1]
    actor = Actor(envs, ActingPolicy(model, seed=worker), seed=seeds, max_rollout_length=5)
    settings = ActorCriticSettings(5, 0.99, 0.95, 0.01, 0.5, "mean")
    with contextlib.closing(envs):
        for _, update in zip(range(updates), actor_learner(settings, actor, model, store), strict=False):
            tape.append(update)
            yield update


def train_serially(store: Any, workers: int = 1, updates: int = 30) -> list[Update]:
    """Train through the serial runtime; returns every worker's updates in the order they happened."""
    tape: list[Update] = []
    runtime = SerialRuntime()
    for _ in runtime.run(lambda worker, handle, life: cartpole_learner(updates, worker, handle, tape), store, workers):
        pass
    return tape


def initial_parameters() -> Tensor:
    """θ of `cartpole_learner`'s network before its first update."""
    torch.manual_seed(0)
    return box_network((4,), 2, hidden_sizes=(8,)).flat.clone()


# Processes that do what they are told.


class Remote:
    """A process with one worker's handle; it calls the functions that it is sent, `function(handle, *args)`."""

    def __init__(self, context: Any, handle: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(handle, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        """Let it begin."""
        self.pipe.send((function, args))

    def busy_for(self, seconds: float) -> bool:
        """Whether nothing comes back for so long."""
        return not self.pipe.poll(seconds)

    def result(self, timeout_s: float = 30.0) -> Any:
        """What the function returned; AssertionError if it raised or takes too long."""
        assert self.pipe.poll(timeout_s), f"no answer within {timeout_s} s"
        value, failure = self.pipe.recv()
        assert failure is None, failure
        return value

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Start it and wait for the result."""
        self.start(function, *args)
        return self.result()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Let it go."""
        self.pipe.close()
        self.process.join(5)
        self.kill()
        self.process.close()


def _serve(handle: Any, pipe: Any) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, args = pipe.recv()
            try:
                pipe.send((function(handle, *args), None))
            except Exception:
                pipe.send((None, traceback.format_exc()))


def _exit_with_parent() -> None:
    connection.wait([parent_process().sentinel])  # type: ignore[union-attr]
    os._exit(1)


def remote_pull(handle: Any) -> tuple[list[float], Snapshot]:
    theta, snapshot = pull(handle, handle.store.parameters)
    return theta.tolist(), snapshot


def remote_push(handle: Any, gradient: list[float] | None, env_steps: int = 1, episodes: int = 0) -> Receipt | None:
    """Pull, then push this gradient."""
    like = handle.store.parameters
    _, snapshot = pull(handle, like)
    vector = None if gradient is None else torch.tensor(gradient, dtype=like.dtype)
    return handle.push(vector, Counts(env_steps, episodes), snapshot.version)


def remote_push_constant(handle: Any, value: float, times: int, env_steps: int = 1, episodes: int = 0) -> None:
    """Pull and push the gradient (value, value, ...) so many times."""
    gradient = torch.full_like(handle.store.parameters, value)
    push_each(handle, [gradient] * times, Counts(env_steps, episodes))


def remote_push_until_stop(handle: Any) -> int:
    """Pull and push ones until the store says stop, then leave; returns the version that said so."""
    gradient, out = torch.ones_like(handle.store.parameters), torch.empty_like(handle.store.parameters)
    while not (snapshot := handle.pull(out)).stop:
        handle.push(gradient, Counts(1, 0), snapshot.version)
    handle.leave()
    return snapshot.version


def remote_push_stripe(handle: Any, stripe: int, stripes: int) -> int:
    """Push -1 on every `stripes`-th element until the store says stop; returns how often."""
    gradient, out = torch.zeros_like(handle.store.parameters), torch.empty_like(handle.store.parameters)
    gradient[stripe::stripes] = -1.0
    pushed = 0
    while not (snapshot := handle.pull(out)).stop:
        handle.push(gradient, Counts(1, 0), snapshot.version)
        pushed += 1
    return pushed


def remote_torn_pulls(handle: Any, times: int) -> int:
    """How many pulls gave a θ with an element that is not the version."""
    torn = 0
    for _ in range(times):
        theta, snapshot = pull(handle, handle.store.parameters)
        torn += bool((theta != snapshot.version).any())
    return torn


def remote_feedback_rounds(handle: Any, rounds: int) -> list[float]:
    """Push gradients that depend on worker, round and the pulled θ, at uneven times; returns the last θ."""
    delays = np.random.default_rng(os.getpid())
    for number in range(rounds):
        theta, snapshot = pull(handle, handle.store.parameters)
        time.sleep(float(delays.uniform(0, 0.003)))
        handle.push(feedback_gradient(theta, handle.worker, number), Counts(handle.worker + 1, 0), snapshot.version)
    return remote_pull(handle)[0]


def feedback_gradient(theta: Tensor, worker: int, number: int) -> Tensor:
    return torch.sin(theta * (worker + 1) + number)


def remote_hold_lock(handle: Any) -> None:
    """Take the store's lock and keep it."""
    handle.held = handle.store.lock.exclusive()
    handle.held.__enter__()


def remote_close_gate(handle: Any) -> None:
    """Begin a snapshot and do not end it."""
    handle.held = handle.store._between_updates()
    handle.held.__enter__()
