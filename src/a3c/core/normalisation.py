"""Observation normalisation and reward scaling by moments that all workers share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from a3c.core import moments as running
from a3c.types import Rollout

Array = NDArray[Any]

_WIDEST = 10.0  # standard deviations; what lies further out is clipped
_LEAST_VARIANCE = 1e-8  # times the squared mean if that is below 1: what hardly varies is only centred


class Brightness(NamedTuple):
    """What an image's pixels become: clip(scale (x / unit - mean), ±widest)."""

    unit: float
    mean: float = 0.0
    scale: float = 1.0
    widest: float = math.inf

    def apply(self, image: Tensor, out: Tensor) -> None:
        """Of the pixels x of an image of any shape, to `out` of the same shape and the network's dtype."""
        unit, mean, scale, widest = self
        if widest == math.inf:  # not tracked: only divided
            out.copy_(image)
            if unit != 1.0:
                out.div_(unit)
            return
        if image.dtype == torch.uint8:
            # In one pass over many pixels, and seldom a second one.
            torch.add(image.new_tensor(-mean * scale, dtype=out.dtype), image, alpha=scale / unit, out=out)
            beyond = max(mean, 255 / unit - mean) * scale > widest
        else:
            number = image.to(torch.promote_types(image.dtype, out.dtype))
            out.copy_(number.sub(mean * unit).mul_(scale / unit))
            beyond = True
        if beyond:
            out.clamp_(-widest, widest)


