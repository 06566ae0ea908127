"""Feedforward networks on arrays: the whole network is one step of the chain rule, its two passes a few calls each.

Nothing is recorded, since the chain rule is written down: each layer's in `a3c.models.layers`, the network's here. So
what acting works out of a rollout's observations can be kept, and learning begins with it.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from a3c.core.normalisation import Normaliser
from a3c.models.encoder import Encoder
from a3c.models.heads import LEAST_VARIANCE
from a3c.models.layers import Layer, Linear, has_known_layers, layers_of
from a3c.types import Outputs, PolicyValue

if TYPE_CHECKING:
    from a3c.models.actor_critic import ActorCritic

Array = NDArray[Any]
Vector = TypeVar("Vector", Array, Tensor)

_version_of = operator.attrgetter("_version")


class Feedforward:
    """An actor-critic's forward and backward pass.

    Args:
        model: one that this `suits`; its parameters' memory is read as it is at each call.
    """

    def __init__(self, model: ActorCritic) -> None:
        assert self.suits(model)
        self.parameters = list(model.parameters())
        indices = {parameter.data_ptr(): i for i, parameter in enumerate(self.parameters)}
        ends = [*itertools.accumulate(parameter.numel() for parameter in self.parameters)]
        # Where each parameter lies in a gradient [P], and its shape.
        self._parts = [(end - p.numel(), end, tuple(p.shape)) for end, p in zip(ends, self.parameters, strict=True)]
        self.torsos = [layers_of(model.policy_torso, indices)]
        if model.value_torso is not model.policy_torso:
            self.torsos.append(layers_of(model.value_torso, indices))
        self.policy_head, self.value_head = (
            Linear.of(linear, indices) for linear in (model.policy_head.linear, model.value_head)
        )
        self.policy_layers: list[Layer] = [*self.torsos[0], self.policy_head]
        log_std = model.policy_head.log_std
        self.log_std: Array | None = None if log_std is None else log_std.detach().numpy()  # [K]; gSDE's, [F, K]
        self.gsde = model.policy_head.gsde
        self._log_std_index = -1 if log_std is None else indices[log_std.data_ptr()]
        layers: list[Layer] = [self.policy_head, self.value_head, *itertools.chain(*self.torsos)]
        known = {index for layer in layers for index in layer.indices} | {self._log_std_index} - {-1}
        assert known == set(range(len(self.parameters))), "each is to have its gradient"
        self.dtype = self.value_head.bias.dtype
        self._address = model.value_head.bias.data_ptr()
        assert isinstance(model.policy_torso, Encoder)
        self._image = model.policy_torso.image
        own_dims = model.policy_torso.vector_dims if self._image is None else self._image.dims
        assert own_dims is not None
        self._own_dims = own_dims
        self._width = model.policy_torso.joint_inputs  # I

    @staticmethod
    def suits(model: ActorCritic) -> bool:
        """Whether a model, on the CPU and without memory, is made of layers and of a dtype that are known here."""
        return (
            model.device.type == "cpu"
            and model.dtype in (torch.float32, torch.float64)
            and model.policy_memory is None
            and has_known_layers(model.policy_torso)
            and has_known_layers(model.value_torso)
            and model.policy_head.order is None
        )

    @property
    def convolves(self) -> bool:
        """Whether it is for images: then a pass takes long."""
        return self._image is not None

    def takes(self, observations: Tensor) -> bool:
        """Whether NumPy can have these, and nobody wants a gradient with respect to them."""
        return observations.is_cpu and not observations.requires_grad and observations.dtype != torch.bfloat16

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of a model has other memory: it has none of these, and is passed through by torch.
        return type(None), ()

    def are_of(self, model: ActorCritic) -> bool:
        """Whether these arrays are still the memory of the model's parameters: not of a copy, or one that has moved."""
        return self._address == model.value_head.bias.data_ptr()

    @np.errstate(invalid="ignore", over="ignore")  # who learns from a rollout looks for what is not finite
    def __call__(self, model: ActorCritic, observations: Tensor, passes: Passes | None = None) -> Outputs:
        """Policy parameters [..., D] and values [...] of the model that these are of, for observations [..., *O].

        `passes` are the policy's over all rows of a rollout's observations but the last one, if they are known; where
        they no longer hold they are made anew.
        """
        lead = observations.shape[: observations.ndim - self._own_dims]
        if passes is not None and passes.hold(self, len(observations)):
            arrays = self._with_last_row(passes, observations.numpy(), model.normaliser)
        else:
            passes = None
            arrays = _through(self.policy_layers, self.inputs(self._own_copy(observations), model.normaliser))
        policy, values, tapes = self.forward_from(arrays)
        if passes is not None and self.log_std is None:
            policy = policy.copy()  # what is kept is not handed out
        policy, values = policy.reshape(*lead, policy.shape[1]), values.reshape(lead)
        if not torch.is_grad_enabled():
            return PolicyValue(torch.from_numpy(policy), torch.from_numpy(values))
        return PassedThrough((policy, values), PassRecord(self, model, tapes, passes))

    @np.errstate(invalid="ignore", over="ignore")
    def policy_pass(
        self, observations: Array, normaliser: Normaliser, out: Sequence[Array] | None = None
    ) -> tuple[Array, Array]:
        """The policy's features [N, F] of observations [..., *O], one row each, and its head's numbers for them.

        The head's numbers leave out a log σ that is a parameter of its own. `out` is what they and all on the way to
        them are written to: see `PolicySteps`.
        """
        inputs = self.inputs(observations, normaliser)
        if out is not None and self._image is None:
            out[0][...] = inputs
            out = out[1:]
        passes = _through(self.policy_layers, inputs, out)
        return passes[-2], passes[-1]

    def _with_last_row(self, passes: Passes, observations: Array, normaliser: Normaliser) -> list[Any]:
        """Those over a whole rollout, on whose last row [B, *O] nobody has acted."""
        self.policy_pass(observations[-1], normaliser, passes.kept.places[passes.steps])
        kept = [rows[: passes.steps + 1].reshape(-1, *rows.shape[2:]) for rows in passes.kept.rows]  # [(T+1) B, ...]
        return kept if self._image is None else [self.inputs(observations, normaliser), *kept]

    def inputs(self, observations: Array, normaliser: Normaliser) -> Any:
        """What goes into the first layers: normalised numbers, a row each, [N, I], or N images as they are."""
        if self._image is not None:
            return self._image.pixels(observations, normaliser)
        return normaliser.numbers(observations.reshape(-1, self._width), self.dtype)

    def _own_copy(self, observations: Tensor) -> Array:
        """The observations; of images a copy where a gradient may follow, since it is taken from these very pixels."""
        numbers: Array = observations.numpy()
        return numbers.copy(order="K") if self._image is not None and torch.is_grad_enabled() else numbers

    @property
    def kept_shapes(self) -> list[tuple[int, ...]]:
        """A row of what is kept of a pass: the inputs (not images), and what each layer gives."""
        shapes = [layer.shape for layer in self.policy_layers]
        return shapes if self._image is not None else [(self._width,), *shapes]

    def forward(self, inputs: Any) -> tuple[Array, Array, list[list[Any]]]:
        """Policy parameters [N, D], values [N], and what each torso's layers took in and gave out."""
        return self.forward_from(_through(self.policy_layers, inputs))

    def forward_from(self, policy_passes: list[Any]) -> tuple[Array, Array, list[list[Any]]]:
        """The same, where the policy's own passes are known already."""
        *policy_tape, policy = policy_passes
        tapes = [policy_tape]
        tapes += [_through(torso, policy_tape[0]) for torso in self.torsos[1:]]
        values = self.value_head(tapes[-1][-1])[:, 0]
        if self.log_std is not None:
            policy = np.concatenate([policy, self._log_stds(tapes[0][-1])], 1)
        return policy, values, tapes

    def _log_stds(self, features: Array) -> Array:
        """Those that are not the linear layer's, [N, K], for the policy's features [N, F]."""
        assert self.log_std is not None
        if self.gsde:
            log_stds: Array = np.log(self.variance(features))
            log_stds /= 2
            return log_stds
        return np.broadcast_to(self.log_std, (len(features), len(self.log_std)))

    def variance(self, features: Array) -> Array:
        """gSDE's, Σ_i f_i² σ_ik², [N, K], for the policy's features [N, F]: see `PolicyHead`."""
        assert self.log_std is not None
        variance: Array = features**2 @ np.exp(2 * self.log_std)
        variance += LEAST_VARIANCE
        return variance

    def _of_log_std(self, features: Array, of_log_stds: Array, out: Array) -> None:
        """∂L/∂log σ, where ∂L/∂(log σ of each row) is [N, K]. None of it goes on to the features."""
        if not self.gsde:
            np.add.reduce(of_log_stds, 0, out=out)
            return
        assert self.log_std is not None
        np.matmul((features**2).T, of_log_stds / self.variance(features), out=out)
        out *= np.exp(2 * self.log_std)

    @np.errstate(invalid="ignore", over="ignore")
    def backward(self, tapes: Sequence[list[Any]], of_policy: Array, of_values: Array) -> Array:
        """The gradient with respect to the parameters, [P], for those with respect to the outputs, [..., D] and [...].

        Of N rows these may be the first ones only: no work is done for those behind, whose gradients are 0.
        """
        of_policy = of_policy.reshape(of_values.size, of_policy.shape[-1]).astype(self.dtype, copy=False)  # [N, D]
        of_values = of_values.reshape(-1).astype(self.dtype, copy=False)  # [N]
        tapes = [[rows[: len(of_values)] for rows in tape] for tape in tapes]
        gradient = np.empty(self._parts[-1][1], self.dtype)
        parts = self.parts_of(gradient)
        if self.log_std is not None:
            size = self.log_std.shape[-1]
            self._of_log_std(tapes[0][-1], of_policy[:, -size:], parts[self._log_std_index])
            of_policy = of_policy[:, :-size]
        heads = [(self.policy_head, tapes[0], of_policy), (self.value_head, tapes[-1], of_values[:, None])]
        of_features = [head.back(tape[-1], None, of_outputs, parts) for head, tape, of_outputs in heads]
        if len(self.torsos) == 1:  # a shared torso hears from both heads
            of_features = [of_features[0] + of_features[1]]
        for torso, tape, of_outputs in zip(self.torsos, tapes, of_features, strict=True):
            for i in range(len(torso) - 1, -1, -1):
                of_outputs = torso[i].back(tape[i], tape[i + 1], of_outputs, parts, onward=i > 0)
        return gradient

    def versions(self, model: ActorCritic) -> list[int]:
        """They change when the model's parameters do."""
        # Torch counts how often a tensor was written to; a parameter's memory has two counts, its own and the vector's.
        return [model.flat._version, *map(_version_of, self.parameters)]

    def parts_of(self, gradient: Vector) -> list[Vector]:
        """Views of each parameter's part of a gradient [P]."""
        return [gradient[begin:end].reshape(shape) for begin, end, shape in self._parts]


