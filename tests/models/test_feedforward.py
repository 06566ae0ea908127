"""The network's passes, written down, beside torch's."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_numpy_acting import UNSUITED
from torch import nn

from a3c.core import moments
from a3c.core.distributions import Categorical, Normal, TanhNormal
from a3c.core.flat import flat_gradient
from a3c.core.losses import actor_critic_loss
from a3c.core.normalisation import Normaliser
from a3c.core.optimizers import RMSProp
from a3c.models.actor_critic import ActorCritic, Network
from a3c.models.feedforward import Feedforward
from a3c.models.layers import Convolution, Linear, has_known_layers
from a3c.models.numpy_acting import NumpyPolicy
from a3c.spaces.images import buffer_of, image_unit
from a3c.types import PolicyValue
from random_rollout import random_rollout

VECTOR, TABLE = spaces.Box(-np.inf, np.inf, (5,), np.float64), spaces.Box(-9, 9, (2, 3))
NETWORKS = {
    "shared": Network(separate_torsos=False),
    "separate": Network(separate_torsos=True),
    "relu": Network(activation="relu", separate_torsos=True, hidden_sizes=(7, 6, 5)),
    "linear": Network(hidden_sizes=()),
    "spread of the network": Network(log_std="network"),
    "smooth": Network(log_std="gsde"),
    "smooth, of features that may be 0": Network(log_std="gsde", activation="relu", separate_torsos=True),
    "one layer": Network(hidden_sizes=(4,), initial_log_std=-1.0),
}
SUITED = [
    (name, distribution)
    for name, network in NETWORKS.items()
    for distribution in (Normal(2), TanhNormal(3), Categorical(4))
    if network.log_std != "gsde" or isinstance(distribution, Normal)
]


def built(network: Network, space=VECTOR, distribution=None, normalise=False, dtype=torch.float64) -> ActorCritic:
    size = int(np.prod(space.shape))
    normaliser = Normaliser({"": size} if normalise else None)
    torch.manual_seed(0)
    model = ActorCritic(space, distribution or Normal(2), network, normaliser=normaliser, dtype=dtype)
    model.flat.add_(torch.randn(model.flat.shape, dtype=dtype), alpha=0.2)
    if normalise:
        normaliser.load(moments.of(3 + 2 * torch.randn(50, size, dtype=torch.float64)))
    return model


def passed(model: ActorCritic, observations: torch.Tensor, fast: bool):
    """Outputs and the gradient of a number made of them, by either way."""
    if not fast:
        model = copy.deepcopy(model)  # whose memory is another
        assert model.feedforward is None
    policy, values = model.policy_value(observations)
    weights = torch.linspace(-1, 2, policy.numel(), dtype=policy.dtype).reshape(policy.shape)
    number = (weights * policy).sum() + (values**2).sum()
    return policy.detach(), values.detach(), flat_gradient(number, model)


@pytest.mark.parametrize(("name", "distribution"), SUITED, ids=repr)
@pytest.mark.parametrize("normalise", [False, True])
def test_both_passes_equal_torchs(name, distribution, normalise):
    model = built(NETWORKS[name], distribution=distribution, normalise=normalise)
    observations = torch.randn(4, 3, 5, dtype=torch.float64)
    for ours, torchs in zip(*(passed(model, observations, fast) for fast in (True, False)), strict=True):
        assert ours.shape == torchs.shape
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)


# Images

GREY, COLOURS = spaces.Box(0, 255, (9, 8), np.uint8), spaces.Box(0, 255, (10, 9, 3), np.uint8)
SCREENS, STACK = spaces.Box(0, 255, (4, 40, 44), np.uint8), spaces.Box(0, 255, (2, 37, 36, 3), np.uint8)
PICTURE_NETWORKS = {
    "grey": (GREY, Network(), Categorical(4)),
    "colours, apart": (COLOURS, Network(separate_torsos=True), Categorical(3)),
    "screens": (SCREENS, Network("a3c"), Categorical(4)),
    "screens, three layers": (SCREENS, Network("nature"), Normal(2)),
    "frames stacked": (STACK, Network("a3c", separate_torsos=True), TanhNormal(3)),
    "frames first": (spaces.Box(0, 255, (2, 3, 37, 36), np.uint8), Network("a3c"), Categorical(3)),
    "bits": (spaces.Box(0, 1, (10, 10, 4), np.bool_), Network(log_std="network"), Normal(2)),
    "numbers": (spaces.Box(-1, 1, (8, 8, 2), np.float64), Network(), Categorical(3)),
    "numbers up to 255": (spaces.Box(0, 255, (8, 8, 2), np.float32), Network(), Categorical(3)),
    "smooth": (COLOURS, Network(log_std="gsde"), Normal(2)),
}
PICTURES = [(name, normalise) for name in PICTURE_NETWORKS for normalise in (False, True)]


def with_pictures(name: str, normalise: bool, dtype=torch.float64):
    """A network and its space."""
    space, network, distribution = PICTURE_NETWORKS[name]
    torch.manual_seed(0)
    normaliser = Normaliser(image_units={"": image_unit(space)} if normalise else None)
    model = ActorCritic(space, distribution, network, normaliser=normaliser, dtype=dtype)
    model.flat.add_(torch.randn(model.flat.shape, dtype=dtype), alpha=0.02)
    if normalise:
        normaliser.load(torch.tensor([[50.0], [0.4], [3.0]], dtype=torch.float64))
    assert model.feedforward is not None
    return model, space


def pictures(space: spaces.Box, seed: int, *lead: int) -> np.ndarray:
    """As they lie in an actor's buffer."""
    buffer, generator = buffer_of(space, lead), np.random.default_rng(seed)
    whole = space.dtype.kind != "f"
    drawn = (
        generator.integers(0, 256, buffer.shape) if whole else generator.uniform(space.low, space.high, buffer.shape)
    )
    buffer[...] = drawn % 2 if space.dtype.kind == "b" else drawn
    return buffer


