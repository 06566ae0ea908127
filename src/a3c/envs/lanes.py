"""Single environments side by side, stepped with few detours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakValueDictionary

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from a3c.envs.checks import Checked, direct
from a3c.errors import UnsupportedEnvironment

_ROW_BY_ROW = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)  # whose batches are arrays
_KNOWN_BY_SHAPE = (spaces.Box, spaces.MultiBinary)  # where an array of shape and dtype is an observation

_open: WeakValueDictionary[int, Any] = WeakValueDictionary()  # environments that a lane of this process steps, by id


class Lanes(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv in NEXT_STEP mode, whose step costs less around the environments' own.

    Observations that are arrays are written straight into the batch, which is this object's own: it holds until the
    next step. A result is looked at once, here, and so are a registered environment's time limit and the order of its
    calls, which are wrappers' work otherwise. Of everything else it is SyncVectorEnv.

    Args:
        make_env: makes one environment; its infos are as `Checked` keeps them.
        count: B, how many.

    Raises UnsupportedEnvironment for an environment that is in two lanes, of this or of another vector that is open,
    and for what is no step of the environment's; ResetNeeded for a step before the first reset.
    """

    def __init__(self, make_env: Callable[[], Checked], count: int) -> None:
        super().__init__([make_env] * count, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        self._checked = cast(list[Checked], self.envs)
        ways = [direct(env) for env in self._checked]
        self._stepped = [env for env, _ in ways]
        self._limits = [sys.maxsize if limit is None else limit for _, limit in ways]
        self._taken: list[int] = []  # steps of the episode under way, of each; none before the first reset
        space = self.single_observation_space
        self._by_rows = isinstance(space, _ROW_BY_ROW) and isinstance(self.single_action_space, _ROW_BY_ROW)
        self._known = (space.shape, space.dtype) if isinstance(space, _KNOWN_BY_SHAPE) else (None, None)
        cores = {id(env.unwrapped): env.unwrapped for env in self.envs}
        if len(cores) < len(self.envs) or any(core in _open for core in cores):
            raise UnsupportedEnvironment(
                f"the same {type(self.envs[0].unwrapped).__name__} object was returned for two environments, and each "
                "goes its own way: return a new one from each call"
            )
        _open.update(cores)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in each, or in those of `options["reset_mask"]`."""
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        taken = self._taken or [0] * self.num_envs
        self._taken = [0 if anew else steps for anew, steps in zip(mask, taken, strict=True)]
        if self._by_rows:  # which are not gathered by `step`, and those of the others are wanted, too
            self._env_obs = list(self._observations.copy())
        return super().reset(seed=seed, options=options)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment, but reset those whose episodes have ended."""
        if not self._by_rows:
            return super().step(actions)
        if not self._taken:
            raise ResetNeeded("step before the first reset: call reset first")
        observations, rewards, taken, limits = self._observations, self._rewards, self._taken, self._limits
        shape, dtype = self._known
        ended = self._autoreset_envs.tolist()
        terminated, truncated = self._terminations, self._truncations
        terminated.fill(False)
        truncated.fill(False)
        infos: dict[str, Any] = {}
        for i, (env, action) in enumerate(zip(self._stepped, actions, strict=True)):
            if ended[i]:
                observations[i], info = self._checked[i].reset()
                rewards[i], taken[i] = 0.0, 0
            else:
                result = env.step(action)
                # What nearly every step is; anything else is looked at closely, and is made one or raises.
                if not (
                    type(result) is tuple
                    and len(result) == 5
                    and type(observation := result[0]) is np.ndarray
                    and observation.shape == shape
                    and observation.dtype is dtype
                    and isinstance(result[1], float)
                    and type(result[2]) is type(result[3]) is bool
                    and type(result[4]) is dict
                ):
                    result = self._checked[i].as_step(result)
                observations[i], rewards[i], over, cut, info = result
                taken[i] += 1
                if over:
                    terminated[i] = True
                if cut or taken[i] >= limits[i]:
                    truncated[i] = True
                if info:
                    info = self._checked[i].kept_info(info)
            if info:
                infos = self._add_info(infos, info, i)
        np.logical_or(terminated, truncated, out=self._autoreset_envs)
        return observations, rewards.copy(), terminated.copy(), truncated.copy(), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, which may be in lanes anew after that."""
        super().close_extras(**kwargs)
        for env in self.envs:
            _open.pop(id(env.unwrapped), None)
