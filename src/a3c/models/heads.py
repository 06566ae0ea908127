"""The policy head: from features to the parameters of a distribution over actions."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from a3c.core.distributions import GREATEST_LOG_STD, Composite, Distribution, Normal
from a3c.errors import UsageError
from a3c.models.torsos import orthogonal

_POLICY_GAIN = 0.01  # a first policy near uniform
LEAST_VARIANCE = 1e-6
"""gSDE: what is added, since features may all be 0."""


LogStd = Literal["parameter", "network", "gsde"]
"""Where a Gaussian's log standard deviation comes from: see `PolicyHead`."""


class PolicyHead(nn.Module):
    """A linear layer to the distribution's parameters; a Gaussian's log standard deviations may come from elsewhere.

    "parameter": they are parameters of their own, the same in every state (as in Schulman et al. 2015).
    "network": the linear layer puts them out, too.
    "gsde": generalised state-dependent exploration (Raffin et al. 2021): with features f and parameters σ [F, K] an
    action is mean + fᵀE, E_ij ~ N(0, σ_ij²), whose variance is Σ_i f_i² σ_ij². Keeping E for some steps makes
    exploration smooth. No gradient reaches the features through the variance.

    Args:
        features: width of what comes in, F.
        distribution: whose parameters go out.
        log_std: see above.
        initial_log_std: what they begin with. gsde: for features of mean square 1, so that σ begins with 1/√F of it;
            Stable-Baselines3's log_std_init is σ's own, ln(F)/2 less.

    Raises:
        UsageError: gsde with a distribution that is not one Gaussian.
    """

    def __init__(self, features: int, distribution: Distribution, *, log_std: LogStd, initial_log_std: float) -> None:
        super().__init__()
        columns = _log_std_columns(distribution)
        if log_std == "gsde" and not isinstance(distribution, Normal):
            raise UsageError("--log-std gsde is for actions that are one Box: take --log-std parameter")
        free = [] if log_std == "network" else columns
        self.linear = orthogonal(nn.Linear(features, distribution.parameter_count - len(free)), _POLICY_GAIN)
        self.gsde = log_std == "gsde"
        self.log_std: nn.Parameter | None = None
        if self.gsde:
            self.log_std = nn.Parameter(torch.full((features, len(free)), initial_log_std - math.log(features) / 2))
        elif free:
            self.log_std = nn.Parameter(torch.full((len(free),), float(initial_log_std)))
        # Where each column of the distribution's parameters stands in [linear, log_std].
        linear = np.setdiff1d(np.arange(distribution.parameter_count), free)
        order = np.argsort(np.concatenate([linear, np.array(free, np.int64)]))
        self.order = None if (order == np.arange(len(order))).all() else torch.from_numpy(order)
        if not free and columns:
            with torch.no_grad():
                self.linear.bias[columns] = initial_log_std

    def forward(self, features: Tensor) -> Tensor:
        """Parameters [..., D] for features [..., F]."""
        outputs: Tensor = self.linear(features)
        if self.log_std is None:
            return outputs
        if self.gsde:
            variance = features.detach().square() @ (2 * self.log_std).exp()  # [..., K]
            return torch.cat([outputs, (variance + LEAST_VARIANCE).log() / 2], -1)
        joined = torch.cat([outputs, self.log_std.expand(*outputs.shape[:-1], -1)], -1)
        return joined if self.order is None else joined.index_select(-1, self.order.to(joined.device))

    def noise(self, features: Tensor, standard_normal: Tensor) -> Tensor:
        """gsde: what is added to the mean, [B, K], for features [B, F] and E / σ [B, F, K]."""
        assert self.gsde
        assert self.log_std is not None
        std = self.log_std.exp()
        noise = torch.einsum("bf,bfk->bk", features, std * standard_normal)
        spread = (features.square() @ std.square()).sqrt()  # [B, K]; a density's is limited, so this is, too
        return noise * (math.exp(GREATEST_LOG_STD) / spread).clamp(max=1.0)


def _log_std_columns(distribution: Distribution, start: int = 0) -> list[int]:
    """Which of the distribution's parameters are log standard deviations."""
    if isinstance(distribution, Normal):
        return list(range(start + distribution.size, start + 2 * distribution.size))
    columns: list[int] = []
    if isinstance(distribution, Composite):
        for part in distribution.parts:
            columns += _log_std_columns(part, start)
            start += part.parameter_count
    return columns
