"""Checkpoints: weights and statistics as safetensors, the rest as JSON. Reading one runs no code of it.

A checkpoint is a directory that appears complete or not at all: it is written aside, brought to the disk and renamed.
Each file's SHA-256 is in its checksums.json, so that one that was damaged later is noticed, and an older one taken.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from a3c.errors import RunDirectoryError
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import BEST_EVALUATION, CHECKPOINTS, CONFIG, REPLACED, read_json, regular, write_json
from a3c.models.actor_critic import ActorCritic
from a3c.spaces.described import MOST_ENTRIES

_MODEL, _SPEC, _STATISTICS, _STATE = "model.safetensors", "policy.json", "optimizer.safetensors", "state.json"
_PROGRESS, _CHECKSUMS = "progress.json", "checksums.json"
_ENTRIES_PER_WEIGHT = 64  # an observation has fewer: only of an image are there less weights than numbers, seldom many
_MOMENTS = "normaliser.moments"  # beside the network's tensors
_IN_POLICY = ("parameters", "moments")  # of a store's state: the policy's files hold them


def save_policy(directory: Path, spec: PolicySpec, model: ActorCritic) -> None:
    """Write a network, the moments that it normalises by, and its description into an existing directory."""
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in _tensors(model).items()}
    assert _MOMENTS not in tensors
    _save_tensors(tensors | {_MOMENTS: model.normaliser.moments.clone().contiguous()}, directory / _MODEL)
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
    tensors = _load_tensors(directory / _MODEL)
    data = read_json(directory / _SPEC)
    weights = sum(tensor.numel() for tensor in tensors.values())
    most_entries = min(_ENTRIES_PER_WEIGHT * weights, MOST_ENTRIES) if data.get("model") is None else MOST_ENTRIES
    try:
        spec = PolicySpec.from_json(data, model, most_entries)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{directory / _SPEC}: {error}; {_MODEL} holds {weights:,} numbers") from None
    _refuse_what_is_not_there(spec, tensors, directory)
    network = spec.build()
    _check_fit(network, tensors, directory)
    for name, tensor in _tensors(network).items():  # in place: the parameters are views of one vector
        tensor.copy_(tensors[name])
    network.normaliser.load(tensors[_MOMENTS])
    return spec, network


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, which has as many bytes as they do. Raises RunDirectoryError if it is damaged."""
    try:
        return load_file(regular(path))
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:  # the last two of mad shapes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunDirectoryError(f"{path} cannot be read ({why}): it is damaged") from None


def _refuse_what_is_not_there(spec: PolicySpec, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Raise RunDirectoryError where a small file describes a network of gigabytes, before that is built."""
    if spec.model is None:
        _check_fit(spec.outline(), tensors, directory)
        return
    # A person's own: what it makes of such an observation is its business; the layers behind it are known.
    actions = spec.actions.distribution.parameter_count // 2  # the other half may be a Gaussian's own deviations
    size = spec.network.memory_size
    least = size * (3 * size + actions) if spec.network.memory else actions
    there = sum(tensor.numel() for tensor in tensors.values())
    if least > there:
        raise RunDirectoryError(
            f"{directory / _MODEL} does not hold the network that {_SPEC} describes: {there:,} numbers, not {least:,}"
        )


def _check_fit(network: ActorCritic, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Raise RunDirectoryError, with the first difference, unless these are a network's tensors."""
    wanted, there = (
        {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in each.items()}
        for each in (_tensors(network) | {_MOMENTS: network.normaliser.moments}, tensors)
    )
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            described, held = (" ".join(map(str, each.get(name, ["nothing"]))) for each in (wanted, there))
            raise RunDirectoryError(
                f"{directory / _MODEL} does not hold the network that {_SPEC} describes: {name} is {held}, and not "
                f"{described}"
            )


def _tensors(model: ActorCritic) -> dict[str, Tensor]:
    """What a network's file holds: its parameters and saved buffers, by name, a shared one once."""
    once = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once.values()}


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    path: Path
    spec: PolicySpec
    state: dict[str, Any]  # a store's: tensors and numbers by name
    progress: dict[str, Any]  # of the run, as JSON


