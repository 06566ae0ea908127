"""The fast forms of the hot path beside plain ones: what a call takes, in microseconds.

    python benchmarks/parts.py

Acting: `NumpyPolicy` beside `ActingPolicy`. Learning: the loss and the network's passes, in arrays with gradients that
are written down, beside torch's autograd on the same formulas. One thread, the least of some repetitions each, at the
batch sizes of CartPole's, LunarLander's and HalfCheetah's presets and of the paper. Writes benchmarks/results/parts.md.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from a3c.core import moments
from a3c.core.flat import flat_gradient
from a3c.core.losses import actor_critic_loss
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.numpy_acting import NumpyPolicy
from a3c.runtimes.threads import one_thread
from a3c.types import PolicyValue, Rollout
from cartpole import commit

OUT = Path(__file__).parent / "results" / "parts.md"
REPETITIONS, CALLS = 7, 200


class Case(NamedTuple):
    """Spaces and batch of an environment."""

    name: str
    observations: spaces.Box
    actions: spaces.Space
    envs: int
    length: int
    normalised: bool = True
    separate: bool = True


CASES = [
    Case("CartPole-v1", spaces.Box(-9, 9, (4,)), spaces.Discrete(2), 64, 8, normalised=False),
    Case("LunarLander-v3", spaces.Box(-9, 9, (8,)), spaces.Discrete(4), 8, 8),
    Case("HalfCheetah-v5", spaces.Box(-9, 9, (17,), np.float64), spaces.Box(-1, 1, (6,)), 4, 16),
    Case("CartPole-v1, paper", spaces.Box(-9, 9, (4,)), spaces.Discrete(2), 1, 5, normalised=False, separate=False),
]
COEFFICIENTS = {"discount": 0.99, "lambda_": 0.95, "entropy_coef": 0.01, "value_coef": 0.5}


def microseconds(call: Callable[[], object]) -> float:
    """The least mean of some repetitions."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - began) / CALLS)
    return min(times) * 1e6


def built(case: Case) -> ActorCritic:
    """The case's network, with moments as after some rollouts."""
    spec = PolicySpec(
        case.observations,
        case.actions,
        network=Network(separate_torsos=case.separate),
        normalisation=Normalisation(case.normalised, case.normalised),
    )
    model = spec.build()
    if model.normaliser.tracked:
        seen = torch.randn(1000, model.normaliser.tracked, generator=torch.Generator().manual_seed(0))
        model.normaliser.load(moments.of(seen))
    return model


def rollout_of(case: Case, model: ActorCritic) -> Rollout:
    """Random steps."""
    rows = np.stack([[case.observations.sample() for _ in range(case.envs)] for _ in range(case.length + 1)])
    observations, never = torch.from_numpy(rows), torch.zeros(case.length, case.envs, dtype=torch.bool)
    parameters = model.policy_value(observations[:-1]).policy.detach()
    return Rollout(
        observations=observations,
        actions=model.distribution.sample(parameters, torch.Generator().manual_seed(0)),
        rewards=torch.randn(case.length, case.envs, dtype=torch.float64),
        terminated=never,
        truncated=never,
        episode_start=torch.zeros(case.length + 1, case.envs, dtype=torch.bool),
    )


def plain_loss(model: ActorCritic, outputs: PolicyValue, rollout: Rollout) -> torch.Tensor:
    """The same loss where nothing is written down: no episode ends in this rollout."""
    rewards, values = model.normaliser.rewards(rollout).to(outputs.values), outputs.values
    discount, lambda_ = COEFFICIENTS["discount"], COEFFICIENTS["lambda_"]
    with torch.no_grad():
        returns, following = torch.empty_like(rewards), values[-1]
        for t in reversed(range(len(rewards))):
            following = rewards[t] + discount * ((1 - lambda_) * values[t + 1] + lambda_ * following)
            returns[t] = following
    advantages = returns - values[:-1]
    log_prob = model.distribution.log_prob(outputs.policy[:-1], rollout.actions)
    entropy = model.distribution.entropy(outputs.policy[:-1])
    terms = -log_prob * advantages.detach() + COEFFICIENTS["value_coef"] * advantages.square()
    return (terms - COEFFICIENTS["entropy_coef"] * entropy).mean()


def measured(case: Case) -> list[tuple[str, float, float]]:
    """What it is, and microseconds of the plain and of the fast form."""
    model, plain = built(case), built(case)
    plain._perceptrons = None  # torch's passes
    rollout = rollout_of(case, model)
    row, state, starts = rollout.observations[0].numpy(), None, np.zeros(case.envs, np.bool_)
    slow, fast = ActingPolicy(plain, 0), NumpyPolicy(model, 0)

    def gradient_by_autograd() -> torch.Tensor:
        return flat_gradient(plain_loss(plain, plain(rollout), rollout), plain)

    def gradient() -> torch.Tensor:
        rewards = model.normaliser.rewards(rollout)
        outputs = model(rollout)
        loss = actor_critic_loss(outputs, rollout, rewards, model.distribution, **COEFFICIENTS, reduction="mean")
        return flat_gradient(loss.total, model)

    torch.testing.assert_close(gradient(), gradient_by_autograd(), rtol=1e-3, atol=1e-5)
    batch, rows = case.envs, case.envs * (case.length + 1)
    return [
        (
            f"actions for {batch} observations",
            microseconds(lambda: slow(row, state, starts)),
            microseconds(lambda: fast(row, state, starts)),
        ),
        (f"forward, {rows} rows", microseconds(lambda: plain(rollout)), microseconds(lambda: model(rollout))),
        (f"forward, loss and gradient, {rows} rows", microseconds(gradient_by_autograd), microseconds(gradient)),
    ]


def main() -> None:
    lines = [
        "# The hot path's parts",
        "",
        f"`python benchmarks/parts.py`, commit {commit()}; {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}. "
        f"Microseconds, the least of {REPETITIONS} repetitions.",
        "",
        "| case | what | plain | fast | ratio |",
        "|---|---|---|---|---|",
    ]
    with one_thread():
        for case in CASES:
            for what, plain, fast in measured(case):
                lines.append(f"| {case.name} | {what} | {plain:.1f} | {fast:.1f} | {plain / fast:.1f} |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
