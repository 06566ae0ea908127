"""Checkpoints: weights and statistics as safetensors, the rest as JSON. Reading one runs no code of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from a3c.errors import RunDirectoryError
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import CHECKPOINTS, read_json, write_json
from a3c.models.actor_critic import ActorCritic
from a3c.types import StoreState

_MODEL, _SPEC, _STATISTICS, _STATE = "model.safetensors", "policy.json", "optimizer.safetensors", "state.json"


def save_policy(directory: Path, spec: PolicySpec, model: ActorCritic) -> None:
    """Write a network and its description into an existing directory."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.named_parameters()}
    save_file(tensors, directory / _MODEL)
    write_json(directory / _SPEC, spec.to_json())


def load_policy(directory: Path) -> tuple[PolicySpec, ActorCritic]:
    """Read what `save_policy` wrote. Raises RunDirectoryError if it is missing or damaged."""
    spec = PolicySpec.from_json(read_json(directory / _SPEC))
    model = spec.build()
    try:
        tensors = load_file(directory / _MODEL)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunDirectoryError(f"{directory / _MODEL} cannot be read ({error}): the weights are damaged") from None
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    if {name: tuple(t.shape) for name, t in tensors.items()} != shapes:
        raise RunDirectoryError(f"{directory / _MODEL} does not hold the network that {_SPEC} describes")
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])
    return spec, model


def save_checkpoint(
    run_dir: Path, spec: PolicySpec, model: ActorCritic, state: StoreState, statistic_names: tuple[str, ...]
) -> Path:
    """Write a store's state as RUN_DIR/checkpoints/step-T, complete or not at all.

    Args:
        run_dir: the run's directory.
        spec: describes the network.
        model: any network of that description; it is given the state's parameters.
        state: a cut through the store.
        statistic_names: names of the optimiser's statistics, in the state's order.

    Returns:
        The checkpoint's directory.
    """
    final = run_dir / CHECKPOINTS / f"step-{state.env_steps:012d}"
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.flat.copy_(state.parameters)
    save_policy(aside, spec, model)
    save_file(dict(zip(statistic_names, state.statistics, strict=True)), aside / _STATISTICS)
    counters = {"version": state.version, "env_steps": state.env_steps, "episodes": state.episodes}
    write_json(aside / _STATE, counters)
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
