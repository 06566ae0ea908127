"""The cheap acting pass beside the plain one."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import special, stats

from a3c.core import moments
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import Network
from a3c.models.numpy_acting import NumpyPolicy, acting_policy

VECTOR, TABLE = spaces.Box(-np.inf, np.inf, (5,), np.float64), spaces.Box(-9, 9, (2, 3))
CHOICE, ARM = spaces.Discrete(4, start=2), spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (3, 8, 9), np.uint8)
MANY = 20_000

SUITED = {
    "choices": PolicySpec(VECTOR, CHOICE),
    "numbers": PolicySpec(VECTOR, ARM),
    "squashed": PolicySpec(VECTOR, ARM, "tanh"),
    "spread of the network": PolicySpec(VECTOR, ARM, network=Network(log_std="network")),
    "gsde": PolicySpec(VECTOR, ARM, network=Network(log_std="gsde", initial_log_std=-0.5)),
    "gsde, squashed": PolicySpec(VECTOR, ARM, "tanh", Network(log_std="gsde", initial_log_std=3.0)),
    "relu, separate": PolicySpec(TABLE, CHOICE, network=Network(activation="relu", separate_torsos=True)),
    "linear": PolicySpec(VECTOR, ARM, network=Network(hidden_sizes=(), initial_log_std=-1.0)),
    "bits": PolicySpec(spaces.MultiBinary(4), CHOICE),
    "integers": PolicySpec(spaces.Box(-9, 9, (3,), np.int64), CHOICE),
    "deep": PolicySpec(spaces.Box(-9, 9, (2, 1, 2, 1, 2)), CHOICE),
    "normalised": PolicySpec(VECTOR, CHOICE, normalisation=Normalisation(True, True)),
    "normalised, a table": PolicySpec(TABLE, ARM, normalisation=Normalisation(True, True)),
    "image": PolicySpec(IMAGE, CHOICE),
    "image, normalised": PolicySpec(IMAGE, ARM, normalisation=Normalisation(True, True)),
}
UNSUITED = {
    "memory": PolicySpec(VECTOR, CHOICE, network=Network(memory="gru")),
    "residual blocks": PolicySpec(spaces.Box(0, 255, (8, 8, 3), np.uint8), CHOICE, network=Network("impala")),
    "image among others": PolicySpec(spaces.Dict({"a": VECTOR, "b": IMAGE}), CHOICE),
    "parts": PolicySpec(spaces.Dict({"a": VECTOR}), CHOICE),
    "masked": PolicySpec(spaces.Dict({"a": VECTOR, "action_mask": spaces.Box(0, 1, (4,), np.int8)}), CHOICE),
    "category": PolicySpec(spaces.Discrete(3), CHOICE),
    "several choices": PolicySpec(VECTOR, spaces.MultiDiscrete([2, 3])),
    "elu": PolicySpec(VECTOR, CHOICE, network=Network(activation="elu")),
}


def built(spec: PolicySpec, seed: int = 0):
    """A network with weights and moments that are not those of the beginning."""
    model = spec.build(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    model.flat.add_(torch.randn(model.flat.shape, generator=generator), alpha=0.1)
    if model.normaliser.tracked:
        samples = 3 + 2 * torch.randn(50, model.normaliser.tracked, generator=generator, dtype=torch.float64)
        model.normaliser.load(moments.of(samples))
    return model


def observations(spec: PolicySpec, rows: int) -> np.ndarray:
    space = spec.observation_space
    low, high = (0, 256) if space.dtype.kind == "u" else (-9, 9)
    return np.random.default_rng(0).integers(low, high, (rows, *space.shape)).astype(space.dtype)


@pytest.mark.parametrize("name", SUITED)
def test_the_policy_is_the_same(name):
    model = built(SUITED[name])
    rows = np.repeat(observations(SUITED[name], 2), MANY, 0)  # two observations, many times each
    acting = acting_policy(model, seed=1)
    assert isinstance(acting, NumpyPolicy)
    actions, state = acting(rows, None, np.zeros(len(rows), np.bool_))
    plain, _ = ActingPolicy(model, seed=1)(rows, None, np.zeros(len(rows), np.bool_))
    assert state is None
    assert (actions.dtype, actions.shape) == (plain.dtype, plain.shape)
    for half in (slice(0, MANY), slice(MANY, None)):
        parameters = model.policy(torch.from_numpy(rows[half][:1]), None, torch.zeros(1, dtype=torch.bool)).parameters
        if isinstance(SUITED[name].action_space, spaces.Discrete):
            expected = MANY * torch.softmax(parameters[0].double(), 0).detach().numpy()
            seen = np.bincount(actions[half], minlength=4)
            common = expected > 5
            assert abs(seen[~common] - expected[~common]).sum() < 30
            share = expected[common] / expected[common].sum()
            assert stats.chisquare(seen[common], share * seen[common].sum()).pvalue > 1e-4
        else:
            mean, log_std = parameters[0].detach().double().numpy().reshape(2, 3)
            normal = (actions[half] - mean) / np.exp(np.clip(log_std, -10, 2))
            assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in normal.T)


@pytest.mark.parametrize("name", UNSUITED)
def test_what_it_does_not_suit_is_left_to_the_plain_one(name):
    model = UNSUITED[name].build()
    assert not NumpyPolicy.suits(model)
    assert isinstance(acting_policy(model, seed=0), ActingPolicy)


def test_it_follows_the_parameters_and_the_moments():
    spec = SUITED["normalised"]
    model, other = built(spec), built(spec, seed=7)
    rows = observations(spec, 200)
    acting = NumpyPolicy(model, seed=3)
    acting(rows, None, np.zeros(200, np.bool_))
    model.flat.copy_(other.flat)  # as a pull does
    model.normaliser.load(other.normaliser.moments)
    again = NumpyPolicy(other, seed=3)
    again(rows, None, np.zeros(200, np.bool_))
    np.testing.assert_array_equal(*(policy(rows, None, np.zeros(200, np.bool_))[0] for policy in (acting, again)))


@pytest.mark.parametrize("name", ["numbers", "choices"])
def test_a_seed_repeats_its_actions(name):
    model, rows = built(SUITED[name]), observations(SUITED[name], 30)
    one, same, other = (NumpyPolicy(model, seed)(rows, None, np.zeros(30, np.bool_))[0] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_steps_are_drawn_apart_and_lanes_may_change():
    spec = SUITED["choices"]
    model, acting = built(spec), NumpyPolicy(built(spec), seed=1)
    lanes = [40] * 50 + [7] * 50 + [40] * 50  # noise is drawn for some steps at a time
    steps = [acting(np.repeat(observations(spec, 1), n, 0), None, np.zeros(n, np.bool_))[0] for n in lanes]
    assert len({tuple(actions) for actions in steps if len(actions) == 40}) == 100
    row = torch.from_numpy(observations(spec, 1))
    probabilities = torch.softmax(model.policy(row, None, torch.zeros(1, dtype=torch.bool)).parameters[0].double(), 0)
    seen = np.bincount(np.concatenate(steps), minlength=4)
    assert stats.chisquare(seen, seen.sum() * probabilities.detach().numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", SUITED)
def test_what_is_not_finite_comes_out_without_a_warning(name):
    model, rows = built(SUITED[name]), observations(SUITED[name], 3)
    model.flat[::2] = np.inf
    model.flat[1::2] = -np.inf
    acting_policy(model, seed=0)(rows, None, np.ones(3, np.bool_))


# At extremes

FORBIDDEN = -1e30  # as a mask makes them
EITHER_WAY = pytest.mark.parametrize("way", [NumpyPolicy, ActingPolicy])


def with_outputs(spec: PolicySpec, outputs):
    """A network whose policy head puts these out, whatever it is given."""
    model = spec.build(seed=0)
    with torch.no_grad():
        model.policy_head.linear.weight.zero_()
        model.policy_head.linear.bias.copy_(torch.tensor(outputs))
    return model


def draws(policy, rows: int = MANY) -> np.ndarray:
    return policy(np.ones((rows, 5), np.float64), None, np.zeros(rows, np.bool_))[0]


@EITHER_WAY
@pytest.mark.parametrize(
    "logits",
    [
        [1e4, -1e4, 1e4, 1e4],
        [-1e4, -1e4, -1e4, -1e4],
        [-1e4, 1e4, -1e4, 0.0],
        [1e4, 1e4 - 1, -1e4, 1e4 - 2],
        [-1e4, -1e4 - 1, -1e4 - 2, -1e4],
        [FORBIDDEN, 0.0, 0.0, 1.0],
        [FORBIDDEN, -1e4, FORBIDDEN, -1e4],
        [FORBIDDEN, 1e4, -1e4, FORBIDDEN],
    ],
    ids=str,
)
def test_extreme_logits_draw_equals_equally_and_nothing_impossible(way, logits):
    policy = way(with_outputs(SUITED["choices"], logits), seed=1)
    seen = sum(np.bincount(draws(policy), minlength=4) for _ in range(5))
    shares = special.softmax(logits)
    possible = shares > 0
    assert seen.sum() == 5 * MANY
    assert not seen[~possible].any()
    if possible.sum() > 1:
        assert stats.chisquare(seen[possible], seen.sum() * shares[possible]).pvalue > 1e-3
        skewed = shares[possible]
        skewed[0] *= 1.05
        assert stats.chisquare(seen[possible], seen.sum() * skewed / skewed.sum()).pvalue < 1e-3


def test_a_forbidden_action_stays_so_whatever_noise_is_drawn():
    class Zeros:
        def standard_exponential(self, shape, dtype):
            return np.zeros(shape, dtype)  # whose Gumbel noise would be infinite

    policy = NumpyPolicy(with_outputs(SUITED["choices"], [FORBIDDEN, 0.0, 1.0, FORBIDDEN]), seed=1)
    policy.random = Zeros()
    assert draws(policy, 3).tolist() == [2, 2, 2]


def assert_gaussian(normal: np.ndarray) -> None:
    """Columns [N, 3] of independent standard normal numbers."""
    for column in (*normal.T, normal.sum(1) / 3**0.5):
        assert stats.kstest(column, "norm").pvalue > 1e-3
        assert stats.kstest(column, stats.norm(0, 1.1).cdf).pvalue < 1e-3


@pytest.mark.parametrize(("source", "bounding"), [("parameter", "clip"), ("network", "tanh")])
@pytest.mark.parametrize(
    ("log_std", "clipped"), [(-1e4, -10.0), (-10.5, -10.0), (-9.5, -9.5), (1.5, 1.5), (2.5, 2.0), (1e4, 2.0)]
)
def test_numbers_are_drawn_as_wide_as_their_clipped_deviations(source, bounding, log_std, clipped):
    mean = [0.0, 1e3, -1e3] if clipped > 0 else [0.0, 1e-3, -1e-3]
    spec = PolicySpec(VECTOR, ARM, bounding, Network(log_std=source))
    model = with_outputs(spec, mean + [log_std] * 3 * (source == "network"))
    if source == "parameter":
        with torch.no_grad():
            model.policy_head.log_std.fill_(log_std)
    assert_gaussian((draws(NumpyPolicy(model, seed=1)) - np.array(mean)) / np.exp(clipped))


@EITHER_WAY
@pytest.mark.parametrize(
    ("mean", "log_std", "clipped"),
    [
        ([0.0, 1.0, -1.0], [-4.0, -3.0, -1.0], [False] * 3),
        ([0.0, 1e3, -1e3], [3.0, 5.0, 20.0], [True] * 3),
        ([1e3, 1.0, -1e3], [5.0, -4.0, 0.0], [True, False, False]),
    ],
    ids=str,
)
def test_smooth_exploration_is_drawn_as_wide_as_its_density_says(way, mean, log_std, clipped):
    model = with_outputs(PolicySpec(VECTOR, ARM, network=Network(hidden_sizes=(8,), log_std="gsde")), mean)
    with torch.no_grad():  # each deviation its own
        model.policy_head.log_std.copy_(torch.tensor(log_std) + torch.linspace(-1, 1, 8)[:, None])
    of_density = model.policy_value(torch.ones(5)).policy[3:].double().detach().numpy()
    assert (of_density > 2).tolist() == clipped
    assert_gaussian((draws(way(model, seed=1)) - np.array(mean)) / np.exp(np.minimum(of_density, 2)))
