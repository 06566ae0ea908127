"""A trained agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from a3c.core import categorical
from a3c.errors import UsageError
from a3c.experiment import checkpoint
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import CHECKPOINTS
from a3c.models.actor_critic import ActorCritic
from a3c.types import State


class Policy:
    """Chooses actions and values states with a trained network.

    Owns the network and the random stream of its sampled actions.
    """

    def __init__(self, spec: PolicySpec, model: ActorCritic, seed: int = 0) -> None:
        self.spec = spec
        self.model = model
        self.generator = torch.Generator(model.device).manual_seed(seed)

    @torch.inference_mode()
    def predict(
        self,
        observation: NDArray[Any],
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], State]:
        """Actions for one observation, [*O], or for several, [B, *O].

        Args:
            observation: as the environment gives it.
            state: recurrent state, None for a network without memory.
            episode_start: [B] bool, which observations begin an episode.
            deterministic: the most probable action instead of a sampled one.

        Returns:
            The action, [] or [B] int64, as the environment takes it; and the next recurrent state.

        Raises:
            UsageError: the observation's shape is not the one that the policy was trained on.
        """
        logits = self.model.policy_value(self._tensor(observation)).logits  # [..., A]
        action = categorical.mode(logits) if deterministic else categorical.sample(logits, self.generator)
        return np.asarray(action.cpu().numpy() + self.spec.action_start), state

    @torch.inference_mode()
    def value(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """V(s): the discounted return expected from here, [] or [B]."""
        return self.model.policy_value(self._tensor(observation)).values.cpu().numpy()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy into the directory `path`, made if need be."""
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        checkpoint.save_policy(directory, self.spec, self.model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy from where `save` put it, or from a run's directory.

        Raises RunDirectoryError if it is missing or damaged. Nothing of the files is executed.
        """
        directory = Path(path)
        if (directory / CHECKPOINTS).is_dir() or not directory.is_dir():
            directory = checkpoint.latest_checkpoint(directory)
        return cls(*checkpoint.load_policy(directory))

    def _tensor(self, observation: NDArray[Any]) -> torch.Tensor:
        array = np.asarray(observation)
        shape = self.spec.observation_shape
        if array.shape[max(0, array.ndim - len(shape)) :] != shape or array.ndim > len(shape) + 1:
            raise UsageError(
                f"the observation's shape is {array.shape}; this policy takes {shape}, or several of these"
            )
        return torch.from_numpy(np.ascontiguousarray(array))


def load(path: str | os.PathLike[str]) -> Policy:
    """The policy that a run has learned; see `Policy.load`."""
    return Policy.load(path)
