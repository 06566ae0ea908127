"""Settings that would change nothing of an environment."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import a3c
from a3c.envs.make import EnvSource, examine
from a3c.errors import UsageError
from a3c.experiment.idle_settings import refuse_idle


class Screen(gym.Env):
    """Shows pictures, takes numbers."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        return self.observation_space.low, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("env", "setting", "why"),
    [
        ("CartPole-v1", "life_loss_ends", "'CartPole-v1', which is no Atari game"),
        ("CartPole-v1", "sticky_actions", "no Atari game"),
        ("CartPole-v1", "initial_log_std", "whose actions are no numbers"),
        ("CartPole-v1", "action_bounding", "whose actions are no numbers"),
        (Screen, "hidden_sizes", "whose observations are images alone"),
        (Screen, "activation", "whose observations are images alone"),
    ],
)
def test_what_would_change_nothing_is_refused(env, setting, why):
    with pytest.raises(UsageError, match=f"--{setting.replace('_', '-')} changes nothing of .*{why}"):
        refuse_idle({setting, "learning_rate"}, examine(EnvSource(env)))


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {"hidden_sizes", "activation", "normalise_observations"}),
        ("Pendulum-v1", {"action_bounding", "log_std", "initial_log_std"}),
        (Screen, {"action_bounding", "torso"}),
    ],
)
def test_the_rest_is_not(env, settings):
    refuse_idle(settings, examine(EnvSource(env)))


def test_an_atari_game_takes_its_settings():
    pytest.importorskip("ale_py")
    refuse_idle({"life_loss_ends", "sticky_actions", "full_action_set"}, examine(EnvSource("ALE/Pong-v5")))


def test_training_refuses_them_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="--life-loss-ends changes nothing of 'CartPole-v1'"):
        a3c.train("CartPole-v1", life_loss_ends=True, run_dir=str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_preset_may_bring_them():
    # The paper's preset says how Atari games are played: on CartPole that is no mistake of the user's.
    refuse_idle({"preset"}, examine(EnvSource("CartPole-v1")))
