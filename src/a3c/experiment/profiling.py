"""Where the time of training goes, and how near it comes to what the environment and the network alone would take."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch

from a3c.actor import Actor
from a3c.algorithms import actor_critic
from a3c.config import TrainConfig
from a3c.core import losses
from a3c.core.flat import flat_gradient
from a3c.core.seeding import model_seed
from a3c.envs.make import EnvSource, examine
from a3c.errors import UsageError
from a3c.experiment import presets, shape
from a3c.experiment.env_source import env_source
from a3c.experiment.idle_settings import refuse_idle
from a3c.experiment.launch import make_runtime
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.recipe import FIRST_LIFE, ActorLearnerRecipe
from a3c.experiment.starting import starting_state
from a3c.experiment.train import make_recipe, make_spec, make_store, resolve_device
from a3c.models.actor_critic import ActorCritic
from a3c.models.numpy_acting import NumpyPolicy
from a3c.spaces.parts import map_parts
from a3c.types import ActorLearner, Life, MakeActorLearner, Report, StoreHandle, Update

Function = TypeVar("Function", bound=Callable[..., Any])

STAGES = {
    "act": "choosing actions: the network's policy, without gradients, and the draw",
    "environment": "stepping the vector of environments",
    "unroll": "the rest of a rollout: buffers, episodes, actions in the environment's form",
    "forward": "the network on a whole rollout, with gradients, but for what acting has worked out already",
    "returns": "the returns that values are held to",
    "loss": "the rest of the loss, and its gradient at the network's outputs",
    "backward": "the gradient with respect to the parameters",
    "normalise": "moments of observations and returns",
    "check": "looking for what is not finite",
    "pull": "taking θ from the store",
    "push": "the update of θ",
    "report": "what is left: counting, sending reports",
}
"""Parts of an actor-learner's turn, in their order."""

What = Literal["environment", "forward", "backward"]

_WARM_UP_S = 1.0
_TAKEN_EVERY_S = 0.05
_NO_END = 10**15  # steps; who measures says when it is enough
_STANDSTILL = 1e-20  # a learning rate that moves no weight, but costs what any does
_INERTIA = 1e9  # how often what moments are of is taken to have been seen, so that what comes moves them no more
_BEYOND_NOISE = 1.1  # training beside its environments alone
_REFERENCES: tuple[What, ...] = get_args(What)


class Stopwatch:
    """Adds up seconds by name; every moment belongs to the innermost timed function that is running, else to `rest`."""

    def __init__(self, rest: str) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._running = [rest]
        self._since = time.perf_counter()

    def timed(self, name: str, function: Function) -> Function:
        """The function, with its time counted as `name`."""
        seconds, running, clock = self._seconds, self._running, time.perf_counter

        def call(*arguments: Any, **options: Any) -> Any:
            now = clock()
            seconds[running[-1]] += now - self._since
            self._since = now
            running.append(name)
            try:
                return function(*arguments, **options)
            finally:
                now = clock()
                seconds[name] += now - self._since
                self._since = now
                running.pop()

        return call  # type: ignore[return-value]

    def take(self) -> dict[str, float]:
        """The seconds since the last call, by name."""
        now = time.perf_counter()
        self._seconds[self._running[-1]] += now - self._since
        self._since = now
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken


@dataclass(frozen=True)
class Timed:
    """A recipe whose actor-learners do what the given one's do, and whose updates tell seconds, by stage, as losses.

    Only an update now and then does, for all since the last that did: what is told takes time itself. So does looking
    at the clock at each stage: with `by_stage` False nobody does, and all of them are told as "seconds".
    """

    recipe: ActorLearnerRecipe
    by_stage: bool = True

    def __call__(self, worker: int, store: StoreHandle, life: Life = FIRST_LIFE) -> ActorLearner:
        """See `ActorLearnerRecipe`."""
        watch = Stopwatch("report" if self.by_stage else "seconds")
        with self.recipe.made(worker, life) as (actor, model), contextlib.ExitStack() as stack:
            if self.by_stage:
                store = stack.enter_context(_timed_stages(actor, model, store, watch))
            learner = actor_critic.actor_learner(self.recipe.settings, actor, model, store)
            steps, due, first = 0, 0.0, 1.0
            for update in learner:
                steps += update.rollout_steps
                told: dict[str, float] = {}
                if update.dropped is None and time.monotonic() >= due:
                    told = watch.take() | {"steps": float(steps), "begun": first}
                    steps, due, first = 0, time.monotonic() + _TAKEN_EVERY_S, 0.0
                yield replace(update, losses=told)


