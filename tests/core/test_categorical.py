"""The categorical distribution against torch.distributions, at its edges, and as a sampler."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical

from a3c.core import categorical

logit_rows = st.integers(2, 6).flatmap(
    lambda count: st.lists(st.lists(st.floats(-30, 30), min_size=count, max_size=count), min_size=1, max_size=4)
)


@given(logit_rows, st.data())
@settings(max_examples=60)
def test_equals_torch_distributions_with_its_gradients(rows, data):
    actions = torch.tensor([data.draw(st.integers(0, len(row) - 1)) for row in rows])
    ours = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    distribution = Categorical(logits=theirs)
    pairs = [
        (categorical.log_prob(ours, actions), distribution.log_prob(actions)),
        (categorical.entropy(ours), distribution.entropy()),
    ]
    for our_value, their_value in pairs:
        torch.testing.assert_close(our_value, their_value, rtol=1e-9, atol=1e-12)
        (our_gradient,) = torch.autograd.grad(our_value.sum(), ours, retain_graph=True)
        (their_gradient,) = torch.autograd.grad(their_value.sum(), theirs, retain_graph=True)
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-9, atol=1e-12)


def test_log_prob_by_hand():
    logits = torch.tensor([[math.log(1), math.log(3)], [math.log(6), math.log(2)]])  # π = (1/4, 3/4), (3/4, 1/4)
    actions = torch.tensor([1, 1])
    assert categorical.log_prob(logits, actions).tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 4)])


def test_log_prob_keeps_all_leading_dimensions():
    logits, actions = torch.randn(4, 3, 5), torch.zeros(4, 3, dtype=torch.int64)
    assert categorical.log_prob(logits, actions).shape == (4, 3)
    assert categorical.entropy(logits).shape == (4, 3)
    assert categorical.sample(logits, torch.Generator()).shape == (4, 3)


@pytest.mark.parametrize("actions", [1, 2, 7])
def test_entropy_of_equal_logits_is_log_a(actions):
    assert categorical.entropy(torch.full((actions,), 3.0)).item() == pytest.approx(math.log(actions), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "logits",
    [
        [1e4, -1e4],
        [-1e4, 1e4],
        [1e4, 1e4, -1e4],
        [-1e4, -1e4, -1e4],
        [1e4, 0.0, -1e4],
    ],
)
def test_entropy_is_finite_where_probabilities_vanish(logits, dtype):
    logits = torch.tensor(logits, dtype=dtype, requires_grad=True)
    entropy = categorical.entropy(logits)
    (gradient,) = torch.autograd.grad(entropy, logits)
    at_the_top = int((logits == logits.max()).sum())
    assert entropy.item() == pytest.approx(math.log(at_the_top), abs=1e-3)
    assert bool(gradient.isfinite().all())
    log_probs = categorical.log_prob(logits.expand(len(logits), -1), torch.arange(len(logits)))
    assert bool(log_probs.isfinite().all())


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6).filter(lambda row: max(row) - min(row) > 0.1))
@settings(max_examples=60)
def test_a_step_along_the_gradient_raises_the_entropy(row):
    logits = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    before = categorical.entropy(logits)
    (gradient,) = torch.autograd.grad(before, logits)
    after = categorical.entropy(logits.detach() + 1e-3 * gradient / gradient.norm())
    assert after.item() > before.item()
    assert gradient[logits.argmax()].item() < 0 < gradient[logits.argmin()].item()


def test_samples_fit_the_distribution():
    probabilities = torch.tensor([0.05, 0.15, 0.3, 0.5])
    draws = 20_000
    actions = categorical.sample(probabilities.log().expand(draws, 4), torch.Generator().manual_seed(0))
    observed = torch.bincount(actions, minlength=4)
    expected = probabilities * draws
    chi_square = ((observed - expected).square() / expected).sum().item()
    assert chi_square < 16.27  # the 0.999 quantile at 3 degrees of freedom
    assert observed.sum() == draws


def test_lanes_are_drawn_independently():
    draws = 20_000
    pairs = categorical.sample(torch.zeros(draws, 2, 2), torch.Generator().manual_seed(0))  # two fair coins
    observed = torch.bincount(2 * pairs[:, 0] + pairs[:, 1], minlength=4)
    expected = draws / 4
    assert ((observed - expected).square() / expected).sum().item() < 16.27


def test_samples_repeat_with_the_generator_and_ignore_the_global_stream():
    logits = torch.zeros(50, 3)
    first = categorical.sample(logits, torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(categorical.sample(logits, torch.Generator().manual_seed(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(categorical.sample(logits, torch.Generator().manual_seed(2)), first)


def test_sampling_leaves_the_logits_alone_and_takes_extreme_ones():
    logits = torch.tensor([[1e4, -1e4, 0.0]]).expand(100, 3).clone()
    before = logits.clone()
    assert categorical.sample(logits, torch.Generator().manual_seed(0)).tolist() == [0] * 100
    assert torch.equal(logits, before)


def test_mode_is_the_most_probable_action_and_the_lowest_among_equals():
    assert categorical.mode(torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 5.0, 5.0]])).tolist() == [1, 0, 1]
