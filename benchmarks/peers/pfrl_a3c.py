"""PFRL's A3C on CartPole-v1, two processes with one environment each. See run.py, which runs it.

PFRL publishes no settings of A3C for CartPole: these are those of its reproduction on Atari, the paper's, but for the
network. Rewards are not clipped: they are 1. It speaks the interface of the old gym.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import numpy as np
import pfrl
import torch
from recording import Recorded
from torch import nn

RATE = 7e-4


class OldGym:
    """An environment of Gymnasium with the old gym's methods."""

    def __init__(self, env: Any, seed: int) -> None:
        self._env, self._seed = env, seed
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self) -> Any:
        """The first observation."""
        observation, _ = self._env.reset(seed=self._seed)
        self._seed = None
        return observation

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """PFRL tells a time limit by `needs_reset`."""
        observation, reward, terminated, truncated, info = self._env.step(int(action))
        return observation, reward, terminated, info | {"needs_reset": truncated}

    def close(self) -> None:
        """End it."""
        self._env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pfrl.utils.set_random_seed(arguments.seed)
    model = nn.Sequential(
        nn.Linear(4, 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.Tanh(),
        pfrl.nn.Branched(
            nn.Sequential(nn.Linear(64, 2), pfrl.policies.SoftmaxCategoricalHead()),
            nn.Linear(64, 1),
        ),
    )
    optimizer = pfrl.optimizers.SharedRMSpropEpsInsideSqrt(model.parameters(), lr=RATE, eps=1e-1, alpha=0.99)
    agent = pfrl.agents.A3C(model, optimizer, t_max=5, gamma=0.99, beta=1e-2, max_grad_norm=40.0)

    def set_rate(env: Any, agent: Any, value: float) -> None:
        for group in agent.optimizer.param_groups:
            group["lr"] = value

    def make_env(process: int, test: bool) -> OldGym:
        return OldGym(Recorded(gym.make("CartPole-v1")), 1000 * arguments.seed + process)

    pfrl.experiments.train_agent_async(
        outdir=tempfile.mkdtemp(),
        processes=arguments.workers,
        make_env=make_env,
        steps=arguments.steps,
        eval_interval=None,
        agent=agent,
        global_step_hooks=[pfrl.experiments.LinearInterpolationHook(arguments.steps, RATE, 0, set_rate)],
        random_seeds=[int(n) for n in 1000 * arguments.seed + np.arange(arguments.workers)],
    )


if __name__ == "__main__":
    main()
