"""The actor-critic loss against a slow reference, and against its gradient worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from a3c.core.distributions import Bernoulli, Categorical, Composite, MultiCategorical, Normal, TanhNormal
from a3c.core.losses import Loss, actor_critic_loss
from a3c.types import PolicyValue, Rollout
from random_rollout import random_rollout

COEFFICIENTS = {"discount": 0.9, "lambda_": 0.8, "entropy_coef": 0.05, "value_coef": 0.5}


def loss_of(outputs: PolicyValue, rollout: Rollout, **options) -> Loss:
    """The loss of a categorical policy, with the rewards as they are."""
    distribution = Categorical(outputs.policy.shape[-1])
    return actor_critic_loss(outputs, rollout, rollout.rewards, distribution, **options)


def numbers_of(loss: Loss) -> list[float]:
    return [loss.total.item(), loss.policy, loss.value, loss.entropy]


def random_outputs(rollout: Rollout, seed: int, actions: int = 3) -> PolicyValue:
    """Logits and values of a rollout's T+1 rows, as leaves of the graph."""
    generator = torch.Generator().manual_seed(seed)
    rows = rollout.episode_start.shape
    logits = torch.randn(*rows, actions, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(*rows, generator=generator, dtype=torch.float64, requires_grad=True)
    return PolicyValue(logits, values)


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [e / sum(exponentials) for e in exponentials]


def slow_targets(rollout: Rollout, values, discount: float, lambda_: float):
    """R at every real transition, {(t, lane): R}, by a loop with an `if` for each way that a step can go on."""
    length, lanes = rollout.rewards.shape
    targets = {}
    for lane in range(lanes):
        following = None
        for t in reversed(range(length)):
            reward, next_value = rollout.rewards[t, lane].item(), values[t + 1][lane]
            if rollout.episode_start[t + 1, lane]:
                following = None  # the environment reset: no transition, and nothing passes through it
                continue
            if rollout.terminated[t, lane]:
                following = reward
            elif rollout.truncated[t, lane] or following is None:
                following = reward + discount * next_value
            else:
                following = reward + discount * ((1 - lambda_) * next_value + lambda_ * following)
            targets[t, lane] = following
    return targets


def slow_loss(outputs, rollout, *, discount, lambda_, entropy_coef, value_coef, reduction):
    """Total, policy, value and entropy term, one transition after another."""
    logits, values = outputs.policy.tolist(), outputs.values.tolist()
    targets = slow_targets(rollout, values, discount, lambda_)
    policy = value = entropy = 0.0
    for (t, lane), target in targets.items():
        probabilities = softmax(logits[t][lane])
        advantage = target - values[t][lane]
        policy -= math.log(probabilities[rollout.actions[t, lane].item()]) * advantage
        value += advantage**2
        entropy -= sum(p * math.log(p) for p in probabilities)
    count = len(targets) if reduction == "mean" else 1
    total = policy + value_coef * value - entropy_coef * entropy
    return [total / count, policy / count, value / count, entropy / count]


def slow_gradient(outputs, rollout, *, discount, lambda_, entropy_coef, value_coef, reduction):
    """∂L/∂logits and ∂L/∂V, from the formulas.

    -log π(a) A  gives  (π - 1_a) A;    c (R - V)²  gives  -2c (R - V);    -β H  gives  β π (log π + H).
    """
    logits, values = outputs.policy.tolist(), outputs.values.tolist()
    targets = slow_targets(rollout, values, discount, lambda_)
    logit_gradient, value_gradient = torch.zeros_like(outputs.policy), torch.zeros_like(outputs.values)
    for (t, lane), target in targets.items():
        probabilities = softmax(logits[t][lane])
        advantage = target - values[t][lane]
        entropy = -sum(p * math.log(p) for p in probabilities)
        for action, p in enumerate(probabilities):
            taken = float(action == rollout.actions[t, lane].item())
            logit_gradient[t, lane, action] = (p - taken) * advantage + entropy_coef * p * (math.log(p) + entropy)
        value_gradient[t, lane] = -2 * value_coef * advantage
    count = len(targets) if reduction == "mean" else 1
    return logit_gradient.detach() / count, value_gradient.detach() / count


def gradients(loss: Tensor, outputs: PolicyValue) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(outputs), allow_unused=True, materialize_grads=True, retain_graph=True)


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    st.sampled_from([0.0, 0.95, 1.0]),
    st.sampled_from(["sum", "mean"]),
)
@settings(max_examples=40)
def test_equals_the_slow_reference_with_its_gradient(seed, discount, lambda_, reduction):
    rollout = random_rollout(seed)
    outputs = random_outputs(rollout, seed)
    options = COEFFICIENTS | {"discount": discount, "lambda_": lambda_, "reduction": reduction}
    loss = loss_of(outputs, rollout, **options)
    expected = slow_loss(outputs, rollout, **options)
    assert numbers_of(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for ours, by_hand in zip(gradients(loss.total, outputs), slow_gradient(outputs, rollout, **options), strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-9, atol=1e-12)


def plain_loss(outputs, rollout, distribution, *, discount, lambda_, entropy_coef, value_coef, reduction) -> Tensor:
    """The total as a formula, its gradient left to autograd."""
    values, real = outputs.values, rollout.real
    targets = slow_targets(rollout, values.tolist(), discount, lambda_)
    returns = torch.zeros(real.shape, dtype=values.dtype)
    for place, target in targets.items():
        returns[place] = target
    advantages = (returns - values[:-1])[real]
    log_prob = distribution.log_prob(outputs.policy[:-1][real], rollout.actions[real])
    entropy = distribution.entropy(outputs.policy[:-1][real])
    terms = -log_prob * advantages.detach() + value_coef * advantages.square() - entropy_coef * entropy
    return terms.mean() if reduction == "mean" else terms.sum()


@pytest.mark.parametrize(
    "distribution",
    [
        Categorical(3),
        MultiCategorical((2, 3)),
        Bernoulli(2),
        Normal(2),
        TanhNormal(2),
        Composite((Categorical(2), Normal(1))),
    ],
    ids=repr,
)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_gradient_that_is_written_down_is_autograds(distribution, reduction):
    rollout = random_rollout(seed=11, length=8)
    rows = rollout.episode_start.shape
    generator = torch.Generator().manual_seed(11)
    parameters = torch.randn(*rows, distribution.parameter_count, generator=generator, dtype=torch.float64)
    values = torch.randn(*rows, generator=generator, dtype=torch.float64)
    outputs = PolicyValue(parameters.requires_grad_(), values.requires_grad_())
    rollout = replace(rollout, actions=distribution.sample(parameters[:-1].detach(), generator))
    options = COEFFICIENTS | {"reduction": reduction}
    ours = actor_critic_loss(outputs, rollout, rollout.rewards, distribution, **options).total
    plain = plain_loss(outputs, rollout, distribution, **options)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for written, found in zip(gradients(3 * ours, outputs), gradients(3 * plain, outputs), strict=True):
        torch.testing.assert_close(written, found, rtol=1e-12, atol=1e-12)


def test_by_hand():
    rollout = Rollout(
        observations=torch.zeros(3, 1, 1),
        actions=torch.tensor([[0], [1]]),
        rewards=torch.tensor([[1.0], [2.0]]),
        terminated=torch.tensor([[False], [False]]),
        truncated=torch.tensor([[False], [False]]),
        episode_start=torch.tensor([[True], [False], [False]]),
    )
    outputs = PolicyValue(torch.zeros(3, 1, 2), torch.tensor([[1.0], [2.0], [4.0]]))
    loss = loss_of(outputs, rollout, discount=0.5, lambda_=1.0, entropy_coef=0.1, value_coef=0.5, reduction="sum")
    # R_1 = 2 + 0.5 * 4 = 4, R_0 = 1 + 0.5 * 4 = 3; advantages 2 and 2; π = 1/2 throughout.
    assert loss.policy == pytest.approx(4 * math.log(2))
    assert loss.value == pytest.approx(8.0)
    assert loss.entropy == pytest.approx(2 * math.log(2))
    assert loss.total.item() == pytest.approx(4 * math.log(2) + 0.5 * 8 - 0.1 * 2 * math.log(2))


def test_the_sum_is_the_mean_times_the_real_transitions():
    rollout = random_rollout(seed=3, length=8)
    assert 0 < rollout.env_steps < rollout.real.numel()  # some rows are no transitions
    outputs = random_outputs(rollout, seed=0)
    total = loss_of(outputs, rollout, **COEFFICIENTS, reduction="sum")
    mean = loss_of(outputs, rollout, **COEFFICIENTS, reduction="mean")
    assert numbers_of(total) == pytest.approx([rollout.env_steps * term for term in numbers_of(mean)])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_total_is_made_of_its_parts(reduction):
    rollout = random_rollout(seed=1)
    loss = loss_of(random_outputs(rollout, 1), rollout, **COEFFICIENTS, reduction=reduction)
    assert loss.total.item() == pytest.approx(loss.policy + 0.5 * loss.value - 0.05 * loss.entropy)
    assert loss.terms() == {"policy_loss": loss.policy, "value_loss": loss.value, "entropy": loss.entropy}


def test_no_gradient_reaches_the_bootstrap_value():
    rollout = random_rollout(seed=2, end_probability=0.0)
    outputs = random_outputs(rollout, seed=2)
    loss = loss_of(outputs, rollout, **COEFFICIENTS, reduction="sum")
    logit_gradient, value_gradient = gradients(loss.total, outputs)
    assert value_gradient[-1].tolist() == [0.0] * 3
    assert logit_gradient[-1].abs().sum().item() == 0.0
    assert bool((value_gradient[:-1] != 0).all())  # while every other row learns


def test_the_policy_term_does_not_reach_the_value_head():
    rollout = random_rollout(seed=4)
    outputs = random_outputs(rollout, seed=4)
    options = COEFFICIENTS | {"value_coef": 0.0, "entropy_coef": 0.0}
    loss = loss_of(outputs, rollout, **options, reduction="sum")
    logit_gradient, value_gradient = gradients(loss.total, outputs)
    assert value_gradient.abs().max().item() == 0.0
    assert logit_gradient.abs().max().item() > 0.0


def test_the_entropy_bonus_raises_the_entropy():
    rollout = random_rollout(seed=5)
    outputs = random_outputs(rollout, seed=5)
    with_bonus, without = (
        loss_of(outputs, rollout, **(COEFFICIENTS | {"entropy_coef": beta}), reduction="sum") for beta in (1.0, 0.0)
    )
    bonus_gradient = gradients(with_bonus.total - without.total, outputs)[0]
    stepped = PolicyValue(outputs.policy - 0.01 * bonus_gradient, outputs.values)  # gradient descent
    after = loss_of(stepped, rollout, **COEFFICIENTS, reduction="sum")
    assert after.entropy > with_bonus.entropy


def two_episodes(end: str) -> Rollout:
    """Five rows of one lane: an episode of two steps, the row that merely resets, the next episode."""
    flag = torch.tensor([[False], [True], [False], [False], [False]])
    never = torch.zeros(5, 1, dtype=torch.bool)
    return Rollout(
        observations=torch.zeros(6, 1, 1),
        actions=torch.tensor([[0], [1], [0], [1], [1]]),
        rewards=torch.tensor([[1.0], [2.0], [0.0], [4.0], [5.0]], dtype=torch.float64),
        terminated=flag if end == "terminated" else never,
        truncated=flag if end == "truncated" else never,
        episode_start=torch.tensor([[True], [False], [False], [True], [False], [False]]),
    )


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_row_that_is_not_real_has_no_influence(end, poison):
    rollout = two_episodes(end)
    outputs = random_outputs(rollout, seed=6)
    clean = loss_of(outputs, rollout, **COEFFICIENTS, reduction="mean")
    clean_gradients = gradients(clean.total, outputs)

    poisoned_rewards = rollout.rewards.clone()
    poisoned_rewards[2] = poison
    logits, values = (output.detach().clone() for output in outputs)
    logits[2] = poison
    if end == "terminated":
        values[2] = poison  # after a time limit it is the bootstrap value
    poisoned_outputs = PolicyValue(logits.requires_grad_(), values.requires_grad_())
    poisoned = loss_of(poisoned_outputs, replace(rollout, rewards=poisoned_rewards), **COEFFICIENTS, reduction="mean")
    assert numbers_of(poisoned) == numbers_of(clean)
    for ours, expected in zip(gradients(poisoned.total, poisoned_outputs), clean_gradients, strict=True):
        assert torch.equal(ours, expected)


def test_an_action_of_a_row_that_is_not_real_has_no_influence():
    rollout = replace(two_episodes("terminated"), actions=torch.ones(5, 1, 2))
    values = torch.zeros(6, 1, requires_grad=True)
    outputs = PolicyValue(torch.zeros(6, 1, 4, requires_grad=True), values)
    rollout.actions[2] = math.nan
    loss = actor_critic_loss(outputs, rollout, rollout.rewards, Normal(2), **COEFFICIENTS, reduction="mean")
    assert all(map(math.isfinite, numbers_of(loss)))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(loss.total, outputs))


