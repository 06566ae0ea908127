"""Stable-Baselines3's A2C or PPO on CartPole-v1, with rl-baselines3-zoo's settings. See run.py, which runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import gymnasium as gym
import torch
from recording import Recorded
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env


def linear(start: float) -> Callable[[float], float]:
    """By the share of the steps that remains."""
    return lambda remaining: remaining * start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=["a2c", "ppo"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, help="rather than as many as the settings are for")
    parser.add_argument("--threads", type=int, help="of torch; by default torch's own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    envs = make_vec_env(lambda: Recorded(gym.make("CartPole-v1")), arguments.envs, arguments.seed)
    if arguments.algorithm == "a2c":
        model: A2C | PPO = A2C("MlpPolicy", envs, ent_coef=0.0, seed=arguments.seed, device="cpu")
        steps = 500_000
    else:
        model = PPO(
            "MlpPolicy",
            envs,
            n_steps=32,
            batch_size=256,
            gae_lambda=0.8,
            gamma=0.98,
            n_epochs=20,
            ent_coef=0.0,
            learning_rate=linear(0.001),
            clip_range=linear(0.2),
            seed=arguments.seed,
            device="cpu",
        )
        steps = 100_000
    model.learn(arguments.steps or steps)


if __name__ == "__main__":
    main()
