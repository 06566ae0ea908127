"""Distributions over actions, read from the numbers that a network puts out.

Each is a small value that knows how to read parameters [..., D] and says what an action is: one number, [...], or K
numbers, [..., K]. All of their functions take any leading dimensions and work row by row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

from a3c.core import categorical

Array = NDArray[Any]

# Finite, unlike -inf, whose product with a probability of 0 is NaN in the entropy and its gradient; so far out that
# its probability is exactly 0 beside any other logit in float32, too.
_FORBIDDEN = -1e30

# Beyond these a policy is deterministic, or noise, for all that matters.
LEAST_LOG_STD, GREATEST_LOG_STD = -10.0, 2.0

_LOG_2, _LOG_2PI = math.log(2.0), math.log(2.0 * math.pi)


class Gradients(NamedTuple):
    """log π(a) and H(π), and how they change with the parameters."""

    log_prob: Array  # [...]
    entropy: Array  # [...]
    of_log_prob: Array  # ∂ log π(a) / ∂ parameters, [..., D]
    of_entropy: Array  # ∂ H(π) / ∂ parameters, [..., D]


class Distribution(Protocol):
    """How parameters [..., D] are read as a distribution over actions."""

    @property
    def parameter_count(self) -> int:
        """D."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """() for one number, (K,) for K of them."""

    @property
    def action_dtype(self) -> torch.dtype:
        """int64 for choices, float32 for numbers, float64 for both together."""

    @property
    def mask_size(self) -> int:
        """M, how many entries an action mask has; 0 where there is none."""

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """log π(a), [...], for parameters [..., D] and actions [..., *K]."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """H(π) in nats, [...]."""

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """`log_prob` and `entropy` with their gradients, for parameters [..., D] and actions [..., *K].

        In closed form, between arrays: a few calls, and no graph is recorded.
        """

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [..., *K]."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The action that is played greedily, [..., *K]."""

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """The parameters [..., D] with every choice forbidden whose entry in `mask` [..., M] is 0.

        A forbidden choice has probability 0 and gets no gradient. Where a mask forbids everything, as many
        environments' do in a terminal state, it is taken to forbid nothing.
        """


@dataclass(frozen=True)
class Categorical:
    """One of `count` choices, from 0; parameters are logits [..., count]."""

    count: int

    @property
    def parameter_count(self) -> int:
        """D."""
        return self.count

    @property
    def action_shape(self) -> tuple[int, ...]:
        """One number."""
        return ()

    @property
    def action_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    @property
    def mask_size(self) -> int:
        """An entry for each choice."""
        return self.count

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """log π(a), [...]."""
        return categorical.log_prob(parameters, actions)

    def entropy(self, parameters: Tensor) -> Tensor:
        """H(π), [...]."""
        return categorical.entropy(parameters)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """See `categorical.gradients`."""
        return Gradients(*categorical.gradients(parameters, actions))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [...] int64."""
        return categorical.sample(parameters, generator)

    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable choice, [...] int64."""
        return categorical.mode(parameters)

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """Forbidden choices out of reach; see `Distribution.masked`."""
        allowed = mask.bool()
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        return torch.where(allowed, parameters, _FORBIDDEN)