def test_a_time_limit_bootstraps_and_a_terminal_state_does_not():
    values = torch.tensor([[0.0], [0.0], [10.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    outputs = PolicyValue(torch.zeros(6, 1, 2, dtype=torch.float64), values)
    options = COEFFICIENTS | {"discount": 0.5, "lambda_": 1.0, "reduction": "sum"}
    value_losses = [loss_of(outputs, two_episodes(end), **options).value for end in ("terminated", "truncated")]
    second_episode = 6.5**2 + 5**2  # 4 + 0.5 * 5 and 5
    assert value_losses[0] == pytest.approx(2**2 + 2**2 + second_episode)  # 1 + 0.5 * 2 and 2
    assert value_losses[1] == pytest.approx(4.5**2 + 7**2 + second_episode)  # 2 + 0.5 * 10 = 7 and 1 + 0.5 * 7


def test_computes_where_the_model_is_and_in_its_dtype(monkeypatch):
    """A device that is not there: its tensors have no numbers, so what is fetched from it is made up."""
    monkeypatch.setattr(PolicyValue, "on_host", lambda both: [np.zeros(tensor.shape, np.float32) for tensor in both])
    rollout = random_rollout(seed=7, dtype=torch.float64)  # on the CPU, where environments live
    rows = rollout.episode_start.shape
    outputs = PolicyValue(
        torch.empty(*rows, 3, device="meta", requires_grad=True), torch.empty(rows, device="meta", requires_grad=True)
    )
    loss = loss_of(outputs, rollout, **COEFFICIENTS, reduction="mean")
    for tensor in (loss.total, *gradients(loss.total, outputs)):
        assert (tensor.device.type, tensor.dtype) == ("meta", torch.float32)