@pytest.mark.parametrize(("name", "normalise"), PICTURES, ids=str)
@pytest.mark.parametrize("in_a_buffer", [True, False])
def test_the_passes_of_images_equal_torchs(name, normalise, in_a_buffer):
    model, space = with_pictures(name, normalise)
    images = pictures(space, 1, 3, 2)
    images = torch.from_numpy(images if in_a_buffer else images.copy(order="C"))
    for ours, torchs in zip(*(passed(model, images, fast) for fast in (True, False)), strict=True):
        assert ours.shape == torchs.shape
        assert torchs.abs().max() > 1e-3
        torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "normalise"), PICTURES, ids=str)
def test_the_chain_rule_of_images_is_taken_directly(autograds, name, normalise):
    model, space = with_pictures(name, normalise)
    rollout, generator = random_rollout(1), torch.Generator().manual_seed(1)
    rollout = replace(rollout, observations=torch.from_numpy(pictures(space, 2, 7, 3)))
    with torch.no_grad():
        rollout = replace(rollout, actions=model.distribution.sample(model(rollout).policy[:-1], generator))
    directly = flat_gradient(loss_of(model(rollout), rollout, model.distribution), model)
    assert not autograds
    plain = copy.deepcopy(model)  # torch's passes
    torch.testing.assert_close(
        directly, flat_gradient(loss_of(plain(rollout), rollout, plain.distribution), plain), rtol=1e-10, atol=1e-11
    )
    assert len(autograds) == 1


@pytest.mark.parametrize("name", ["screens", "colours, apart"])
def test_images_in_single_precision(name):
    model, space = with_pictures(name, True, torch.float32)
    images = torch.from_numpy(pictures(space, 1, 9, 4))
    for ours, torchs in zip(*(passed(model, images, fast) for fast in (True, False)), strict=True):
        assert ours.dtype == torchs.dtype == torch.float32
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=2e-5 * float(torchs.abs().max()))


