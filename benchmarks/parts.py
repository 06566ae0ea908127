"""The fast forms of the hot path beside plain ones: what a call takes, in microseconds.

    python benchmarks/parts.py

Acting: `NumpyPolicy` beside `ActingPolicy`. Learning: the loss and the network's passes, on arrays with gradients that
are written down, beside torch's autograd on the same formulas. Images through torch's modules: with channels last in
memory from the start, beside channels first, which the network must turn round. As in a worker: one thread, and freed
memory is kept. The least and the most of some repetitions each, at the batch sizes of the presets of CartPole,
LunarLander, HalfCheetah, MinAtar and Atari, and of the paper.

Then what was tried and is not in the library: acting with torch's functions, the loss's gradient written down with
them, a gradient through autograd's graph of two nodes, convolutions of few images at a time and of images that are not
turned round, and an optimiser's step with torch's functions or in other pieces. Writes benchmarks/results/parts.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional

from a3c.core import moments, optimizers
from a3c.core.flat import flat_gradient
from a3c.core.losses import Loss, actor_critic_loss
from a3c.core.optimizers import RMSProp
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.encoder import Encoder
from a3c.models.numpy_acting import NumpyPolicy
from a3c.models.torsos import image_torso
from a3c.runtimes.child_process import keep_freed_memory
from a3c.runtimes.threads import one_thread
from a3c.spaces.images import buffer_of
from a3c.types import PolicyValue, Rollout
from cartpole import commit

OUT = Path(__file__).parent / "results" / "parts.md"
REPETITIONS = 7


class Case(NamedTuple):
    """Spaces and batch of an environment."""

    name: str
    observations: spaces.Box
    actions: spaces.Space[Any]
    envs: int
    length: int
    normalised: bool = True
    separate: bool = True
    calls: int = 200


SCREEN = spaces.Box(0, 255, (4, 84, 84), np.uint8)  # an Atari game's
CASES = [
    Case("CartPole-v1", spaces.Box(-9, 9, (4,)), spaces.Discrete(2), 64, 8, normalised=False),
    Case("LunarLander-v3", spaces.Box(-9, 9, (8,)), spaces.Discrete(4), 16, 8),
    Case("HalfCheetah-v5", spaces.Box(-9, 9, (17,), np.float64), spaces.Box(-1, 1, (6,)), 8, 16),
    Case("CartPole-v1, paper", spaces.Box(-9, 9, (4,)), spaces.Discrete(2), 1, 5, normalised=False, separate=False),
]
IMAGE_CASES = [
    Case("Atari, a3c", SCREEN, spaces.Discrete(6), 8, 5, separate=False, calls=10),
    Case(
        "MinAtar/Breakout-v1",
        spaces.Box(0, 1, (10, 10, 4), np.bool_),  # type: ignore[arg-type]
        spaces.Discrete(6),
        8,
        5,
        normalised=False,
        separate=False,
        calls=50,
    ),
]
COEFFICIENTS = {"discount": 0.99, "lambda_": 0.95, "entropy_coef": 0.01, "value_coef": 0.5}


class Time(NamedTuple):
    """Microseconds of a call: the least and the most of some repetitions' means."""

    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:.1f} (to {self.most:.1f})"


Row = tuple[str, Time, Time]  # what it is, and two ways of doing it


