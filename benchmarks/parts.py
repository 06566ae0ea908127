"""The fast forms of the hot path beside plain ones: what a call takes, in microseconds.

    python benchmarks/parts.py

Acting: `NumpyPolicy` beside `ActingPolicy`. Learning: the loss and the network's passes, in arrays with gradients that
are written down, beside torch's autograd on the same formulas. Images: with channels last in memory from the start,
beside channels first, which the network must turn round. One thread, the least of some repetitions each, at the batch
sizes of CartPole's, LunarLander's and HalfCheetah's presets, of the paper, and of Atari's preset.

Then what was tried and is not in the library: convolutions of images that are not turned round, and an optimiser's step
piece by piece. Writes benchmarks/results/parts.md.
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
from a3c.core.optimizers import RMSProp
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.numpy_acting import NumpyPolicy
from a3c.models.torsos import image_torso
from a3c.runtimes.threads import one_thread
from a3c.spaces.images import buffer_of
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


def microseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """The least mean of some repetitions."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls)
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


SCREEN = spaces.Box(0, 255, (4, 84, 84), np.uint8)  # an Atari game's
SCREENS, SCREEN_STEPS = 8, 5
IMAGE_TORSOS = ("a3c", "nature", "impala")


def screens(rows: int, plain: bool) -> torch.Tensor:
    """Random ones, [rows, 8, *O], as they lie in a rollout's buffer or plainly."""
    buffer = buffer_of(SCREEN, (rows, SCREENS))
    buffer[...] = np.random.default_rng(0).integers(0, 256, buffer.shape)
    return torch.from_numpy(buffer.copy(order="C") if plain else buffer)


def measured_images(torso: str) -> list[tuple[str, float, float]]:
    """As `measured`, of a network for images: the plain form has channels first in memory."""
    spec = PolicySpec(SCREEN, spaces.Discrete(6), network=Network(torso), normalisation=Normalisation(True, False))
    model = spec.build()
    model.normaliser.load(torch.tensor([[1e6], [0.3], [1e5]], dtype=torch.float64))
    starts, times = torch.zeros(SCREENS, dtype=torch.bool), {}
    for plain in (True, False):
        images = screens(SCREEN_STEPS + 1, plain)

        def act(row: torch.Tensor = images[0]) -> None:
            with torch.inference_mode():
                model.policy(row, None, starts)

        def gradient(images: torch.Tensor = images) -> None:
            outputs = model.policy_value(images)
            flat_gradient(outputs.policy.sum() + outputs.values.sum(), model)

        times[plain] = microseconds(act, 30), microseconds(gradient, 5)
    whats = f"the policy on {SCREENS} images", f"network and gradient, {SCREENS * (SCREEN_STEPS + 1)} images"
    return [(what, *both) for what, *both in zip(whats, times[True], times[False], strict=True)]  # type: ignore[misc]


def tried_images(torso: str) -> list[tuple[str, float, float]]:
    """Convolutions with channels last in memory, as they are, and with channels first."""
    module = image_torso(torso, *SCREEN.shape)
    plain = screens(SCREEN_STEPS + 1, plain=True).flatten(0, 1).float()
    turned = plain.contiguous(memory_format=torch.channels_last)

    def act(images: torch.Tensor) -> None:
        with torch.inference_mode():
            module(images[:SCREENS])

    def gradient(images: torch.Tensor) -> None:
        flat_gradient(module(images).sum(), module)

    return [
        (
            f"{torso}: features of {SCREENS} images, not turned round",
            microseconds(lambda: act(turned), 30),
            microseconds(lambda: act(plain), 30),
        ),
        (
            f"{torso}: gradient, {len(plain)} images, not turned round",
            microseconds(lambda: gradient(turned), 5),
            microseconds(lambda: gradient(plain), 5),
        ),
    ]


def tried_pieces(size: int = 677_000, piece: int = 2**15) -> tuple[str, float, float]:
    """RMSProp's step on whole vectors, as it is, and on pieces that fit into a core's cache, one after another."""
    parameters, gradient, average, *scratch = (torch.rand(size) for _ in range(5))
    rule, chunks = RMSProp(), [slice(start, min(start + piece, size)) for start in range(0, size, piece)]

    def step(part: slice) -> None:
        own = tuple(vector[: part.stop - part.start] for vector in scratch)
        rule.step(parameters[part], gradient[part], (average[part],), own, learning_rate=1e-9, step_count=9)

    def in_pieces() -> None:
        for part in chunks:
            step(part)

    whole = microseconds(lambda: step(slice(0, size)), 50)
    return f"RMSProp, {size:,} parameters, in pieces of {piece:,}", whole, microseconds(in_pieces, 50)


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
        for torso in IMAGE_TORSOS:
            for what, plain, fast in measured_images(torso):
                lines.append(f"| Atari, {torso} | {what} | {plain:.1f} | {fast:.1f} | {plain / fast:.1f} |")
        lines += ["", "Tried, and not taken:", "", "| what | as it is | tried | ratio |", "|---|---|---|---|"]
        tried = [row for torso in IMAGE_TORSOS for row in tried_images(torso)]
        for what, now, other in [*tried, tried_pieces()]:
            lines.append(f"| {what} | {now:.1f} | {other:.1f} | {now / other:.1f} |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