def test_a_gradient_is_that_of_the_images_that_were_passed():
    model, space = with_pictures("screens", True)
    images = torch.from_numpy(pictures(space, 1, 3, 2))

    def gradient(meanwhile):
        outputs = model.policy_value(images)
        meanwhile()
        return flat_gradient(outputs.policy.sum() + outputs.values.sum(), model)

    expected = gradient(lambda: None)
    moments_then = model.normaliser.moments
    torch.testing.assert_close(gradient(lambda: images.zero_()), expected, rtol=0, atol=0)
    images.copy_(torch.from_numpy(pictures(space, 1, 3, 2)))
    other = torch.tensor([[50.0], [0.1], [9.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient(lambda: model.normaliser.load(other)), expected, rtol=0, atol=0)
    model.normaliser.load(moments_then)
    torch.testing.assert_close(gradient(lambda: None), expected, rtol=0, atol=0)


@pytest.mark.parametrize("lead", [(), (0,), (1,), (5,), (2, 0), (2, 3)])
def test_images_with_any_leading_dimensions(lead):
    model, space = with_pictures("colours, apart", False)
    images = torch.from_numpy(pictures(space, 1, *lead))
    for ours, torchs in zip(*(passed(model, images, fast) for fast in (True, False)), strict=True):
        assert ours.shape == torchs.shape
        torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-11)


def test_a_pixel_that_is_no_number_is_none_further_on():
    model, space = with_pictures("numbers", False)
    images = torch.from_numpy(pictures(space, 1, 2))
    images[1, 0, 0, 0] = float("nan")
    outputs = model.policy_value(images)
    assert bool(outputs.values[0].isfinite())
    assert bool(outputs.values[1].isnan())


# What else holds for both


@pytest.mark.parametrize("lead", [(), (6,), (3, 2)])
def test_any_leading_dimensions_and_a_table(lead):
    model = built(NETWORKS["shared"], TABLE, dtype=torch.float32)
    observations = torch.randn(*lead, 2, 3)
    for ours, torchs in zip(*(passed(model, observations, fast) for fast in (True, False)), strict=True):
        assert ours.shape == torchs.shape
        torch.testing.assert_close(ours, torchs)


def test_an_output_that_is_not_used_has_no_gradient():
    model = built(NETWORKS["separate"])
    policy, values = model.policy_value(torch.randn(6, 5, dtype=torch.float64))
    of_policy = flat_gradient(policy.sum(), model)
    value_part = torch.cat([torch.full((p.numel(),), "value" in name) for name, p in model.named_parameters()])
    assert bool((of_policy[value_part] == 0).all())
    assert bool((of_policy[~value_part] != 0).any())
    assert bool((flat_gradient(values.sum(), model)[~value_part] == 0).all())


def test_they_follow_the_parameters():
    model, other = built(NETWORKS["shared"]), built(NETWORKS["shared"])
    other.flat.mul_(0.5)
    model.flat.copy_(other.flat)  # as a pull does
    observations = torch.randn(6, 5, dtype=torch.float64)
    assert torch.equal(model.policy_value(observations).policy, other.policy_value(observations).policy)


def test_a_network_that_has_moved_is_passed_through_by_torch():
    model = built(NETWORKS["shared"], dtype=torch.float32)
    model.double()
    assert model.policy_value(torch.randn(6, 5, dtype=torch.float64)).values.dtype == torch.float64


@pytest.mark.parametrize("name", sorted(set(UNSUITED) - {"several choices"}))
def test_what_they_do_not_suit(name):
    assert not Feedforward.suits(UNSUITED[name].build())


def loss_of(outputs, rollout, distribution):
    return actor_critic_loss(
        outputs, rollout, rollout.rewards, distribution,
        discount=0.9, lambda_=0.8, entropy_coef=0.1, value_coef=0.5, reduction="mean",
    )  # fmt: skip


@pytest.fixture
def autograds(monkeypatch):
    """How often autograd was asked for gradients."""
    calls, plain = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs))
    return calls