def microseconds(call: Callable[[], object], calls: int = 200) -> Time:
    """The least and the most mean of some repetitions of so many calls."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - began) / calls * 1e6)
    return Time(min(times), max(times))


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
    rows = buffer_of(case.observations, (case.length + 1, case.envs))
    rows[...] = [[case.observations.sample() for _ in range(case.envs)] for _ in range(case.length + 1)]
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


def plain_loss(model: ActorCritic, outputs: PolicyValue, rollout: Rollout, rewards: torch.Tensor) -> torch.Tensor:
    """The same loss where nothing is written down: no episode ends in this rollout."""
    rewards, values = rewards.to(outputs.values), outputs.values
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


def measured(case: Case) -> list[Row]:
    """What it is, and microseconds of the plain and of the fast form."""
    model, plain = built(case), built(case)
    plain._feedforward = None  # torch's modules
    rollout = rollout_of(case, model)
    row, state, starts = rollout.observations[0].numpy(), None, np.zeros(case.envs, np.bool_)
    slow, fast, keeping, acting = (
        ActingPolicy(plain, 0),
        NumpyPolicy(model, 0),
        *(NumpyPolicy(model, 0, kept_steps=case.length) for _ in range(2)),
    )
    steps = itertools.count(1)

    def act_and_keep() -> None:
        keeping(row, state, starts)
        if next(steps) % case.length == 0:
            keeping.passes(case.length)

    for seen in rollout.observations[:-1]:
        acting(seen.numpy(), state, starts)
    acted = replace(rollout, passes=acting.passes(case.length))  # as an actor's rollouts are

    def gradient_by_autograd() -> torch.Tensor:
        return flat_gradient(plain_loss(plain, plain(rollout), rollout, plain.normaliser.rewards(rollout)), plain)

    def gradient(rollout: Rollout) -> torch.Tensor:
        rewards = model.normaliser.rewards(rollout)
        outputs = model(rollout)
        loss = actor_critic_loss(outputs, rollout, rewards, model.distribution, **COEFFICIENTS, reduction="mean")
        return flat_gradient(loss, model)

    for one in (rollout, acted):
        torch.testing.assert_close(gradient(one), gradient_by_autograd(), rtol=1e-3, atol=1e-5)
    batch, rows = case.envs, case.envs * (case.length + 1)
    rows_of: list[tuple[str, Callable[[], object], dict[str, Callable[[], object]]]] = [
        (
            f"actions for {batch} observations",
            lambda: slow(row, state, starts),
            {"": lambda: fast(row, state, starts), ", kept for learning": act_and_keep},
        ),
        (
            f"forward, {rows} rows",
            lambda: plain(rollout),
            {"": lambda: model(rollout), ", from what acting has kept": lambda: model(acted)},
        ),
        (
            f"forward, loss and gradient, {rows} rows",
            gradient_by_autograd,
            {"": lambda: gradient(rollout), ", from what acting has kept": lambda: gradient(acted)},
        ),
    ]
    measured_rows = []
    for what, plain_call, calls in rows_of:
        plainly = microseconds(plain_call, case.calls)
        measured_rows += [(what + how, plainly, microseconds(call, case.calls)) for how, call in calls.items()]
    return measured_rows


SCREENS, SCREEN_STEPS = 8, 5
IMAGE_TORSOS = ("a3c", "nature", "impala")


def screens(rows: int, plain: bool) -> torch.Tensor:
    """Random ones, [rows, 8, *O], as they lie in a rollout's buffer or plainly."""
    buffer = buffer_of(SCREEN, (rows, SCREENS))
    buffer[...] = np.random.default_rng(0).integers(0, 256, buffer.shape)
    return torch.from_numpy(buffer.copy(order="C") if plain else buffer)


def measured_images(torso: str) -> list[Row]:
    """Torch's modules for images: the plain form has channels first in memory."""
    spec = PolicySpec(SCREEN, spaces.Discrete(6), network=Network(torso), normalisation=Normalisation(True, False))
    model = spec.build()
    model._feedforward = None
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
    return list(zip(whats, times[True], times[False], strict=True))


def tried_graph(case: Case) -> Row:
    """The loss and the network as nodes of autograd's graph, whose gradients are written down all the same."""
    model = built(case)
    rollout = rollout_of(case, model)
    rewards = model.normaliser.rewards(rollout)

    def loss() -> Loss:
        outputs = model(rollout)
        return actor_critic_loss(outputs, rollout, rewards, model.distribution, **COEFFICIENTS, reduction="mean")

    def directly() -> torch.Tensor:
        return flat_gradient(loss(), model)

    def through_a_graph() -> torch.Tensor:
        return flat_gradient(loss().total, model)

    torch.testing.assert_close(directly(), through_a_graph(), rtol=1e-3, atol=1e-6)
    rows = (case.length + 1) * case.envs
    what = f"{case.name}: forward, loss and gradient, {rows} rows, as nodes of autograd's graph"
    return what, microseconds(directly), microseconds(through_a_graph)


