"""Native vector environments against a loop over single ones: microseconds a call, CartPole-v1, by how many there are.

python benchmarks/vectorisation.py
"""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np

CALLS = 500


def microseconds(envs: gym.vector.VectorEnv) -> float:
    """Of one step with random actions, the best of three."""
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, size=(CALLS, envs.num_envs))
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for action in actions:
            envs.step(action)
        best = min(best, time.perf_counter() - began)
    return 1e6 * best / CALLS


def main() -> None:
    print("envs  native  loop")
    for count in (1, 2, 4, 6, 8, 16, 64):
        native = gym.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")
        loop = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * count, copy=False)
        print(f"{count:4d}  {microseconds(native):6.0f}  {microseconds(loop):4.0f}")


if __name__ == "__main__":
    main()
