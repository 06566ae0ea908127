"""Distributions over actions against torch.distributions, high precision, numeric integrals, and their own draws."""

from __future__ import annotations

import functools
import itertools
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor
from torch import distributions as reference

from a3c.core import distributions
from a3c.core.distributions import Bernoulli, Categorical, Composite, MultiCategorical, Normal, TanhNormal

float32, float64, int64 = torch.float32, torch.float64, torch.int64

NESTED = Composite((Categorical(3), Composite((Normal(1), MultiCategorical((2, 2)))), TanhNormal(1), Bernoulli(2)))
EVERY_ONE = [
    Categorical(4),
    MultiCategorical((2, 3)),
    Bernoulli(3),
    Normal(2),
    TanhNormal(2),
    Composite((Categorical(3), Normal(2))),
    NESTED,
]
LEADING = [(), (5,), (6, 5)]
DTYPES = [float32, float64]

every_one = pytest.mark.parametrize("distribution", EVERY_ONE, ids=repr)
leading_dims = pytest.mark.parametrize("leading", LEADING, ids=str)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_parameters(distribution, leading=(), dtype=float64, seed=0) -> Tensor:
    """Around 0 with unit spread, [*leading, D]."""
    return torch.randn(*leading, distribution.parameter_count, generator=stream(seed), dtype=dtype)


def gradient(value: Tensor, parameters: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), parameters, retain_graph=True)[0]


def leaf(parameters, dtype=float64) -> Tensor:
    return torch.as_tensor(parameters, dtype=dtype).detach().clone().requires_grad_()


# Gradients that are written down


def written(distribution, parameters: Tensor, actions: Tensor) -> list[Tensor]:
    """What `gradients`, by which the loss is taken, gives: log π(a), H, and how they change with the parameters."""
    own = actions.to(parameters.dtype) if actions.is_floating_point() else actions
    return [torch.as_tensor(each) for each in distribution.gradients(parameters.detach().numpy(), own.detach().numpy())]


@every_one
@leading_dims
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gradients_are_those_of_autograd(distribution, leading, scale):
    parameters = (scale * some_parameters(distribution, leading)).requires_grad_()
    actions = distribution.sample(parameters.detach(), stream(1))
    log_prob, entropy = distribution.log_prob(parameters, actions), distribution.entropy(parameters)
    found = [log_prob.detach(), entropy.detach(), gradient(log_prob, parameters), gradient(entropy, parameters)]
    torch.testing.assert_close(written(distribution, parameters, actions), found, rtol=1e-9, atol=1e-9)


@every_one
def test_gradients_are_of_the_parameters_kind(distribution):
    parameters = some_parameters(distribution, (6, 5), float32)
    actions = distribution.sample(parameters, stream(1))
    for array in distribution.gradients(parameters.numpy(), actions.numpy()):
        assert array.dtype == np.float32


def test_gradients_at_forbidden_choices_are_none():
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]])
    parameters = Categorical(4).masked(some_parameters(Categorical(4), (2,), float32), mask)
    _, entropy, of_log_prob, of_entropy = Categorical(4).gradients(parameters.numpy(), np.array([2, 1]))
    assert np.isfinite(entropy).all()
    assert of_log_prob[0, 1] == of_entropy[0, 1] == 0.0
    assert (of_log_prob[1] != 0).all()  # a row that forbids everything forbids nothing


# Against torch.distributions


def torch_log_prob(distribution, parameters: Tensor, actions: Tensor) -> Tensor:
    parts = torch_parts(distribution, parameters, actions)
    return torch.stack([part.log_prob(column) for part, column in parts]).sum(0)


def torch_entropy(distribution, parameters: Tensor) -> Tensor:
    no_actions = torch.zeros((*parameters.shape[:-1], *distribution.action_shape))
    return torch.stack([part.entropy() for part, _ in torch_parts(distribution, parameters, no_actions)]).sum(0)


def torch_mode(distribution, parameters: Tensor) -> Tensor:
    no_actions = torch.zeros((*parameters.shape[:-1], *distribution.action_shape))
    modes = [part.mode for part, _ in torch_parts(distribution, parameters, no_actions)]
    return torch.stack(modes, -1) if distribution.action_shape else modes[0]


def torch_parts(distribution, parameters, actions):
    """One of PyTorch's for each number of the action, with that number's column."""
    match distribution:
        case Categorical():
            return [(reference.Categorical(logits=parameters), actions)]
        case MultiCategorical(counts):
            each = [reference.Categorical(logits=logits) for logits in parameters.split(counts, -1)]
        case Bernoulli():
            each = [reference.Bernoulli(logits=logit, validate_args=False) for logit in parameters.unbind(-1)]
        case Normal(size):
            columns = parameters.unbind(-1)
            pairs = [(columns[k], columns[size + k].clamp(-10, 2).exp()) for k in range(size)]
            each = [reference.Normal(mean, std) for mean, std in pairs]
    return list(zip(each, actions.unbind(-1), strict=True))


KNOWN_TO_TORCH = [Categorical(4), Categorical(1), MultiCategorical((2, 3, 1)), Bernoulli(3), Normal(3)]

EXTREMES = [
    (Categorical(3), [1e4, -1e4, 0.0], 0),
    (Categorical(3), [1e4, -1e4, 0.0], 1),
    (Categorical(3), [-1e4, -1e4, -1e4], 2),
    (Categorical(3), [1e4, 1e4, 0.0], 1),
    (Categorical(3), [1e4 - 1, 1e4, -1e4], 0),
    (Categorical(3), [-1e4 - 1, -1e4, -1e4 - 2], 2),
    (MultiCategorical((2, 3)), [1e4, -1e4, -1e4, 1e4, 1e4], [1, 0]),
    (MultiCategorical((2, 3)), [1e4, 1e4, 0.5, -0.5, 1e4], [0, 2]),
    (MultiCategorical((2, 3)), [-1e4 - 1, -1e4, 1e4 - 2, 1e4, 1e4 - 1], [0, 1]),
    (Bernoulli(4), [1e4, 1e4, -1e4, -1e4], [1, 0, 1, 0]),
    (Bernoulli(2), [0.0, 700.0], [0, 0]),
    (Normal(2), [1e3, -1e3, 1.9, -9.9], [1e3 + 3, -1e3 + 1e-4]),
    (Normal(2), [1e3, -1e3, 7.0, -40.0], [900.0, -1e3]),
    (Normal(2), [1e3, 0.0, -40.0, -1e4], [-1e3, 1e3]),
    (Normal(1), [0.0, 1e4], [1e3]),
]