def _through(layers: Sequence[Layer], inputs: Any, out: Sequence[Array] | None = None) -> list[Any]:
    """The inputs, N rows, and what each of the layers gives out, written to `out` if there is one."""
    tape = [inputs]
    places: Sequence[Array | None] = out or [None] * len(layers)
    for layer, place in zip(layers, places, strict=True):
        tape.append(layer(tape[-1], place))
    return tape


class PolicySteps:
    """What the policy's layers took in and gave out, step by step, while a rollout was acted.

    Images are not among it: they stay in the actor's buffer.

    Owns the memory, which the next rollout overwrites.

    Args:
        model: whose policy.
        steps: T, the most that are kept.
        lanes: B.
    """

    def __init__(self, model: ActorCritic, steps: int, lanes: int) -> None:
        assert model.feedforward is not None
        self.model, self.network, self.lanes = model, model.feedforward, lanes
        shapes = self.network.kept_shapes
        self.rows = [np.empty((steps + 1, lanes, *shape), self.network.dtype) for shape in shapes]  # [T+1, B, ...] each
        self.places = [[rows[t] for rows in self.rows] for t in range(steps + 1)]  # where each step's are written
        self.rollout = 0  # which one it is, by number
        self._versions: list[int] = []  # of the parameters that act
        self._moments: Tensor | None = None  # that they act by

    def begin(self) -> None:
        """The next rollout begins, with the parameters and moments as they are."""
        self.rollout += 1
        self._versions, self._moments = self.network.versions(self.model), self.model.normaliser.moments

    def are_by(self, network: Feedforward) -> bool:
        """Whether that is the network, and its parameters and moments are what they were."""
        same = network is self.network and self.model.normaliser.moments is self._moments
        return same and network.versions(self.model) == self._versions


