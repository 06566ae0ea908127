"""Choosing actions with a model: what an actor calls at every step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from a3c.core import categorical
from a3c.models.actor_critic import ActorCritic
from a3c.types import State


class ActingPolicy:
    """Samples (or takes the mode of) a model's policy, without gradients.

    Owns the stream that actions are drawn from; reads the model's parameters as they are at each call.
    """

    def __init__(self, model: ActorCritic, seed: int, *, deterministic: bool = False) -> None:
        self.model = model
        self.deterministic = deterministic
        self.generator = torch.Generator(model.device).manual_seed(seed)

    @torch.inference_mode()
    def __call__(
        self, observation: NDArray[np.generic], state: State, episode_start: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], State]:
        """Actions [B], counted from 0, for observations [B, *O], and the next recurrent state."""
        logits, state = self.model.policy(torch.from_numpy(observation), state, torch.from_numpy(episode_start))
        action = categorical.mode(logits) if self.deterministic else categorical.sample(logits, self.generator)  # [B]
        return action.cpu().numpy(), state
