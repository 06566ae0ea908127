"""RMSProp and Adam by hand, against torch.optim, and against other processes that spoil their statistics."""

from __future__ import annotations

import math
import threading
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from a3c.core import optimizers
from a3c.core.optimizers import Adam, Optimizer, RMSProp, clip_by_global_norm

BOTH = [
    RMSProp(),
    RMSProp(epsilon=0.1, epsilon_inside_root=True),
    RMSProp(epsilon=0.1, epsilon_inside_root=True, bias_correction=True),
    RMSProp(bias_correction=True),
    Adam(),
]


class Unclamped(Adam):
    """Adam without the clamp."""

    def ratio_bound(self, step_count: int) -> float:
        return math.inf


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def fresh(optimizer: Optimizer, like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(like) for _ in optimizer.statistic_names)


def spoilt_scratch(optimizer: Optimizer, like: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.full_like(like, math.nan) for _ in range(len(optimizer.statistic_names) + 1))


def run(optimizer: Optimizer, parameters: Tensor, gradients, *, learning_rate: float = 0.01) -> tuple[Tensor, ...]:
    """Take a step for each gradient, with NaN in the scratch each time; returns the statistics."""
    statistics = fresh(optimizer, parameters)
    for step_count, gradient in zip(count(1), gradients, strict=False):
        optimizer.step(
            parameters,
            gradient,
            statistics,
            spoilt_scratch(optimizer, parameters),
            learning_rate=learning_rate,
            step_count=step_count,
        )
    return statistics


def random_gradients(steps: int, size: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(steps, size, generator=generator, dtype=torch.float64)
    return list(gradients * torch.logspace(-4, 3, size, dtype=torch.float64))  # small and large ones


@pytest.mark.parametrize(
    ("inside", "first", "second"),
    [
        # g <- 0.01 * 2² = 0.04; then 0.99 * 0.04 + 0.01 * 1² = 0.0496
        (True, 0.5 * 2 / math.sqrt(0.04 + 0.1), 0.5 * 1 / math.sqrt(0.0496 + 0.1)),
        (False, 0.5 * 2 / (math.sqrt(0.04) + 0.1), 0.5 * 1 / (math.sqrt(0.0496) + 0.1)),
    ],
)
def test_rmsprop_by_hand_with_the_epsilon_of_the_paper(inside, first, second):
    optimizer = RMSProp(decay=0.99, epsilon=0.1, epsilon_inside_root=inside)
    parameters = vector(1.0)
    (square_average,) = run(optimizer, parameters, [vector(2.0)], learning_rate=0.5)
    assert square_average.item() == pytest.approx(0.04)
    assert parameters.item() == pytest.approx(1 - first)

    parameters = vector(1.0)
    (square_average,) = run(optimizer, parameters, [vector(2.0), vector(1.0)], learning_rate=0.5)
    assert square_average.item() == pytest.approx(0.0496)
    assert parameters.item() == pytest.approx(1 - first - second)


@pytest.mark.parametrize("inside", [True, False])
def test_bias_correction_divides_by_the_mean_square_as_if_it_had_not_started_at_zero(inside):
    optimizer = RMSProp(decay=0.9, epsilon=0.1, epsilon_inside_root=inside, bias_correction=True)
    parameters = vector(1.0)
    (square_average,) = run(optimizer, parameters, [vector(2.0), vector(1.0)], learning_rate=0.5)
    # g = 0.1 * 2² = 0.4, then 0.9 * 0.4 + 0.1 * 1² = 0.46; corrected: 4, and 0.46 / (1 - 0.81)
    assert square_average.item() == pytest.approx(0.46)
    divisors = [math.sqrt(g + 0.1) if inside else math.sqrt(g) + 0.1 for g in (4.0, 0.46 / 0.19)]
    assert parameters.item() == pytest.approx(1 - 0.5 * 2 / divisors[0] - 0.5 * 1 / divisors[1])


def test_the_first_corrected_step_is_the_learning_rate_and_ten_times_that_without():
    for bias_correction, length in ((True, 0.01), (False, 0.1)):
        parameters = vector(0.0, 0.0)
        run(RMSProp(0.99, 1e-12, bias_correction=bias_correction), parameters, [vector(3.0, -1e-3)])
        assert parameters.tolist() == pytest.approx([-length, length])


def test_bias_correction_wears_off():
    gradients, parameters = random_gradients(steps=3000, size=4), vector(1.0, 1.0, 1.0, 1.0)
    corrected = parameters.clone()
    (square_average,) = run(RMSProp(), parameters, gradients[:-1])
    (same,) = run(RMSProp(bias_correction=True), corrected, gradients[:-1])
    assert torch.equal(square_average, same)
    assert not torch.allclose(parameters, corrected)
    steps = [torch.zeros_like(parameters) for _ in range(2)]
    for step, bias_correction in zip(steps, (False, True), strict=True):
        RMSProp(bias_correction=bias_correction).step(
            step,
            gradients[-1],
            (square_average.clone(),),
            spoilt_scratch(RMSProp(), step),
            learning_rate=0.01,
            step_count=3000,
        )
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=0)