class Passes(NamedTuple):
    """The policy's passes over the first T rows of one rollout's observations: learning begins with them."""

    kept: PolicySteps
    rollout: int
    steps: int  # T

    @property
    def are_there(self) -> bool:
        """Whether the actor has not gone on."""
        return self.kept.rollout == self.rollout

    def hold(self, network: Feedforward, rows: int) -> bool:
        """Whether they are still there, and are what the network would make of all but the last of so many rows."""
        return self.are_there and self.steps + 1 == rows and self.kept.are_by(network)


class PassRecord:
    """What a pass leaves for the gradient.

    Args:
        network: what was passed through.
        model: whose network it is.
        tapes: what each torso's layers took in and gave out.
        passes: whose memory that is; None if it is the tapes' own.
    """

    __slots__ = ("_passes", "_tapes", "_versions", "model", "network")

    def __init__(self, network: Feedforward, model: ActorCritic, tapes: list[list[Any]], passes: Passes | None) -> None:
        self.network, self.model = network, model
        self._tapes, self._passes = tapes, passes
        self._versions = network.versions(model)

    def gradient(self, of_policy: Array, of_values: Array) -> Tensor:
        """See `Feedforward.backward`. Raises RuntimeError if the parameters, or passes that were kept, have changed."""
        passes = self._passes
        if self.network.versions(self.model) != self._versions:
            raise RuntimeError("the parameters have changed since this pass: take its gradient before the next pull")
        if passes is not None and not passes.are_there:
            raise RuntimeError("another rollout has begun since this pass: take its gradient before the next unroll")
        return torch.from_numpy(self.network.backward(self._tapes, of_policy, of_values))