@pytest.mark.parametrize(("name", "distribution"), SUITED, ids=repr)
@pytest.mark.parametrize("normalise", [False, True])
def test_the_chain_rule_is_taken_directly_and_gives_what_autograd_does(autograds, name, distribution, normalise):
    model = built(NETWORKS[name], distribution=distribution, normalise=normalise)
    rollout, generator = random_rollout(1, observation_shape=(5,)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        actions = distribution.sample(model(rollout).policy[:-1], generator)
    rollout = replace(rollout, actions=actions)
    directly = flat_gradient(loss_of(model(rollout), rollout, distribution), model)
    assert not autograds
    by_autograd = flat_gradient(loss_of(model(rollout), rollout, distribution).total, model)
    assert len(autograds) == 1
    assert directly.shape == model.flat.shape
    assert directly.abs().min() < 1 < 1e6 * directly.abs().max()
    torch.testing.assert_close(directly, by_autograd, rtol=1e-12, atol=1e-13)  # without the last row: other sums
    plain = copy.deepcopy(model)  # torch's passes
    torch.testing.assert_close(
        directly, flat_gradient(loss_of(plain(rollout), rollout, distribution), plain), rtol=1e-11, atol=1e-11
    )


def test_what_else_hangs_on_the_parameters_is_left_to_autograd(autograds):
    distribution = Categorical(3)
    model, rollout = built(NETWORKS["shared"], distribution=distribution), random_rollout(1, observation_shape=(5,))

    def loss(change):
        return loss_of(change(model(rollout)), rollout, distribution)

    known = flat_gradient(loss(lambda outputs: outputs), model)
    term = loss(lambda outputs: outputs).total + sum(p.square().sum() for p in model.parameters())
    torch.testing.assert_close(flat_gradient(term, model), known + 2 * model.flat)
    bent = flat_gradient(loss(lambda outputs: PolicyValue(outputs.policy, 2 * outputs.values)), model)
    assert not torch.equal(bent, known)
    assert len(autograds) == 2


def test_outputs_that_somebody_has_changed_are_left_to_autograd(autograds):
    distribution = Categorical(3)
    model, rollout = built(NETWORKS["shared"], distribution=distribution), random_rollout(1, observation_shape=(5,))
    plain = copy.deepcopy(model)  # torch's passes
    gradients = []
    for network in (model, plain):
        outputs = network(rollout)
        outputs.policy.mul_(2)
        outputs.values.register_hook(lambda gradient: 3 * gradient)
        gradients.append(flat_gradient(loss_of(outputs, rollout, distribution), network))
    assert len(autograds) == 2
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)
    assert not torch.equal(gradients[0], flat_gradient(loss_of(model(rollout), rollout, distribution), model))


@pytest.mark.parametrize("look", [torch.no_grad, torch.inference_mode])
def test_who_only_looks_at_the_outputs_changes_nothing(look):
    distribution, rollout = Categorical(3), random_rollout(1, observation_shape=(5,))
    model = built(NETWORKS["shared"], distribution=distribution)
    expected = flat_gradient(loss_of(model(rollout), rollout, distribution), model)
    loss = loss_of(model(rollout), rollout, distribution)
    with look():
        assert loss.total.item() == pytest.approx(loss.objective)
        assert bool(loss.outputs.values.isfinite().all())
    torch.testing.assert_close(flat_gradient(loss, model), expected, rtol=1e-12, atol=1e-13)
    penalty = sum(p.square().sum() for p in model.parameters())
    torch.testing.assert_close(flat_gradient(loss.total + penalty, model), expected + 2 * model.flat)


def test_of_another_module_autograd_says_whether_the_outputs_depend_on_it():
    distribution, rollout = Categorical(3), random_rollout(1, observation_shape=(5,))
    model, other = (built(NETWORKS["shared"], distribution=distribution) for _ in range(2))
    loss = loss_of(model(rollout), rollout, distribution)
    assert not flat_gradient(loss, other).any()


def test_outputs_without_a_graph_have_no_gradient():
    distribution, rollout = Categorical(3), random_rollout(1, observation_shape=(5,))
    model = built(NETWORKS["shared"], distribution=distribution)
    with torch.no_grad():
        outputs = model(rollout)
    with pytest.raises(RuntimeError, match="does not require grad"):
        flat_gradient(loss_of(outputs, rollout, distribution), model)


def test_a_parameter_that_is_held_fast_has_no_gradient():
    distribution, rollout = Categorical(3), random_rollout(1, observation_shape=(5,))
    model = built(NETWORKS["shared"], distribution=distribution)
    ours = loss_of(model(rollout), rollout, distribution)
    model.value_head.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad|not have been used"):
        flat_gradient(ours, model)
    model.value_head.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        flat_gradient(loss_of(model(rollout), rollout, distribution), model.value_head.requires_grad_(False))