def test_adam_by_hand():
    parameters = vector(1.0)
    average, square_average = run(Adam(), parameters, [vector(2.0)], learning_rate=0.1)
    assert (average.item(), square_average.item()) == (pytest.approx(0.2), pytest.approx(0.004))
    assert parameters.item() == pytest.approx(0.9)  # the first step is η, whatever the gradient

    parameters = vector(1.0)
    average, square_average = run(Adam(), parameters, [vector(2.0), vector(-1.0)], learning_rate=0.1)
    # m = 0.9 * 0.2 - 0.1 = 0.08, v = 0.999 * 0.004 + 0.001 = 0.004996
    assert (average.item(), square_average.item()) == (pytest.approx(0.08), pytest.approx(0.004996))
    ratio = (0.08 / (1 - 0.9**2)) / math.sqrt(0.004996 / (1 - 0.999**2))
    assert parameters.item() == pytest.approx(0.9 - 0.1 * ratio)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RMSProp(0.9, 1e-5), lambda p: torch.optim.RMSprop([p], lr=0.01, alpha=0.9, eps=1e-5)),
        (RMSProp(0.99, 0.1), lambda p: torch.optim.RMSprop([p], lr=0.01, alpha=0.99, eps=0.1)),
        (Adam(0.9, 0.999, 1e-8), lambda p: torch.optim.Adam([p], lr=0.01)),
        (Adam(0.0, 0.99, 1e-3), lambda p: torch.optim.Adam([p], lr=0.01, betas=(0.0, 0.99), eps=1e-3)),
    ],
)
def test_many_steps_equal_torch_optim(ours, theirs):
    gradients = random_gradients(steps=200, size=8)
    parameters = torch.linspace(-1, 1, 8, dtype=torch.float64)
    reference = torch.nn.Parameter(parameters.clone())
    optimizer = theirs(reference)
    run(ours, parameters, gradients)
    for gradient in gradients:
        reference.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameters, reference.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", BOTH)
@pytest.mark.parametrize("size", [1, 7, 8, 15])
def test_a_long_vector_is_gone_through_piece_by_piece(optimizer, size, monkeypatch):
    vectors = []
    for at_once in (7, 2**18):
        monkeypatch.setattr(optimizers, "_AT_ONCE", at_once)
        parameters = torch.linspace(-1, 1, size, dtype=torch.float64)
        version = parameters._version
        statistics = run(optimizer, parameters, random_gradients(3, size))
        assert parameters._version == version + 3
        vectors.append(torch.stack([parameters, *statistics]))
    torch.testing.assert_close(*vectors, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", BOTH)
def test_the_gradient_is_left_as_it_is(optimizer):
    gradient = vector(1.0, -2.0)
    parameters = vector(0.0, 0.0)
    run(optimizer, parameters, [gradient])
    assert gradient.tolist() == [1.0, -2.0]
    assert bool((parameters != 0).all())  # and the NaN in the scratch went nowhere


@pytest.mark.parametrize("optimizer", BOTH)
def test_a_zero_gradient_changes_nothing_at_first(optimizer):
    parameters = vector(3.0)
    statistics = run(optimizer, parameters, [vector(0.0)])
    assert parameters.item() == 3.0
    assert [statistic.item() for statistic in statistics] == [0.0] * len(statistics)


gradient_streams = st.lists(
    st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-12), min_size=1, max_size=40
)
betas = st.sampled_from([(0.9, 0.999), (0.9, 0.99), (0.0, 0.9), (0.5, 0.5), (0.9, 0.81), (0.99, 0.9)])