@leading_dims
@pytest.mark.parametrize("distribution", KNOWN_TO_TORCH, ids=repr)
def test_equals_torch_distributions_with_gradients(distribution, leading):
    for seed, scale in itertools.product(range(3), [0.1, 1.0, 5.0]):
        ours = leaf(scale * some_parameters(distribution, leading, seed=seed))
        theirs = leaf(ours)
        actions = distribution.sample(some_parameters(distribution, leading, seed=seed + 10), stream(seed))
        pairs = [
            (distribution.log_prob(ours, actions), torch_log_prob(distribution, theirs, actions.to(float64))),
            (distribution.entropy(ours), torch_entropy(distribution, theirs)),
        ]
        for our_value, their_value in pairs:
            assert our_value.shape == leading
            torch.testing.assert_close(our_value, their_value, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(gradient(our_value, ours), gradient(their_value, theirs), rtol=1e-9, atol=1e-11)
        mode = distribution.mode(ours)
        assert mode.shape == (*leading, *distribution.action_shape)
        assert torch.equal(mode, torch_mode(distribution, theirs).to(mode.dtype))


@pytest.mark.parametrize(("distribution", "parameters", "action"), EXTREMES, ids=str)
def test_equals_torch_distributions_at_extremes(distribution, parameters, action):
    ours, theirs = leaf(parameters), leaf(parameters)
    actions = torch.tensor(action, dtype=float64).to(distribution.action_dtype).to(float64)
    own = actions.to(int64) if distribution.action_dtype == int64 else actions
    pairs = [
        (distribution.log_prob(ours, own), torch_log_prob(distribution, theirs, actions)),
        (distribution.entropy(ours), torch_entropy(distribution, theirs)),
    ]
    for our_value, their_value in pairs:
        torch.testing.assert_close(our_value, their_value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient(our_value, ours), gradient(their_value, theirs), rtol=1e-9, atol=1e-9)
    values = [their_value for _, their_value in pairs]
    found = [*(value.detach() for value in values), *(gradient(value, theirs) for value in values)]
    torch.testing.assert_close(written(distribution, ours, own), found, rtol=1e-9, atol=1e-9)
    in_float32 = [each.to(float64) for each in written(distribution, ours.detach().float(), own)]
    torch.testing.assert_close(in_float32, found, rtol=1e-3, atol=1e-5)
    mode = torch_mode(distribution, theirs).nan_to_num(0)  # a bit as likely as not has none there
    for dtype in DTYPES:
        assert torch.equal(distribution.mode(ours.to(dtype)).to(mode.dtype), mode)


@both_dtypes
@pytest.mark.parametrize(("distribution", "parameters", "action"), EXTREMES, ids=str)
def test_finite_at_extremes_with_finite_gradients(distribution, parameters, action, dtype):
    parameters = leaf(parameters, dtype)
    actions = torch.tensor(action).to(distribution.action_dtype)
    for value in (distribution.log_prob(parameters, actions), distribution.entropy(parameters)):
        assert value.isfinite()
        assert gradient(value, parameters).isfinite().all()
    draws = distribution.sample(parameters.detach().expand(100, -1), stream())
    assert draws.isfinite().all()
    assert distribution.log_prob(parameters.expand(100, -1), draws).isfinite().all()
    assert all(each.isfinite().all() for each in written(distribution, parameters.expand(100, -1), draws))


@both_dtypes
@pytest.mark.parametrize("mean", [0.0, 1e-30, 20.0, -1e3, 1e3, 1e6])
@pytest.mark.parametrize("log_std", [-1e4, -10.0, 0.0, 2.0, 1e4])
def test_squashed_one_is_finite_at_extremes_with_finite_gradients(mean, log_std, dtype):
    distribution, parameters = TanhNormal(1), leaf([mean, log_std], dtype)
    draws = distribution.sample(parameters.detach().expand(100, -1), stream())
    for value in (distribution.log_prob(parameters, draws), distribution.entropy(parameters)):
        assert value.isfinite().all()
        assert gradient(value, parameters).isfinite().all()
    rows = parameters.detach().expand(100, -1)
    assert all(each.isfinite().all() for each in written(distribution, rows, draws))
    if dtype == float64:
        rows = leaf(rows)
        log_prob, entropy = distribution.log_prob(rows, draws), distribution.entropy(rows)
        found = [log_prob.detach(), entropy.detach(), gradient(log_prob, rows), gradient(entropy, rows)]
        torch.testing.assert_close(written(distribution, rows, draws), found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [Normal, TanhNormal])
@pytest.mark.parametrize(("log_std", "clipped"), [(-10.5, -10.0), (-1e4, -10.0), (2.5, 2.0), (1e4, 2.0)])
def test_log_std_is_clipped_and_gets_no_gradient_beyond(kind, log_std, clipped):
    beyond, at, action = leaf([0.3, log_std]), leaf([0.3, clipped]), torch.tensor([0.4])
    for function in (lambda p: kind(1).log_prob(p, action), kind(1).entropy, lambda p: kind(1).sample(p, stream())):
        torch.testing.assert_close(function(beyond), function(at), rtol=0, atol=0)
        assert gradient(function(beyond), beyond)[1] == 0
    inside = leaf([0.3, math.copysign(1, clipped)])
    assert gradient(kind(1).log_prob(inside, action), inside)[1] != 0


@pytest.mark.parametrize("logit", [-300.0, -40.0, -1.0, -1e-3, 0.0, 2.0, 30.0, 300.0])
def test_bits_keep_relative_accuracy_in_the_tails(logit):
    parameters = leaf([logit])
    with mpmath.workdps(400):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        entropy = float(-p * mpmath.log(p) - (1 - p) * mpmath.log(1 - p))
        slope = float(-mpmath.mpf(logit) * p * (1 - p))
        log_probs = [float(mpmath.log(1 - p)), float(mpmath.log(p))]
    value = Bernoulli(1).entropy(parameters)
    assert value.item() == pytest.approx(entropy, rel=1e-12, abs=0)
    assert gradient(value, parameters).item() == pytest.approx(slope, rel=1e-9, abs=0)
    for bit in (0, 1):
        log_prob = Bernoulli(1).log_prob(parameters, torch.tensor([bit])).item()
        assert log_prob == pytest.approx(log_probs[bit], rel=1e-12, abs=0)
        in_arrays = [each.item() for each in written(Bernoulli(1), parameters, torch.tensor([bit]))]
        assert in_arrays[:2] == pytest.approx([log_probs[bit], entropy], rel=1e-12, abs=0)
        assert in_arrays[3] == pytest.approx(slope, rel=1e-9, abs=0)


def test_by_hand():
    quarters = torch.tensor([math.log(1), math.log(3)])  # π = (1/4, 3/4)
    assert Categorical(2).log_prob(quarters, torch.tensor(1)).item() == pytest.approx(math.log(3 / 4))
    two = MultiCategorical((2, 2)).log_prob(torch.cat([quarters, quarters]), torch.tensor([0, 1]))
    assert two.item() == pytest.approx(math.log(3 / 16))
    bits = torch.tensor([math.log(3), 0.0])  # π(1) = 3/4, 1/2
    assert Bernoulli(2).log_prob(bits, torch.tensor([0, 1])).item() == pytest.approx(math.log(1 / 8))
    assert Bernoulli(2).mode(torch.tensor([0.1, -0.1])).tolist() == [1, 0]
    unit = torch.tensor([5.0, -5.0, 0.0, math.log(2)])
    away = Normal(2).log_prob(unit, torch.tensor([6.0, -5.0])).item()  # one standard deviation, and none
    assert away == pytest.approx(-1 / 2 - math.log(2) - math.log(2 * math.pi), rel=1e-6)
    assert TanhNormal(2).mode(unit).tolist() == [5.0, -5.0]


# Draws

DRAWS = 20_000


def fit_of_counts(draws: Tensor, probabilities: Tensor) -> float:
    """p of a chi-square test of choices [N] against their probabilities [A]; 0 for a choice that cannot be."""
    counts = torch.bincount(draws, minlength=len(probabilities))
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    possible = probabilities > 0
    if possible.sum() == 1:
        return 1.0  # each draw was the only choice that there is
    expected = probabilities[possible] / probabilities.sum() * len(draws)
    return stats.chisquare(counts[possible].numpy(), expected.numpy(), sum_check=False).pvalue


def fit_of_numbers(draws: Tensor, cdf) -> float:
    """p of a Kolmogorov-Smirnov test of numbers [N]."""
    return stats.kstest(draws.double().numpy(), cdf).pvalue


def as_one_choice(draws: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Actions [N, K] as choices [N] among all of their combinations."""
    index = torch.zeros(len(draws), dtype=int64)
    for column, count in zip(draws.unbind(-1), counts, strict=True):
        index = index * count + column
    return index


def probabilities_of_all(distribution, parameters: Tensor, actions: list) -> Tensor:
    rows = parameters.expand(len(actions), -1)
    return distribution.log_prob(rows, torch.tensor(actions)).exp().double()


@both_dtypes
@pytest.mark.parametrize(
    ("distribution", "parameters", "counts"),
    [
        (Categorical(4), [0.0, 1.0, -2.0, 0.5], (4,)),
        (Categorical(4), [1e4, 1e4, 1e4 - 1, -1e4], (4,)),
        (Categorical(2), [-1e4, -1e4 + 1], (2,)),
        (MultiCategorical((2, 3)), [0.0, 1.0, -1.0, 0.0, 0.5], (2, 3)),
        (MultiCategorical((2, 2)), [0.0, 0.0, 0.0, 0.0], (2, 2)),
        (MultiCategorical((2, 3)), [-1e4, -1e4 + 1, 1e4, -1e4, 1e4], (2, 3)),
        (MultiCategorical((3, 2, 2)), [1e4 - 1, -1e4, 1e4, -1e4, 1e4, -1e4, -1e4], (3, 2, 2)),
        (Bernoulli(3), [0.0, 1.0, -2.0], (2, 2, 2)),
        (Bernoulli(3), [1e4, -1e4, 0.5], (2, 2, 2)),
    ],
    ids=str,
)
def test_choices_are_drawn_as_their_probabilities_say(distribution, parameters, counts, dtype):
    parameters = torch.tensor(parameters, dtype=dtype)
    draws = distribution.sample(parameters.expand(DRAWS, -1), stream())
    draws = as_one_choice(draws.reshape(DRAWS, -1), counts)
    combinations = [list(each) for each in itertools.product(*map(range, counts))]
    actions = [row[0] for row in combinations] if not distribution.action_shape else combinations
    probabilities = probabilities_of_all(distribution, parameters, actions)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert fit_of_counts(draws, probabilities) > 1e-3
    skewed = probabilities.clone()
    skewed[probabilities.argmax()] *= 1.15
    assert fit_of_counts(draws, skewed) < 1e-3


def test_a_composite_is_drawn_as_each_of_its_parts_says_and_each_for_itself():
    # Categorical(3), Normal(1), MultiCategorical((2, 2)), TanhNormal(1), Bernoulli(2)
    given = [0.3, -0.5, 1.0, 0.7, -0.4, 0.2, -0.6, 1.0, 0.0, -0.2, -0.7, 0.4, -1.5]
    parameters = torch.tensor(given)
    draws = NESTED.sample(parameters.expand(DRAWS, -1), stream())  # [N, 7]
    parts = {
        "choice": (draws[:, 0], torch.softmax(parameters[:3], -1)),
        "first of two": (draws[:, 2], torch.softmax(parameters[5:7], -1)),
        "second of two": (draws[:, 3], torch.softmax(parameters[7:9], -1)),
        "first bit": (draws[:, 5], torch.tensor([1 - torch.sigmoid(parameters[11]), torch.sigmoid(parameters[11])])),
        "second bit": (draws[:, 6], torch.tensor([1 - torch.sigmoid(parameters[12]), torch.sigmoid(parameters[12])])),
    }
    for column, probabilities in parts.values():
        assert fit_of_counts(column.long(), probabilities.double()) > 1e-3
        skewed = probabilities.double()
        skewed[0] *= 1.15
        assert fit_of_counts(column.long(), skewed) < 1e-3
    number = stats.norm(0.7, math.exp(-0.4))
    inner = draws[:, 4].double()  # u, of which the environment is given tanh(u)
    squashed = stats.norm(-0.2, math.exp(-0.7))
    for column, law in ((draws[:, 1].double(), number), (inner, squashed)):
        assert fit_of_numbers(column, law.cdf) > 1e-3
        assert fit_of_numbers(column, stats.norm(law.mean() + 0.06 * law.std(), law.std()).cdf) < 1e-3
    # What is drawn for one part says nothing of another's.
    columns = torch.stack([draws[:, 0], draws[:, 1], draws[:, 2], draws[:, 3], inner, draws[:, 5], draws[:, 6]])
    correlations = torch.corrcoef(columns.double()) - torch.eye(7, dtype=float64)
    assert correlations.abs().max() < 5 / math.sqrt(DRAWS)


@both_dtypes
@pytest.mark.parametrize(
    "given",
    [
        [1e4, 1e4 - 1, -1e4, 1e3, 7.0, -1e4 + 1, -1e4, 1e4, 1e4, 0.0, -1e4, 1e4, 0.4],
        [-1e4, 1e4, 1e4, 0.0, -40.0, 1e4, -1e4, 1e4, 1e4 - 1, -1e3, 1e4, -1.5, -1e4],
    ],
    ids=["squashed narrow", "squashed wide"],
)
def test_a_composite_is_drawn_as_each_of_its_parts_says_at_extremes(given, dtype):
    parameters = torch.tensor(given, dtype=dtype)
    draws = NESTED.sample(parameters.expand(DRAWS, -1), stream()).double()  # [N, 7]
    logits, means, log_stds = parameters.double(), parameters[[3, 9]].double(), parameters[[4, 10]].double()
    choices = [logits[:3].softmax(-1), logits[5:7].softmax(-1), logits[7:9].softmax(-1)]
    choices += [torch.stack([bit, 1 - bit]) for bit in torch.sigmoid(-logits[11:])]
    together = functools.reduce(torch.kron, choices)
    drawn = as_one_choice(draws[:, [0, 2, 3, 5, 6]].long(), (3, 2, 2, 2, 2))
    assert fit_of_counts(drawn, together) > 1e-3
    skewed = together.clone()
    skewed[together.argmax()] *= 1.3
    assert fit_of_counts(drawn, skewed) < 1e-3
    normal = (draws[:, [1, 4]] - means) / log_stds.clamp(-10, 2).exp()
    for column in normal.unbind(-1):
        assert fit_of_numbers(column, stats.norm.cdf) > 1e-3
        assert fit_of_numbers(column, stats.norm(0, 1.1).cdf) < 1e-3
    draws[:, [1, 4]] = normal
    varied = draws.T[draws.std(0) > 0]
    correlations = torch.corrcoef(varied) - torch.eye(len(varied), dtype=float64)
    assert correlations.abs().max() < 5 / math.sqrt(DRAWS)


@both_dtypes
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1e3, 1.5), (-0.5, -3.0), (0.0, 7.0), (0.0, -1e4)])
def test_numbers_are_drawn_from_their_gaussian(mean, log_std, dtype):
    parameters = torch.tensor([mean, mean, log_std, log_std], dtype=dtype)
    draws = Normal(2).sample(parameters.expand(DRAWS, -1), stream())  # [N, 2]
    std = math.exp(min(max(log_std, -10), 2))
    together = (draws.double() - mean).sum(-1) / math.sqrt(2)  # of the same spread only where they are independent
    for column in (draws[:, 0].double() - mean, draws[:, 1].double() - mean, together):
        assert fit_of_numbers(column, stats.norm(0, std).cdf) > 1e-3
        assert fit_of_numbers(column, stats.norm(0.06 * std, std).cdf) < 1e-3
        assert fit_of_numbers(column, stats.norm(0, 1.1 * std).cdf) < 1e-3


def squashed_density(mean: float, log_std: float, action: float) -> float:
    """The density of a = tanh(u) that `log_prob` claims."""
    parameters = torch.tensor([mean, log_std], dtype=float64)
    return TanhNormal(1).log_prob(parameters, torch.tensor([math.atanh(action)], dtype=float64)).exp().item()


@pytest.mark.parametrize(
    ("mean", "log_std"), [(0.0, 0.0), (1.0, -1.0), (-0.3, 0.5), (0.2, -3.0), (3.0, 0.0), (-6.0, -0.5)]
)
def test_squashed_numbers_are_drawn_as_their_density_says(mean, log_std):
    parameters = torch.tensor([mean, log_std])
    draws = TanhNormal(1).sample(parameters.expand(DRAWS, -1), stream()).squeeze(-1).double().tanh()
    gaussian = stats.norm(mean, math.exp(log_std))

    def cdf(actions):
        return gaussian.cdf(torch.as_tensor(actions).atanh().numpy())

    assert fit_of_numbers(draws, cdf) > 1e-3
    assert fit_of_numbers(draws, gaussian.cdf) < 1e-3  # that of u, before the squashing

    edges = torch.as_tensor(gaussian.ppf([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])).tanh()
    bounds = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    masses = torch.tensor([integrate.quad(lambda a: squashed_density(mean, log_std, a), *bound)[0] for bound in bounds])
    assert masses.tolist() == pytest.approx([0.1, 0.15, 0.15, 0.15, 0.15, 0.1], abs=1e-6)
    inside = draws[(draws > edges[0]) & (draws < edges[-1])]
    bins = torch.bucketize(inside, edges) - 1
    assert fit_of_counts(bins, masses.double()) > 1e-3
    assert fit_of_counts(bins, masses.double().flip(0) ** 2) < 1e-3


@every_one
@both_dtypes
def test_same_seed_same_draws_and_the_global_stream_untouched(distribution, dtype):
    parameters = some_parameters(distribution, (50,), dtype)
    before, kept = torch.get_rng_state(), parameters.clone()
    first = distribution.sample(parameters, stream(1))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(5)
    assert torch.equal(distribution.sample(parameters, stream(1)), first)
    assert not torch.equal(distribution.sample(parameters, stream(2)), first)
    generator = stream(1)
    assert torch.equal(distribution.sample(parameters, generator), first)
    assert not torch.equal(distribution.sample(parameters, generator), first)  # it moved on
    assert torch.equal(parameters, kept)


# TanhNormal


@leading_dims
def test_squashed_log_prob_equals_torch_distributions(leading):
    distribution = TanhNormal(3)
    for seed in range(5):
        ours = leaf(some_parameters(distribution, leading, seed=seed).clamp(max=2))  # the greatest log std
        theirs = leaf(ours)
        u = torch.randn(*leading, 3, generator=stream(seed), dtype=float64)
        our_u, their_u = leaf(u), leaf(u)
        transform = reference.TanhTransform(cache_size=1)
        mean, log_std = theirs.chunk(2, -1)
        squashed = reference.TransformedDistribution(reference.Normal(mean, log_std.exp()), transform)
        our_value, their_value = distribution.log_prob(ours, our_u), squashed.log_prob(transform(their_u)).sum(-1)
        assert our_value.shape == leading
        torch.testing.assert_close(our_value, their_value, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(gradient(our_value, ours), gradient(their_value, theirs), rtol=1e-9, atol=1e-11)
        our_slope, their_slope = gradient(our_value, our_u), gradient(their_value, their_u)
        torch.testing.assert_close(our_slope, their_slope, rtol=1e-9, atol=1e-11)


def precise_log_prob(mean, log_std, u):
    mean, log_std, u = mpmath.mpf(mean), mpmath.mpf(log_std), mpmath.mpf(u)
    gaussian = -(((u - mean) * mpmath.exp(-log_std)) ** 2) / 2 - log_std - mpmath.log(2 * mpmath.pi) / 2
    return gaussian - mpmath.log(1 - mpmath.tanh(u) ** 2)


@pytest.mark.parametrize(("dtype", "close"), [(float64, 1e-8), (float32, 2e-6)], ids=str)
@pytest.mark.parametrize("u", [-300.0, -20.0, -11.0, -8.0, -0.5, 0.0, 1e-3, 2.0, 8.0, 11.0, 20.0, 300.0])
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.5, 2.0), (-8.0, -1.0), (20.0, 0.5)])
def test_squashed_log_prob_is_right_near_the_bounds(mean, log_std, u, dtype, close):
    parameters, action = leaf([mean, log_std], dtype), leaf([u], dtype)
    value = TanhNormal(1).log_prob(parameters, action)
    slopes = [*gradient(value, parameters).tolist(), gradient(value, action).item()]
    with mpmath.workdps(400):
        numbers = [mpmath.mpf(number) for number in (mean, log_std, u)]
        expected = float(precise_log_prob(*numbers))
        mean, log_std, u = numbers
        variance = mpmath.exp(2 * log_std)
        by_u = -(u - mean) / variance + 2 * mpmath.tanh(u)
        expected_slopes = [float((u - mean) / variance), float((u - mean) ** 2 / variance - 1), float(by_u)]
    assert value.item() == pytest.approx(expected, rel=close, abs=close)
    assert slopes == pytest.approx(expected_slopes, rel=close, abs=close)
    log_prob, _, of_log_prob, _ = written(TanhNormal(1), parameters, action)
    assert log_prob.item() == pytest.approx(expected, rel=close, abs=close)
    assert of_log_prob.tolist() == pytest.approx(expected_slopes[:2], rel=close, abs=close)


def test_slopes_of_the_precise_density_are_derivatives():
    """The closed forms that the test above relies on."""
    with mpmath.workdps(80):
        at = (mpmath.mpf("0.5"), mpmath.mpf("0.3"), mpmath.mpf(8))
        slopes = [mpmath.diff(precise_log_prob, at, order) for order in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]]
        z = (at[2] - at[0]) * mpmath.exp(-at[1])
        closed = [z * mpmath.exp(-at[1]), z**2 - 1, -z * mpmath.exp(-at[1]) + 2 * mpmath.tanh(at[2])]
        assert [float(s) for s in slopes] == pytest.approx([float(c) for c in closed], rel=1e-12)


def expected_under(function, mean: float, log_std: float) -> float:
    """E[function(u)] for u = mean + e^log_std z, by integrating over z."""
    std = math.exp(log_std)
    at_zero = [-mean / std] if abs(mean) < 12 * std else None  # where |u| has its kink

    def weighted(z):
        return function(mean + std * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return integrate.quad(weighted, -12, 12, points=at_zero, limit=400, epsabs=1e-11, epsrel=1e-11)[0]


def log_slope(u: float) -> float:
    return 2 * (math.log(2) - abs(u) - math.log1p(math.exp(-2 * abs(u))))


MEANS = [0.0, 1e-5, 1e-3, 0.01, 0.1, 0.3, 1.0, 2.5, 5.0, 10.0, 14.0, 30.0, 1e3]
LOG_STDS = [-10.0, -9.0, -8.0, -6.5, -5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]


@both_dtypes
@pytest.mark.parametrize("mean", MEANS)
def test_squashed_entropy_equals_the_integral(mean, dtype):
    close = {"rel": 1e-7 if dtype == float32 else 0, "abs": 1e-5}
    for log_std in LOG_STDS:
        gaussian = log_std + (1 + math.log(2 * math.pi)) / 2
        expected = gaussian + expected_under(log_slope, mean, log_std)
        for sign in (1, -1):
            parameters = torch.tensor([sign * mean, log_std], dtype=dtype)
            assert TanhNormal(1).entropy(parameters).item() == pytest.approx(expected, **close)
            assert written(TanhNormal(1), parameters, torch.zeros(1))[1].item() == pytest.approx(expected, **close)


@pytest.mark.parametrize("mean", MEANS)
def test_gradient_of_the_squashed_entropy_equals_the_integral(mean):
    for log_std in LOG_STDS:
        parameters = leaf([mean, log_std])
        by_mean, by_log_std = gradient(TanhNormal(1).entropy(parameters), parameters).tolist()
        expected_by_mean = expected_under(lambda u: -2 * math.tanh(u), mean, log_std)
        expected_by_log_std = 1 + expected_under(lambda u: -2 * math.tanh(u) * (u - mean), mean, log_std)
        # A fit to 1e-6 of values that vary over a width of e^log_std fixes slopes only to their ratio.
        assert by_mean == pytest.approx(expected_by_mean, abs=1e-5 if log_std >= -5 else 0.03)
        assert by_log_std == pytest.approx(expected_by_log_std, abs=1e-5)
        in_arrays = written(TanhNormal(1), parameters, torch.zeros(1))[3].tolist()
        assert in_arrays == pytest.approx([by_mean, by_log_std], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("log_std", [-9.9, -6.0, -2.0, 0.0, 1.9])
def test_gradient_of_the_squashed_entropy_equals_finite_differences(log_std):
    means = leaf([0.0, 0.01, 0.7, -3.0, 10.0])
    log_stds = leaf([log_std] * 5)

    def entropy(means, log_stds):
        return TanhNormal(5).entropy(torch.cat([means, log_stds]))

    assert torch.autograd.gradcheck(entropy, (means, log_stds), eps=1e-7, atol=1e-5, rtol=1e-5)


def test_squashed_entropy_is_the_mean_of_minus_log_prob():
    distribution, parameters = TanhNormal(2), torch.tensor([0.4, -1.0, 0.1, -0.7], dtype=float64)
    rows = parameters.expand(100_000, -1)
    terms = -distribution.log_prob(rows, distribution.sample(rows, stream()))
    error = terms.std().item() / math.sqrt(len(terms))
    assert terms.mean().item() == pytest.approx(distribution.entropy(parameters).item(), abs=4 * error)
    assert error < 0.005


def test_squashed_entropy_first_asked_for_in_inference_mode_can_be_trained_on():
    distributions._soft_corner.cache_clear()
    parameters = leaf([0.1, 0.2])
    with torch.inference_mode():
        before = TanhNormal(1).entropy(parameters).item()
    assert gradient(TanhNormal(1).entropy(parameters), parameters).isfinite().all()
    assert TanhNormal(1).entropy(parameters).item() == before


# Composite


@leading_dims
@both_dtypes
def test_composite_is_the_sum_of_its_parts(leading, dtype):
    parts = (Categorical(3), Normal(2), MultiCategorical((2, 2)), TanhNormal(1), Bernoulli(2))
    composite = Composite(parts)
    parameters = leaf(some_parameters(composite, leading), dtype)
    own = parameters.split([part.parameter_count for part in parts], -1)
    actions = composite.sample(parameters.detach(), stream())
    columns = actions.split([1, 2, 2, 1, 2], -1)
    log_probs = [
        parts[0].log_prob(own[0], columns[0].squeeze(-1).long()),
        parts[1].log_prob(own[1], columns[1].to(dtype)),
        parts[2].log_prob(own[2], columns[2].long()),
        parts[3].log_prob(own[3], columns[3].to(dtype)),
        parts[4].log_prob(own[4], columns[4].long()),
    ]
    entropies = [part.entropy(mine) for part, mine in zip(parts, own, strict=True)]
    pairs = [(composite.log_prob(parameters, actions), sum(log_probs)), (composite.entropy(parameters), sum(entropies))]
    for joined, summed in pairs:
        assert joined.shape == leading
        assert joined.dtype == dtype
        torch.testing.assert_close(joined, summed)
        torch.testing.assert_close(gradient(joined, parameters), gradient(summed, parameters))


@leading_dims
def test_nesting_changes_nothing(leading):
    flat = Composite((Categorical(3), Normal(1), MultiCategorical((2, 2)), TanhNormal(1), Bernoulli(2)))
    assert flat.parameter_count == NESTED.parameter_count == 3 + 2 + 4 + 2 + 2
    assert flat.action_shape == NESTED.action_shape == (1 + 1 + 2 + 1 + 2,)
    assert flat.mask_size == NESTED.mask_size == 3 + 4
    parameters = some_parameters(flat, leading)
    actions = flat.sample(parameters, stream(3))
    assert torch.equal(NESTED.sample(parameters, stream(3)), actions)
    assert torch.equal(NESTED.mode(parameters), flat.mode(parameters))
    torch.testing.assert_close(NESTED.log_prob(parameters, actions), flat.log_prob(parameters, actions))
    torch.testing.assert_close(NESTED.entropy(parameters), flat.entropy(parameters))
    mask = torch.rand(*leading, 7, generator=stream()) < 0.5
    assert torch.equal(NESTED.masked(parameters, mask), flat.masked(parameters, mask))


def test_columns_are_in_the_order_of_the_parts():
    composite = Composite((Categorical(3), Normal(2), Composite((Bernoulli(2), Categorical(4))), TanhNormal(1)))
    logits_of_2, means, logits_of_0_and_1 = [0.0, 0.0, 9.0], [0.5, -0.25], [-9.0, 9.0]
    logits_of_3, mean = [0.0, 0.0, 0.0, 9.0], [0.125]
    own = [logits_of_2, means, [0.0, 0.0], logits_of_0_and_1, logits_of_3, mean, [-1.0]]
    parameters = torch.tensor(list(itertools.chain(*own)))
    assert composite.mode(parameters).tolist() == [2, 0.5, -0.25, 0, 1, 3, 0.125]


INTEGERS = Composite((Categorical(3), MultiCategorical((2, 2)), Bernoulli(1)))
NUMBERS = Composite((Normal(1), TanhNormal(2)))


@leading_dims
@both_dtypes
@pytest.mark.parametrize(
    ("distribution", "action_dtype"),
    [
        (Categorical(4), int64),
        (MultiCategorical((2, 3)), int64),
        (Bernoulli(3), int64),
        (Normal(2), float32),
        (TanhNormal(2), float32),
        (INTEGERS, int64),
        (NUMBERS, float32),
        (Composite((INTEGERS,)), int64),
        (Composite((NUMBERS, Normal(1))), float32),
        (Composite((Categorical(3), Normal(1))), float64),
        (Composite((INTEGERS, NUMBERS)), float64),
        (Composite((Composite((INTEGERS, NUMBERS)), Normal(1))), float64),
        (Composite((Composite((INTEGERS, NUMBERS)), Categorical(2))), float64),
    ],
    ids=str,
)
def test_shapes_and_dtypes(distribution, action_dtype, leading, dtype):
    parameters = some_parameters(distribution, leading, dtype)
    assert distribution.action_dtype == action_dtype
    drawn_dtype = dtype if action_dtype == float32 else action_dtype
    for actions in (distribution.sample(parameters, stream()), distribution.mode(parameters)):
        assert actions.shape == (*leading, *distribution.action_shape)
        assert actions.dtype == drawn_dtype
        kept = actions.to(distribution.action_dtype)  # as a rollout holds them
        log_prob = distribution.log_prob(parameters, kept)
        assert (log_prob.shape, log_prob.dtype) == (leading, dtype)
        torch.testing.assert_close(log_prob, distribution.log_prob(parameters, actions), rtol=1e-4, atol=1e-4)
    entropy = distribution.entropy(parameters)
    assert (entropy.shape, entropy.dtype) == (leading, dtype)
    masked = distribution.masked(parameters, torch.ones(*leading, distribution.mask_size, dtype=torch.bool))
    assert masked.dtype == dtype
    assert torch.equal(masked, parameters)


@dataclass(frozen=True)
class Fixed:
    """Always the whole number `number`, whatever its one parameter; log π is 0 for it and -1 for others."""

    number: int
    parameter_count = 1
    action_shape = ()
    action_dtype = int64
    mask_size = 0

    def log_prob(self, parameters, actions):
        assert actions.dtype == int64
        return (actions == self.number).to(parameters.dtype) - 1

    def entropy(self, parameters):
        return torch.zeros_like(parameters[..., 0])

    def sample(self, parameters, generator):
        return self.mode(parameters)

    def mode(self, parameters):
        return torch.full(parameters.shape[:-1], self.number, dtype=int64)

    def masked(self, parameters, mask):
        return parameters


@pytest.mark.parametrize("number", [2**24 + 1, 2**31 - 1, 2**53 - 1, 2**53, -(2**53) + 1])
@pytest.mark.parametrize("depth", [1, 2, 3])
@both_dtypes
def test_whole_numbers_survive_beside_fractions(number, depth, dtype):
    composite, gaussians = Composite((Fixed(number), Normal(1))), 1
    for _ in range(depth - 1):
        composite, gaussians = Composite((composite, Normal(1))), gaussians + 1
    assert composite.action_dtype == float64
    parameters = torch.zeros(4, 1 + 2 * gaussians, dtype=dtype)
    actions = composite.mode(parameters)
    assert actions[:, 0].long().tolist() == [number] * 4
    at_the_mode = Normal(gaussians).log_prob(torch.zeros(2 * gaussians), torch.zeros(gaussians)).item()
    assert composite.log_prob(parameters, actions).tolist() == pytest.approx([at_the_mode] * 4, rel=1e-6)
    actions[:, 0] -= math.copysign(1, number)
    assert composite.log_prob(parameters, actions).tolist() == pytest.approx([at_the_mode - 1] * 4, rel=1e-6)


def test_numbers_of_a_mixture_come_back_as_drawn():
    composite = Composite((Categorical(3), Normal(2)))
    parameters = some_parameters(composite, (100,), float32)
    actions = composite.sample(parameters, stream())
    assert torch.equal(actions.float().double(), actions)  # float64 holds float32 exactly
    parts = Categorical(3).log_prob(parameters[:, :3], actions[:, 0].long())
    parts = parts + Normal(2).log_prob(parameters[:, 3:], actions[:, 1:].float())
    assert torch.equal(composite.log_prob(parameters, actions), parts)


# Masks

MASK_DTYPES = [torch.bool, torch.int8]
both_mask_dtypes = pytest.mark.parametrize("mask_dtype", MASK_DTYPES, ids=str)

MASKED_COMPOSITE = Composite((Normal(1), Composite((Categorical(3), Bernoulli(1))), MultiCategorical((2, 3))))


@dataclass(frozen=True)
class MaskedCase:
    """A distribution with a mask, and where in parameters and action its choices are."""

    distribution: object
    mask: tuple[int, ...]
    parameters_at: tuple[int, ...]  # of each entry of the mask
    choices: tuple[tuple[int, ...], ...]  # entries of the mask, choice by choice
    columns: tuple[int, ...]  # of each choice

    def forbidden(self) -> list[tuple[int, int, int]]:
        """(parameter, column, value) of each forbidden one; an all-false choice forbids nothing."""
        found = []
        for entries, column in zip(self.choices, self.columns, strict=True):
            if any(self.mask[entry] for entry in entries):
                found += [
                    (self.parameters_at[entry], column, value)
                    for value, entry in enumerate(entries)
                    if not self.mask[entry]
                ]
        return found

    def contested(self) -> list[int]:
        """The parameters of allowed choices that have a rival."""
        banned = {at for at, _, _ in self.forbidden()}
        allowed = [[at for e in entries if (at := self.parameters_at[e]) not in banned] for entries in self.choices]
        return [at for each in allowed if len(each) > 1 for at in each]


MASKED_CASES = [
    MaskedCase(Categorical(5), (1, 0, 1, 0, 1), tuple(range(5)), (tuple(range(5)),), (0,)),
    MaskedCase(Categorical(3), (0, 0, 1), (0, 1, 2), ((0, 1, 2),), (0,)),
    MaskedCase(Categorical(3), (0, 0, 0), (0, 1, 2), ((0, 1, 2),), (0,)),
    MaskedCase(MultiCategorical((2, 3)), (0, 1, 1, 1, 0), tuple(range(5)), ((0, 1), (2, 3, 4)), (0, 1)),
    MaskedCase(MultiCategorical((2, 3)), (0, 0, 0, 1, 0), tuple(range(5)), ((0, 1), (2, 3, 4)), (0, 1)),
    MaskedCase(
        MASKED_COMPOSITE,
        (1, 0, 1, 1, 0, 0, 1, 1),
        (2, 3, 4, 6, 7, 8, 9, 10),
        ((0, 1, 2), (3, 4), (5, 6, 7)),
        (1, 3, 4),
    ),
    MaskedCase(
        MASKED_COMPOSITE,
        (0, 0, 0, 0, 1, 1, 0, 0),
        (2, 3, 4, 6, 7, 8, 9, 10),
        ((0, 1, 2), (3, 4), (5, 6, 7)),
        (1, 3, 4),
    ),
]

masked_cases = pytest.mark.parametrize("case", MASKED_CASES, ids=lambda case: f"{case.distribution}-{case.mask}")


def case_parameters(case: MaskedCase, dtype, kind: str) -> Tensor:
    """Ordinary ones, or allowed logits at ±1e4 with the forbidden ones far above them."""
    parameters = some_parameters(case.distribution, (), dtype)
    if kind == "extreme":
        for i, at in enumerate(case.parameters_at):
            parameters[at] = -1e4 if i % 3 else 1e4
        for at, _, _ in case.forbidden():
            parameters[at] = 1e4
    return parameters


def as_rows(distribution, actions: Tensor) -> Tensor:
    """Actions [N, K], also of one number."""
    return actions if distribution.action_shape else actions.unsqueeze(-1)


@masked_cases
@both_dtypes
@both_mask_dtypes
@pytest.mark.parametrize("kind", ["ordinary", "extreme"])
def test_forbidden_choices_are_never_drawn_nor_played(case, dtype, mask_dtype, kind):
    mask = torch.tensor(case.mask, dtype=mask_dtype)
    parameters = case.distribution.masked(case_parameters(case, dtype, kind), mask)
    draws = as_rows(case.distribution, case.distribution.sample(parameters.expand(100_000, -1), stream()))
    mode = as_rows(case.distribution, case.distribution.mode(parameters.unsqueeze(0)))
    for _, column, value in case.forbidden():
        assert not (draws[:, column] == value).any()
        assert mode[0, column] != value
    if kind == "ordinary":
        banned = {(column, value) for _, column, value in case.forbidden()}
        for entries, column in zip(case.choices, case.columns, strict=True):
            allowed = [value for value in range(len(entries)) if (column, value) not in banned]
            drawn = draws[:, column].long()
            assert set(drawn.tolist()) == set(allowed)
            # Among the allowed ones by their own logits.
            logits = parameters[[case.parameters_at[entries[value]] for value in allowed]].double()
            probabilities = torch.zeros(len(entries), dtype=float64)
            probabilities[allowed] = torch.softmax(logits, -1)
            assert fit_of_counts(drawn, probabilities) > 1e-4


@masked_cases
@both_dtypes
@both_mask_dtypes
@pytest.mark.parametrize("kind", ["ordinary", "extreme"])
def test_forbidden_choices_have_probability_0_and_get_no_gradient(case, dtype, mask_dtype, kind):
    distribution = case.distribution
    logits = leaf(case_parameters(case, dtype, kind), dtype)
    parameters = distribution.masked(logits, torch.tensor(case.mask, dtype=mask_dtype))
    action = distribution.mode(parameters).detach()
    forbidden = case.forbidden()
    for _, column, value in forbidden:
        other = action.clone()
        other.reshape(-1)[column] = value
        assert distribution.log_prob(parameters, other).exp() == 0

    draws = distribution.sample(parameters.detach().expand(50, -1), stream())
    for value in (
        distribution.log_prob(parameters, action),
        distribution.log_prob(parameters.expand(50, -1), draws),
        distribution.entropy(parameters),
    ):
        assert value.isfinite().all()
        slopes = gradient(value, logits)
        assert slopes.isfinite().all()
        for at, _, _ in forbidden:
            assert slopes[at] == 0
    _, _, *in_arrays = written(distribution, parameters.expand(50, -1), draws)
    for slopes in in_arrays:
        assert slopes.isfinite().all()
        assert all((slopes[:, at] == 0).all() for at, _, _ in forbidden)
    if kind == "ordinary":
        assert all(gradient(distribution.entropy(parameters), logits)[at] != 0 for at in case.contested())
        assert all((in_arrays[1][:, at] != 0).all() for at in case.contested())


@masked_cases
@both_dtypes
@both_mask_dtypes
@pytest.mark.parametrize("kind", ["ordinary", "extreme"])
def test_masked_entropy_is_that_of_the_allowed_ones(case, dtype, mask_dtype, kind):
    distribution, logits = case.distribution, case_parameters(case, dtype, kind)
    parameters = distribution.masked(logits, torch.tensor(case.mask, dtype=mask_dtype))
    entropy = distribution.entropy(parameters)
    banned = {at for at, _, _ in case.forbidden()}
    expected = 0.0
    for entries in case.choices:
        allowed = [case.parameters_at[entry] for entry in entries if case.parameters_at[entry] not in banned]
        expected += reference.Categorical(logits=logits[allowed].double()).entropy().item()
    if distribution is MASKED_COMPOSITE:
        expected += Normal(1).entropy(logits[:2]).item() + Bernoulli(1).entropy(logits[5:6]).item()
    assert entropy.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    in_arrays = written(distribution, parameters, distribution.mode(parameters))[1]
    assert in_arrays.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@masked_cases
@both_dtypes
@leading_dims
def test_masking_keeps_the_rest_and_again_changes_nothing(case, dtype, leading):
    distribution = case.distribution
    parameters = some_parameters(distribution, leading, dtype)
    kept = parameters.clone()
    masks = [torch.tensor(case.mask, dtype=of).expand(*leading, -1) for of in MASK_DTYPES]
    once = distribution.masked(parameters, masks[0])
    assert once.shape == parameters.shape
    assert torch.equal(parameters, kept)
    assert torch.equal(distribution.masked(parameters, masks[1]), once)
    assert torch.equal(distribution.masked(once, masks[0]), once)
    banned = [at for at, _, _ in case.forbidden()]
    others = [at for at in range(distribution.parameter_count) if at not in banned]
    assert torch.equal(once[..., others], parameters[..., others])


@both_mask_dtypes
@both_dtypes
@pytest.mark.parametrize(
    ("distribution", "empty"),
    [(Categorical(4), [slice(0, 4)]), (MultiCategorical((2, 3)), [slice(0, 2), slice(2, 5)])],
    ids=str,
)
def test_a_row_that_forbids_everything_forbids_nothing(distribution, empty, dtype, mask_dtype):
    logits = leaf([[1e4, -1e4, 0.3, -0.2, 1.0][: distribution.parameter_count]] * 3, dtype)
    mask = torch.ones(3, distribution.mask_size, dtype=mask_dtype)
    mask[1] = 0  # one row among others
    for part in empty:
        mask[2, part] = 0
    masked = distribution.masked(logits, mask)
    assert torch.equal(masked, logits)
    actions = distribution.sample(masked.detach(), stream())
    unmasked = leaf(logits, dtype)
    for function in (lambda p: distribution.log_prob(p, actions), distribution.entropy):
        value = function(masked)
        assert value.isfinite().all()
        assert gradient(value, logits).isfinite().all()
        assert torch.equal(gradient(value, logits), gradient(function(unmasked), unmasked))


@both_dtypes
@pytest.mark.parametrize("logit", [-1e6, -1e12, -1e20])
def test_forbidden_choices_stay_out_of_reach_however_low_the_others(logit, dtype):
    logits = leaf([logit, 1e4, logit], dtype)
    masked = Categorical(3).masked(logits, torch.tensor([True, False, True]))
    probabilities = Categorical(3).log_prob(masked.expand(3, -1), torch.arange(3)).exp()
    assert probabilities.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=1e-6)
    assert probabilities[1] == 0
    assert Categorical(3).entropy(masked).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("distribution", [Bernoulli(3), Normal(2), TanhNormal(2)], ids=repr)
def test_bits_and_numbers_take_no_mask(distribution):
    parameters = some_parameters(distribution, (5,))
    assert distribution.mask_size == 0
    assert torch.equal(distribution.masked(parameters, torch.zeros(5, 0, dtype=torch.bool)), parameters)


def masked_rows(limit: float):
    """Rows of (logit, allowed)."""
    return st.lists(st.tuples(st.floats(-limit, limit, width=32), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=150)
@given(masked_rows(30.0) | masked_rows(1e4), st.sampled_from(DTYPES), st.sampled_from(MASK_DTYPES), st.data())
def test_any_mask_on_any_logits(row, dtype, mask_dtype, data):
    logits = leaf([logit for logit, _ in row], dtype)
    mask = torch.tensor([allowed for _, allowed in row], dtype=mask_dtype)
    count = len(row)
    allowed = [i for i, (_, is_allowed) in enumerate(row) if is_allowed] or list(range(count))
    forbidden = [i for i in range(count) if i not in allowed]
    distribution = Categorical(count)
    masked = distribution.masked(logits, mask)

    probabilities = distribution.log_prob(masked.expand(count, -1), torch.arange(count)).exp()
    among = torch.softmax(logits[allowed].double(), -1)
    assert (probabilities[forbidden] == 0).all()
    # float32 rounds logits of 1e4, and so their differences, by about 1e-3.
    close = {"rtol": 1e-2, "atol": 1e-5} if dtype == float32 else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(probabilities[allowed].double(), among, **close)
    entropy, expected = distribution.entropy(masked), reference.Categorical(logits=logits[allowed].double()).entropy()
    torch.testing.assert_close(entropy.double(), expected, **close)

    action = torch.tensor(data.draw(st.sampled_from(allowed)))
    for value in (distribution.log_prob(masked, action), entropy):
        slopes = gradient(value, logits)
        assert value.isfinite()
        assert slopes.isfinite().all()
        assert (slopes[forbidden] == 0).all()
    assert torch.equal(distribution.masked(masked, mask), masked)
    assert set(distribution.sample(masked.detach().expand(200, -1), stream()).tolist()) <= set(allowed)
    assert int(distribution.mode(masked)) in allowed

    twice = MultiCategorical((count, count))
    pair = twice.masked(torch.cat([logits, logits]), torch.cat([mask, torch.zeros_like(mask)]))
    assert torch.equal(pair, torch.cat([masked, logits]))


# Leading dimensions, and values


@every_one
@both_dtypes
@pytest.mark.parametrize("leading", LEADING[1:], ids=str)
def test_rows_do_not_mix(distribution, leading, dtype):
    parameters = some_parameters(distribution, leading, dtype)
    actions = distribution.sample(some_parameters(distribution, leading, dtype, seed=1), stream())
    mask = torch.rand(*leading, distribution.mask_size, generator=stream()) < 0.5
    log_prob, entropy = distribution.log_prob(parameters, actions), distribution.entropy(parameters)
    mode, masked = distribution.mode(parameters), distribution.masked(parameters, mask)
    for at in itertools.product(*map(range, leading)):
        torch.testing.assert_close(distribution.log_prob(parameters[at], actions[at]), log_prob[at])
        torch.testing.assert_close(distribution.entropy(parameters[at]), entropy[at])
        assert torch.equal(distribution.mode(parameters[at]), mode[at])
        assert torch.equal(distribution.masked(parameters[at], mask[at]), masked[at])


@every_one
def test_rows_are_drawn_apart_and_one_can_be_drawn_alone(distribution):
    parameters = some_parameters(distribution).expand(6, 5, -1)
    rows = as_rows(distribution, distribution.sample(parameters, stream())).flatten(0, 1)
    assert len(rows.unique(dim=0)) > 1
    assert distribution.sample(parameters[0, 0], stream()).shape == distribution.action_shape


@every_one
def test_parameters_that_are_not_contiguous_count_the_same(distribution):
    parameters = some_parameters(distribution, (5, 6))
    turned = parameters.transpose(0, 1).contiguous().transpose(0, 1)
    actions = distribution.sample(parameters, stream())
    assert not turned.is_contiguous()
    torch.testing.assert_close(distribution.log_prob(turned, actions), distribution.log_prob(parameters, actions))
    torch.testing.assert_close(distribution.entropy(turned), distribution.entropy(parameters))
    assert torch.equal(distribution.mode(turned), distribution.mode(parameters))


@every_one
def test_is_a_value(distribution):
    again = pickle.loads(pickle.dumps(distribution))
    assert again == distribution
    assert again is not distribution
    assert hash(again) == hash(distribution)
    assert repr(again) == repr(distribution)
    assert eval(repr(distribution)) == distribution
    assert {distribution: 1}[again] == 1
    assert sum(other == distribution for other in EVERY_ONE) == 1
    with pytest.raises(FrozenInstanceError):
        distribution.size = 7
    parameters = some_parameters(distribution, (5,))
    assert torch.equal(again.sample(parameters, stream()), distribution.sample(parameters, stream()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Normal(2), TanhNormal(2)),
        (Bernoulli(2), Normal(2)),
        (Bernoulli(2), Categorical(2)),
        (Categorical(2), Categorical(3)),
        (MultiCategorical((2, 3)), MultiCategorical((3, 2))),
        (Composite((Normal(1), Categorical(2))), Composite((Categorical(2), Normal(1)))),
        (Composite((Normal(1),)), Composite((TanhNormal(1),))),
        (Composite((Normal(1),)), Composite((Composite((Normal(1),)),))),
    ],
    ids=str,
)
def test_differ_as_values(one, other):
    assert one != other
    assert other != one


@pytest.mark.parametrize(
    ("distribution", "parameter_count", "action_shape", "mask_size"),
    [
        (Categorical(4), 4, (), 4),
        (MultiCategorical((2, 3)), 5, (2,), 5),
        (Bernoulli(3), 3, (3,), 0),
        (Normal(2), 4, (2,), 0),
        (TanhNormal(2), 4, (2,), 0),
        (Composite((Categorical(3), Normal(2))), 7, (3,), 3),
        (NESTED, 13, (7,), 7),
    ],
    ids=str,
)
def test_counts(distribution, parameter_count, action_shape, mask_size):
    assert distribution.parameter_count == parameter_count
    assert distribution.action_shape == action_shape
    assert distribution.mask_size == mask_size