def test_no_rows_are_no_mistake():
    policy, values = built(NETWORKS["shared"]).policy_value(torch.zeros(0, 5, dtype=torch.float64))
    assert policy.shape == (0, 4)
    assert values.shape == (0,)


def test_a_second_derivative_is_refused_not_wrong():
    model = built(NETWORKS["shared"])
    values = model.policy_value(torch.randn(3, 5, dtype=torch.float64)).values
    (gradient,) = torch.autograd.grad((values**2).sum(), [model.value_head.bias], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Passes that acting has made already


@pytest.mark.parametrize(("name", "distribution"), SUITED, ids=repr)
@pytest.mark.parametrize("normalise", [False, True])
def test_learning_goes_on_from_what_acting_has_worked_out(name, distribution, normalise):
    model = built(NETWORKS[name], distribution=distribution, normalise=normalise)
    acting = NumpyPolicy(model, seed=1, kept_steps=7)
    for seed, length in ((1, 7), (2, 4), (3, 7)):  # less than there is room for, too
        rollout = random_rollout(seed, length, observation_shape=(5,))
        steps = [acting(row.numpy(), None, np.ones(3, np.bool_))[0] for row in rollout.observations[:-1]]
        rollout = replace(rollout, actions=torch.from_numpy(np.stack(steps)))
        known = replace(rollout, passes=acting.passes(length))
        assert known.passes.hold(model.feedforward, length + 1)
        for ours, anew in zip(model(known), model(rollout), strict=True):
            torch.testing.assert_close(ours, anew, rtol=1e-12, atol=1e-12)
        gradients = [flat_gradient(loss_of(model(each), each, distribution), model) for each in (known, rollout)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)
        by_autograd = flat_gradient(loss_of(model(known), known, distribution).total, model)
        torch.testing.assert_close(by_autograd, gradients[1], rtol=1e-11, atol=1e-13)
        # The next steps are by other parameters.
        if seed == 1:
            model.flat.mul_(1.1)
        else:
            zeros = torch.zeros_like(model.flat)
            RMSProp().step(
                model.flat, gradients[0], (zeros,), (zeros.clone(), zeros.clone()), learning_rate=1e-3, step_count=1
            )
        assert not known.passes.hold(model.feedforward, length + 1)


def test_it_takes_the_policys_layers_no_more_than_the_last_row(monkeypatch):
    model = built(NETWORKS["separate"])
    _, rollout = acted(model)
    rows, plain = [], Linear.__call__
    monkeypatch.setattr(Linear, "__call__", lambda self, x, out=None: rows.append(len(x)) or plain(self, x, out))
    model(rollout)
    assert rows == [3, 3, 3, 21, 21, 21]  # the policy's layers and head, the value's


def acted(model, steps=6, lanes=3):
    """A rollout, with what acting has kept of its passes."""
    acting, rollout = NumpyPolicy(model, seed=1, kept_steps=6), random_rollout(1, steps, lanes, observation_shape=(5,))
    for row in rollout.observations[:-1]:
        acting(row.numpy(), None, np.ones(lanes, np.bool_))
    return acting, replace(rollout, passes=acting.passes(steps))


def test_what_acting_has_kept_is_that_of_its_last_steps_or_nothing():
    acting, rollout = acted(built(NETWORKS["shared"]))
    row, wide = np.zeros((3, 5)), np.zeros((4, 5))

    def act(*rows):
        for each in rows:
            acting(each, None, np.ones(len(each), np.bool_))

    assert rollout.passes is not None
    assert acting.passes(6) is None  # no steps since
    act(*[row] * 3)
    assert acting.passes(2) is None  # of another beginning
    act(*[row] * 7)
    assert acting.passes(7) is None  # more than there is room for
    act(row, wide)
    assert acting.passes(2) is None  # no one rollout
    act(wide, wide)
    assert acting.passes(2).kept.rows[0].shape == (7, 4, 5)
    forgetful = NumpyPolicy(acting.model, seed=1)
    forgetful(row, None, np.ones(3, np.bool_))
    assert forgetful.passes(1) is None


@pytest.mark.parametrize(("name", "normalise"), PICTURES, ids=str)
def test_learning_goes_on_from_the_convolutions_of_acting(name, normalise, monkeypatch):
    model, space = with_pictures(name, normalise)
    rows, plain = [], Convolution.__call__
    monkeypatch.setattr(Convolution, "__call__", lambda self, x, out=None: rows.append(len(x)) or plain(self, x, out))
    acting = NumpyPolicy(model, seed=1, kept_steps=5)
    for seed, length in ((1, 5), (2, 3)):
        buffer = pictures(space, seed, length + 1, 2)
        rollout = replace(random_rollout(seed, length, 2), observations=torch.from_numpy(buffer))
        steps = [acting(row, None, np.ones(2, np.bool_))[0] for row in buffer[:-1]]
        rollout = replace(rollout, actions=torch.from_numpy(np.stack(steps)))
        known = replace(rollout, passes=acting.passes(length))
        assert known.passes.hold(model.feedforward, length + 1)
        layers = len(rows) // length
        rows.clear()
        gradients = [flat_gradient(loss_of(model(known), known, model.distribution), model)]
        anew = [2 * (length + 1)] * layers if model.separate else []  # the value's
        assert rows == [2] * layers + anew
        gradients.append(flat_gradient(loss_of(model(rollout), rollout, model.distribution), model))
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)
        model.flat.mul_(1.1)
        assert not known.passes.hold(model.feedforward, length + 1)
        rows.clear()


