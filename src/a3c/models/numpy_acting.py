"""Choosing actions of small networks with NumPy, whose calls cost a third of torch's: the cheap acting pass.

An actor asks for actions at every step and for few observations at a time. What that takes is then not arithmetic but
the calls, and the layers between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from a3c.core.distributions import GREATEST_LOG_STD, LEAST_LOG_STD, Categorical, Normal
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic
from a3c.models.encoder import Encoder
from a3c.types import State

Array = NDArray[Any]

_IN_PLACE: dict[type[nn.Module], Callable[[Array], Array]] = {
    nn.Tanh: lambda values: np.tanh(values, out=values),
    nn.ReLU: lambda values: np.maximum(values, 0.0, out=values),
}


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
        assert isinstance(model.policy_torso, Encoder)
        self.normaliser = model.normaliser
        self.random = np.random.Generator(np.random.SFC64(seed))
        layers = list(model.policy_torso.joint.children())
        self._layers = [
            (*_arrays(linear), _IN_PLACE[type(activation)])
            for linear, activation in zip(layers[::2], layers[1::2], strict=True)
        ]
        self._head_weight, self._head_bias = _arrays(model.policy_head.linear)
        self._dtype = self._head_bias.dtype
        log_std = model.policy_head.log_std
        self._log_std: Array | None = None if log_std is None else log_std.detach().numpy()  # [K]
        self._draw = self._choice if isinstance(model.distribution, Categorical) else self._numbers

    @staticmethod
    def suits(model: ActorCritic) -> bool:
        """Whether this can act for such a model."""
        torso = model.policy_torso
        return (
            model.device.type == "cpu"
            and model.policy_memory is None
            and isinstance(torso, Encoder)
            and torso.takes_one_vector
            and all(isinstance(layer, nn.Linear | nn.Tanh | nn.ReLU) for layer in torso.joint.children())
            and isinstance(model.distribution, Categorical | Normal)  # a squashed one is drawn like a plain one
            and not model.policy_head.gsde
            and model.policy_head.order is None
        )

    def __call__(self, observation: Array, state: State, episode_start: NDArray[np.bool_]) -> tuple[Array, State]:
        """Flat actions [B, *K] for flat observations [B, *O]; there is no state."""
        del state, episode_start
        features = self.normaliser.numbers(observation.reshape(len(observation), -1), self._dtype)  # [B, I]
        for weight, bias, activate in self._layers:
            features = features @ weight
            features += bias
            activate(features)
        outputs = features @ self._head_weight
        outputs += self._head_bias
        return self._draw(outputs), None

    def _choice(self, logits: Array) -> Array:
        """By the Gumbel-max trick, as `categorical.sample`, [B]."""
        noise = self.random.standard_exponential(logits.shape, self._dtype)
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


def _arrays(linear: nn.Module) -> tuple[Array, Array]:
    """Weight [I, F] and bias [F], sharing the layer's memory."""
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach().numpy().T, linear.bias.detach().numpy()
