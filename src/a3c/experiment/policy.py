"""A trained agent."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict, Discrete, MultiDiscrete
from numpy.typing import NDArray

from a3c.errors import UsageError
from a3c.experiment import checkpoint as checkpoints
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import CHECKPOINTS, METRICS
from a3c.models.actor_critic import ActorCritic
from a3c.spaces.parts import ACTION_MASK, Space, basic_parts, described, flatten, map_parts, parts

_FOLDED = (
    "an environment that tells its mask in the info has it in the observation here: "
    '{"observation": observation, "action_mask": info["action_mask"]}'
)


class Policy:
    """Chooses actions and values states with a trained network.

    Owns the network, with the moments that normalise its observations, and the random stream of its sampled actions.

    Attributes:
        checkpoint: the name of the run's checkpoint that it was read from, if it was.
    """

    def __init__(self, spec: PolicySpec, model: ActorCritic, seed: int = 0) -> None:
        self.spec = spec
        self.model = model
        self.generator = torch.Generator(model.device).manual_seed(seed)
        self.checkpoint: str | None = None
        self._parts = basic_parts(spec.observation_space, "the observation space")

    @torch.inference_mode()
    def predict(
        self,
        observation: Any,
        state: NDArray[Any] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, NDArray[Any] | None]:
        """Actions for one observation, [*O], or for several, [B, *O].

        Args:
            observation: as the environment gives it, nested as its space is. An action mask is its "action_mask".
            state: recurrent state, [B, S], as the call before returned it; None at the very start.
            episode_start: [B] bool, which observations begin an episode, so that their state is begun anew.
            deterministic: the most probable action instead of a sampled one.

        Returns:
            The action, or B of them, as the environment (of one, or of B) takes it; and the next recurrent state,
            [B, S] (B = 1 for a single observation), None for a network without memory.

        Raises:
            UsageError: the observation, or the state, is not such as the policy was trained on, an observation is not
                finite, or there is not one episode_start for each.
        """
        batch, single = self._tensors(observation)
        lanes = len(next(iter(parts(batch).values())))
        starts = _starts(episode_start, lanes)
        parameters, _, next_state = self.model.policy(batch, self._state(state, lanes), starts)
        distribution = self.model.distribution
        flat = distribution.mode(parameters) if deterministic else distribution.sample(parameters, self.generator)
        actions = flat.cpu().numpy()
        action = self.spec.actions.to_environment(actions[0] if single else actions)
        return action, None if next_state is None else next_state.cpu().numpy()

    @torch.inference_mode()
    def value(
        self,
        observation: Any,
        state: NDArray[Any] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """V(s): the discounted return expected from here, [] or [B], in the units of the rewards.

        Where rewards are clipped in training it is the return of the clipped ones. Arguments and errors are those of
        `predict`; the state is the one that `predict` would be given.
        """
        batch, single = self._tensors(observation)
        lanes = len(next(iter(parts(batch).values())))
        outputs, _ = self.model.step(batch, self._state(state, lanes), _starts(episode_start, lanes))
        values = outputs.values.cpu().numpy() * np.float32(self.model.normaliser.reward_unit)
        return np.asarray(values[0] if single else values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy into the directory `path`, made if need be."""
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        checkpoints.save_policy(directory, self.spec, self.model)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: str | Callable[..., Any] | None = None,
        checkpoint: str = "latest",
    ) -> Policy:
        """Read a policy from where `save` put it, or from a run's directory.

        Args:
            path: where it lies.
            model: for a policy with a network of your own: its factory, or `package.module:factory`.
            checkpoint: which of a run's: "latest", "best" (by the mean return of 100 episodes), "best-evaluation"
                (with --evaluate-every) or its name. Of a damaged latest one a UserWarning tells, and the one before it
                is taken.

        Raises RunDirectoryError if it is missing or damaged. Nothing of the files is executed, and what they name is
        not imported.
        """
        directory = Path(path)
        if not directory.is_dir() or any((directory / of_a_run).exists() for of_a_run in (CHECKPOINTS, METRICS)):
            directory = checkpoints.find_checkpoint(directory, checkpoint, partial(warnings.warn, stacklevel=2))
        policy = cls(*checkpoints.load_policy(directory, model))
        policy.checkpoint = directory.name if directory.parent.name == CHECKPOINTS else None
        return policy

    def _tensors(self, observation: Any) -> tuple[Any, bool]:
        """The flat observation as tensors [B, *O], and whether it was a single one."""
        try:
            flat = flatten(self.spec.observation_space, observation)
            if isinstance(flat, Mapping) and "" in self._parts:
                raise TypeError("a dict")
            arrays = {path: np.asarray(part) for path, part in parts(flat).items()}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            space = self.spec.observation_space
            raise UsageError(
                f"the observation is not nested as {space} is ({type(error).__name__}: {error})"
                + (f"; {_FOLDED}" if isinstance(space, Dict) and set(space) == {"observation", ACTION_MASK} else "")
            ) from None
        leads = set()
        for path, space in self._parts.items():
            array = arrays[path]
            assert space.shape is not None
            assert space.dtype is not None
            lead = array.shape[: array.ndim - len(space.shape)]
            if array.shape != (*lead, *space.shape) or len(lead) > 1:
                raise UsageError(
                    f"the observation's shape{described(path)} is {array.shape}; this policy takes {space.shape}, or "
                    "several of these"
                )
            if isinstance(space, Discrete) and array.dtype.kind in "biu":
                _check_values(array, space, path)  # as an environment gives a choice: of whatever integers
            elif not np.can_cast(array.dtype, space.dtype, "same_kind"):
                raise UsageError(
                    f"the observation{described(path)} is {array.dtype}; this policy takes {space.dtype}: convert it"
                )
            with np.errstate(over="ignore"):
                arrays[path] = np.ascontiguousarray(array, space.dtype).reshape(*(lead or (1,)), *space.shape)
            if not isinstance(space, Discrete):
                _check_values(arrays[path], space, path)
            leads.add(lead)
        if len(leads) > 1:
            raise UsageError(f"the observation's parts differ in how many they are: {sorted(leads)}")
        tensors = map_parts(torch.from_numpy, arrays if isinstance(flat, dict) else arrays[""])
        return tensors, leads == {()}

    def _state(self, state: NDArray[Any] | None, lanes: int) -> torch.Tensor | None:
        if state is None or not self.model.state_size:
            return None
        if np.shape(state) != (lanes, self.model.state_size):
            raise UsageError(
                f"the state's shape is {np.shape(state)}; for {lanes} observations it is "
                f"{(lanes, self.model.state_size)}: pass what the call before returned"
            )
        return torch.as_tensor(state, dtype=self.model.dtype, device=self.model.device)


def _check_values(array: NDArray[Any], space: Space, path: str) -> None:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise UsageError(f"the observation{described(path)} holds NaN or infinity")
    elif isinstance(space, Discrete | MultiDiscrete):
        first = np.asarray(space.start, np.int64)  # their own type may be too narrow for the sum
        above = first + np.asarray(space.n if isinstance(space, Discrete) else space.nvec, np.int64)
        if ((array < first) | (array >= above)).any():
            raise UsageError(f"the observation{described(path)} has a value that {space} does not have")


def _starts(episode_start: NDArray[np.bool_] | None, lanes: int) -> torch.Tensor:
    """Which of B environments begin an episode, [B] bool."""
    if episode_start is None:
        return torch.zeros(lanes, dtype=torch.bool)
    starts = torch.from_numpy(np.array(episode_start, np.bool_).reshape(-1))
    if len(starts) != lanes:
        raise UsageError(f"episode_start is of {len(starts)}, and the observations are {lanes}: one for each")
    return starts


def load(
    path: str | os.PathLike[str], model: str | Callable[..., Any] | None = None, checkpoint: str = "latest"
) -> Policy:
    """The policy that a run has learned; see `Policy.load`."""
    return Policy.load(path, model, checkpoint)