def by_the_vector(model, rollout, acting):
    model.flat.add_(0.1)


def by_a_parameter(model, rollout, acting):
    with torch.no_grad():
        model.value_head.bias.add_(1.0)


def by_moments(model, rollout, acting):
    model.normaliser.load(moments.of(torch.randn(50, model.normaliser.tracked, dtype=torch.float64)))


def by_the_next_rollout(model, rollout, acting):
    row = np.ones_like(rollout.observations[0].numpy())
    acting(row, None, np.ones(len(row), np.bool_))


def acted_on_either(images: bool):
    """As `acted`: normalised numbers, or images, with choices to make."""
    if not images:
        return acted(built(NETWORKS["shared"], distribution=Categorical(3), normalise=True))
    model, space = with_pictures("colours, apart", True)
    acting, buffer = NumpyPolicy(model, seed=1, kept_steps=6), pictures(space, 1, 7, 3)
    for row in buffer[:-1]:
        acting(row, None, np.ones(3, np.bool_))
    rollout = replace(random_rollout(1), observations=torch.from_numpy(buffer))
    return acting, replace(rollout, passes=acting.passes(6))


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("change", [by_the_vector, by_a_parameter, by_moments, by_the_next_rollout])
def test_passes_that_no_longer_hold_are_made_anew(change, images):
    acting, rollout = acted_on_either(images)
    model = acting.model
    rollout = replace(rollout, observations=rollout.observations.clone())
    change(model, rollout, acting)
    for ours, anew in zip(model(rollout), model(replace(rollout, passes=None)), strict=True):
        torch.testing.assert_close(ours, anew, rtol=0, atol=0)


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("change", [by_the_vector, by_a_parameter, by_the_next_rollout])
def test_a_gradient_that_is_taken_too_late_is_refused_not_wrong(change, images, kept, as_tensors):
    acting, rollout = acted_on_either(images)
    model = acting.model
    if not kept:
        rollout = replace(rollout, passes=None)
    loss = loss_of(model(rollout), rollout, model.distribution)
    expected = flat_gradient(loss, model)
    late = loss.total if as_tensors else loss
    change(model, rollout, acting)
    if change is by_the_next_rollout and not kept:  # of memory of its own
        torch.testing.assert_close(flat_gradient(late, model), expected, rtol=1e-12, atol=1e-13)
    else:
        with pytest.raises(RuntimeError, match=r"since this pass: take its gradient before the next (pull|unroll)"):
            flat_gradient(late, model)


