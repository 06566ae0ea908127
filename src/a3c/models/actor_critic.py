"""The actor-critic network: π(a|s) and V(s) from one torso, or from a torso each, with or without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from a3c.core.distributions import Distribution
from a3c.core.flat import flatten_parameters
from a3c.core.normalisation import Normaliser
from a3c.models.custom import CustomTorso
from a3c.models.encoder import Encoder
from a3c.models.feedforward import Feedforward
from a3c.models.heads import LogStd, PolicyHead
from a3c.models.memory import Memory
from a3c.models.torsos import orthogonal
from a3c.spaces.parts import ACTION_MASK, Space, parts
from a3c.types import Outputs, PolicyValue, Rollout, State

MakeTorso = Callable[[Any], nn.Module]

_VALUE_GAIN = 1.0


@dataclass(frozen=True)
class Network:
    """What an actor-critic network is made of.

    Args:
        torso: "auto" by the observation, or a torso for images: "a3c", "nature", "impala", "minatar".
        hidden_sizes: widths of the layers that numbers go through; empty for a linear model.
        activation: after each of them.
        separate_torsos: one torso (and memory) for the policy and another for the value, instead of shared ones.
        memory: a recurrent core behind the torso, "lstm" or "gru"; None for none.
        memory_size: its width, H.
        log_std: see `PolicyHead`.
        initial_log_std: see `PolicyHead`.
    """

    torso: str = "auto"
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    separate_torsos: bool = False
    memory: Literal["lstm", "gru"] | None = None
    memory_size: int = 128
    log_std: LogStd = "parameter"
    initial_log_std: float = 0.0


class Acting(NamedTuple):
    """What a model says to one row of observations, for choosing actions."""

    parameters: Tensor  # [B, D] of the distribution over actions
    features: Tensor  # [B, F] that they come from
    state: State  # the next recurrent state, [B, S]


class ActorCritic(nn.Module):
    """A policy head and a value head on torsos.

    Owns θ' as one flat vector, `flat` [P], of which the parameters are views: `store.pull(model.flat)` is a
    single copy. Do not move the module or change its layers after it is built; name device and dtype here.

    A feedforward network's passes may be made without its modules (`feedforward`): hooks on these are not called then.

    Args:
        observation_space: of one environment; the model takes its observations flat (`a3c.spaces.parts`).
        distribution: over actions.
        network: what to build.
        make_torso: a person's own torso instead of the network's (`a3c.models.custom` has the contract).
        normaliser: of observations and rewards; by default one that changes nothing.
    """

    def __init__(
        self,
        observation_space: Space,
        distribution: Distribution,
        network: Network = Network(),
        *,
        make_torso: MakeTorso | None = None,
        normaliser: Normaliser | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.distribution = distribution
        self.normaliser = normaliser or Normaliser()
        self.device = torch.device(device)
        self.dtype = dtype

        def torso() -> Encoder:
            return Encoder(
                observation_space,
                torso=network.torso,
                hidden_sizes=network.hidden_sizes,
                activation=network.activation,
                ready_images=self.normaliser.image_units,
            )

        if make_torso is not None:
            custom = CustomTorso(make_torso, observation_space)
            self.policy_torso: Encoder | CustomTorso = custom
            self.value_torso: Encoder | CustomTorso = custom
            separate, widths = custom.separate, (custom.features, custom.value_features)
        else:
            separate = network.separate_torsos
            self.policy_torso = torso()
            self.value_torso = torso() if separate else self.policy_torso
            widths = (self.policy_torso.features, self.value_torso.features)
        self.policy_memory: Memory | None = None
        self.value_memory: Memory | None = None
        if network.memory is not None:
            self.policy_memory = Memory(network.memory, widths[0], network.memory_size)
            self.value_memory = (
                Memory(network.memory, widths[1], network.memory_size) if separate else self.policy_memory
            )
            widths = (self.policy_memory.features, self.value_memory.features)
        self.separate = separate
        self.policy_head = PolicyHead(
            widths[0],
            distribution,
            log_std=network.log_std,
            initial_log_std=network.initial_log_std,
        )
        self.value_head = orthogonal(nn.Linear(widths[1], 1), _VALUE_GAIN)
        self.to(self.device, dtype)
        self.flat = flatten_parameters(self)  # θ', [P]
        # Last: it looks at the parameters where they now lie.
        self._feedforward = Feedforward(self) if Feedforward.suits(self) else None

    @property
    def feedforward(self) -> Feedforward | None:
        """The network's passes on arrays, if it is one that they suit and its memory is where it was built."""
        built = self._feedforward
        return built if built is not None and built.are_of(self) else None

    @property
    def state_size(self) -> int:
        """S, how many numbers the recurrent state of one environment has; 0 without memory."""
        memories = [self.policy_memory, self.value_memory] if self.separate else [self.policy_memory]
        return sum(memory.state_size for memory in memories if memory is not None)

    def forward(self, rollout: Rollout) -> Outputs:
        """Policy parameters [T+1, B, D] and values [T+1, B] of all of a rollout's observations."""
        if self.policy_memory is None:
            return self.policy_value(rollout.observations, rollout.passes)
        policy_features, value_features = self._features(rollout.observations)  # [T+1, B, F]
        lanes = rollout.episode_start.shape[1]
        # Cloned: it was made in inference mode, where autograd keeps nothing.
        state = self.initial_state(lanes) if rollout.state is None else rollout.state.to(self.flat).clone()
        starts = rollout.episode_start.to(self.device)
        policy_state, value_state = self._split(state)
        policy_features, _ = self.policy_memory.unroll(policy_features, policy_state, starts)
        if self.separate:
            assert self.value_memory is not None
            value_features, _ = self.value_memory.unroll(value_features, value_state, starts)
        else:
            value_features = policy_features
        return self._heads(policy_features, value_features, rollout.observations)

    def policy_value(self, observations: Any, passes: Any = None) -> Outputs:
        """Policy parameters [..., D] and values [...] of flat observations [..., *O], for a network without memory.

        `passes`: a rollout's, whose observations these are.
        """
        assert self.policy_memory is None, "a network with memory needs a state: use step"
        if (feedforward := self.feedforward) is not None and feedforward.takes(observations):
            return feedforward(self, observations, passes)
        return self._heads(*self._features(observations), observations)

    def policy(self, observation: Any, state: State, episode_start: Tensor) -> Acting:
        """What acting takes of one row of observations [B, *O]: no value where that can be spared."""
        if self.policy_memory is None:
            inputs = self.normaliser.observations(observation, self.dtype, self.device)
            features = self.policy_torso(inputs)  # [B, F]
            if isinstance(features, tuple):
                features = features[0]
        else:
            features, _, state = self._remember(observation, state, episode_start)
        return Acting(self._masked(self.policy_head(features), observation), features, state)

    def step(self, observation: Any, state: State, episode_start: Tensor) -> tuple[Outputs, State]:
        """Policy parameters [B, D] and values [B] of one row of observations [B, *O], and the next state [B, S]."""
        if self.policy_memory is None:
            return self.policy_value(observation), state
        policy_features, value_features, state = self._remember(observation, state, episode_start)
        return self._heads(policy_features, value_features, observation), state

    def _remember(self, observation: Any, state: State, episode_start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Policy and value features behind the memory, [B, H] each, and the next state [B, S]."""
        assert self.policy_memory is not None
        policy_features, value_features = self._features(observation)  # [B, F]
        starts = episode_start.to(self.device)
        policy_state, value_state = self._split(self.initial_state(len(starts)) if state is None else state)
        policy_features, policy_state = self.policy_memory.step(policy_features, policy_state, starts)
        if not self.separate:
            return policy_features, policy_features, policy_state
        assert self.value_memory is not None
        value_features, value_state = self.value_memory.step(value_features, value_state, starts)
        return policy_features, value_features, torch.cat([policy_state, value_state], -1)

    def initial_state(self, lanes: int) -> Tensor:
        """Zeros [B, S]."""
        return torch.zeros(lanes, self.state_size, dtype=self.dtype, device=self.device)

    def _features(self, observations: Any) -> tuple[Tensor, Tensor]:
        """Policy and value features, [..., F] each; the same tensor where the torso is shared."""
        inputs = self.normaliser.observations(observations, self.dtype, self.device)
        features = self.policy_torso(inputs)
        if isinstance(features, tuple):
            return features
        return features, features if self.value_torso is self.policy_torso else self.value_torso(inputs)

    def _heads(self, policy_features: Tensor, value_features: Tensor, observations: Any) -> PolicyValue:
        parameters = self._masked(self.policy_head(policy_features), observations)
        return PolicyValue(parameters, self.value_head(value_features).squeeze(-1))

    def _masked(self, parameters: Tensor, observations: Any) -> Tensor:
        mask = parts(observations).get(ACTION_MASK)
        return parameters if mask is None else self.distribution.masked(parameters, mask.to(parameters.device))

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The policy memory's part of a state [B, S], and the value memory's."""
        assert self.policy_memory is not None
        own = self.policy_memory.state_size
        return state[:, :own], state[:, own:]
