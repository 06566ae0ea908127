"""How many workers, and how many environments each, where no preset and no user says so: by a short measurement."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from a3c.config import TrainConfig
from a3c.envs.make import EnvSource
from a3c.errors import UnsupportedEnvironment
from a3c.experiment import presets
from a3c.spaces.parts import ACTION_MASK

_LEAST_S, _MOST_S = 0.15, 1.0  # of stepping; until then at least so many steps:
_LEAST_STEPS = 20
_LEAST_SLOW_STEPS = 3  # of those that take long, one of which is left out
_PATIENCE_S = 20.0  # then it is given up
_ACTIONS = 64
_PUT_OFF_S = 0.5e-3  # a step that took less was not put off for another process
_MOSTLY_WAITING = 0.5  # of a step's time on the processor, at most
_MOST_WORKERS = 32
# From so many seconds a step on, so many environments a worker: what a step of the worker itself takes is then small
# beside them, and they are no more than that, since more mean fewer updates.
_ENVS = ((2e-3, 1), (2e-4, 4), (1e-5, 8), (0.0, 16))


class StepTime(NamedTuple):
    """What a step of one environment takes."""

    seconds: float
    busy: float  # the share of it that is spent on the processor, up to 1


def choose(step: StepTime, cores: int) -> tuple[int, int, str]:
    """Workers, environments for each, and why."""
    envs = next(count for least, count in _ENVS if step.seconds >= least)
    workers = min(cores, _MOST_WORKERS)
    why = f"a step takes {_duration(step.seconds)}"
    if envs == 1 and step.busy < _MOSTLY_WAITING:
        # While they wait others compute: as many as the cores can serve.
        workers = min(_MOST_WORKERS, round(cores / max(step.busy, cores / _MOST_WORKERS)))
        why += ", mostly of waiting"
    return workers, envs, f"{why} on {cores} cores"


def fit(config: TrainConfig, description: str, source: EnvSource, named: Collection[str]) -> tuple[TrainConfig, str]:
    """The settings with workers and environments chosen, and their description; as they were where somebody chose."""
    chosen = {"workers", "envs_per_worker"} & set(named) or presets.find(source.name, config.preset)[0]
    repeats = config.algorithm == "a2c" or config.runtime != "processes"  # to the bit: no clock may have a say
    if chosen or repeats or config.preset == "none" or config.end_rollout_at_episode_end or source.action_mask:
        return config, description
    if (step := measure(source, config.quiet)) is None:
        return config, description
    workers, envs, why = choose(step, cores())
    fitted, rate = replace(config, workers=workers, envs_per_worker=envs), ""
    if workers > config.workers and "learning_rate" not in named:
        fitted = replace(fitted, learning_rate=presets.rate_for(workers, config.workers, config.learning_rate))
        rate = f" --learning-rate {fitted.learning_rate:g}"
    origin = f"general defaults; {why}: --workers {workers} --envs-per-worker {envs}{rate}"
    return fitted, presets.describe(fitted, origin, named)


def measure(source: EnvSource, quiet: bool = True) -> StepTime | None:
    """Step one environment with random actions for a moment; None if that cannot be done, whatever the reason.

    Training makes the same environments and says what is wrong with them; one that hangs, workers are killed for. So
    it is stepped in a thread, and given up after a while. One that ends its process ends this one, whose last line
    then says what was done. The source is one that has been examined.

    Raises UnsupportedEnvironment if it breaks its word.
    """
    say(f"measuring how long a step of {source.name} takes ...", quiet=quiet)
    found = list[StepTime | UnsupportedEnvironment | None]()
    thread = threading.Thread(target=lambda: found.append(_measured(source)), daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    answer = found[0] if found else None
    if isinstance(answer, UnsupportedEnvironment):
        raise answer
    return answer


def say(what: str, *, quiet: bool) -> None:
    """Tell who waits what for."""
    if not quiet:
        print(f"a3c: {what}", file=sys.stderr, flush=True)


def _measured(source: EnvSource) -> StepTime | UnsupportedEnvironment | None:
    try:
        env = source.make()
    except Exception:
        return None
    try:
        observation, info = env.reset(seed=0)
        if ACTION_MASK in info or (isinstance(observation, dict) and ACTION_MASK in observation):
            return None  # a random action may be a forbidden one
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(_ACTIONS)]
        steps, ended, longest, passed = 0, False, 0.0, 0.0
        (before, put_off), busy = _own_time(), time.thread_time()
        for action in itertools.cycle(actions):
            if ended:
                env.reset()
            _, _, terminated, truncated, _ = env.step(action)
            ended = bool(terminated or truncated)
            steps += 1
            now = time.perf_counter() - put_off
            if now - before > _PUT_OFF_S:  # perhaps once more
                now, put_off = _own_time()
            longest = max(longest, now - before)
            passed += now - before
            before = now
            if passed > (_LEAST_S if steps >= _LEAST_STEPS else _MOST_S) and steps >= _LEAST_SLOW_STEPS:
                break
        passed -= longest  # which may have compiled something, or hung
        busy = min(time.thread_time() - busy, passed)
        return StepTime(passed / (steps - 1), busy / passed)
    except UnsupportedEnvironment as error:
        return error
    except Exception:
        return None
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _own_time() -> tuple[float, float]:
    """A clock (s) that stands still while this thread is ready but others have the processor, and how late it is."""
    while True:
        put_off, now = _put_off_s(), time.perf_counter()
        if _put_off_s() == put_off:  # else it was put off meanwhile
            return now - put_off, put_off


def _put_off_s(schedstat: Path = Path("/proc/thread-self/schedstat")) -> float:
    """How long this thread has been ready while others had the processor, as far as the system tells; else 0."""
    try:
        return int(schedstat.read_text().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


def cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many cores this process may use: those that it is bound to, or a container's quota if that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(bound, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return bound


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