@given(gradient_streams, betas)
@settings(max_examples=60)
def test_one_process_never_meets_adams_clamp(stream, beta):
    clamped, free = torch.zeros(1), torch.zeros(1)
    gradients = [torch.tensor([g]) for g in stream]
    run(Adam(*beta), clamped, gradients)
    run(Unclamped(*beta), free, gradients)
    assert torch.equal(clamped, free)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
@pytest.mark.parametrize("beta", [(0.9, 0.999), (0.9, 0.99), (0.5, 0.5), (0.9, 0.81)])
def test_adams_bound_is_what_the_worst_gradients_of_one_process_reach(steps, beta):
    worst = [vector((beta[0] / beta[1]) ** (steps - t)) for t in range(1, steps + 1)]  # Cauchy-Schwarz with equality
    optimizer = Adam(*beta, epsilon=0.0)
    average, square_average = run(optimizer, vector(0.0), worst)
    ratio = average.item() / (1 - beta[0] ** steps) / math.sqrt(square_average.item() / (1 - beta[1] ** steps))
    assert ratio == pytest.approx(optimizer.ratio_bound(steps), rel=2e-5)
    assert ratio <= optimizer.ratio_bound(steps)


@pytest.mark.parametrize("beta", [(0.9, 0.999), (0.0, 0.99), (0.5, 0.5), (0.9, 0.5), (0.9, 0.0), (0.0, 0.0)])
def test_adams_bound_is_a_number_at_any_step_count(beta):
    bounds = [Adam(*beta).ratio_bound(step_count) for step_count in (1, 10, 1000, 10**6, 2**40)]
    assert bounds[0] == pytest.approx(1.0, rel=2e-5)
    assert all(bound >= 1 for bound in bounds)  # infinity among them, where β1² > β2


positive = st.just(0.0) | st.floats(1e-30, 1e6)


@given(
    average=st.floats(-1e6, 1e6),
    square_average=positive,
    gradient=st.floats(-1e6, 1e6),
    step_count=st.integers(1, 100_000),
)
@settings(max_examples=100)
def test_no_statistics_make_adams_step_larger_than_its_bound(average, square_average, gradient, step_count):
    optimizer, parameters = Adam(), torch.zeros(1)
    statistics = torch.tensor([average]), torch.tensor([square_average])
    optimizer.step(
        parameters,
        torch.tensor([gradient]),
        statistics,
        spoilt_scratch(optimizer, parameters),
        learning_rate=1.0,
        step_count=step_count,
    )
    assert abs(parameters.item()) <= optimizer.ratio_bound(step_count) * (1 + 1e-6)


def test_another_process_that_zeroes_v_would_blow_up_adam_without_the_clamp():
    steps = {}
    for optimizer in (Adam(), Unclamped()):
        parameters = torch.zeros(1)
        statistics = torch.tensor([100.0]), torch.zeros(1)  # m from a large gradient, v gone
        optimizer.step(
            parameters,
            torch.tensor([1e-3]),
            statistics,
            spoilt_scratch(optimizer, parameters),
            learning_rate=1.0,
            step_count=1000,
        )
        steps[type(optimizer)] = abs(parameters.item())
    assert steps[Unclamped] > 1e5
    assert steps[Adam] == pytest.approx(Adam().ratio_bound(1000))
    assert Adam().ratio_bound(1000) < 10