@dataclass(frozen=True)
class MultiCategorical:
    """K independent choices, the k-th of `counts[k]`; parameters are their logits side by side."""

    counts: tuple[int, ...]

    @property
    def parameter_count(self) -> int:
        """D, the sum of the counts."""
        return sum(self.counts)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """(K,)."""
        return (len(self.counts),)

    @property
    def action_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    @property
    def mask_size(self) -> int:
        """An entry for each choice of each."""
        return sum(self.counts)

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Σ_k log π_k(a_k), [...]."""
        parts = [categorical.log_prob(logits, actions[..., k]) for k, logits in enumerate(self._split(parameters))]
        return torch.stack(parts).sum(0)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Σ_k H(π_k), [...]."""
        return torch.stack([categorical.entropy(logits) for logits in self._split(parameters)]).sum(0)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """Those of the choices, side by side."""
        ends = np.cumsum(self.counts)[:-1]
        logits = np.split(parameters, ends, -1)
        return _joined([Gradients(*categorical.gradients(own, actions[..., k])) for k, own in enumerate(logits)])

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [..., K] int64."""
        return torch.stack([categorical.sample(logits, generator) for logits in self._split(parameters)], -1)

    def mode(self, parameters: Tensor) -> Tensor:
        """The most probable choices, [..., K] int64."""
        return torch.stack([categorical.mode(logits) for logits in self._split(parameters)], -1)

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """Forbidden choices out of reach, part by part; see `Distribution.masked`."""
        pairs = zip(self.counts, self._split(parameters), self._split(mask), strict=True)
        return torch.cat([Categorical(count).masked(logits, part) for count, logits, part in pairs], -1)

    def _split(self, vector: Tensor) -> tuple[Tensor, ...]:
        return torch.split(vector, list(self.counts), -1)


@dataclass(frozen=True)
class Bernoulli:
    """K independent bits; parameters are logits of 1, [..., K]."""

    size: int

    @property
    def parameter_count(self) -> int:
        """D."""
        return self.size

    @property
    def action_shape(self) -> tuple[int, ...]:
        """(K,)."""
        return (self.size,)

    @property
    def action_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    @property
    def mask_size(self) -> int:
        """No mask."""
        return 0

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """log π(a) = Σ_k log σ(±logit_k), [...]; σ is the logistic function."""
        assert actions.shape[-parameters.ndim :] == parameters.shape, (
            f"actions {actions.shape} of logits {parameters.shape}"
        )
        return functional.logsigmoid(torch.where(actions.bool(), parameters, -parameters)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """H(π) = Σ_k [log(1 + e^-|x|) + |x| σ(-|x|)], x the k-th logit, [...]: finite however large x is."""
        size = parameters.abs()
        return (functional.softplus(-size) + size * torch.sigmoid(-size)).sum(-1)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """∂ log π(a) / ∂x = a - σ(x),    ∂H / ∂x = -x σ(x) σ(-x)."""
        assert actions.shape == parameters.shape, f"actions {actions.shape} of logits {parameters.shape}"
        size = np.abs(parameters)
        small = np.exp(-size)  # e^-|x|
        share = small / (1 + small)  # σ(-|x|)
        softplus = np.log1p(small)
        one = np.where(parameters > 0, 1 - share, share)  # σ(x)
        taken = actions.astype(bool)
        signed = np.where(taken, parameters, -parameters)
        return Gradients(
            (np.minimum(signed, 0) - softplus).sum(-1),
            (softplus + size * share).sum(-1),
            taken - one,
            -parameters * share * (1 - share),
        )

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [..., K] int64."""
        uniform = torch.empty_like(parameters).uniform_(generator=generator)
        return (uniform < torch.sigmoid(parameters)).long()

    def mode(self, parameters: Tensor) -> Tensor:
        """The more probable bits, [..., K] int64."""
        return (parameters > 0).long()

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """As they are: bits take no mask."""
        return parameters