# Whoever has no use for them


@pytest.mark.parametrize("images", [False, True])
def test_a_model_is_pickled_and_its_copy_gives_the_same(images):
    if images:
        model, space = with_pictures("colours, apart", True)
        observations = torch.from_numpy(pictures(space, 1, 3))
    else:
        model, observations = built(NETWORKS["shared"]), torch.randn(3, 5, dtype=torch.float64)
    other = pickle.loads(pickle.dumps(model))
    assert model.feedforward is not None
    for ours, others in zip(model.policy_value(observations), other.policy_value(observations), strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-12, atol=1e-12)


def test_a_gradient_with_respect_to_pixels_is_autograds():
    model, space = with_pictures("numbers", True)
    images = torch.from_numpy(pictures(space, 1, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(model.policy_value(images).values.sum(), [images])
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("images", [False, True])
def test_coefficients_of_another_precision_change_no_dtype(images):
    if images:
        model, space = with_pictures("screens", False, torch.float32)
        observations = torch.from_numpy(pictures(space, 1, 7, 3))
    else:
        wide = Network(hidden_sizes=(256, 256), activation="relu")
        model = built(wide, distribution=Categorical(4), dtype=torch.float32)
        observations = torch.randn(7, 3, 5)
    rollout = replace(random_rollout(1, dtype=torch.float32), observations=observations)
    gradients = []
    for number in (float, np.float64):
        loss = actor_critic_loss(
            model(rollout), rollout, rollout.rewards, model.distribution,
            discount=number(0.9), lambda_=number(0.8), entropy_coef=number(0.1), value_coef=number(0.5),
            reduction="mean",
        )  # fmt: skip
        gradients.append(flat_gradient(loss, model))
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_gradients_at_the_outputs_may_be_of_another_precision():
    model, space = with_pictures("screens", False, torch.float32)
    outputs = model.policy_value(torch.from_numpy(pictures(space, 1, 2)))
    of_policy, of_values = np.ones((2, 4)), np.ones(2)
    assert outputs.parameter_gradient(model, of_policy, of_values).dtype == torch.float32


@pytest.mark.parametrize("change", [lambda a: a[::-1], lambda a: np.broadcast_to(a[:1], a.shape)])
def test_images_that_are_views_of_others(change):
    model, space = with_pictures("colours, apart", False)
    images = change(pictures(space, 1, 3).copy(order="C"))
    acting = NumpyPolicy(model, seed=1)
    np.testing.assert_array_equal(acting.outputs(images), acting.outputs(np.array(images)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_dtype_of_few_digits_is_left_to_torch(dtype):
    model, space = with_pictures("numbers up to 255", False, torch.float32)
    images = torch.from_numpy(pictures(space, 1, 2))
    half = ActorCritic(space, model.distribution, Network(), dtype=dtype)
    assert half.feedforward is None
    assert half.policy_value(images).values.dtype == dtype
    for ours, exact in zip(model.policy_value(images.to(dtype)), model.policy_value(images), strict=True):
        torch.testing.assert_close(ours, exact, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("images", [False, True])
def test_what_is_kept_is_not_handed_out(images):
    acting, rollout = acted_on_either(images)
    model = acting.model
    expected = [output.detach().clone() for output in model(replace(rollout, passes=None))]
    outputs = model(rollout)
    outputs.policy.mul_(2)
    outputs.values.mul_(2)
    with torch.no_grad():
        again = model(rollout)
    by_the_next_rollout(model, rollout, acting)
    for ours, anew in zip(again, expected, strict=True):
        torch.testing.assert_close(ours, anew, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda children: [nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(2, 2, 1), *children[2:]],
        lambda children: [*children[:-1], nn.ELU()],
        lambda children: [nn.Conv2d(3, 16, 3), nn.ELU(), *children[2:]],
    ],
)
def test_layers_that_are_not_written_down_are_not_known(change):
    model, _ = with_pictures("colours, apart", False)
    assert has_known_layers(model.policy_torso)
    image = model.policy_torso.image
    image.torso = nn.Sequential(*change(list(image.torso.children())))
    assert not has_known_layers(model.policy_torso)
