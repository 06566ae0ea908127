"""The cheap acting pass: NumPy's calls, at a third of the price of torch's, and no detours.

An actor asks for actions at every step and for few observations at a time. What that takes in a small network is then
not arithmetic but the calls, and the layers between them. In a network for images it is the convolutions; but what they
gave out is kept, and learning need not work it out again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a3c.core.distributions import GREATEST_LOG_STD, LEAST_LOG_STD, Categorical, Normal
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic
from a3c.models.feedforward import Passes, PolicySteps
from a3c.types import State

Array = NDArray[Any]

# Perceptrons: with fewer lanes, to keep what acting has worked out costs more than to work it out again
# (benchmarks/parts.py).
_KEPT_FROM_LANES = 8
_DRAWS_AHEAD, _MOST_AHEAD = 16, 100_000  # steps whose noise is drawn together, a few calls less for each; numbers
_GREATEST_STD = math.exp(GREATEST_LOG_STD)


def acting_policy(
    model: ActorCritic, seed: int, *, noise_steps: int = 1, steps: int = 0, lanes: int = 0
) -> ActingPolicy | NumpyPolicy:
    """The fastest way to draw actions from this model's policy.

    Args:
        model: whose policy.
        seed: of the stream that actions are drawn from.
        noise_steps: as `ActingPolicy`.
        steps: T of rollouts that are learned from, if any are.
        lanes: their B.
    """
    if not NumpyPolicy.suits(model):
        return ActingPolicy(model, seed, noise_steps=noise_steps)
    assert model.feedforward is not None
    keeps = lanes >= _KEPT_FROM_LANES or model.feedforward.convolves
    return NumpyPolicy(model, seed, noise_steps=noise_steps, kept_steps=steps if keeps else 0)


class NumpyPolicy:
    """What `ActingPolicy` is, for networks whose passes are written down (`a3c.models.feedforward`).

    Owns the stream that actions are drawn from; reads the model's parameters, which its arrays share, as they are at
    each call.

    Args:
        model: whose policy; one that it `suits`.
        seed: of the stream.
        noise_steps: as `ActingPolicy`.
        kept_steps: of how many steps in a row `passes` is asked for at most; 0 if it is not asked.
    """

    def __init__(self, model: ActorCritic, seed: int, *, noise_steps: int = 1, kept_steps: int = 0) -> None:
        assert self.suits(model)
        self.model = model
        self.random = np.random.Generator(np.random.SFC64(seed))
        assert model.feedforward is not None
        self._network = model.feedforward
        self.noise_steps = noise_steps
        self.kept_steps = kept_steps
        self._kept: PolicySteps | None = None
        self._step = 0  # since it was last asked
        self._age = 0  # steps since the start
        self._standard_normal: Array | None = None  # of gSDE, [B, F, K]
        self._noise = np.empty((0, 0, 0))  # of choices, for some steps ahead, [steps, B, A]
        self._drawn = 0  # steps of these

    @staticmethod
    def suits(model: ActorCritic) -> bool:
        """Whether this can act for such a model."""
        # A squashed Gaussian is drawn like a plain one.
        return model.feedforward is not None and isinstance(model.distribution, Categorical | Normal)

    def __call__(self, observation: Array, state: State, episode_start: NDArray[np.bool_]) -> tuple[Array, State]:
        """Flat actions [B, *K] for flat observations [B, *O]; there is no state."""
        del state
        features, outputs = self._network.policy_pass(observation, self.model.normaliser, self._place(len(observation)))
        if isinstance(self.model.distribution, Categorical):
            return self._choice(outputs), None
        if self._network.gsde:
            action = outputs + self._smooth_noise(features, episode_start)
            return action.astype(np.float32, copy=False), None
        return self._numbers(outputs), None

    def passes(self, steps: int) -> Passes | None:
        """Those of the last so many steps, if these are all since it was asked last; None if not."""
        taken, self._step = self._step, 0
        if self._kept is None or taken != steps or taken > self.kept_steps:
            return None
        return Passes(self._kept, self._kept.rollout, steps)

    def _place(self, lanes: int) -> list[Array] | None:
        """Where this step is kept, if it is."""
        t, self._step = self._step, self._step + 1
        if t >= self.kept_steps:
            return None
        if t == 0:
            if self._kept is None or self._kept.lanes != lanes:
                self._kept = PolicySteps(self.model, self.kept_steps, lanes)
            self._kept.begin()
        assert self._kept is not None
        if self._kept.lanes != lanes:  # this is no one rollout
            self._step = self.kept_steps + 1
            return None
        return self._kept.places[t]

    def outputs(self, observation: Array) -> Array:
        """The policy head's numbers [B, D or fewer], before anything is drawn."""
        return self._network.policy_pass(observation, self.model.normaliser)[1]

    def _choice(self, logits: Array) -> Array:
        """By the Gumbel-max trick, as `categorical.sample`, [B]."""
        if self._drawn == len(self._noise) or self._noise.shape[1:] != logits.shape:
            steps = min(_DRAWS_AHEAD, 1 + _MOST_AHEAD // (1 + logits.size))
            self._noise, self._drawn = self._gumbel((steps, *logits.shape), logits.dtype), 0
        choice: Array = (logits + self._noise[self._drawn]).argmax(-1)
        self._drawn += 1
        return choice

    def _gumbel(self, shape: tuple[int, ...], dtype: Any) -> Array:
        noise = self.random.standard_exponential(shape, dtype)
        np.maximum(noise, np.finfo(dtype).tiny, out=noise)  # one in ten million is 0
        np.log(noise, out=noise)
        return np.negative(noise, out=noise)

    def _numbers(self, outputs: Array) -> Array:
        """μ + σ ε, [B, K] float32."""
        if self._network.log_std is None:
            mean, log_std = np.split(outputs, 2, 1)
        else:
            mean, log_std = outputs, self._network.log_std
        std = np.exp(np.minimum(np.maximum(log_std, LEAST_LOG_STD), GREATEST_LOG_STD))
        noise = self.random.standard_normal(mean.shape, mean.dtype)
        noise *= std
        noise += mean
        return noise.astype(np.float32, copy=False)

    @np.errstate(invalid="ignore", over="ignore")  # as in the passes: who learns looks for what is not finite
    def _smooth_noise(self, features: Array, starts: NDArray[np.bool_]) -> Array:
        """As `ActingPolicy` has it, [B, K]."""
        log_std = self._network.log_std  # [F, K]
        assert log_std is not None
        if self._standard_normal is None:
            self._standard_normal = np.empty((len(features), *log_std.shape), features.dtype)
        if self._age % self.noise_steps == 0:
            starts = np.ones_like(starts)
        self._age += 1
        if starts.any():
            shape = (np.count_nonzero(starts), *log_std.shape)
            self._standard_normal[starts] = self.random.standard_normal(shape, features.dtype)
        noise: Array = np.matmul(features[:, None], np.exp(log_std) * self._standard_normal)[:, 0]
        noise *= np.minimum(_GREATEST_STD / np.sqrt(self._network.variance(features)), 1)
        return noise
