"""The policy head: where log standard deviations stand and come from, and exploration that is smooth."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from a3c.core.distributions import Bernoulli, Categorical, Composite, MultiCategorical, Normal, TanhNormal
from a3c.errors import UsageError
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.heads import PolicyHead
from a3c.models.numpy_acting import NumpyPolicy

# The log standard deviations' columns among the distribution's parameters.
COLUMNS = [
    (Normal(2), [2, 3]),
    (TanhNormal(1), [1]),
    (Categorical(3), []),
    (Composite((Categorical(2), Normal(2), Bernoulli(1), TanhNormal(1))), [4, 5, 8]),
    (Composite((Normal(1), MultiCategorical((2, 2)))), [1]),
    (Composite((Composite((Categorical(2), Normal(1))), Normal(1))), [3, 5]),
    (Composite((Bernoulli(2),)), []),
]


def head_of(distribution, log_std="parameter", features=4, initial_log_std=-0.5, seed=0):
    torch.manual_seed(seed)
    return PolicyHead(features, distribution, log_std=log_std, initial_log_std=initial_log_std)


@pytest.mark.parametrize(("distribution", "columns"), COLUMNS)
def test_parameters_of_their_own_stand_in_their_columns(distribution, columns):
    head = head_of(distribution)
    others = [column for column in range(distribution.parameter_count) if column not in columns]
    features = torch.randn(6, 5, 4)
    parameters = head(features)
    assert parameters.shape == (6, 5, distribution.parameter_count)
    assert torch.equal(parameters[..., others], head.linear(features))
    assert (parameters[..., columns] == -0.5).all()
    assert head.linear.out_features == len(others)
    if columns:
        with torch.no_grad():
            head.log_std.copy_(torch.arange(len(columns)) + 10.0)
        assert head(features)[2, 3, columns].tolist() == [10.0 + i for i in range(len(columns))]


@pytest.mark.parametrize(("distribution", "columns"), COLUMNS)
def test_a_network_puts_out_all_of_them_and_begins_at_the_initial_ones(distribution, columns):
    head = head_of(distribution, "network")
    assert head.log_std is None
    assert head.linear.out_features == distribution.parameter_count
    bias = torch.zeros(distribution.parameter_count)
    bias[columns] = -0.5
    assert torch.equal(head.linear.bias, bias)
    features = torch.randn(6, 5, 4)
    assert torch.equal(head(features), head.linear(features))
    if columns:
        assert head(features)[..., columns].std() > 0


@pytest.mark.parametrize("distribution", [Normal(3), TanhNormal(3)])
def test_gsde_parameters_by_hand(distribution):
    head = head_of(distribution, "gsde", features=4)
    assert head.log_std.shape == (4, 3)
    features = torch.tensor([1.0, -2.0, 0.5, 0.0])
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([[0.1, 0.2, 0.3]] * 4) + torch.arange(4).unsqueeze(1))
    parameters = head(features)
    assert torch.equal(parameters[:3], head.linear(features))
    variance = (features.square().unsqueeze(1) * (2 * head.log_std).exp()).sum(0)
    torch.testing.assert_close((2 * parameters[3:]).exp(), variance + 1e-6)


@pytest.mark.parametrize("log_std", ["parameter", "network", "gsde"])
def test_a_whole_number_is_as_good_as_a_fraction(log_std):
    whole, fraction = head_of(Normal(2), log_std, initial_log_std=1), head_of(Normal(2), log_std, initial_log_std=1.0)
    assert torch.equal(whole(torch.ones(4)), fraction(torch.ones(4)))


def test_the_conversion_from_stable_baselines3():
    """There σ itself is exp(log_std_init)."""
    head = head_of(Normal(2), "gsde", features=64, initial_log_std=-2.0 + math.log(64) / 2)
    torch.testing.assert_close(head.log_std.detach(), torch.full((64, 2), -2.0))


def test_gsde_begins_with_the_initial_deviation_for_features_of_mean_square_1():
    head = head_of(Normal(2), "gsde", features=64, initial_log_std=-0.7)
    features = torch.randn(64)
    features /= features.square().mean().sqrt()
    torch.testing.assert_close(head(features)[2:], torch.tensor([-0.7, -0.7]), rtol=0, atol=1e-5)
    assert head(torch.zeros(64))[2:].isfinite().all()  # all features may be 0


def test_gsde_sends_no_gradient_to_the_features_through_the_variance():
    head, features = head_of(Normal(2), "gsde"), torch.randn(5, 4, requires_grad=True)
    parameters = head(features)
    log_std, mean = parameters[:, 2:].sum(), parameters[:, :2].sum()
    (to_features,) = torch.autograd.grad(log_std, features, retain_graph=True)
    assert not to_features.any()
    (to_features,) = torch.autograd.grad(mean, features, retain_graph=True)
    assert (to_features != 0).all()
    (to_deviations,) = torch.autograd.grad(log_std, head.log_std)
    assert (to_deviations > 0).all()


@pytest.mark.parametrize("distribution", [Categorical(2), Composite((Normal(2),)), Bernoulli(2)])
def test_gsde_wants_one_gaussian(distribution):
    with pytest.raises(UsageError, match="--log-std gsde is for actions that are one Box"):
        head_of(distribution, "gsde")


# Acting with it.

EITHER_WAY = pytest.mark.parametrize("acting", [ActingPolicy, NumpyPolicy])


def gsde_model(kind=Normal, features=6, **options) -> ActorCritic:
    torch.manual_seed(0)
    space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    model = ActorCritic(space, kind(2), Network(hidden_sizes=(features,), log_std="gsde", **options))
    with torch.no_grad():  # each deviation its own
        model.policy_head.log_std.copy_(torch.linspace(-1.5, 0.3, 2 * features).reshape(features, 2))
        model.policy_head.linear.weight.mul_(50)
    return model


def act(policy, observation, starts=None):
    starts = np.zeros(len(observation), np.bool_) if starts is None else np.array(starts)
    return policy(observation, None, starts)[0]


@pytest.mark.parametrize("kind", [Normal, TanhNormal])
@EITHER_WAY
def test_fresh_noise_has_the_mean_and_variance_that_the_parameters_say(acting, kind):
    model, count = gsde_model(kind), 20_000
    observation = np.array([0.5, -1.0, 2.0], np.float32)
    policy = acting(model, seed=0, noise_steps=1)
    first = np.concatenate([act(policy, np.tile(observation, (count // 4, 1))) for _ in range(4)])
    with torch.no_grad():
        parameters = model.policy_value(torch.from_numpy(observation)).policy.numpy()
    mean, std = parameters[:2], np.exp(parameters[2:])
    assert np.abs(mean).min() > 0.05
    # The standard error of a mean is σ/√n, of a standard deviation σ/√(2n).
    assert np.abs(first.mean(0) - mean).max() < 4 * std.max() / math.sqrt(count)
    assert np.abs(first.std(0) / std - 1).max() < 4 / math.sqrt(2 * count)
    standard = (first - mean) / std
    assert np.abs((standard**4).mean(0) - 3).max() < 4 * math.sqrt(96 / count)  # Gaussian, not merely as wide
    assert abs((standard[:, 0] * standard[:, 1]).mean()) < 4 / math.sqrt(count)


@EITHER_WAY
def test_noise_is_a_function_of_the_state_until_it_is_drawn_anew(acting):
    model, noise_steps = gsde_model(), 3
    policy = acting(model, seed=0, noise_steps=noise_steps)
    random = np.random.default_rng(0)
    here, there = (random.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    steps = [act(policy, observation) for observation in (here, there, here, here, here, there, here)]
    assert np.array_equal(steps[0], steps[2])  # steps 0 to 2 share their noise
    assert np.array_equal(steps[3], steps[4])  # 3 to 5, too
    assert not np.array_equal(steps[0], steps[1])
    for other in (steps[3], steps[6]):
        assert (steps[0] != other).all()
    assert (steps[3] != steps[6]).all()


def test_noise_is_no_wider_than_its_density_says():
    head = head_of(Normal(2), "gsde", features=3, initial_log_std=4.0)
    features = torch.tensor([[0.5, -2.0, 1.0]])
    log_std = Normal(2)._read(head(features))[1]
    assert (log_std == 2.0).all()  # the greatest that there is
    noise = head.noise(features.expand(20_000, 3), torch.randn(20_000, 3, 2))
    torch.testing.assert_close(noise.std(0), log_std[0].exp(), rtol=0.03, atol=0)


@EITHER_WAY
def test_lanes_have_noise_of_their_own(acting):
    policy = acting(gsde_model(), seed=0, noise_steps=100)
    one, other = act(policy, np.ones((2, 3), np.float32))
    assert (one != other).all()


@EITHER_WAY
def test_an_episode_begins_with_fresh_noise_in_its_lane_only(acting):
    policy = acting(gsde_model(), seed=0, noise_steps=100)
    observation = np.ones((3, 3), np.float32)
    first = act(policy, observation, [True, True, True])
    second = act(policy, observation, [False, True, False])
    third = act(policy, observation)
    assert np.array_equal(first[[0, 2]], second[[0, 2]])
    assert (first[1] != second[1]).all()
    assert np.array_equal(second, third)


def test_the_mode_takes_no_noise():
    model = gsde_model()
    policy = ActingPolicy(model, seed=0, deterministic=True)
    observation = np.ones((3, 3), np.float32)
    expected = model.policy_value(torch.from_numpy(observation)).policy[:, :2].detach().numpy()
    np.testing.assert_allclose(act(policy, observation), expected, rtol=1e-5)


@pytest.mark.parametrize("memory", [None, "lstm"])
def test_noise_comes_from_the_features_before_the_head(memory):
    model = gsde_model(memory=memory, memory_size=6)
    observation = torch.randn(4, 3)
    acting = model.policy(observation, None, torch.ones(4, dtype=torch.bool))
    assert torch.equal(model.policy_head(acting.features), acting.parameters)


def test_all_deviations_are_learned():
    model = gsde_model()
    parameters = model.policy_value(torch.randn(7, 3)).policy
    actions = model.distribution.sample(parameters.detach(), torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(
        model.distribution.log_prob(parameters, actions).sum(), [model.policy_head.log_std]
    )
    assert (gradient != 0).all()