def tried_images(torso: str) -> list[Row]:
    """Convolutions with channels last in memory, as they are, and with channels first."""
    channels, height, width = SCREEN.shape
    module = image_torso(torso, channels, height, width)
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


def tried_few_images(case: Case, at_once: int = 2) -> Row:
    """The first convolution, with the images' numbers: of all lanes at once, as it is, and of so many at a time."""
    network = built(case).feedforward
    assert network is not None
    pixels = network.inputs(screens(1, plain=False)[0].numpy(), built(case).normaliser)
    layer = network.policy_layers[0]
    out = layer(pixels)

    def few() -> None:
        for begin in range(0, len(pixels), at_once):
            layer(pixels[begin : begin + at_once], out[begin : begin + at_once])

    what = f"{case.name}: the first convolution of {len(pixels)} images, {at_once} at a time"
    return what, microseconds(lambda: layer(pixels, out)), microseconds(few)


def tried_acting(case: Case) -> Row:
    """Torch's functions on the weights, without modules: of a network that does not normalise."""
    model = built(case)
    fast, starts, generator = NumpyPolicy(model, 0), np.zeros(case.envs, np.bool_), torch.Generator().manual_seed(0)
    row = rollout_of(case, model).observations[0].numpy()
    assert isinstance(model.policy_torso, Encoder)
    linears = [layer for layer in model.policy_torso.joint.children() if isinstance(layer, nn.Linear)]
    hidden, head = [(layer.weight, layer.bias) for layer in linears], model.policy_head.linear

    def logits_of(features: torch.Tensor) -> torch.Tensor:
        for weight, bias in hidden:
            features = torch.tanh(functional.linear(features, weight, bias))
        return functional.linear(features, head.weight, head.bias)

    def functions() -> np.ndarray:
        with torch.inference_mode():
            logits = logits_of(torch.from_numpy(row))
            noise = torch.empty_like(logits).exponential_(generator=generator)
            return (logits - noise.log()).argmax(-1).numpy()

    torch.testing.assert_close(logits_of(torch.from_numpy(row)), torch.from_numpy(fast.outputs(row)))
    what = f"{case.name}: actions for {case.envs} observations, torch's functions"
    return what, microseconds(lambda: fast(row, None, starts)), microseconds(functions)


