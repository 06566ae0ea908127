"""Choosing actions with a model: what an actor calls at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from a3c.models.actor_critic import ActorCritic
from a3c.spaces.parts import map_parts
from a3c.types import State


class ActingPolicy:
    """Samples (or takes the mode of) a model's policy, without gradients.

    Owns the stream that actions are drawn from; reads the model's parameters as they are at each call.

    Args:
        model: whose policy.
        seed: of the stream.
        deterministic: take the mode.
        noise_steps: with state-dependent exploration, for how many steps its noise is kept; an episode begins with
            fresh noise.
    """

    def __init__(self, model: ActorCritic, seed: int, *, deterministic: bool = False, noise_steps: int = 1) -> None:
        self.model = model
        self.distribution = model.distribution
        self.deterministic = deterministic
        self.noise_steps = noise_steps
        self._age = 0  # steps since the start
        self._standard_normal: torch.Tensor | None = None  # [B, F, K]
        self.generator = torch.Generator(model.device).manual_seed(seed)

    @torch.inference_mode()
    def __call__(self, observation: Any, state: State, episode_start: NDArray[np.bool_]) -> tuple[NDArray[Any], State]:
        """Flat actions [B, *K] for flat observations [B, *O], and the next recurrent state."""
        tensors = map_parts(torch.from_numpy, observation)
        starts = torch.from_numpy(episode_start)
        parameters, features, state = self.model.policy(tensors, state, starts)  # [B, D], [B, F], [B, S]
        if self.deterministic:
            action = self.distribution.mode(parameters)
        elif self.model.policy_head.gsde:
            action = self.distribution.mode(parameters) + self._smooth_noise(features, starts)
        else:
            action = self.distribution.sample(parameters, self.generator)
        return action.cpu().numpy(), state

    def passes(self, steps: int) -> None:
        """None are kept: there is no gradient in them."""

    def _smooth_noise(self, features: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Noise [B, K] that is a fixed function of the features until it is drawn anew."""
        lanes, actions = len(features), self.distribution.action_shape[0]
        if self._age % self.noise_steps == 0 or self._standard_normal is None:
            starts = torch.ones_like(starts)
        self._age += 1
        if starts.any():
            fresh = torch.randn(
                lanes,
                features.shape[1],
                actions,
                generator=self.generator,
                device=features.device,
                dtype=features.dtype,
            )
            old = fresh if self._standard_normal is None else self._standard_normal
            self._standard_normal = torch.where(starts[:, None, None].to(fresh.device), fresh, old)
        assert self._standard_normal is not None
        return self.model.policy_head.noise(features, self._standard_normal)