class Normaliser:
    """Normalises observations, and scales and clips rewards, as the shared moments say.

        o' = clip((o - mean) / std, ±10)               of a number in the observation: its own mean and std
        x' = clip((x / unit - mean) / std, ±10)        of an image: those of all its pixels
        r' = clip(r / std(R), ±10),    R_t = r_t + γ R_{t-1}, begun anew with each episode

    The moments are those of the last `load`: they stay as they are until the next, so that acting and loss see the
    same. Owns the running returns R of the environments whose rollouts it is shown. With nothing to track it
    changes nothing.

    Args:
        observation_sizes: how many numbers each normalised part of an observation has, by path; parts that are not
            named pass as they are.
        image_units: the images that are normalised, by path, and what their pixels are divided by, 255 for bytes.
        scale_rewards: divide rewards by the standard deviation of R.
        clip_rewards: clip rewards (after scaling) to ± this; None does not.
        discount: γ of R.

    One mean and one deviation for an image shift and stretch its brightness and leave its contrasts. A game's grey
    background, far from 0 and the same everywhere, would otherwise be most of what a network sees.

    Source: the variance of returns as a reward's unit is OpenAI Baselines' VecNormalize (Dhariwal et al. 2017).
    """

    def __init__(
        self,
        observation_sizes: Mapping[str, int] | None = None,
        *,
        image_units: Mapping[str, float] | None = None,
        scale_rewards: bool = False,
        clip_rewards: float | None = None,
        discount: float = 0.99,
    ) -> None:
        self.observation_sizes = dict(observation_sizes or {})
        self.image_units = dict(image_units or {})
        columns = self.observation_sizes | dict.fromkeys(self.image_units, 1)
        ends = list(itertools.accumulate(columns.values(), initial=0))
        self._columns = dict(zip(columns, map(slice, ends, ends[1:]), strict=False))
        self.scale_rewards = scale_rewards
        self.clip_rewards = clip_rewards
        self.discount = discount
        self.tracked = ends[-1] + scale_rewards
        self.moments = running.empty(self.tracked)  # [3, M]
        self.reward_unit = 1.0  # std(R)
        self._means, self._scales = np.zeros(self.tracked), np.ones(self.tracked)  # [M] each
        self._returns: Array | None = None  # R of each environment, [B] float64

    def load(self, moments: Tensor | None) -> None:
        """Take the moments [3, M] of a pull; None where nothing is tracked."""
        if not self.tracked:
            return
        assert moments is not None
        assert moments.shape == (3, self.tracked), "moments of another normaliser"
        self.moments = moments
        self._means, self._scales = _affine(moments)
        if self.scale_rewards:
            self.reward_unit = 1 / float(self._scales[-1])

    def observations(self, observation: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
        """A flat observation ([..., *O], or a dict of such) with its tracked parts normalised.

        Args:
            observation: what the environment gave.
            dtype: of the normalised parts.
            device: where images are to be: bytes cross to it as bytes. None leaves them where they are.
        """
        if not self._columns:
            return observation
        if not isinstance(observation, dict):
            return self._part("", observation, dtype, device)
        return {path: self._part(path, part, dtype, device) for path, part in observation.items()}

    def brightness(self, path: str, unit: float) -> Brightness:
        """How the pixels of the image at `path` become numbers; one that is not tracked is divided by `unit`."""
        return self._brightness(path) if path in self.image_units else Brightness(unit)

    def numbers(self, values: Array, dtype: DTypeLike, path: str = "") -> Array:
        """Numbers [N, O] of the part at `path`, normalised if it is tracked: the same with NumPy."""
        if path not in self.observation_sizes:
            return values.astype(dtype)
        columns = self._columns[path]
        # In float64, as the moments are: a mean of 1e6 with a variance of 1 survives.
        normal: Array = values - self._means[columns]
        normal *= self._scales[columns]
        return _clip(normal, _WIDEST, out=normal).astype(dtype)

    @np.errstate(over="ignore")  # what is infinite is clipped
    def rewards(self, rollout: Rollout) -> Tensor:
        """The rewards to learn from, [T, B]."""
        if not self.scale_rewards and self.clip_rewards is None:
            return rollout.rewards
        rewards: Array = rollout.rewards.numpy()
        if self.scale_rewards:
            rewards = rewards / self.reward_unit
            _clip(rewards, _WIDEST, out=rewards)
        if self.clip_rewards is not None:
            rewards = _clip(rewards, self.clip_rewards)
        return torch.from_numpy(rewards)

    def deltas(self, rollout: Rollout) -> Tensor | None:
        """What a rollout adds to the moments, [3, M]; None if nothing is tracked. Moves the running returns on.

        Every observation counts once: the bootstrap row does so as the first row of the next rollout.
        """
        if not self.tracked:
            return None
        observations = rollout.observations if isinstance(rollout.observations, dict) else {"": rollout.observations}
        deltas = np.empty((3, self.tracked))
        for path, columns in self._columns.items():
            seen = observations[path][:-1]
            if path in self.image_units:
                deltas[:, columns] = _of_image(seen, self.image_units[path])
            else:
                deltas[:, columns] = running.of_rows(seen.numpy().reshape(-1, self.observation_sizes[path]))
        if self.scale_rewards:
            deltas[:, -1:] = running.of_rows(self._discounted_returns(rollout)[:, None])
        return torch.from_numpy(deltas)

    def forget_returns(self) -> None:
        """Begin the running returns anew, as after a rollout that must not be trusted."""
        self._returns = None

    def _discounted_returns(self, rollout: Rollout) -> Array:
        """R at every real transition, [N] float64."""
        real = rollout.real.numpy()  # [T, B]
        # The step in which the environment merely reset has no reward; its R is 0, and so is R before a first step.
        returns = np.where(real, rollout.rewards.numpy(), 0.0).astype(np.float64, copy=False)  # [T, B]
        weights = self.discount * (real & ~rollout.episode_start[:-1].numpy())
        before = np.zeros(returns.shape[1]) if self._returns is None else self._returns  # [B]
        for row, weight in zip(returns, weights, strict=True):
            row += weight * before
            before = row
        self._returns = before
        numbers: Array = returns[real]
        return numbers

    def _part(self, path: str, part: Tensor, dtype: torch.dtype, device: torch.device | None) -> Tensor:
        if path in self.image_units:
            return self._image(path, part if device is None else part.to(device), dtype)
        return self._numbers(path, part, dtype) if path in self.observation_sizes else part

    def _image(self, path: str, image: Tensor, dtype: torch.dtype) -> Tensor:
        out = torch.empty_like(image, dtype=dtype)
        self._brightness(path).apply(image, out)
        return out

    def _brightness(self, path: str) -> Brightness:
        mean, scale = (numbers[self._columns[path]].item() for numbers in (self._means, self._scales))
        return Brightness(self.image_units[path], mean, scale, _WIDEST)

    def _numbers(self, path: str, part: Tensor, dtype: torch.dtype) -> Tensor:
        rows = part.detach().cpu().numpy().reshape(-1, self.observation_sizes[path])
        return torch.from_numpy(self.numbers(rows, np.float64, path)).reshape(part.shape).to(part.device, dtype)


def _clip(numbers: Array, widest: float, out: Array | None = None) -> Array:
    """Within ± that; NaN stays NaN."""
    clipped: Array = np.minimum(np.maximum(numbers, -widest, out=out), widest, out=out)
    return clipped


def _affine(moments: Tensor) -> tuple[Array, Array]:
    """The means, [M], and what makes each deviation 1, [M]: 1 where there is hardly one."""
    mean, variance = running.mean(moments).numpy(), running.variance(moments).numpy()
    least = np.minimum(mean * mean, 1.0)
    least *= _LEAST_VARIANCE
    return mean, 1 / np.sqrt(np.where(variance > least, variance, 1.0))


def _of_image(image: Tensor, unit: float) -> Array:
    """Moments of all pixels, [3, 1]."""
    if image.dtype == torch.uint8:
        return running.of_bytes(image, unit).numpy()
    return running.of(image.reshape(-1, 1).double() / unit).numpy()
