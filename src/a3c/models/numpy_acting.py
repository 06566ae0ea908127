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
        assert model.perceptrons is not None
        self._network = model.perceptrons
        self._draw = self._choice if isinstance(model.distribution, Categorical) else self._numbers

    @staticmethod
    def suits(model: ActorCritic) -> bool:
        """Whether this can act for such a model."""
        # A squashed Gaussian is drawn like a plain one.
        return model.perceptrons is not None and isinstance(model.distribution, Categorical | Normal)

    def __call__(self, observation: Array, state: State, episode_start: NDArray[np.bool_]) -> tuple[Array, State]:
        """Flat actions [B, *K] for flat observations [B, *O]; there is no state."""
        del state, episode_start
        return self._draw(self.outputs(observation)), None

    def outputs(self, observation: Array) -> Array:
        """The policy head's numbers [B, D or fewer], before anything is drawn."""
        return self._network.policy_outputs(observation, self.model.normaliser)

    def _choice(self, logits: Array) -> Array:
        """By the Gumbel-max trick, as `categorical.sample`, [B]."""
        noise = self.random.standard_exponential(logits.shape, logits.dtype)
        np.maximum(noise, np.finfo(noise.dtype).tiny, out=noise)  # one in ten million is 0
        np.log(noise, out=noise)
        logits -= noise
        choice: Array = np.argmax(logits, -1)
        return choice

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