class PassedThrough:
    """A network's outputs, and the chain rule from its parameters to them: tensors only once somebody asks for them.

    Args:
        outputs: policy parameters [..., D] and values [...].
        record: of the pass.
    """

    __slots__ = ("_outputs", "_record", "_tensors")

    def __init__(self, outputs: tuple[Array, Array], record: PassRecord) -> None:
        self._outputs, self._record = outputs, record
        self._tensors: tuple[Tensor, Tensor] | None = None

    @property
    def policy(self) -> Tensor:
        """Parameters of the distribution over actions, [..., D], a node of autograd's graph."""
        return self._in_graph()[0]

    @property
    def values(self) -> Tensor:
        """[...]."""
        return self._in_graph()[1]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self._in_graph()

    def _in_graph(self) -> tuple[Tensor, Tensor]:
        if self._tensors is None:
            # Whoever asks first: the graph is that of the pass, where there was to be one.
            with torch.inference_mode(False), torch.enable_grad():
                self._tensors = _Pass.apply(self._record, self._outputs, *self._record.network.parameters)  # type: ignore[no-untyped-call]
        return self._tensors

    def on_host(self) -> tuple[Array, Array]:
        """The two as arrays, without a gradient."""
        return self._outputs

    def parameter_gradient(self, module: Any, of_policy: Array, of_values: Array) -> Tensor | None:
        """The parameters' gradient, unless they are another's, or some have none, or the outputs were handed out.

        Tensors that were handed out may have been changed, or have hooks: autograd sees to that. Raises RuntimeError if
        the parameters have changed since, or an actor whose passes these are has gone on.
        """
        if (
            self._tensors is not None
            or module is not self._record.model
            or not all(parameter.requires_grad for parameter in self._record.network.parameters)
        ):
            return None
        return self._record.gradient(of_policy, of_values)


class _Pass(torch.autograd.Function):
    """The network's pass as one node."""

    @staticmethod
    def forward(ctx: Any, record: PassRecord, outputs: tuple[Array, Array], *_: Tensor) -> tuple[Tensor, ...]:
        ctx.record = record
        return tuple(torch.from_numpy(array) for array in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_policy: Tensor, of_values: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.record.gradient(of_policy.numpy(), of_values.numpy())
        return None, None, *ctx.record.network.parts_of(gradient)
