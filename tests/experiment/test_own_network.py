"""A network of a person's own, from training to a loaded policy."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import a3c
from a3c.errors import UsageError
from leftovers import nothing_left
from tiny_envs import Corridor

QUICK = {"workers": 2, "envs_per_worker": 4, "total_env_steps": 2_000, "tensorboard": False, "quiet": True}


class RandomFeatures(nn.Module):
    """A linear layer on fixed random features; notes down the features that it was built with, by process."""

    def __init__(self, space):
        super().__init__()
        self.register_buffer("projection", torch.randn(2, 16))
        self.linear = nn.Linear(16, 8)
        if folder := os.environ.get("A3C_TEST_NOTES"):
            torch.save(self.projection, f"{folder}/{os.getpid()}.pt")

    def forward(self, observation):
        return torch.tanh(self.linear(observation @ self.projection))


class TooDeep(nn.Module):
    """Its output has a dimension too many."""

    def __init__(self, space):
        super().__init__()
        self.linear = nn.Linear(2, 8)

    def forward(self, observation):
        return self.linear(observation).unsqueeze(0)


@pytest.mark.usefixtures("no_fork_server")  # its processes inherit where to write
@pytest.mark.parametrize("model", [RandomFeatures, "test_own_network:RandomFeatures"])
def test_every_process_has_the_same_buffers_and_the_loaded_policy_too(tmp_path, monkeypatch, model):
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("A3C_TEST_NOTES", str(notes))
    with nothing_left():
        run = a3c.train(Corridor, model=model, seed=3, run_dir=str(tmp_path / "run"), **QUICK)
    built = [torch.load(file) for file in notes.iterdir()]
    assert len(built) >= 3  # two workers and the caller
    assert all(torch.equal(projection, built[0]) for projection in built)
    policy = run.policy()
    assert torch.equal(policy.model.policy_torso.state_dict()["module.projection"], built[0])
    observation = np.array([0.5, 1.0], np.float32)
    again = a3c.load(tmp_path / "run", model=RandomFeatures)
    assert again.predict(observation, deterministic=True)[0] == policy.predict(observation, deterministic=True)[0]
    assert again.value(observation) == policy.value(observation)


def test_a_saved_policy_does_not_bring_its_own_code(tmp_path):
    a3c.train(Corridor, model="test_own_network:RandomFeatures", runtime="serial", run_dir=str(tmp_path), **QUICK)
    with pytest.raises(UsageError, match="test_own_network:RandomFeatures.*--model"):
        a3c.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TooDeep, r"--model: its forward gave .* for a batch of"),
        (lambda space: "no module", r"--model: the factory returned a str"),
        ("test_own_network:Nothing", r"--model.*Nothing"),
        ("no_such_module:Net", r"--model.*no_such_module"),
        (7, "--model must be"),
    ],
)
def test_a_network_that_breaks_the_contract_is_refused_before_anything_is_written(tmp_path, model, message):
    with nothing_left(), pytest.raises(UsageError, match=message):
        a3c.train(Corridor, model=model, run_dir=str(tmp_path / "run"), **QUICK)
    assert not (tmp_path / "run").exists()
