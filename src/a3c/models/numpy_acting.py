"""Choosing actions of small networks with NumPy, whose calls cost a third of torch's: the cheap acting pass.

An actor asks for actions at every step and for few observations at a time. What that takes is then not arithmetic but
the calls, and the layers between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from a3c.core.distributions import GREATEST_LOG_STD, LEAST_LOG_STD, Categorical, Normal
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic
from a3c.models.perceptrons import Perceptrons
from a3c.types import State

Array = NDArray[Any]


def acting_policy(model: ActorCritic, seed: int, *, noise_steps: int = 1) -> ActingPolicy | NumpyPolicy:
    """The fastest way to draw actions from this model's policy. Arguments as `ActingPolicy`."""
    return NumpyPolicy(model, seed) if NumpyPolicy.suits(model) else ActingPolicy(model, seed, noise_steps=noise_steps)


class NumpyPolicy:
    """What `ActingPolicy` is, for fully connected networks on numbers, without memory, on the CPU.

    Owns the stream that actions are drawn from; reads the model's parameters, which its arrays share, as they are at
    each call.

    Args:
        model: whose policy; one that it `suits`.
        seed: of the stream.
    """

    def __init__(self, model: ActorCritic, seed: int) -> None:
        assert self.suits(model)
        self.model = model
        self.random = np.random.Generator(np.random.SFC64(seed))
        network = Perceptrons(model)
        self._layers, self._head, self._log_std = network.torsos[0], network.policy_head, network.log_std
        self._dtype = network.dtype
        self._draw = self._choice if isinstance(model.distribution, Categorical) else self._numbers

    @staticmethod
    def suits(model: ActorCritic) -> bool:
        """Whether this can act for such a model."""
        # A squashed Gaussian is drawn like a plain one.
        return Perceptrons.suits(model) and isinstance(model.distribution, Categorical | Normal)

    def __call__(self, observation: Array, state: State, episode_start: NDArray[np.bool_]) -> tuple[Array, State]:
        """Flat actions [B, *K] for flat observations [B, *O]; there is no state."""
        del state, episode_start
        return self._draw(self.outputs(observation)), None

    @np.errstate(invalid="ignore", over="ignore")  # who learns from a rollout looks for what is not finite
    def outputs(self, observation: Array) -> Array:
        """The policy head's numbers [B, D or fewer], before anything is drawn."""
        features = self.model.normaliser.numbers(observation.reshape(len(observation), -1), self._dtype)  # [B, I]
        for layer in self._layers:
            features = layer(features)
        return self._head(features)

    def _choice(self, logits: Array) -> Array:
        """By the Gumbel-max trick, as `categorical.sample`, [B]."""
        noise = self.random.standard_exponential(logits.shape, self._dtype)
        np.maximum(noise, np.finfo(noise.dtype).tiny, out=noise)  # one in ten million is 0
        np.log(noise, out=noise)
        logits -= noise
        choice: Array = np.argmax(logits, -1)
        return choice

    def _numbers(self, outputs: Array) -> Array:
        """μ + σ ε, [B, K] float32."""
        if self._log_std is None:
            size = outputs.shape[1] // 2
            mean, log_std = outputs[:, :size], outputs[:, size:]
        else:
            mean, log_std = outputs, self._log_std
        std = np.exp(np.minimum(np.maximum(log_std, LEAST_LOG_STD), GREATEST_LOG_STD))
        noise = self.random.standard_normal(mean.shape, self._dtype)
        noise *= std
        noise += mean
        return noise.astype(np.float32, copy=False)
