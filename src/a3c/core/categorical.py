"""The categorical distribution over A actions, given by unnormalised log-probabilities ("logits")."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

Array = NDArray[Any]


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """log π(a), with π = softmax(logits). logits [..., A], actions [...] from 0; returns [...]."""
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """H(π) = -Σ_a π(a) log π(a), in nats, with 0 log 0 = 0. logits [..., A]; returns [...]."""
    log_probs = logits.log_softmax(-1)  # [..., A]
    return -(log_probs.exp() * log_probs).sum(-1)


def gradients(logits: Array, actions: Array) -> tuple[Array, Array, Array, Array]:
    """log π(a) and H, [...] each, and their gradients with respect to the logits, [..., A] each.

    ∂ log π(a) / ∂l_b = 1[a = b] - π(b),    ∂H / ∂l_b = -π(b) (log π(b) + H)

    logits [..., A], all finite, and actions [...] are arrays; so is what comes out.
    """
    assert actions.shape == logits.shape[:-1], f"actions {actions.shape} of logits {logits.shape}"
    count = logits.shape[-1]
    # The actions first: NumPy goes along many rows at once, but calls a loop for each row of few numbers.
    log_probs = np.array(logits.reshape(-1, count).T, order="C")  # [A, N]
    log_probs -= np.maximum.reduce(log_probs, 0)
    probs = np.exp(log_probs)
    total = np.add.reduce(probs, 0)  # [N]
    probs /= total
    log_probs -= np.log(total)
    entropies = -np.add.reduce(probs * log_probs, 0)  # [N]
    chosen = actions.reshape(-1) == np.arange(count)[:, None]  # [A, N]
    log_prob = np.add.reduce(chosen * log_probs, 0)  # [N]
    of_log_prob = chosen - probs
    of_entropy = log_probs + entropies
    of_entropy *= probs
    np.negative(of_entropy, out=of_entropy)
    shape = logits.shape
    return (
        log_prob.reshape(shape[:-1]),
        entropies.reshape(shape[:-1]),
        of_log_prob.T.reshape(shape),
        of_entropy.T.reshape(shape),
    )


def sample(logits: Tensor, generator: Generator) -> Tensor:
    """Draw a ~ π by the Gumbel-max trick: argmax_a (logits_a - log E_a), E_a ~ Exp(1).

    logits [..., A]; returns [...] int64. Minus the logarithm of an exponential variate is a Gumbel variate,
    and the argmax of logits plus Gumbel noise is distributed as softmax(logits) (Gumbel 1954).
    """
    noise = torch.empty_like(logits).exponential_(generator=generator)  # [..., A]
    return (logits - noise.log_()).argmax(-1)


def mode(logits: Tensor) -> Tensor:
    """The most probable action, the lowest one among equals. logits [..., A]; returns [...] int64."""
    return logits.argmax(-1)
