"""Single environments side by side, stepped with few detours."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from a3c.errors import UnsupportedEnvironment

_ROW_BY_ROW = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)  # whose batches are arrays

_open: WeakValueDictionary[int, Any] = WeakValueDictionary()  # environments that a lane of this process steps, by id


class Lanes(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv in NEXT_STEP mode, whose step costs less around the environments' own.

    Observations that are arrays are written straight into the batch, which is this object's own: it holds until the
    next step. Of everything else it is SyncVectorEnv.

    Raises UnsupportedEnvironment for an environment that is in two lanes, of this or of another vector that is open.
    """

    def __init__(self, env_fns: Any) -> None:
        super().__init__(env_fns, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        self._by_rows = isinstance(self.single_observation_space, _ROW_BY_ROW) and isinstance(
            self.single_action_space, _ROW_BY_ROW
        )
        cores = {id(env.unwrapped): env.unwrapped for env in self.envs}
        if len(cores) < len(self.envs) or any(core in _open for core in cores):
            raise UnsupportedEnvironment(
                f"the same {type(self.envs[0].unwrapped).__name__} object was returned for two environments, and each "
                "goes its own way: return a new one from each call"
            )
        _open.update(cores)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment, but reset those whose episodes have ended."""
        if not self._by_rows:
            return super().step(actions)
        observations, rewards = self._observations, self._rewards
        terminated, truncated, ended = self._terminations, self._truncations, self._autoreset_envs
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            if ended[i]:
                observations[i], info = env.reset()
                rewards[i], terminated[i], truncated[i] = 0.0, False, False
            else:
                observations[i], rewards[i], terminated[i], truncated[i], info = env.step(actions[i])
            if info:
                infos = self._add_info(infos, info, i)
        np.logical_or(terminated, truncated, out=ended)
        return observations, rewards.copy(), terminated.copy(), truncated.copy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, which may be in lanes anew after that."""
        super().close_extras(**kwargs)
        for env in self.envs:
            _open.pop(id(env.unwrapped), None)
