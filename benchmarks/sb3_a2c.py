"""One run of Stable-Baselines3's A2C with rl-zoo's published settings; prints one JSON record.

    python benchmarks/sb3_a2c.py Hopper-v5 --seed 0

Settings are those of rl-baselines3-zoo's hyperparams/a2c.yml (version 2.9): HalfCheetah, Hopper and Walker2d are tuned
there as v4, with normalised observations and rewards and otherwise SB3's defaults. A smooth one, "gsde", is its
use_sde with log_std_init -2. One thread, which is fastest for networks of this size.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

EPISODES = 100
TUNED = {
    "n_steps": 8,
    "gae_lambda": 0.9,
    "ent_coef": 0.0,
    "max_grad_norm": 0.5,
    "vf_coef": 0.4,
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -2, "ortho_init": False},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"envs": 8, "steps": 500_000, "ent_coef": 0.0},
    "Acrobot-v1": {"envs": 16, "steps": 500_000, "normalise": True, "ent_coef": 0.0},
    "MountainCar-v0": {"envs": 16, "steps": 1_000_000, "normalise": True, "ent_coef": 0.0},
    "Pendulum-v1": {"envs": 8, "steps": 1_000_000, "normalise": True, **TUNED, "gamma": 0.9, "linear": 7e-4},
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
    "LunarLander-v3": {"envs": 8, "steps": 200_000, "gamma": 0.995, "n_steps": 5, "linear": 8.3e-4, "ent_coef": 1e-5},
    "BipedalWalker-v3": {"envs": 16, "steps": 5_000_000, "normalise": True, **TUNED, "linear": 9.6e-4},
    **{
        env: {"envs": 1, "steps": 1_000_000, "normalise": True}
        for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
    },
}


def linear(start: float) -> Any:
    """A rate that falls to 0."""
    return lambda remaining: remaining * start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=sorted(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = dict(SETTINGS[arguments.env])
    envs, steps = settings.pop("envs"), arguments.steps or settings.pop("steps")
    settings.pop("steps", None)
    normalise = settings.pop("normalise", False)
    if "linear" in settings:
        settings["learning_rate"] = linear(settings.pop("linear"))
    began = time.perf_counter()
    training = make_vec_env(arguments.env, n_envs=envs, seed=arguments.seed)
    if normalise:
        training = VecNormalize(training, gamma=settings.get("gamma", 0.99))
    model = A2C("MlpPolicy", training, seed=arguments.seed, device="cpu", **settings)
    model.learn(steps)
    seconds = time.perf_counter() - began
    evaluation: Any = make_vec_env(lambda: gym.make(arguments.env), n_envs=8, seed=10_000 + arguments.seed)
    if normalise:
        evaluation = VecNormalize(evaluation, training=False, norm_reward=False)
        evaluation.obs_rms = training.obs_rms
    mean, std = evaluate_policy(model, evaluation, EPISODES, deterministic=True)
    record = {
        "command": f"python benchmarks/sb3_a2c.py {arguments.env} --seed {arguments.seed}",
        "env_steps": model.num_timesteps,
        "seconds": round(seconds, 1),
        "training_return": None,
        "return_mean": float(mean),
        "return_std": float(std),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
