"""One run of Stable-Baselines3's A2C, to set beside a3c's; prints one JSON record, writes RUN_DIR/episodes.csv.

    python benchmarks/peers_learning.py Hopper-v5 --seed 0 --run-dir runs/sb3-hopper

benchmarks/learning.py --peer sb3 calls it. Settings are those of rl-baselines3-zoo's hyperparams/a2c.yml (2.9), as far
as they are not SB3's defaults:

- HalfCheetah, Hopper and Walker2d: what it has for their v4. (Its settings with smooth exploration are for PyBullet's.)
- MinAtar, which it has not: what it has for Atari, with a3c's torso for MinAtar shared by policy and value, and as many
  steps as a3c's own preset takes.

One torch thread, unless `--threads` says otherwise: SB3's documentation names no number, and where other programs want
the cores, several wait for each other.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize

from a3c.envs.lookup import find_spec
from a3c.experiment import presets
from a3c.experiment.evaluate import MOST_STEPS, bootstrap_interval
from a3c.experiment.loggers.episodes_csv import COLUMNS
from a3c.models.torsos import IMAGE_FEATURES, image_torso

EPISODES = 100


class MinAtarTorso(BaseFeaturesExtractor):
    """a3c's torso for MinAtar: 16 filters of 3x3, 128 units."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, IMAGE_FEATURES["minatar"])
        height, width, channels = space.shape
        self.layers = image_torso("minatar", channels, height, width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """[N, H, W, C] -> [N, F]."""
        features: torch.Tensor = self.layers(observations.permute(0, 3, 1, 2))
        return features


# envs, steps, normalise and linear (a rate that falls to 0) are for `train`, the rest for A2C.
SMOOTH = {
    "n_steps": 8,
    "gae_lambda": 0.9,
    "ent_coef": 0.0,
    "max_grad_norm": 0.5,
    "vf_coef": 0.4,
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -2, "ortho_init": False},
}
MUJOCO = {"envs": 1, "steps": 1_000_000, "normalise": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"envs": 8, "steps": 500_000, "ent_coef": 0.0},
    "Acrobot-v1": {"envs": 16, "steps": 500_000, "normalise": True, "ent_coef": 0.0},
    "MountainCar-v0": {"envs": 16, "steps": 1_000_000, "normalise": True, "ent_coef": 0.0},
    "Pendulum-v1": {"envs": 8, "steps": 1_000_000, "normalise": True, **SMOOTH, "gamma": 0.9, "linear": 7e-4},
    "MountainCarContinuous-v0": {
        "envs": 4,
        "steps": 100_000,
        "normalise": True,
        "n_steps": 100,
        "ent_coef": 0.0,
        "use_sde": True,
        "sde_sample_freq": 16,
        "policy_kwargs": {"log_std_init": 0.0, "ortho_init": False},
    },
    "LunarLander-v3": {"envs": 8, "steps": 200_000, "gamma": 0.995, "n_steps": 5, "ent_coef": 1e-5, "linear": 8.3e-4},
    "BipedalWalker-v3": {"envs": 16, "steps": 5_000_000, "normalise": True, **SMOOTH, "linear": 9.6e-4},
    "HalfCheetah-v5": MUJOCO,
    "Hopper-v5": MUJOCO,
    "Walker2d-v5": MUJOCO,
}
MINATAR: dict[str, Any] = {
    "envs": 16,
    "ent_coef": 0.01,
    "vf_coef": 0.25,
    "policy_kwargs": {
        "optimizer_class": RMSpropTFLike,
        "optimizer_kwargs": {"eps": 1e-5},
        "features_extractor_class": MinAtarTorso,
        "net_arch": [],
    },
}


class EpisodesCsv(BaseCallback):
    """Writes finished episodes as a3c's runs do; an environment counts as a worker. Keeps their returns."""

    def __init__(self, file: TextIO, began: float) -> None:
        super().__init__()
        self.rows, self.began, self.returns = csv.writer(file, lineterminator="\n"), began, list[float]()
        self.rows.writerow(COLUMNS)
        self.counts = Counter[int]()

    def _on_step(self) -> bool:
        for worker, info in enumerate(self.locals["infos"]):
            if episode := info.get("episode"):
                seconds = round(time.time() - self.began, 4)
                self.counts[worker] += 1
                row = [worker, self.num_timesteps, seconds, episode["r"], episode["l"], self.counts[worker]]
                self.rows.writerow(row)
                self.returns.append(float(episode["r"]))
        return True


def settings_for(env: str, steps: int | None) -> dict[str, Any]:
    """What to train with; `steps` in place of the published number."""
    settings = dict(MINATAR if env.startswith("MinAtar/") else SETTINGS[env])
    published = settings.pop("steps", None) or presets.resolve(env, {})[0].total_env_steps
    return settings | {"steps": steps or published}


def linear(start: float) -> Callable[[float], float]:
    """A rate by the share of the steps that remains."""
    return lambda remaining: remaining * start


def make_envs(env: str, count: int, seed: int) -> Any:
    """Environments whose episodes end: some of MinAtar's could go on for ever in an evaluation."""
    return make_vec_env(lambda: gym.wrappers.TimeLimit(gym.make(find_spec(env)), MOST_STEPS), count, seed)


def train(env: str, seed: int, settings: dict[str, Any], episodes: EpisodesCsv) -> A2C:
    """Train one seed."""
    settings = dict(settings)
    envs, steps = make_envs(env, settings.pop("envs"), seed), settings.pop("steps")
    if settings.pop("normalise", False):
        envs = VecNormalize(envs, gamma=settings.get("gamma", 0.99))
    if rate := settings.pop("linear", None):
        settings["learning_rate"] = linear(rate)
    return A2C("MlpPolicy", envs, seed=seed, device="cpu", **settings).learn(steps, callback=episodes)


def evaluate(model: A2C, env: str, seed: int) -> np.ndarray:
    """Returns of greedy episodes: raw rewards, and the moments that normalise observations as training left them."""
    envs = make_envs(env, 8, 10_000 + seed)
    if trained := model.get_vec_normalize_env():
        envs = VecNormalize(envs, training=False, norm_reward=False)
        envs.obs_rms = trained.obs_rms
    returns, _ = evaluate_policy(model, envs, EPISODES, deterministic=True, return_episode_rewards=True)
    return np.array(returns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help=f"{', '.join(SETTINGS)} or MinAtar/...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-env-steps", type=int)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/sb3"))
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--began", type=float, default=time.time(), help="seconds since the epoch, to count from")
    arguments = parser.parse_args()
    env, seed = arguments.env, arguments.seed
    if env not in SETTINGS and not env.startswith("MinAtar/"):
        parser.error(f"there are no published settings for {env}")
    settings = settings_for(env, arguments.total_env_steps)
    torch.set_num_threads(arguments.threads)
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    with open(arguments.run_dir / "episodes.csv", "w", newline="", encoding="utf-8") as file:
        episodes = EpisodesCsv(file, arguments.began)
        model = train(env, seed, settings, episodes)
    seconds = time.time() - arguments.began
    returns = evaluate(model, env, seed)
    steps = [] if arguments.total_env_steps is None else ["--total-env-steps", str(settings["steps"])]
    record = {
        "command": " ".join(["python benchmarks/peers_learning.py", env, "--seed", str(seed), *steps]),
        "env_steps": model.num_timesteps,
        "seconds": round(seconds, 4),
        "training_return": float(np.mean(episodes.returns[-100:])) if len(episodes.returns) >= 100 else None,
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_ci95": bootstrap_interval(returns, seed),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
