"""Memory: steps against unrolls, episodes' starts, gradients up to the rollout's border."""

import pytest
import torch
from torch import nn

from a3c.models.memory import Memory

KINDS = pytest.mark.parametrize("kind", ["lstm", "gru"])
T, B, F, H = 7, 3, 4, 5


def build(kind) -> Memory:
    torch.manual_seed(0)
    memory = Memory(kind, F, H).double()
    with torch.no_grad():  # nothing that is 0 could hide a mistake
        for parameter in memory.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return memory


def a_rollout(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(T, B, F, generator=generator, dtype=torch.float64)


def a_state(memory, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, memory.state_size, generator=generator, dtype=torch.float64)


def no_starts(length=T):
    return torch.zeros(length, B, dtype=torch.bool)


def stepped(memory, inputs, state, starts):
    outputs = []
    for row, start in zip(inputs, starts, strict=True):
        output, state = memory.step(row, state, start)
        outputs.append(output)
    return torch.stack(outputs), state


def gradient(memory, outputs):
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=torch.float64).reshape(outputs.shape)
    return torch.autograd.grad((outputs * weights).sum(), list(memory.parameters()))


@KINDS
def test_sizes(kind):
    memory = Memory(kind, F, H)
    assert (memory.features, memory.state_size) == (H, 2 * H if kind == "lstm" else H)
    state = memory.initial_state(B)
    assert state.shape == (B, memory.state_size)
    assert not state.any()
    assert not state.requires_grad
    output, after = memory.step(torch.randn(B, F), state, torch.zeros(B, dtype=torch.bool))
    assert (output.shape, after.shape) == ((B, H), (B, memory.state_size))
    assert memory.double().initial_state(1).dtype == torch.float64


@KINDS
def test_initial_weights_are_orthogonal_and_only_forget_gates_have_a_bias(kind):
    memory = Memory(kind, F, H)
    for gate in memory.cell.weight_hh.split(H):
        torch.testing.assert_close(gate @ gate.T, torch.eye(H))
    for gate in memory.cell.weight_ih.split(H):
        torch.testing.assert_close(gate.T @ gate, torch.eye(F))
    assert not memory.cell.bias_hh.any()
    forget = [0.0] * H + [1.0] * H + [0.0] * 2 * H if kind == "lstm" else [0.0] * 3 * H
    assert memory.cell.bias_ih.tolist() == forget


def test_an_lstm_forgets_by_its_forget_gate():
    memory = Memory("lstm", 1, 1)
    with torch.no_grad():
        memory.cell.weight_ih.zero_()
        memory.cell.weight_hh.zero_()
    _, state = memory.step(torch.zeros(1, 1), torch.tensor([[0.0, 2.0]]), torch.tensor([False]))
    # With all weights 0 the cell c' = σ(1) c, and σ(1) = 0.7311.
    assert state[0, 1].item() == pytest.approx(2 * 0.731059, abs=1e-5)
    assert state[0, 0].item() == pytest.approx(0.5 * torch.tanh(torch.tensor(2 * 0.731059)).item(), abs=1e-5)


@KINDS
def test_without_starts_it_is_torchs_own(kind):
    memory, inputs = build(kind), a_rollout()
    reference = (nn.LSTM if kind == "lstm" else nn.GRU)(F, H).double()
    reference.load_state_dict({f"{name}_l0": value for name, value in memory.cell.state_dict().items()})
    expected, _ = reference(inputs)
    outputs, _ = memory.unroll(inputs, memory.initial_state(B), no_starts())
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)


@KINDS
def test_an_unroll_is_its_steps(kind):
    memory, inputs = build(kind), a_rollout()
    starts = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.3
    assert 0 < starts.sum() < starts.numel()
    one = memory.unroll(inputs, a_state(memory), starts)
    other = stepped(memory, inputs, a_state(memory), starts)
    for got, expected in zip(one, other, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for got, expected in zip(gradient(memory, one[0]), gradient(memory, other[0]), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@KINDS
def test_two_episodes_in_one_unroll_are_two_unrolls(kind):
    memory, inputs = build(kind), a_rollout()
    starts = no_starts()
    starts[0], starts[4] = True, True
    outputs, _ = memory.unroll(inputs, a_state(memory), starts)
    first, _ = memory.unroll(inputs[:4], memory.initial_state(B), no_starts(4))
    second, _ = memory.unroll(inputs[4:], memory.initial_state(B), no_starts(3))
    both = torch.cat([first, second])
    torch.testing.assert_close(outputs, both, rtol=1e-12, atol=1e-12)
    for got, expected in zip(gradient(memory, outputs), gradient(memory, both), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@KINDS
def test_an_episode_over_two_unrolls_has_a_gradient_that_ends_at_the_border(kind):
    memory, inputs = build(kind), a_rollout()
    first, state = memory.unroll(inputs[:4], a_state(memory), no_starts(4))
    second, after = memory.unroll(inputs[4:], state, no_starts(3))
    two = torch.cat([first, second])

    one, one_after = stepped(memory, inputs, a_state(memory), no_starts())
    torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after, one_after, rtol=1e-12, atol=1e-12)

    head, state = stepped(memory, inputs[:4], a_state(memory), no_starts(4))
    tail, _ = stepped(memory, inputs[4:], state.detach(), no_starts(3))
    cut = gradient(memory, torch.cat([head, tail]))
    for got, expected in zip(gradient(memory, two), cut, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    through = gradient(memory, one)
    assert not torch.allclose(through[1], cut[1], rtol=1e-3)  # the border does cut something


@KINDS
def test_no_gradient_goes_into_the_state_that_comes_in(kind):
    memory = build(kind)
    state = a_state(memory).requires_grad_()
    outputs, _ = memory.unroll(a_rollout(), state, no_starts())
    assert torch.autograd.grad(outputs.sum(), state, allow_unused=True) == (None,)


@KINDS
def test_lanes_start_one_by_one(kind):
    memory, row, state = build(kind), a_rollout()[0], a_state(build(kind))
    starts = torch.tensor([False, True, False])
    output, _ = memory.step(row, state, starts)
    fresh, _ = memory.step(row, memory.initial_state(B), torch.zeros(B, dtype=torch.bool))
    kept, _ = memory.step(row, state, torch.zeros(B, dtype=torch.bool))
    torch.testing.assert_close(output[1], fresh[1])
    torch.testing.assert_close(output[[0, 2]], kept[[0, 2]])
    assert not torch.allclose(fresh, kept)


@KINDS
@pytest.mark.parametrize("way", ["step", "unroll"])
def test_nan_in_a_state_is_gone_behind_a_start(kind, way):
    memory, inputs = build(kind), a_rollout()[:2]
    state = a_state(memory)
    state[1] = torch.nan
    starts = torch.tensor([[False, True, False], [False, False, False]])
    run = memory.unroll if way == "unroll" else lambda *args: stepped(memory, *args)
    outputs, after = run(inputs, state, starts)
    assert torch.cat([outputs.flatten(), after.flatten()]).isfinite().all()
    assert all(part.isfinite().all() for part in gradient(memory, outputs))
    expected, _ = run(inputs, torch.where(state.isnan(), 0.0, state), starts)
    assert torch.equal(outputs, expected)


@KINDS
def test_the_gradient_reaches_every_parameter_and_the_inputs(kind):
    memory, inputs = build(kind), a_rollout().requires_grad_()
    outputs, _ = memory.unroll(inputs, a_state(memory), no_starts())
    outputs.square().sum().backward()
    for parameter in (*memory.parameters(), inputs):
        assert parameter.grad is not None
        assert parameter.grad.any()
