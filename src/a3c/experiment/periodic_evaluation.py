"""Evaluating the policy again and again while it is being trained.

Whenever T crosses a multiple of N, the shared parameters and moments are copied and played greedily, with seeds apart
from those of training and of `a3c.evaluate`, the same ones each time. Under the process runtime that happens in a
process of its own, and no worker waits for it: what is due while it is busy is evaluated when it is free again, by the
parameters of that moment, once however many multiples were crossed. In one process everything happens in turn, the
evaluation too, so that a run repeats to the bit. The policy whose evaluation was the best is kept.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from a3c.core.seeding import evaluation_seeds, model_seed
from a3c.envs.make import EnvSource, making
from a3c.errors import NonFiniteError, StoreBusy
from a3c.experiment.checkpoint import best_evaluation, save_checkpoint
from a3c.experiment.evaluate import MOST_ENVS, Evaluation, play_episodes
from a3c.experiment.policy import Policy
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import BEST_EVALUATION, EVALUATIONS, finite, reason_and_fix
from a3c.models.actor_critic import ActorCritic
from a3c.runtimes.reporting import worker_failed
from a3c.runtimes.side_process import SideProcess
from a3c.runtimes.worker import Failure
from a3c.types import ParameterStore

COLUMNS = ("env_steps", "seconds", "episodes", "return_mean", "return_std", "ci95_low", "ci95_high", "length_mean")
"""Of evaluations.csv; `env_steps` and `seconds` are those at which the policy was what has been evaluated."""

_SPARED = 20  # times as long as T took to be told, before it is asked for again
_LONGEST_PAUSE_S = 0.1


class Weights(NamedTuple):
    """What a policy has learned, as it travels to the evaluator."""

    parameters: NDArray[Any]  # θ, [P]
    moments: NDArray[np.float64]  # [3, M]


@dataclass(frozen=True)
class EvaluatorRecipe:
    """Makes the function that evaluates weights: `recipe()`; it travels to the process that runs it."""

    source: EnvSource
    spec: PolicySpec
    episodes: int
    seed: int

    def __call__(self) -> Evaluator:
        """The function, with an environment and a network of its own."""
        return Evaluator(self)


class Evaluator:
    """Owns environments and a network, and evaluates the weights that it is called with."""

    def __init__(self, recipe: EvaluatorRecipe) -> None:
        self.recipe = recipe
        with making(recipe.source):
            self.envs = recipe.source.make_vector(min(recipe.episodes, MOST_ENVS))
        self.policy = Policy(recipe.spec, recipe.spec.build(seed=model_seed(recipe.seed)))
        # An evaluation by the run's own seed would choose the best policy by the episodes that it is later judged by.
        self.seed = evaluation_seeds(recipe.seed, 1)[0]

    def __call__(self, weights: Weights) -> Evaluation:
        """Play the episodes; of returns that cannot be told, NaN."""
        self.policy.model.flat.copy_(torch.from_numpy(weights.parameters))
        self.policy.model.normaliser.load(torch.from_numpy(weights.moments))
        try:
            return play_episodes(self.policy, self.envs, self.recipe.episodes, seed=self.seed)
        except NonFiniteError:  # in training such an episode costs a rollout, and here an evaluation
            return Evaluation(0, math.nan, math.nan, (math.nan, math.nan), math.nan, True, self.seed)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


class Place(Protocol):
    """Where evaluations are run: here, or in a process of their own."""

    busy: bool

    def ask(self, question: Any) -> None:
        """Begin with these weights; none may be under way."""

    def answer(self, timeout_s: float = 0.0) -> Any:
        """The Evaluation if it comes within `timeout_s`, else None; a Failure if there will be none, now or later."""

    def close(self) -> None:
        """Drop what is under way, and let go of everything."""


class InThisProcess:
    """Evaluates at once."""

    def __init__(self, make_evaluator: Callable[[], Evaluator]) -> None:
        self.busy = False
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None
        self._answer: Evaluation | Failure | None = None

    def ask(self, question: Any) -> None:
        """Evaluate these weights, here and now."""
        self.busy = True
        try:
            self._evaluator = self._evaluator or self._make_evaluator()
            self._answer = self._evaluator(question)
        except (Exception, SystemExit) as error:
            failed = worker_failed(0, error)
            self._answer = Failure(failed.kind, failed.summary, failed.worker_traceback)

    def answer(self, timeout_s: float = 0.0) -> Any:
        """What came of it."""
        answer, self._answer, self.busy = self._answer, None, False
        return answer

    def close(self) -> None:
        """Close the environments."""
        if self._evaluator is not None:
            self._evaluator.close()


class PeriodicEvaluation:
    """Evaluates at each crossing of a multiple of `every` steps, and keeps what came of it.

    Owns RUN_DIR/evaluations.csv, RUN_DIR/checkpoints/best-evaluation and the evaluator. One that fails is reported
    once, and no other takes its place.

    Args:
        every: N, environment steps of all workers together.
        recipe: the evaluator's.
        context: what to start its process by; None evaluates in this one.
        run_dir: where evaluations.csv goes.
        seconds: says how long the run has lasted.
        message: shows a line to the user.

    Attributes:
        best: `env_steps` and `return_mean` of the best evaluation so far; None before there is one.
    """

    def __init__(
        self,
        every: int,
        recipe: EvaluatorRecipe,
        context: BaseContext | None,
        run_dir: Path,
        seconds: Callable[[], float],
        message: Callable[[str], None],
    ) -> None:
        self.every = every
        self.recipe = recipe
        self.context = context
        self.run_dir = run_dir
        self.path = run_dir / EVALUATIONS
        self.seconds = seconds
        self.message = message
        self.best: dict[str, float] | None = None
        self._crossed = 0  # how many multiples of `every`
        self._due = False
        self._next_look = 0.0
        self._kept_at = 0  # env_steps of the newest row
        self._place: Place | None = None
        self._failed = False
        self._under_way: tuple[int, float, Weights | None] = (0, 0.0, None)  # env_steps and seconds, and what it is
        self._unkept: Weights | None = None  # the best one's, not yet written
        self._model: ActorCritic | None = None  # to write it by
        self._unlogged: float | None = None

    def state(self) -> dict[str, Any]:
        """What a run that is taken up later needs to go on evaluating, as JSON."""
        return {"best": self.best, "kept_at": self._kept_at}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `state` gave; what was under way then is evaluated anew. None if nothing was evaluated.

        The best one is the one whose policy lies in the run's directory, also where it came after that state.
        """
        self.best = best_evaluation(self.run_dir)
        if state is not None:
            self._kept_at = int(state["kept_at"])
            self._crossed = self._kept_at // self.every

    def notice(self, store: ParameterStore) -> None:
        """Take a result that has come, and begin anew where T has crossed a multiple. Costs next to nothing else."""
        if self._failed:
            return
        if self._place is None:  # not only when something is due: that may be when no process can be started any more
            try:
                self._place = self._make_place()
            except Exception as error:
                self._give_up(f"{type(error).__name__}: {error}")
                return
        self._collect(0.0)
        crossed = self._multiples(store)
        if crossed > self._crossed:
            self._crossed, self._due = crossed, True
        if self._due and not self._place.busy:
            self._begin(store, self._place)

    def _multiples(self, store: ParameterStore) -> int:
        """How many multiples of `every` T has crossed. A store on a cluster takes a while to say, and is spared."""
        began = time.monotonic()
        if self.context is not None and began < self._next_look:
            return self._crossed
        multiples = store.counters().env_steps // self.every
        took = time.monotonic() - began
        self._next_look = began + took + min(_SPARED * took, _LONGEST_PAUSE_S)
        return multiples

    def unlogged(self) -> dict[str, float | None]:
        """What the next line of metrics is to have, once: the newest `evaluation_return_mean`, or None."""
        value, self._unlogged = self._unlogged, None
        return {"evaluation_return_mean": value}

    def finish(self, store: ParameterStore, patience_s: float) -> bool:
        """Wait so long for what is under way, and then for what is due by now; whether nothing is left to wait for."""
        until = time.monotonic() + patience_s
        self._next_look = 0.0
        while self._place is not None and not self._failed:
            self.notice(store)
            if not self._place.busy:
                return True
            self._collect(max(0.0, until - time.monotonic()))
            if self._place.busy and time.monotonic() >= until:
                return False
        return True

    @property
    def under_way_at(self) -> int:
        """The `env_steps` of what is being evaluated."""
        return self._under_way[0]

    def close(self) -> None:
        """Drop an evaluation that is under way, and end the evaluator."""
        if self._place is not None:
            self._place.close()
            self._place = None

    def _begin(self, store: ParameterStore, place: Place) -> None:
        try:
            state = store.snapshot()
        except StoreBusy:  # a worker hangs in an update; it will be noticed, and then it is looked again
            return
        self._due = False
        weights = Weights(state.parameters.numpy(), state.moments.numpy())
        self._under_way = (state.env_steps, round(self.seconds(), 4), weights)
        place.ask(weights)
        self._collect(0.0)

    def _make_place(self) -> Place:
        if self.context is None:
            return InThisProcess(self.recipe)
        return SideProcess(self.context, self.recipe, "a3c-evaluator")

    def _collect(self, timeout_s: float) -> None:
        if self._place is None or not self._place.busy:
            return
        answer = self._place.answer(timeout_s)
        if isinstance(answer, Failure):
            self._give_up(f"{answer.kind}: {answer.summary}")
        elif answer is not None:
            self._keep(answer)

    def _keep(self, evaluation: Evaluation) -> None:
        env_steps, seconds, weights = self._under_way
        mean = evaluation.return_mean
        if math.isfinite(mean):
            self._unlogged = mean
            if self.best is None or mean > self.best["return_mean"]:
                self.best, self._unkept = {"env_steps": env_steps, "return_mean": mean}, weights
        self.keep_policy()
        self._kept_at = env_steps
        numbers = (mean, evaluation.return_std, *evaluation.return_ci95, evaluation.length_mean)
        try:
            self._write(env_steps, seconds, evaluation.episodes, *finite(numbers))
        except OSError as error:
            self._give_up(f"{EVALUATIONS} cannot be written ({error.strerror or error})")

    def keep_policy(self) -> None:
        """Write the best one as RUN_DIR/checkpoints/best-evaluation. If that cannot be, say so, and try again later."""
        if self._unkept is None or self.best is None:
            return
        if self._model is None:
            self._model = self.recipe.spec.build(seed=model_seed(self.recipe.seed))
        state = {
            "parameters": torch.from_numpy(self._unkept.parameters),
            "moments": torch.from_numpy(self._unkept.moments),
            "env_steps": self.best["env_steps"],
        }
        try:
            save_checkpoint(self.run_dir, self.recipe.spec, self._model, state, self.best, BEST_EVALUATION)
            self._unkept = None
        except OSError as error:
            reason = reason_and_fix(error)
            steps = f"{self.best['env_steps']:,}"
            self.message(f"the best evaluation's policy, of {steps} steps, cannot be written ({reason})")

    def _write(self, *row: float | None) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                rows.writerow(COLUMNS)
            rows.writerow(row)

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self.message(f"evaluation stopped, the run goes on without it: {' '.join(reason.split())}")
