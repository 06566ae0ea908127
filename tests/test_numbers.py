"""A NaN in a reward, an observation, a gradient or the weights: found, named, dropped, and CartPole is learned."""

import json
import math
import re

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import load_file

import a3c
from a3c.algorithms import actor_critic
from a3c.errors import NonFiniteError, WorkerFailed
from a3c.experiment import train as training
from leftovers import nothing_left

pytestmark = pytest.mark.timeout(240)
ONE_IN = 20_000  # steps; rollouts of 64 environments and 8 steps: one in 40 is dropped


class Poisoned(gym.Wrapper):
    """CartPole-v1 in which, now and then, a reward or an observation is NaN."""

    def __init__(self, what):
        super().__init__(gym.make("CartPole-v1"))
        self.what = what

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.unwrapped.np_random.random() < 1 / ONE_IN:
            if self.what == "reward":
                reward = math.nan
            else:
                observation = np.full_like(observation, math.nan)
        return observation, reward, terminated, truncated, info


def trained(env, folder, **settings):
    common = {
        "preset": "none", "runtime": "serial", "envs_per_worker": 64, "rollout_length": 8, "learning_rate": 8e-3,
        "entropy_coef": 0.01, "total_env_steps": 1_000_000, "stop_at_return": 475.0, "seed": 0, "tensorboard": False,
        "run_dir": str(folder / "run"),
    }  # fmt: skip
    return a3c.train(env, **common | settings)


def dropped_for(output):
    return set(re.findall(r"non-finite (\w+) at env step", output))


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.mark.parametrize(
    ("what", "runtime"), [("reward", "serial"), ("observation", "serial"), ("observation", "processes")]
)
def test_nan_from_the_environment(tmp_path, capsys, what, runtime):
    run = trained(lambda: Poisoned(what), tmp_path, runtime=runtime, normalise_observations=True)
    assert run.solved, run.summary
    assert run.summary["dropped_rollouts"] >= 3
    assert dropped_for(capsys.readouterr().out) == {what}
    saved = load_file(max((run.path / "checkpoints").iterdir()) / "model.safetensors")
    assert "normaliser.moments" in saved  # which would take in what is not finite, too
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())


def test_nan_in_a_gradient(tmp_path, capsys, monkeypatch):
    plain, calls = actor_critic.flat_gradient, []

    def poisoned(loss, model):
        calls.append(1)
        gradient = plain(loss, model)
        if len(calls) % 40 == 0:
            gradient[len(calls) % len(gradient)] = math.nan
        return gradient

    monkeypatch.setattr(actor_critic, "flat_gradient", poisoned)
    run = trained("CartPole-v1", tmp_path)
    assert run.solved, run.summary
    assert run.summary["dropped_rollouts"] == len(calls) // 40 >= 3
    assert dropped_for(capsys.readouterr().out) == {"gradient"}


def test_nan_in_the_weights_ends_the_run_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    stores, plain = [], training.make_store

    def kept(*arguments, **options):
        stores.append(plain(*arguments, **options))
        return stores[-1]

    monkeypatch.setattr(training, "make_store", kept)
    saved = []

    def poison(line):
        checkpoints = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
        if checkpoints and checkpoints[-1] != "step-000000000000":  # the first one that has learned something
            saved.append(checkpoints[-1])
            stores[0].parameters[3] = math.nan

    with pytest.raises(
        NonFiniteError, match="the weights hold NaN .* the checkpoint before is the last good one"
    ) as end:
        trained("CartPole-v1", tmp_path, stop_at_return=None, checkpoint_every_s=0.5, on_report=poison)
    assert "10 rollouts in a row were dropped" in (tmp_path / "run" / "error.txt").read_text()
    assert isinstance(end.value.__context__, WorkerFailed)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "worker_failed"
    newest = max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert newest == saved[-1]
    assert a3c.evaluate(a3c.load(tmp_path / "run"), "CartPole-v1", episodes=5).return_mean > 8