@given(
    square_average=positive,
    gradient=st.floats(-1e6, 1e6),
    decay=st.sampled_from([0.0, 0.9, 0.99]),
    inside=st.booleans(),
    bias_correction=st.booleans(),
)
@settings(max_examples=100)
def test_no_statistics_make_rmsprops_step_larger_than_its_bound(
    square_average, gradient, decay, inside, bias_correction
):
    optimizer, parameters = RMSProp(decay, 1e-8, inside, bias_correction), torch.zeros(1)
    optimizer.step(
        parameters,
        torch.tensor([gradient]),
        (torch.tensor([square_average]),),
        spoilt_scratch(optimizer, parameters),
        learning_rate=1.0,
        step_count=1,
    )
    assert abs(parameters.item()) <= 1 / math.sqrt(1 - decay) * (1 + 1e-6)


class Watched(np.ndarray):
    """The memory of a shared vector, which tells of each operation on it before that is done."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        Shared.told(ufunc.__name__, any(array is self for array in out))
        assert method == "__call__"
        assert sum(array is self for array in inputs) <= 1, f"{ufunc.__name__} reads it twice"
        plain = [array.view(np.ndarray) if isinstance(array, Watched) else array for array in inputs]
        ufunc(*plain, out=tuple(np.asarray(array) for array in out), **options)
        return out[0]  # a new array would be memory that is allocated at every step

    def __array_function__(self, function, *_):
        raise AssertionError(f"{function.__name__} may read it more than once")


class Shared(Tensor):
    """A shared vector."""

    told = None  # is called with the name of each operation, and whether it writes to a shared vector

    def numpy(self):
        return self.as_subclass(Tensor).numpy().view(Watched)


@pytest.mark.parametrize("optimizer", BOTH)
def test_statistics_written_by_others_during_the_step_do_not_enter_it(optimizer):
    alone = vector(1.0, 2.0)
    expected = run(optimizer, alone, [vector(3.0, -4.0)])
    meddled, statistics, moments = vector(1.0, 2.0), fresh(optimizer, alone), []

    def told(operation: str, writes: bool) -> None:
        if writes:  # θ's step is the moment in which another process zeroes the statistics
            moments.append(operation)
            for statistic in statistics:
                statistic.zero_()

    Shared.told = told
    optimizer.step(
        meddled.as_subclass(Shared),
        vector(3.0, -4.0),
        statistics,
        spoilt_scratch(optimizer, alone),
        learning_rate=0.01,
        step_count=1,
    )
    assert len(moments) == 1
    assert torch.equal(meddled, alone)
    for ours, theirs in zip(statistics, expected, strict=True):  # written back after the step
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", BOTH)
def test_what_others_add_to_the_statistics_during_a_step_is_kept(optimizer):
    gradient = vector(3.0, -4.0)
    in_turn = run(optimizer, vector(1.0, 2.0), [gradient, torch.zeros(2, dtype=torch.float64)])
    statistics, moments = fresh(optimizer, gradient), []

    def step(parameters, gradient):
        scratch = spoilt_scratch(optimizer, gradient)
        optimizer.step(parameters, gradient, statistics, scratch, learning_rate=0.01, step_count=1)

    def told(operation: str, writes: bool) -> None:
        if writes:  # another process's whole step comes in the middle of ours
            moments.append(operation)
            step(vector(1.0, 2.0), gradient)

    Shared.told = told
    step(vector(1.0, 2.0).as_subclass(Shared), torch.zeros(2, dtype=torch.float64))
    assert len(moments) == 1
    for ours, theirs in zip(statistics, in_turn, strict=True):
        assert torch.equal(ours, theirs)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.floats(0.01, 1e3))
@settings(max_examples=60)
def test_clipping_equals_torchs(numbers, max_norm):
    gradient = vector(*numbers)
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    expected_norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    clipped, norm = clip_by_global_norm(gradient, max_norm, out=torch.empty_like(gradient))
    assert norm == pytest.approx(expected_norm.item(), abs=1e-12)
    # torch divides by norm + 1e-6
    torch.testing.assert_close(clipped, parameter.grad, rtol=1.1e-6 / max_norm + 1e-12, atol=1e-12)


def test_clipping_by_hand():
    gradient, out = vector(3.0, -4.0), vector(0.0, 0.0)
    clipped, norm = clip_by_global_norm(gradient, 1.0, out)
    assert (clipped.tolist(), norm) == (pytest.approx([0.6, -0.8]), 5.0)
    assert clipped is out
    assert gradient.tolist() == [3.0, -4.0]


@pytest.mark.parametrize(
    ("gradient", "max_norm"),
    [
        (vector(3.0, -4.0), 5.0),
        (vector(3.0, -4.0), None),
        (vector(0.0, 0.0), 1.0),
        (vector(math.nan, 1.0), 1.0),
        (vector(math.inf, 1.0), 1.0),
    ],
)
def test_what_is_short_or_not_finite_is_not_scaled(gradient, max_norm):
    out = vector(7.0, 7.0)
    clipped, norm = clip_by_global_norm(gradient, max_norm, out)
    assert clipped is gradient
    assert out.tolist() == [7.0, 7.0]
    assert norm == pytest.approx(math.sqrt(sum(x * x for x in gradient.tolist())), nan_ok=True)


def spikes(count: int, size: int, seed: int) -> list[Tensor]:
    """Gradients of a few numbers each, from tiny to large, and as many of none."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** torch.empty(count, size).uniform_(-3, 1, generator=generator)
    chosen = torch.rand(count, size, generator=generator) < 0.01
    return [*torch.where(chosen, sizes, 0.0), *torch.zeros(count, size)]