@contextlib.contextmanager
def _timed_stages(actor: Actor, model: ActorCritic, store: StoreHandle, watch: Stopwatch) -> Iterator[StoreHandle]:
    """What an actor-learner calls is timed, while this lasts; gives the store's handle to hand to it."""
    actor.act = watch.timed("act", actor.act)
    # Whoever assigns to a method hides it behind an attribute of this one object.
    for thing, method, stage in (
        (actor, "unroll", "unroll"),
        (actor.envs, "step", "environment"),
        (model, "forward", "forward"),
        (model.normaliser, "deltas", "normalise"),
        (model.normaliser, "rewards", "normalise"),
        (model.normaliser, "load", "normalise"),
    ):
        setattr(thing, method, watch.timed(stage, getattr(thing, method)))
    functions = [
        (losses, "lambda_returns", "returns"),
        (actor_critic, "actor_critic_loss", "loss"),
        (actor_critic, "flat_gradient", "backward"),
        (actor_critic, "first_non_finite", "check"),
    ]
    plain = [getattr(module, name) for module, name, _ in functions]
    for (module, name, stage), function in zip(functions, plain, strict=True):
        setattr(module, name, watch.timed(stage, function))
    try:
        yield _TimedHandle(store, watch)
    finally:
        for (module, name, _), function in zip(functions, plain, strict=True):
            setattr(module, name, function)


class _TimedHandle:
    def __init__(self, store: StoreHandle, watch: Stopwatch) -> None:
        self.pull = watch.timed("pull", store.pull)
        self.push = watch.timed("push", store.push)
        self.leave = store.leave


@dataclass(frozen=True)
class Reference:
    """A recipe for doing one thing alone, over and over, until the store says stop; an update is some of it.

    "environment": bare environments (`EnvSource.make_bare`) with the actions that the policy has drawn from the same
        seeds on, over and over, so with the policy's course of episodes;
    "forward": the network's policy on B observations, without gradients and without drawing, as acting does it;
    "backward": the network on T+1 rows of B, and the gradient of its outputs' sum, of the T rows that are learned from
        where the rest can be spared.

    What a GPU has worked out counts when it is there, in the CPU's memory, as it must be for a step or a push.

    For `seconds` the policy draws actions, before environments are stepped with them.
    """

    recipe: ActorLearnerRecipe
    what: What
    seconds: float

    def __call__(self, worker: int, store: StoreHandle, life: Life = FIRST_LIFE) -> ActorLearner:
        """How many steps (environment) or calls (the others) were done in how many seconds, as losses."""
        with self.recipe.made(worker, life._replace(incarnation=0)) as (actor, model):
            turns, first = getattr(self, f"_{self.what}")(worker, actor, model), 1.0
            while not store.pull(model.flat).stop:
                seconds, done = 0.0, 0
                while seconds < _TAKEN_EVERY_S:
                    before = time.perf_counter()
                    if (count := next(turns)) is not None:  # else it has only made ready, which takes no part
                        seconds, done = seconds + time.perf_counter() - before, done + count
                life.beat()
                yield Update({"seconds": seconds, "done": float(done), "begun": first}, 0, 0, (), None)
                first = 0.0

    def _environment(self, worker: int, actor: Actor, model: ActorCritic) -> Iterator[int | None]:
        ends, actions = time.perf_counter() + self.seconds, list[Any]()
        while not actions or time.perf_counter() < ends:
            rows = actor.unroll(len(actor.rewards)).actions.numpy().copy()
            actions += [self.recipe.spec.actions.to_environment(row) for row in rows]
        with contextlib.closing(self.recipe.source.make_bare(actor.envs.num_envs)) as bare:
            while True:
                bare.reset(self.recipe.env_seed(worker, actor.envs))
                yield None
                for action in actions:
                    yield bare.step(action)

    def _forward(self, worker: int, actor: Actor, model: ActorCritic) -> Iterator[int]:
        rollout = actor.unroll(1)
        if isinstance(actor.act, NumpyPolicy):
            numbers = rollout.observations[0].numpy()
            while True:
                actor.act.outputs(numbers)
                yield 1
        row = map_parts(lambda part: part[0], rollout.observations)  # [B, *O]
        starts = torch.zeros(actor.envs.num_envs, dtype=torch.bool)
        while True:
            with torch.inference_mode():  # not over a yield: it would hold for whoever is there
                model.policy(row, rollout.state, starts).parameters.cpu()
            yield 1

    def _backward(self, worker: int, actor: Actor, model: ActorCritic) -> Iterator[int]:
        rollout = actor.unroll(self.recipe.settings.rollout_length)
        if (feedforward := model.feedforward) is not None:  # what remains where nothing is recorded
            inputs = feedforward.inputs(rollout.observations.numpy(), model.normaliser)
            lanes = actor.envs.num_envs  # the last row of these is only bootstrapped from
            while True:
                policy, values, tapes = feedforward.forward(inputs)
                feedforward.backward(tapes, np.ones_like(policy[:-lanes]), np.ones_like(values[:-lanes]))
                yield 1
        while True:
            outputs = model(rollout)
            flat_gradient(outputs.policy.sum() + outputs.values.sum(), model).cpu()
            yield 1


