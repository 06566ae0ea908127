"""The actor-critic network: π(a|s) and V(s) from one torso, or from a torso each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from a3c.core.flat import flatten_parameters
from a3c.types import PolicyValue, Rollout, State

Activation = Literal["tanh", "relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
_POLICY_GAIN = 0.01  # a first policy near uniform
_VALUE_GAIN = 1.0


class ActorCritic(nn.Module):
    """A policy head and a value head on multi-layer perceptrons.

    Owns θ' as one flat vector, `flat` [P], of which the parameters are views: `store.pull(model.flat)` is a
    single copy. Do not move the module after it is built; name device and dtype here.

    Args:
        observation_shape: O; observations are flattened.
        action_count: A.
        hidden_sizes: widths of the torso's layers; empty for a linear model.
        activation: after each of them.
        separate_torsos: one torso for the policy and another for the value, instead of a shared one.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        action_count: int,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        separate_torsos: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.observation_dims = len(observation_shape)
        self.device = torch.device(device)
        self.dtype = dtype
        inputs = math.prod(observation_shape)
        features = hidden_sizes[-1] if hidden_sizes else inputs
        self.policy_torso = mlp_torso(inputs, hidden_sizes, activation)
        self.value_torso = mlp_torso(inputs, hidden_sizes, activation) if separate_torsos else self.policy_torso
        self.policy_head = orthogonal(nn.Linear(features, action_count), _POLICY_GAIN)
        self.value_head = orthogonal(nn.Linear(features, 1), _VALUE_GAIN)
        self.to(self.device, dtype)
        self.flat = flatten_parameters(self)  # θ', [P]

    def forward(self, rollout: Rollout) -> PolicyValue:
        """Logits [T+1, B, A] and values [T+1, B] of all of a rollout's observations."""
        return self.policy_value(rollout.observations)

    def policy_value(self, observations: Tensor) -> PolicyValue:
        """Logits [..., A] and values [...] of observations [..., *O]."""
        inputs = self._inputs(observations)  # [..., I]
        features = self.policy_torso(inputs)  # [..., H]
        value_features = features if self.value_torso is self.policy_torso else self.value_torso(inputs)
        return PolicyValue(self.policy_head(features), self.value_head(value_features).squeeze(-1))

    def policy(self, observation: Tensor, state: State, episode_start: Tensor) -> tuple[Tensor, State]:
        """Logits [B, A] of one row of observations [B, *O], for acting, and the next recurrent state."""
        return self.policy_head(self.policy_torso(self._inputs(observation))), state

    def _inputs(self, observations: Tensor) -> Tensor:
        lead = observations.shape[: observations.dim() - self.observation_dims]
        return observations.to(self.device, self.dtype).reshape(*lead, -1)


def mlp_torso(inputs: int, hidden_sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Linear layers, orthogonally initialised at the activation's own gain, each followed by `activation`."""
    gain = nn.init.calculate_gain(activation)
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [orthogonal(nn.Linear(inputs, size), gain), _ACTIVATIONS[activation]()]
        inputs = size
    return nn.Sequential(*layers)


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Set orthogonal weights times `gain` (Saxe et al. 2014) and zero biases; returns the layer."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
