"""Checkpoints: weights and statistics as safetensors, the rest as JSON. Reading one runs no code of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from a3c.errors import RunDirectoryError
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import CHECKPOINTS, read_json, write_json
from a3c.models.actor_critic import ActorCritic

_MODEL, _SPEC, _STATISTICS, _STATE = "model.safetensors", "policy.json", "optimizer.safetensors", "state.json"
_MOMENTS = "normaliser.moments"  # beside the network's tensors
_IN_POLICY = ("parameters", "moments")  # of a store's state: the policy's files hold them


def save_policy(directory: Path, spec: PolicySpec, model: ActorCritic) -> None:
    """Write a network, the moments that it normalises by, and its description into an existing directory."""
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in _tensors(model).items()}
    assert _MOMENTS not in tensors
    save_file(tensors | {_MOMENTS: model.normaliser.moments.clone().contiguous()}, directory / _MODEL)
    write_json(directory / _SPEC, spec.to_json())


def load_policy(directory: Path, model: str | Callable[..., Any] | None = None) -> tuple[PolicySpec, ActorCritic]:
    """Read what `save_policy` wrote.

    Args:
        directory: where it lies.
        model: for a network of a person's own: its factory, or `package.module:factory`.

    Raises:
        RunDirectoryError: it is missing or damaged.
        UsageError: the network is a person's own, and `model` is missing or another.
    """
    spec = PolicySpec.from_json(read_json(directory / _SPEC), model)
    try:
        tensors = load_file(directory / _MODEL)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunDirectoryError(f"{directory / _MODEL} cannot be read ({error}): the weights are damaged") from None
    network = spec.build()
    moments = tensors.pop(_MOMENTS, None)
    own = _tensors(network)
    outline = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in own.items()}
    fits = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} == outline
    if not fits or moments is None or moments.shape != network.normaliser.moments.shape:
        raise RunDirectoryError(f"{directory / _MODEL} does not hold the network that {_SPEC} describes")
    for name, tensor in own.items():  # in place: the parameters are views of one vector
        tensor.copy_(tensors[name])
    network.normaliser.load(moments)
    return spec, network


def _tensors(model: ActorCritic) -> dict[str, Tensor]:
    """What a network's file holds: its parameters and saved buffers, by name, a shared one once."""
    once = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once.values()}


def save_checkpoint(run_dir: Path, spec: PolicySpec, model: ActorCritic, state: Mapping[str, Any]) -> Path:
    """Write a store's state as RUN_DIR/checkpoints/step-T, complete or not at all.

    Args:
        run_dir: the run's directory.
        spec: describes the network.
        model: any network of that description; it is given the state's parameters and moments.
        state: a store's `state_dict`: tensors and numbers by name.

    Returns:
        The checkpoint's directory.
    """
    final = run_dir / CHECKPOINTS / f"step-{state['env_steps']:012d}"
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.flat.copy_(state["parameters"])
    model.normaliser.load(state["moments"])
    save_policy(aside, spec, model)
    vectors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    save_file({name: vector for name, vector in vectors.items() if name not in _IN_POLICY}, aside / _STATISTICS)
    write_json(aside / _STATE, {name: value for name, value in state.items() if name not in vectors})
    for file in aside.iterdir():
        _sync(file)
    _sync(aside)
    if final.exists():  # of the same T: it goes only when the new one is whole
        old = final.with_name(f".{final.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        os.replace(aside, final)
        shutil.rmtree(old)
    else:
        os.replace(aside, final)
    _sync(final.parent)
    return final


def latest_checkpoint(run_dir: Path) -> Path:
    """The run's newest checkpoint. Raises RunDirectoryError if there is no run, or none in it."""
    if not run_dir.is_dir():
        raise RunDirectoryError(f"there is no run {run_dir}: check the name")
    found = sorted((run_dir / CHECKPOINTS).glob("step-*"))
    if not found:
        raise RunDirectoryError(f"{run_dir} holds no checkpoint: it is no run, or one that ended before its first")
    return found[-1]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