@dataclass(frozen=True)
class Profile:
    """What a training step costs, measured with W workers at once.

    Attributes:
        env: the environment's name.
        workers: W.
        envs_per_worker: B.
        rollout_length: T.
        steps_per_second: of all workers in training.
        stage_us: microseconds of a worker's environment step, by stage (`STAGES`); together a little more than a step
            takes, since looking at the clock so often takes time, too.
        environment_us: of a bare environment, a step.
        forward_us: of the network's policy alone, a call on B observations.
        backward_us: of the network and its gradient alone, a call on (T + 1) B observations.
        description: the settings in one line, with where they come from, as a run prints them.
        ceiling: steps/s of W workers that do these three things and nothing else. Training can spare a part of the
            third, the policy's pass where acting has kept it: a reference, no bound.
    """

    env: str
    workers: int
    envs_per_worker: int
    rollout_length: int
    steps_per_second: float
    stage_us: dict[str, float]
    environment_us: float
    forward_us: float
    backward_us: float
    description: str

    @property
    def environment_only(self) -> float:
        """Steps/s of W workers' bare environments."""
        return self.workers * 1e6 / self.environment_us

    @property
    def ceiling(self) -> float:
        """Steps/s of W workers that step bare environments and call the network, and do nothing else."""
        network = self.forward_us / self.envs_per_worker + self.backward_us / (
            self.envs_per_worker * self.rollout_length
        )
        return self.workers * 1e6 / (self.environment_us + network)

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        return asdict(self) | {"environment_only": self.environment_only, "ceiling": self.ceiling}


@dataclass(frozen=True)
class Subject:
    """Training that is to be measured: settings that have been chosen and looked at, and who plays.

    Attributes:
        description: the settings in one line, with where they come from, as a run prints them.
        state: a store's, to begin with in place of a new network's, or None.
    """

    env: str
    config: TrainConfig
    description: str
    spec: PolicySpec
    recipe: ActorLearnerRecipe
    state: dict[str, Any] | None

    @classmethod
    def of(cls, env: str | Callable[[], Any], run: str | os.PathLike[str] | None = None, **settings: Any) -> Subject:
        """Arguments and errors as `profile` has them."""
        config, description = presets.resolve(EnvSource(env).name, settings)
        if run is not None and "learning_rate" in settings:
            raise UsageError("with --run the policy stays as it is: leave --learning-rate out")
        if config.runtime == "ray":
            raise UsageError("a3c profile measures the processes of this machine: leave --runtime ray out")
        if config.runtime == "serial" and config.workers > 1:
            raise UsageError("the serial runtime's workers share one process, and their time: add --workers 1")
        source = env_source(env, config)
        source.check_exists()
        facts = examine(source)
        config, description = shape.fit(config, description, facts.source, settings)
        refuse_idle(settings, facts)
        spec = make_spec(config, facts)
        state = None if run is None else starting_state(run, spec, "--run")
        if state is not None:
            config, state = replace(config, learning_rate=_STANDSTILL), state | {"moments": _at_rest(state["moments"])}
        config = replace(config, on_worker_failure="stop")  # whoever began anew would have begun twice
        recipe = make_recipe(facts.source, config, spec, resolve_device(config.device))
        return cls(facts.name, config, description, spec, recipe, state)

    def steps_per_second(self, seconds: float) -> float:
        """Of all workers in training."""
        sums = self._timed(seconds, by_stage=False)
        return self.config.workers * sums["steps"] / sums["seconds"]

    def stage_us(self, seconds: float) -> dict[str, float]:
        """Microseconds of a worker's environment step in training, by stage (`STAGES`)."""
        sums = self._timed(seconds, by_stage=True)
        return {stage: sums.get(stage, 0.0) / sums["steps"] * 1e6 for stage in STAGES}

    def _timed(self, seconds: float, *, by_stage: bool) -> dict[str, float]:
        return self._sums(Timed(self.recipe, by_stage), seconds)

    def alone_us(self, what: What, seconds: float) -> float:
        """Microseconds of a step or call of one thing, while every worker does nothing else; see `Reference`."""
        sums = self._sums(Reference(self.recipe, what, seconds), seconds)
        return sums["seconds"] / sums["done"] * 1e6

    def _sums(self, recipe: MakeActorLearner, seconds: float) -> dict[str, float]:
        """What the updates of all workers report as losses, added up, of so many seconds after all have begun.

        Where an update takes longer than that, of the first report with one.
        """
        config = replace(self.config, total_env_steps=_NO_END, total_episodes=None)
        runtime = make_runtime(config)
        model = self.spec.build(seed=model_seed(config.seed))
        store = make_store(config, model.flat, runtime, model.normaliser.tracked)
        if self.state is not None:
            store.load_state_dict(store.state_dict() | self.state)
        total, enough = Report(), False
        begun, counts_from = 0.0, math.inf
        with contextlib.closing(runtime):
            runtime.prepare()
            for report in runtime.run(recipe, store, config.workers):
                now = time.monotonic()
                if now > counts_from and not enough:
                    total.merge(report)
                    if enough := now > counts_from + seconds and "begun" in total.sums:
                        store.request_stop()
                elif counts_from == math.inf:
                    begun += report.sums.get("begun", 0.0)
                    counts_from = now + _WARM_UP_S if begun == config.workers else math.inf
        return total.sums


