"""Train with a network of your own: any module that maps observations [N, O] to features [N, F]."""

import torch
from torch import nn

import a3c


class ResidualTorso(nn.Module):
    """Two residual blocks with layer norm. The library adds the policy's and the value's layer."""

    def __init__(self, observation_space):
        super().__init__()
        self.first = nn.Linear(observation_space.shape[0], 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(2))

    def forward(self, observations):
        """Features [N, 64] of observations [N, O], each row for itself."""
        features = self.first(observations)
        for block in self.blocks:
            features = features + block(features)
        return torch.relu(features)


a3c.train("CartPole-v1", model=ResidualTorso, total_env_steps=150_000, run_dir="runs/custom-model", overwrite=True)
policy = a3c.load("runs/custom-model", model=ResidualTorso)  # the files hold the weights; the code stays yours
result = a3c.evaluate(policy, "CartPole-v1")
print(f"mean return {result.return_mean:.1f} of at most 500, after 150,000 steps")