@dataclass(frozen=True)
class Normal:
    """K independent Gaussians; parameters are their means, then their log standard deviations, [..., 2K].

    Log standard deviations are clipped to -10 and 2.
    """

    size: int

    @property
    def parameter_count(self) -> int:
        """D = 2K."""
        return 2 * self.size

    @property
    def action_shape(self) -> tuple[int, ...]:
        """(K,)."""
        return (self.size,)

    @property
    def action_dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @property
    def mask_size(self) -> int:
        """No mask."""
        return 0

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """log π(a) = -Σ_k [(a_k - μ_k)² / 2σ_k² + log σ_k + log(2π) / 2], [...]."""
        return self._log_density(parameters, actions).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """H(π) = Σ_k [log σ_k + log(2πe) / 2], [...]."""
        _, log_std = self._read(parameters)
        return (log_std + (1.0 + _LOG_2PI) / 2).sum(-1)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """With z = (a - μ) / σ: ∂ log π(a) / ∂μ = z / σ and / ∂ log σ = z² - 1; ∂H / ∂μ = 0 and / ∂ log σ = 1.

        Where log σ is clipped, the derivatives with respect to it are 0.
        """
        mean, raw = parameters[..., : self.size], parameters[..., self.size :]  # [..., K] each
        assert actions.shape == mean.shape, f"actions {actions.shape} of means {mean.shape}"
        log_std = np.minimum(np.maximum(raw, LEAST_LOG_STD), GREATEST_LOG_STD)
        free = (raw == log_std).astype(raw.dtype)
        inverse = np.exp(-log_std)
        z = (actions - mean) * inverse
        squared = z * z
        return Gradients(
            -(squared / 2 + log_std).sum(-1) - self.size * _LOG_2PI / 2,
            log_std.sum(-1) + self.size * (1.0 + _LOG_2PI) / 2,
            np.concatenate([z * inverse, (squared - 1) * free], -1),
            np.concatenate([np.zeros_like(free), free], -1),
        )

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [..., K]."""
        mean, log_std = self._read(parameters)
        return mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)

    def mode(self, parameters: Tensor) -> Tensor:
        """The means, [..., K]."""
        return self._read(parameters)[0]

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """As they are: numbers take no mask."""
        return parameters

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, [..., K] each."""
        mean, log_std = parameters.chunk(2, -1)
        return mean, log_std.clamp(LEAST_LOG_STD, GREATEST_LOG_STD)

    def _log_density(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = self._read(parameters)
        assert actions.shape[-mean.ndim :] == mean.shape, f"actions {actions.shape} of means {mean.shape}"
        return -((actions - mean) * (-log_std).exp()).square() / 2 - log_std - _LOG_2PI / 2  # [..., K]


@dataclass(frozen=True)
class TanhNormal(Normal):
    """K independent Gaussians u, squashed: the action is a = tanh(u), within ±1.

    Actions are kept as u, which loses nothing near ±1; whoever hands them to an environment applies tanh. The
    probabilities and the entropy are those of a (Haarnoja et al. 2018, appendix C). The mode is the Gaussian's, its
    image under tanh what is played greedily; it is not where the density of a is highest.
    """

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """log π(a) = log N(u) - Σ_k log(1 - tanh² u_k), [...], for u = `actions`."""
        return (self._log_density(parameters, actions) - _log_slope(actions)).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """H(π) = H(N) + Σ_k E[log(1 - tanh² u_k)], [...], to about 1e-5 nats for each of K.

        log(1 - tanh² u) = 2 log 2 - 2|u| - 2 log(1 + e^-2|u|). E|u| has a closed form; the last term is taken as a
        sum of Gaussians in u (see `_soft_corner`), whose expectations have closed forms, too.
        """
        mean, log_std = self._read(parameters)
        std = log_std.exp()
        density = (-(mean / std).square() / 2).exp() / math.sqrt(2 * math.pi)
        expected_size = 2 * std * density + mean * torch.erf(mean / (std * math.sqrt(2)))  # E|u|
        weights, variances = (constant.to(mean) for constant in _soft_corner())
        spread = variances + std.square().unsqueeze(-1)  # [..., K, N]
        corner = (weights * (variances / spread).sqrt() * (-mean.square().unsqueeze(-1) / (2 * spread)).exp()).sum(-1)
        return super().entropy(parameters) + (2 * _LOG_2 - 2 * expected_size - 2 * corner).sum(-1)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """Those of the Gaussian, as log(1 - tanh² u) is fixed for log π(a), and for H with what `entropy` adds.

        ∂ E|u| / ∂μ = erf(μ / σ√2) and / ∂σ = 2 φ(μ / σ), φ the standard normal density. Each Gaussian of the corner,
        C = w √(s / t) e^(-μ² / 2t) with t = s + σ², changes with μ by -C μ / t, with log σ by C σ² (μ² / t² - 1 / t).
        """
        plain = super().gradients(parameters, actions)
        size = self.size
        mean, log_std = parameters[..., :size], np.clip(parameters[..., size:], LEAST_LOG_STD, GREATEST_LOG_STD)
        std = np.exp(log_std)
        ratio = mean / std
        sign = torch.erf(torch.from_numpy(ratio / math.sqrt(2))).numpy()
        density = np.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi)
        weights, variances = (constant.numpy().astype(mean.dtype) for constant in _soft_corner())
        spread = variances + (std * std)[..., None]  # t, [..., K, N]
        squares = (mean * mean)[..., None]
        corner = weights * np.sqrt(variances / spread) * np.exp(-squares / (2 * spread))  # C, [..., K, N]
        of_mean = -2 * sign + 2 * mean * (corner / spread).sum(-1)
        of_log_std = -4 * std * density - 2 * std * std * (corner * (squares / spread - 1) / spread).sum(-1)
        free = plain.of_entropy[..., size:]
        added = 2 * _LOG_2 - 2 * (2 * std * density + mean * sign) - 2 * corner.sum(-1)  # [..., K]
        slope = 2 * (_LOG_2 - actions - np.logaddexp(0, -2 * actions))  # log(1 - tanh² u)
        return Gradients(
            plain.log_prob - slope.sum(-1),
            plain.entropy + added.sum(-1),
            plain.of_log_prob,
            np.concatenate([of_mean, free * (1 + of_log_std)], -1),
        )


