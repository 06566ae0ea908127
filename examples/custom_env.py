"""Train on an environment that is defined in the script itself: walk along a corridor to its end."""

import gymnasium as gym
import numpy as np

import a3c


class Corridor(gym.Env):
    """Cells 0 to 7: action 1 steps right, 0 left; the last cell pays 1 and ends the episode; a step costs 0.01."""

    observation_space = gym.spaces.Box(0.0, 1.0, (8,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        """Begin in cell 0."""
        super().reset(seed=seed)
        self.cell = 0
        return self._observe(), {}

    def step(self, action):
        """Walk; the end is a terminal state."""
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        arrived = self.cell == 7
        return self._observe(), float(arrived) - 0.01, arrived, False, {}

    def _observe(self):
        return np.eye(8, dtype=np.float32)[self.cell]


def make_env():
    """One corridor with a time limit: running out of time is a truncation, not a terminal state."""
    return gym.wrappers.TimeLimit(Corridor(), max_episode_steps=100)


run = a3c.train(make_env, total_env_steps=100_000, learning_rate=3e-3, run_dir="runs/corridor", overwrite=True)
result = a3c.evaluate(run.policy(), make_env)
print(f"mean return {result.return_mean:.2f} of at most 0.93, in {result.length_mean:.1f} steps of at least 7")
