"""What a policy's network looks like from outside: enough to build it, and to save it as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gymnasium import spaces

from a3c.errors import RunDirectoryError
from a3c.models.actor_critic import Activation, ActorCritic

_FORMAT = 1


@dataclass(frozen=True)
class PolicySpec:
    """The spaces that a policy stands between, and its network."""

    observation_shape: tuple[int, ...]
    observation_dtype: str
    action_count: int
    action_start: int
    hidden_sizes: tuple[int, ...]
    activation: Activation
    separate_torsos: bool

    @classmethod
    def of(
        cls,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        *,
        hidden_sizes: tuple[int, ...],
        activation: Activation,
        separate_torsos: bool,
    ) -> PolicySpec:
        """For these spaces."""
        return cls(
            tuple(int(n) for n in observation_space.shape),
            str(observation_space.dtype),
            int(action_space.n),
            int(action_space.start),
            tuple(hidden_sizes),
            activation,
            separate_torsos,
        )

    def build(self, *, seed: int = 0, device: torch.device | str = "cpu") -> ActorCritic:
        """The network with initial weights drawn from `seed`; the process's own random stream is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ActorCritic(
                self.observation_shape,
                self.action_count,
                hidden_sizes=self.hidden_sizes,
                activation=self.activation,
                separate_torsos=self.separate_torsos,
                device=device,
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicySpec:
        """The inverse of `to_json`. Raises RunDirectoryError if something is missing or of the wrong kind."""
        try:
            if data["format"] != _FORMAT:
                raise RunDirectoryError(f"the policy is of format {data['format']}, this a3c reads {_FORMAT}")
            spec = cls(
                tuple(int(n) for n in data["observation_shape"]),
                str(data["observation_dtype"]),
                int(data["action_count"]),
                int(data["action_start"]),
                tuple(int(n) for n in data["hidden_sizes"]),
                data["activation"],
                bool(data["separate_torsos"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, RunDirectoryError):
                raise
            raise RunDirectoryError(f"the policy's description is damaged ({type(error).__name__}: {error})") from None
        if spec.activation not in ("tanh", "relu") or min((1, spec.action_count, *spec.hidden_sizes)) < 1:
            raise RunDirectoryError("the policy's description is damaged (an impossible network)")
        return spec