def profile(
    env: str | Callable[[], Any], *, seconds: float = 5.0, run: str | os.PathLike[str] | None = None, **settings: Any
) -> Profile:
    """Measure what a training step costs with these settings, part by part, and its parts alone.

    Args:
        env: as in `a3c.train`.
        seconds: of each of the five measurements, apart from what it takes to start; and as long again for drawing the
            actions with which the environments alone are stepped.
        run: directory of a run whose policy plays, and stays as it is, in training and in the environments alone: what
            a step takes can depend on how it is played.
        **settings: as in `a3c.train`.

    Raises:
        UsageError: as in `a3c.train`; or `seconds` is no time, or the run is of another network.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds must be more than 0, not {seconds}")
    subject = Subject.of(env, run, **settings)
    config = subject.config
    parts = "again under a stopwatch, then its three parts alone, as long each, apart from their starts"
    shape.say(f"training for {seconds:g} s, {parts} ...", quiet=config.quiet)
    steps_per_second = subject.steps_per_second(seconds)
    shape.say("under a stopwatch ...", quiet=config.quiet)
    stage_us = subject.stage_us(seconds)
    alone = {}
    for what in _REFERENCES:
        shape.say(f"{what} alone ...", quiet=config.quiet)
        alone[f"{what}_us"] = subject.alone_us(what, seconds)
    return Profile(
        env=subject.env,
        workers=config.workers,
        envs_per_worker=config.envs_per_worker,
        rollout_length=config.rollout_length,
        steps_per_second=steps_per_second,
        stage_us=stage_us,
        description=subject.description,
        **alone,
    )


def _at_rest(moments: torch.Tensor) -> torch.Tensor:
    """Moments [3, M] with the same means and variances, of many times as much."""
    return moments * moments.new_tensor([[_INERTIA], [1.0], [_INERTIA]])


def table(profile: Profile) -> str:
    """The profile as text."""
    step = sum(profile.stage_us.values())
    lines = [
        f"{profile.env}, {profile.description}",
        "",
        f"{'part of a step':<14}{'us':>9}{'share':>8}",
    ]
    lines += [f"{stage:<14}{us:>9.2f}{us / step:>8.1%}  {STAGES[stage]}" for stage, us in profile.stage_us.items()]
    batch, rows = profile.envs_per_worker, profile.envs_per_worker * (profile.rollout_length + 1)
    lines += [
        f"{'together':<14}{step:>9.2f}{1:>8.1%}  under a stopwatch, which takes time, too; without "
        f"{profile.workers * 1e6 / profile.steps_per_second:.2f} us",
        "",
        f"alone: a bare environment's step takes {profile.environment_us:.2f} us, a call of the policy on {batch} "
        f"observations {profile.forward_us:.1f} us, one of the network and its gradient on {rows} observations "
        f"{profile.backward_us:.1f} us",
        "",
        f"training          {profile.steps_per_second:>12,.0f} steps/s",
        f"reference ceiling {profile.ceiling:>12,.0f} steps/s: those three alone; training reaches "
        f"{profile.steps_per_second / profile.ceiling:.0%}",
        f"environments only {profile.environment_only:>12,.0f} steps/s; training reaches "
        f"{profile.steps_per_second / profile.environment_only:.0%}",
    ]
    if profile.steps_per_second > _BEYOND_NOISE * profile.environment_only:
        lines += [
            "",
            "Training is hardly faster than its environments: other programs have had the cores meanwhile, it was too "
            "short, or a step's time depends on the policy, which has changed. Measure again when the cores are free, "
            "with more --seconds, or with the --run of a trained policy, which stays as it is.",
        ]
    return "\n".join(lines)