def tried_loss(case: Case) -> list[Row]:
    """The loss of choices, its terms and its gradient at a network's outputs, in torch: written down, by autograd."""
    model = built(case)
    rollout = rollout_of(case, model)
    rewards, actions = model.normaliser.rewards(rollout), rollout.actions
    outputs = PolicyValue(*(output.detach().requires_grad_() for output in model(rollout)))
    discount, lambda_, entropy_coef, value_coef = COEFFICIENTS.values()

    def in_arrays() -> Loss:
        return actor_critic_loss(outputs, rollout, rewards, model.distribution, **COEFFICIENTS, reduction="mean")

    def by_autograd() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(plain_loss(model, outputs, rollout, rewards), tuple(outputs))

    @torch.no_grad()
    def written_down() -> tuple[torch.Tensor, torch.Tensor, tuple[float, ...]]:
        values, returns = outputs.values, torch.empty_like(outputs.values[1:])
        owed, following = rewards.to(values), values[-1]
        for t in reversed(range(len(owed))):
            following = owed[t] + discount * ((1 - lambda_) * values[t + 1] + lambda_ * following)
            returns[t] = following
        errors = returns - values[:-1]
        weighted = errors / returns.numel()
        log_probs = torch.log_softmax(outputs.policy[:-1], -1)
        probs = log_probs.exp()
        entropy = -(probs * log_probs).sum(-1, keepdim=True)
        chosen = functional.one_hot(actions, log_probs.shape[-1])
        policy_loss = -float((weighted * log_probs.gather(-1, actions[..., None])[..., 0]).sum())
        terms = policy_loss, float((weighted * errors).sum()), float(entropy.mean())
        of_policy, of_values = torch.zeros_like(outputs.policy), torch.zeros_like(values)
        of_policy[:-1] = weighted[..., None] * (probs - chosen)
        of_policy[:-1] += entropy_coef / returns.numel() * probs * (log_probs + entropy)
        of_values[:-1] = -2 * value_coef * weighted
        return of_policy, of_values, terms

    for one, other in zip(written_down()[:2], by_autograd(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)
    now, what = microseconds(in_arrays), f"{case.name}: loss and its gradient at the outputs"
    return [
        (f"{what}, written down in torch", now, microseconds(written_down)),
        (f"{what}, by autograd", now, microseconds(by_autograd)),
    ]


def tried_in_torch(size: int) -> Row:
    """RMSProp's step in NumPy, as it is, and with torch's functions on the same vectors."""
    rule, learning_rate = RMSProp(), 1e-3
    gradient, new, square = (torch.rand(size) for _ in range(3))
    ours, torchs = ((torch.zeros(size), torch.ones(size)) for _ in range(2))  # θ and g

    def step() -> None:
        rule.step(ours[0], gradient, ours[1:], (new, square), learning_rate=learning_rate, step_count=9)

    def in_torch() -> None:
        parameters, average = torchs
        torch.mul(gradient, gradient, out=square).mul_(1 - rule.decay)
        torch.add(square, average, alpha=rule.decay, out=new)
        parameters.addcdiv_(gradient, new.sqrt_().add_(rule.epsilon), value=-learning_rate)
        torch.add(square, average, alpha=rule.decay, out=average)

    step()
    in_torch()
    torch.testing.assert_close(ours, torchs)
    calls = min(200, 50_000_000 // size)
    what = f"RMSProp, {size:,} parameters, with torch's functions"
    return what, microseconds(step, calls), microseconds(in_torch, calls)


def tried_pieces(size: int, piece: int) -> Row:
    """RMSProp's step on pieces of the vectors as they are, and on others."""
    rule, learning_rate = RMSProp(), 1e-9
    parameters, gradient, average, *scratch = (torch.rand(size) for _ in range(5))
    calls = min(200, 50_000_000 // size)

    def step() -> None:
        rule.step(parameters, gradient, (average,), tuple(scratch), learning_rate=learning_rate, step_count=9)

    as_it_is = microseconds(step, calls)
    usual, optimizers._AT_ONCE = optimizers._AT_ONCE, piece
    try:
        tried = microseconds(step, calls)
    finally:
        optimizers._AT_ONCE = usual
    what = "whole" if piece >= size else f"in pieces of {piece:,}"
    return f"RMSProp, {size:,} parameters, {what}", as_it_is, tried


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = [
        "# The hot path's parts",
        "",
        f"`python benchmarks/parts.py`, commit {commit()}; {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"cores, one thread, Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}. "
        f"Microseconds, the least of {REPETITIONS} repetitions (and the most); ratios of the least.",
        "",
        "| case | what | plain | fast | ratio |",
        "|---|---|---|---|---|",
    ]
    keep_freed_memory()
    with one_thread():
        for case in CASES + IMAGE_CASES:
            for what, plain, fast in measured(case):
                lines.append(f"| {case.name} | {what} | {plain} | {fast} | {plain.least / fast.least:.1f} |")
        for torso in IMAGE_TORSOS:
            for what, plain, fast in measured_images(torso):
                lines.append(
                    f"| {torso}, torch's modules | {what} | {plain} | {fast} | {plain.least / fast.least:.1f} |"
                )
        lines += ["", "Tried, and not taken:", "", "| what | as it is | tried | ratio |", "|---|---|---|---|"]
        cartpole, lunar_lander, *_ = CASES
        tried = [tried_acting(cartpole), *tried_loss(lunar_lander)]
        tried += [tried_graph(case) for case in CASES]
        tried.append(tried_few_images(IMAGE_CASES[0]))
        tried += [row for torso in IMAGE_TORSOS for row in tried_images(torso)]
        tried += [tried_in_torch(4_675), tried_in_torch(677_000), tried_in_torch(5_000_000)]
        tried += [tried_pieces(677_000, 2**15), tried_pieces(5_000_000, 2**15), tried_pieces(5_000_000, 5_000_000)]
        for what, now, other in tried:
            lines.append(f"| {what} | {now} | {other} | {now.least / other.least:.1f} |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