@pytest.mark.parametrize("optimizer", BOTH)
def test_what_is_shared_goes_only_into_operations_that_read_it_once(optimizer):
    parameters = vector(1.0, 2.0)
    shared = [tensor.as_subclass(Shared) for tensor in (parameters, *fresh(optimizer, parameters))]
    operations = set()
    Shared.told = lambda operation, writes: operations.add(operation)
    scratch = spoilt_scratch(optimizer, parameters)
    optimizer.step(shared[0], vector(3.0, -4.0), tuple(shared[1:]), scratch, learning_rate=0.01, step_count=1)
    assert operations == {"add", "multiply", "subtract"}


@pytest.mark.parametrize("optimizer", BOTH)
def test_torch_is_told_that_theta_has_changed(optimizer):
    parameters = vector(1.0, 2.0)
    before = parameters._version
    run(optimizer, parameters, [vector(3.0, -4.0)])
    assert parameters._version > before


@pytest.mark.parametrize("optimizer", BOTH)
@pytest.mark.parametrize("number", [math.inf, math.nan, 1e30])
def test_a_gradient_that_is_not_finite_or_whose_square_is_not_raises_no_warning(optimizer, number):
    parameters = torch.zeros(2)
    run(optimizer, parameters, [torch.tensor([number, 1.0])])
    assert bool(parameters[1].isfinite())


def test_a_bound_beyond_the_dtype_holds_nothing_back():
    adam, parameters = Adam(beta1=0.9, beta2=0.5), torch.zeros(2)
    assert 1e39 < adam.ratio_bound(400) < math.inf
    statistics, scratch = fresh(adam, parameters), spoilt_scratch(adam, parameters)
    adam.step(parameters, torch.ones(2), statistics, scratch, learning_rate=0.01, step_count=400)
    assert bool(parameters.isfinite().all())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("optimizer", [RMSProp(), Adam()])
def test_two_at_once_never_make_a_mean_of_squares_negative(optimizer):
    # Two threads do, for NumPy lets others run while it works. Where a shared number is read twice in one operation, a
    # spike that the other writes in between makes it negative, and its root, and then θ, NaN.
    parameters = torch.zeros(200_000)
    statistics, least = fresh(optimizer, parameters), []

    def work(seed: int) -> None:
        scratch, gradients = spoilt_scratch(optimizer, parameters), spikes(20, len(parameters), seed)
        for step_count in range(1, 1001):
            gradient = gradients[step_count % len(gradients)]
            optimizer.step(parameters, gradient, statistics, scratch, learning_rate=1e-3, step_count=step_count)
            if step_count % 100 == 0:
                statistics[-1].mul_(1e-4)  # so that there are small ones again
            least.append(float(statistics[-1].min()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(least) == 2000
    assert min(least) >= 0
    assert bool(torch.isfinite(parameters).all())