@dataclass(frozen=True)
class Composite:
    """Several distributions side by side, as Dict and Tuple spaces have them.

    Parameters, masks and actions are those of the parts, joined in order; a part's single number takes one column.
    """

    parts: tuple[Distribution, ...]

    @property
    def parameter_count(self) -> int:
        """D, the sum of the parts'."""
        return sum(part.parameter_count for part in self.parts)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """(K,), the sum of the parts'."""
        return (sum(self._widths),)

    @property
    def action_dtype(self) -> torch.dtype:
        """The parts' if they share one, else float64, which holds whole numbers up to 2^53."""
        dtypes = {part.action_dtype for part in self.parts}
        return dtypes.pop() if len(dtypes) == 1 else torch.float64

    @property
    def mask_size(self) -> int:
        """M, the sum of the parts'."""
        return sum(part.mask_size for part in self.parts)

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Σ log π_i(a_i) over the parts, [...]."""
        columns = torch.split(actions, self._widths, -1)
        return self._sum(lambda i, part, own: part.log_prob(own, _as_action(part, columns[i], own)), parameters)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Σ H(π_i) over the parts, [...]."""
        return self._sum(lambda _, part, own: part.entropy(own), parameters)

    def gradients(self, parameters: Array, actions: Array) -> Gradients:
        """Those of the parts, side by side."""
        columns = np.split(actions, np.cumsum(self._widths)[:-1], -1)
        own = np.split(parameters, np.cumsum([part.parameter_count for part in self.parts])[:-1], -1)
        joined = zip(self.parts, own, columns, strict=True)
        return _joined([part.gradients(numbers, _as_actions(part, some, numbers)) for part, numbers, some in joined])

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Draw a ~ π, [..., K]."""
        return self._join([part.sample(own, generator) for part, own in self._pairs(parameters)])

    def mode(self, parameters: Tensor) -> Tensor:
        """The parts' modes, [..., K]."""
        return self._join([part.mode(own) for part, own in self._pairs(parameters)])

    def masked(self, parameters: Tensor, mask: Tensor) -> Tensor:
        """Forbidden choices out of reach, part by part; see `Distribution.masked`."""
        masks = torch.split(mask, [part.mask_size for part in self.parts], -1)
        pairs = zip(self._pairs(parameters), masks, strict=True)
        return torch.cat([part.masked(own, part_mask) for (part, own), part_mask in pairs], -1)

    @property
    def _widths(self) -> list[int]:
        return [part.action_shape[0] if part.action_shape else 1 for part in self.parts]

    def _pairs(self, parameters: Tensor) -> list[tuple[Distribution, Tensor]]:
        own = torch.split(parameters, [part.parameter_count for part in self.parts], -1)
        return list(zip(self.parts, own, strict=True))

    def _sum(self, term: Callable[[int, Distribution, Tensor], Tensor], parameters: Tensor) -> Tensor:
        terms = [term(i, part, own) for i, (part, own) in enumerate(self._pairs(parameters))]
        return torch.stack(terms).sum(0)

    def _join(self, actions: list[Tensor]) -> Tensor:
        pairs = zip(self.parts, actions, strict=True)
        columns = [action if part.action_shape else action.unsqueeze(-1) for part, action in pairs]
        dtype = torch.float64 if len({column.dtype for column in columns}) > 1 else columns[0].dtype
        return torch.cat([column.to(dtype) for column in columns], -1)


def _joined(parts: list[Gradients]) -> Gradients:
    """Of independent distributions side by side."""
    return Gradients(
        np.sum([part.log_prob for part in parts], 0),
        np.sum([part.entropy for part in parts], 0),
        np.concatenate([part.of_log_prob for part in parts], -1),
        np.concatenate([part.of_entropy for part in parts], -1),
    )


def _as_actions(part: Distribution, columns: Array, parameters: Array) -> Array:
    """As `_as_action`, of arrays."""
    actions = columns if part.action_shape else columns[..., 0]
    dtypes = {torch.int64: np.dtype(np.int64), torch.float32: parameters.dtype}
    return actions.astype(dtypes.get(part.action_dtype, actions.dtype))


def _as_action(part: Distribution, columns: Tensor, parameters: Tensor) -> Tensor:
    """A part's own actions from its columns of joined ones."""
    actions = columns if part.action_shape else columns.squeeze(-1)
    if part.action_dtype == torch.float32:
        return actions.to(parameters.dtype)
    return actions.to(part.action_dtype)  # choices; or a composite, whose own choices need all of float64


def _log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh² u) without cancellation: 2 (log 2 - u - log(1 + e^-2u))."""
    return 2 * (_LOG_2 - u - functional.softplus(-2 * u))


@functools.cache
def _soft_corner() -> tuple[Tensor, Tensor]:
    """Weights w and variances s of the fit log(1 + e^-2|u|) ≈ Σ_n w_n exp(-u² / 2 s_n)."""
    u = np.concatenate([np.linspace(0, 1, 2000) ** 3, np.linspace(1, 12, 2000)])
    variances = np.logspace(-9, 1.2, 40)
    gaussians = np.exp(-(u[:, None] ** 2) / (2 * variances))
    weights, *_ = np.linalg.lstsq(gaussians, np.log1p(np.exp(-2 * u)), rcond=1e-10)
    with torch.inference_mode(False):  # kept for training, even if inference asks first
        return torch.from_numpy(weights), torch.from_numpy(variances)
