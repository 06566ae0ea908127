"""Checkpoints while a run goes on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from a3c.errors import NonFiniteError
from a3c.experiment import checkpoint
from a3c.experiment.policy_spec import PolicySpec
from a3c.experiment.run_directory import reason_and_fix, remove_at_one_stroke
from a3c.models.actor_critic import ActorCritic

_PUT_OFF_S = 5.0


class CheckpointSaver:
    """Writes checkpoints, those of a run that goes on in a thread, and keeps the newest ones and the best.

    One that cannot be written is reported, and the run goes on: the next one is tried when its time comes. Weights and
    moments that are not finite, and statistics that are NaN, are never written: the last good one stays the newest.

    Args:
        run_dir: the run's directory.
        spec: describes the network.
        model: any network of that description, the saver's own from now on.
        every_s: seconds from one checkpoint to the next; None for none but the first and the last.
        keep: how many of the newest to keep; the one with the best `return_mean_100` stays besides.
        report: is called with a line for each checkpoint that could not be written, in the thread that wrote it.
        record: what config.json holds, of which each checkpoint has a copy.
        ours: says whether the directory is still this run's; nothing is written beside the caller where it is not.
    """

    def __init__(
        self,
        run_dir: Path,
        spec: PolicySpec,
        model: ActorCritic,
        every_s: float | None,
        keep: int,
        report: Callable[[str], None],
        record: Mapping[str, Any] | None = None,
        ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._run_dir = run_dir
        self._spec = spec
        self._model = model
        self._every_s = math.inf if every_s is None else every_s
        self._keep = keep
        self._report = report
        self._record, self._ours = record, ours
        self._next = time.monotonic() + self._every_s
        self._thread: threading.Thread | None = None

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint and none is being written."""
        return time.monotonic() >= self._next and (self._thread is None or not self._thread.is_alive())

    def begin(self, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Write a checkpoint of this state, beside the caller; see `checkpoint.save_checkpoint`."""
        self._next = time.monotonic() + self._every_s
        self._thread = threading.Thread(target=self._try, args=(state, progress), name="a3c-checkpoint", daemon=True)
        self._thread.start()

    def put_off(self) -> None:
        """Try again a little later."""
        self._next = time.monotonic() + min(self._every_s, _PUT_OFF_S)

    def save_last(self, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Write a checkpoint now. Raises OSError, and NonFiniteError where the weights are not to be written."""
        if self._thread is not None:
            self._thread.join()
        self._save(state, progress)

    def _try(self, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        try:
            if self._ours():
                self._save(state, progress)
        except (OSError, NonFiniteError) as error:
            self._report(f"no checkpoint at {state['env_steps']:,} steps ({reason_and_fix(error)}); the run goes on")

    def _save(self, state: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        for name, values in state.items():
            if not isinstance(values, torch.Tensor) or bool(torch.isfinite(values).all()):
                continue
            if name in ("parameters", "moments") or bool(values.isnan().any()):  # an infinite statistic stops a weight
                what = "weights hold" if name == "parameters" else f"{name.replace('_', ' ')} hold"
                raise NonFiniteError(f"the {what} NaN or infinity: the checkpoint before is the last good one")
        checkpoint.save_checkpoint(self._run_dir, self._spec, self._model, state, progress, record=self._record)
        found = checkpoint.checkpoints(self._run_dir)
        if not found:
            return  # the directory has vanished meanwhile
        best = checkpoint.best(found)
        for old in found[: -self._keep]:
            if old != best:
                remove_at_one_stroke(old)
