"""What a policy's network looks like from outside: enough to build it, and to save it as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from a3c.core.normalisation import Normaliser
from a3c.errors import RunDirectoryError, UsageError
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.torsos import ACTIVATIONS, IMAGE_FEATURES
from a3c.own_code import find_code
from a3c.spaces.actions import ActionSpace, Bounding
from a3c.spaces.described import MOST_ENTRIES, space_from_json, space_to_json
from a3c.spaces.images import image_layout, image_unit
from a3c.spaces.parts import Space, basic_parts, is_mask

_FORMAT = 2
_MOST_WIDTH = 2**20
_MOST_LAYERS = 2048  # each part of an observation may have as many as there are hidden sizes


@dataclass(frozen=True)
class Normalisation:
    """How observations and rewards are normalised; see `a3c.core.normalisation`."""

    observations: bool = False
    scale_rewards: bool = False
    clip_rewards: float | None = None
    discount: float = 0.99


@dataclass(frozen=True, eq=False)
class PolicySpec:
    """The spaces that a policy stands between, and its network.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        bounding: how a Gaussian's actions come within a Box's bounds.
        network: what the network is made of.
        normalisation: what is normalised.
        model: a person's own torso, `package.module:factory` or the factory itself.
    """

    observation_space: Space
    action_space: Space
    bounding: Bounding = "clip"
    network: Network = field(default_factory=Network)
    normalisation: Normalisation = field(default_factory=Normalisation)
    model: str | Callable[..., Any] | None = None

    @cached_property
    def actions(self) -> ActionSpace:
        """The way from the distribution's actions to the environment's."""
        return ActionSpace(self.action_space, self.bounding)

    def build(self, *, seed: int = 0, device: torch.device | str = "cpu") -> ActorCritic:
        """The network with initial weights drawn from `seed`; the process's own random stream is left alone."""
        make_torso = find_code(self.model, f"--model {self.model!r}") if isinstance(self.model, str) else self.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ActorCritic(
                self.observation_space,
                self.actions.distribution,
                self.network,
                make_torso=make_torso,
                normaliser=self.normaliser(),
                device=device,
            )

    def outline(self) -> ActorCritic:
        """The network on torch's meta device, for one of a3c's own: names and shapes, and no memory for weights."""
        assert self.model is None
        with torch.device("meta"):
            return self.build(device="meta")

    def normaliser(self) -> Normaliser:
        """A normaliser that has seen nothing yet."""
        return Normaliser(
            self._normalised_sizes() if self.normalisation.observations else {},
            image_units=self._image_units() if self.normalisation.observations else {},
            scale_rewards=self.normalisation.scale_rewards,
            clip_rewards=self.normalisation.clip_rewards,
            discount=self.normalisation.discount,
        )

    def fits(self, observation_space: Space, action_space: Space) -> bool:
        """Whether an environment with these spaces gives what the policy takes, and takes what it gives.

        Bounds do not matter.
        """
        mine = (_outline(self.observation_space), _outline(self.action_space))
        return bool(mine == (_outline(observation_space), _outline(action_space)))

    def stands_for(self, other: PolicySpec) -> bool:
        """Whether a run that was begun with this one can go on with the other: they are the same.

        What a description of before has not, the integer type of a Discrete, does not count.
        """
        its = other.to_json()
        return self.to_json() in (its, _untyped(its))

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; a network that is not importable by a name is only named."""
        return {
            "format": _FORMAT,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "bounding": self.bounding,
            "network": asdict(self.network) | {"hidden_sizes": list(self.network.hidden_sizes)},
            "normalisation": asdict(self.normalisation),
            "model": self.model
            if isinstance(self.model, str) or self.model is None
            else {"callable": repr(self.model)},
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], model: str | Callable[..., Any] | None = None, most_entries: int = MOST_ENTRIES
    ) -> PolicySpec:
        """The inverse of `to_json`.

        Args:
            data: what `to_json` gave.
            model: the person's own torso, if the policy has one: its code is not part of the files, and what they
                name is not imported without being asked for.
            most_entries: how many numbers an observation, or an action, can have.

        Raises:
            RunDirectoryError: something is missing or of the wrong kind.
            UsageError: the policy has a torso of a person's own, and `model` does not say which.
        """
        try:
            if data["format"] != _FORMAT:
                raise RunDirectoryError(f"the policy is of format {data['format']}, this a3c reads {_FORMAT}")
            named = data["model"]
            spec = cls(
                space_from_json(data["observation_space"], most_entries),
                space_from_json(data["action_space"], most_entries),
                data["bounding"],
                _network(data["network"]),
                Normalisation(**data["normalisation"]),
                model if named is not None else None,
            )
            spec._check()
        except RunDirectoryError:
            raise
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            RecursionError,
            AssertionError,
        ) as error:
            raise RunDirectoryError(f"the policy's description is damaged ({type(error).__name__}: {error})") from None
        if named is None and model is not None:
            raise UsageError("the policy's network is one of a3c's own: leave model= or --model out")
        if named is not None and model is None:
            raise UsageError(
                f"the policy's network is {named!r}, somebody's own code, which is not run unasked: pass it as model=, "
                "or name it with --model"
            )
        return spec

    def _normalised_sizes(self) -> dict[str, int]:
        """Sizes of the parts that are numbers in some unit: Boxes that are neither images nor masks nor flags."""
        return {
            path: int(np.prod(part.shape))
            for path, part in basic_parts(self.observation_space, "the observation space").items()
            if isinstance(part, spaces.Box)
            and part.dtype is not None
            and part.dtype.kind != "b"
            and image_layout(part) is None
            and not is_mask(path)
            and np.prod(part.shape)
        }

    def _image_units(self) -> dict[str, float]:
        """What the pixels of each image are divided by; none where a person's own torso takes them as they are."""
        return {
            path: image_unit(part)
            for path, part in basic_parts(self.observation_space, "the observation space").items()
            if isinstance(part, spaces.Box)
            and part.dtype is not None
            and part.dtype.kind != "b"
            and image_layout(part) is not None
            and not is_mask(path)
            and self.model is None
        }

    def _check(self) -> None:
        network, normalisation = self.network, self.normalisation
        parts = basic_parts(self.observation_space, "the observation space")
        sane = (
            self.bounding in ("clip", "tanh")
            and network.torso in ("auto", *IMAGE_FEATURES)
            and network.activation in ACTIVATIONS
            and network.log_std in ("parameter", "network", "gsde")
            and network.memory in (None, "lstm", "gru")
            and all(type(n) is int and 1 <= n <= _MOST_WIDTH for n in (*network.hidden_sizes, network.memory_size))
            and len(network.hidden_sizes) * len(parts) <= _MOST_LAYERS
            and all(
                type(flag) is bool
                for flag in (network.separate_torsos, normalisation.observations, normalisation.scale_rewards)
            )
            and all(_is_finite(n) for n in (network.initial_log_std, normalisation.discount))
            and (normalisation.clip_rewards is None or _is_finite(normalisation.clip_rewards))
        )
        if not sane:
            raise RunDirectoryError("the policy's description is damaged (an impossible network)")


def _network(data: Mapping[str, Any]) -> Network:
    known = {field.name for field in fields(Network)}
    if set(data) != known:
        raise ValueError(f"the network has {sorted(set(data) ^ known)}")
    return Network(**{**data, "hidden_sizes": tuple(data["hidden_sizes"])})


def _untyped(data: Any) -> Any:
    """A description without the integer types of Discrete spaces."""
    if isinstance(data, dict):
        left_out = {"dtype"} if data.get("kind") == "Discrete" else set()
        return {key: _untyped(value) for key, value in data.items() if key not in left_out}
    return [_untyped(item) for item in data] if isinstance(data, list) else data


def _is_finite(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) < sys.float_info.max


def _outline(space: Space) -> Any:
    """What two spaces must share for one to stand in for the other."""
    if isinstance(space, spaces.Dict):
        return {key: _outline(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_outline(part) for part in space.spaces)
    if isinstance(space, spaces.Discrete):
        return ("Discrete", int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return ("MultiDiscrete", space.nvec.tolist(), space.start.tolist())
    return (type(space).__name__, space.shape, str(space.dtype))