def save_checkpoint(
    run_dir: Path,
    spec: PolicySpec,
    model: ActorCritic,
    state: Mapping[str, Any],
    progress: Mapping[str, Any] | None = None,
    name: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Write a store's state as RUN_DIR/checkpoints/step-T, complete or not at all.

    Args:
        run_dir: the run's directory.
        spec: describes the network.
        model: any network of that description; it is given the state's parameters and moments.
        state: a store's `state_dict`: tensors and numbers by name.
        progress: what else the run needs to go on from there, as JSON.
        name: of the directory, in place of step-T.
        record: the run's settings and versions, of which there is to be a copy.

    Returns:
        The checkpoint's directory.
    """
    final = run_dir / CHECKPOINTS / (name or _name(state["env_steps"]))
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(aside, spec, model, state, progress or {}, record)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # on a full disk the half of it would be in everybody's way
        raise
    if final.exists():  # of the same T: it goes only when the new one is whole
        old = final.with_name(f".{final.name}{REPLACED}")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        os.replace(aside, final)
        shutil.rmtree(old)
    else:
        os.replace(aside, final)
    _sync(final.parent)
    return final


def _write(
    aside: Path,
    spec: PolicySpec,
    model: ActorCritic,
    state: Mapping[str, Any],
    progress: Mapping[str, Any],
    record: Mapping[str, Any] | None,
) -> None:
    aside.mkdir(parents=True)
    model.flat.copy_(state["parameters"])
    model.normaliser.load(state["moments"])
    save_policy(aside, spec, model)
    vectors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    _save_tensors({name: vector for name, vector in vectors.items() if name not in _IN_POLICY}, aside / _STATISTICS)
    write_json(aside / _STATE, {name: value for name, value in state.items() if name not in vectors})
    write_json(aside / _PROGRESS, progress)
    if record is not None:
        write_json(aside / CONFIG, record)
    write_json(aside / _CHECKSUMS, {file.name: _checksum(file) for file in sorted(aside.iterdir())})
    for file in aside.iterdir():
        _sync(file)
    _sync(aside)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file of tensors. Raises OSError, as safetensors itself does not."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, os.strerror(int(code[1])) if code else str(error)) from None


def read_checkpoint(directory: Path, model: str | Callable[..., Any] | None = None) -> Checkpoint:
    """Read what `save_checkpoint` wrote; `model` as in `load_policy`. Raises RunDirectoryError if it is damaged."""
    spec, network = load_policy(directory, model)
    statistics = _load_tensors(directory / _STATISTICS)
    state = {"parameters": network.flat, "moments": network.normaliser.moments} | statistics
    return Checkpoint(directory, spec, state | read_json(directory / _STATE), read_json(directory / _PROGRESS))


def _name(env_steps: int) -> str:
    return f"step-{env_steps:012d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, from the oldest to the newest."""
    return sorted((run_dir / CHECKPOINTS).glob("step-*"))


def best(found: Sequence[Path]) -> Path:
    """The one of these checkpoints at which the mean return of 100 episodes was best; of equal ones the newest."""

    def mean_return(path: Path) -> float:
        try:
            value = read_json(path / _PROGRESS).get("return_mean_100")
        except RunDirectoryError:
            return -math.inf
        return float(value) if isinstance(value, int | float) else -math.inf

    return max(reversed(found), key=mean_return)


def best_evaluation(run_dir: Path) -> dict[str, float] | None:
    """`env_steps` and `return_mean` of the policy that was kept for its evaluation; None if there is no such policy."""
    directory = run_dir / CHECKPOINTS / BEST_EVALUATION
    if not directory.is_dir() or damage_of(directory) is not None:
        return None
    try:
        best = read_json(directory / _PROGRESS)
        return {"env_steps": int(best["env_steps"]), "return_mean": float(best["return_mean"])}
    except (RunDirectoryError, KeyError, TypeError, ValueError, OverflowError):
        return None


def find_checkpoint(run_dir: Path, which: str, report: Callable[[str], None]) -> Path:
    """One of a run's checkpoints that is whole.

    Args:
        run_dir: the run's directory.
        which: "latest", "best", "best-evaluation", or its name.
        report: is called with a line for each checkpoint that would have been it and is damaged.

    Raises RunDirectoryError if there is no run, or no such checkpoint in it.
    """
    if which == "latest":
        return newest_whole_checkpoint(run_dir, report)
    newest_whole_checkpoint(run_dir, lambda _: None)  # that there is a run at all
    found = {path.name: path for path in checkpoints(run_dir)}
    if which == "best":
        return best([path for path in found.values() if damage_of(path) is None])
    if (evaluated := run_dir / CHECKPOINTS / BEST_EVALUATION).is_dir():
        found[BEST_EVALUATION] = evaluated
    if which not in found:
        why = " (only a run with --evaluate-every keeps one)" if which == BEST_EVALUATION else ""
        raise RunDirectoryError(f"{run_dir} has no checkpoint {which!r}{why}; it has latest, best, {', '.join(found)}")
    if damage := damage_of(found[which]):
        raise RunDirectoryError(f"the checkpoint {found[which]} is damaged ({damage}): take another")
    return found[which]


def newest_whole_checkpoint(run_dir: Path, report: Callable[[str], None]) -> Path:
    """The newest checkpoint whose files are as they were written.

    Args:
        run_dir: the run's directory.
        report: is called with a line for each newer one that is damaged.

    Raises RunDirectoryError if there is no run, or no such checkpoint in it.
    """
    if not run_dir.is_dir():
        raise RunDirectoryError(f"there is no run {run_dir}: check the name")
    damages = list[str]()
    for path in reversed(checkpoints(run_dir)):
        damage = damage_of(path)
        if damage is None:
            new = ", which has learned nothing yet" if path.name == _name(0) else ""
            for other in damages:
                report(f"{other}: going back to {path.name}{new}")
            return path
        damages.append(f"the checkpoint {path.name} is damaged ({damage})")
    if damages:
        raise RunDirectoryError(f"{run_dir} holds no whole checkpoint: {'; '.join(damages)}")
    raise RunDirectoryError(
        f"{run_dir} holds no checkpoint: it is no run, or one that ended before its first; begin it again, with "
        "--overwrite"
    )


def put_back(run_dir: Path) -> None:
    """Where a run was killed while one checkpoint took another's place, which was gone already: put that back.

    To be called by who holds the run's lock. Raises OSError.
    """
    folder = run_dir / CHECKPOINTS
    for old in (*folder.glob(f".step-*{REPLACED}"), *folder.glob(f".{BEST_EVALUATION}{REPLACED}")):
        final = old.with_name(old.name.removeprefix(".").removesuffix(REPLACED))
        if not final.exists():
            os.replace(old, final)


def set_damaged_aside(run_dir: Path) -> None:
    """Rename a run's damaged checkpoints to damaged-step-T, so that none of them is ever taken for one."""
    for path in checkpoints(run_dir):
        if damage_of(path) is not None:
            aside = path.with_name(f"damaged-{path.name}")
            if aside.exists():  # of the same T, from before
                shutil.rmtree(aside)
            os.replace(path, aside)


def damage_of(directory: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are as they were written."""
    try:
        checksums = read_json(directory / _CHECKSUMS)
        for name in (_MODEL, _SPEC, _STATISTICS, _STATE, _PROGRESS, *([CONFIG] if CONFIG in checksums else [])):
            if checksums.get(name) != _checksum(directory / name):
                return f"{name} is not what was written"
    except (OSError, RunDirectoryError) as error:
        return str(error)
    return None


def _checksum(path: Path) -> str:
    with open(regular(path), "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
