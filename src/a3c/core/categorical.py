"""The categorical distribution over A actions, given by unnormalised log-probabilities ("logits")."""

import torch
from torch import Generator, Tensor


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """log π(a), with π = softmax(logits). logits [..., A], actions [...] from 0; returns [...]."""
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """H(π) = -Σ_a π(a) log π(a), in nats, with 0 log 0 = 0. logits [..., A]; returns [...]."""
    log_probs = logits.log_softmax(-1)  # [..., A]
    return -(log_probs.exp() * log_probs).sum(-1)


def gradients(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log π(a) and H, [...] each, and their gradients with respect to the logits, [..., A] each.

    ∂ log π(a) / ∂l_b = 1[a = b] - π(b),    ∂H / ∂l_b = -π(b) (log π(b) + H)
    """
    log_probs = logits.log_softmax(-1)  # [..., A]
    probs = log_probs.exp()
    chosen = actions.unsqueeze(-1)  # [..., 1]
    weighted = probs * log_probs
    entropies = -weighted.sum(-1, keepdim=True)  # [..., 1]
    of_log_prob = (-probs).scatter_add_(-1, chosen, torch.ones_like(probs[..., :1]))
    of_entropy = torch.addcmul(-weighted, probs, entropies, value=-1.0)
    return log_probs.gather(-1, chosen).squeeze(-1), entropies.squeeze(-1), of_log_prob, of_entropy


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
