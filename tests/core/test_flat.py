"""Parameters as views of one vector, gradients as fresh values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from a3c.core.flat import flat_gradient, flatten_parameters, is_flattened


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_the_vector_holds_the_parameters_in_order():
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    flat = flatten_parameters(module)
    assert flat.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    assert torch.equal(flat, torch.cat([p.reshape(-1) for p in before]))
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_what_is_written_to_the_vector_is_written_to_the_module_and_back():
    module = network()
    inputs = torch.ones(1, 3)
    flat = flatten_parameters(module)
    flat.zero_()
    flat[-1] = 5.0
    assert module(inputs).tolist() == [[0.0, 5.0]]
    with torch.no_grad():
        module[0].weight.fill_(2.0)
    assert flat[:12].tolist() == [2.0] * 12
    assert flat[12:16].tolist() == [0.0] * 4


def test_aliasing_is_lost_when_the_module_moves_and_is_flattened_shows_it():
    module = network()
    flat = flatten_parameters(module)
    assert is_flattened(module, flat)
    assert not is_flattened(module, flat.clone())
    module.double()
    assert not is_flattened(module, flat)
    flat = flatten_parameters(module)
    assert flat.dtype == torch.float64
    assert is_flattened(module, flat)


def test_a_parameter_that_is_not_contiguous_is_laid_out_in_row_major_order():
    module = nn.Module()
    module.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    flat = flatten_parameters(module)
    assert flat.tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert module.weight.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_shared_parameter_lies_in_the_vector_once():
    module = nn.ModuleList([layer := nn.Linear(2, 2), layer])
    assert flatten_parameters(module).shape == (6,)


def test_modules_that_cannot_be_flattened_are_refused():
    with pytest.raises(ValueError, match="Tanh has no parameters"):
        flatten_parameters(nn.Tanh())
    mixed = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    with pytest.raises(ValueError, match="one dtype and one device"):
        flatten_parameters(mixed)


def test_the_gradient_equals_what_backward_leaves_in_grad():
    module = network()
    inputs = torch.randn(5, 3)
    gradient = flat_gradient(module(inputs).square().sum(), module)
    module(inputs).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_is_a_fresh_value_each_time():
    module = network()
    flatten_parameters(module)
    inputs = torch.randn(2, 5, 3)
    first = flat_gradient(module(inputs[0]).square().sum(), module)
    kept = first.clone()
    again = flat_gradient(module(inputs[0]).square().sum(), module)
    other = flat_gradient(module(inputs[1]).square().sum(), module)
    assert torch.equal(again, kept)  # nothing has piled up
    assert torch.equal(first, kept)  # and nothing has been written into the old one
    assert not torch.equal(other, kept)  # nor is the first one replayed
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_parameter_without_influence_has_a_gradient_of_zeros():
    module = network()
    gradient = flat_gradient(module[0](torch.ones(1, 3)).sum(), module)
    assert gradient.tolist() == [1.0] * 16 + [0.0] * 10
