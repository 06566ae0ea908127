"""A PPO in the style of CleanRL's ppo.py on CartPole-v1: one file, one process, its settings. See run.py.

CleanRL's package does not install on Python 3.11, so this is written anew, after its published settings: 4
environments in turn, 128 steps, 4 epochs of 4 minibatches, advantages normalised in each, both losses clipped, a rate
that falls to 0 over the run. Torch's threads are torch's own choice, as there. It leaves out what CleanRL's script
logs, and so is rather faster.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from recording import Recorded
from torch import Tensor, nn

ENVS, STEPS, EPOCHS, MINIBATCHES = 4, 128, 4, 4
RATE, GAMMA, LAMBDA, CLIP = 2.5e-4, 0.99, 0.95, 0.2
ENTROPY_COEF, VALUE_COEF, MAX_NORM = 0.01, 0.5, 0.5


def perceptron(outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers of 64, orthogonal weights."""
    layers = [nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Agent(nn.Module):
    """Policy and value, a network each."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.value = perceptron(2, 0.01), perceptron(1, 1.0)

    def policy_of(self, observations: Tensor) -> torch.distributions.Categorical:
        """The distribution of actions."""
        return torch.distributions.Categorical(logits=self.policy(observations))

    def value_of(self, observations: Tensor) -> Tensor:
        """V, of the shape of the batch."""
        return self.value(observations).squeeze(-1)  # type: ignore[no-any-return]


def advantages_of(rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor) -> Tensor:
    """Generalised advantages, [T, B]; `dones` tells after which steps an episode had ended."""
    advantages, running, following = torch.zeros_like(rewards), torch.zeros(ENVS), last_value
    for t in reversed(range(STEPS)):
        going_on = 1.0 - dones[t]
        error = rewards[t] + GAMMA * following * going_on - values[t]
        running = error + GAMMA * LAMBDA * going_on * running
        advantages[t], following = running, values[t]
    return advantages


def loss_of(agent: Agent, batch: dict[str, Tensor]) -> Tensor:
    """PPO's loss of a minibatch."""
    policy, values = agent.policy_of(batch["observations"]), agent.value_of(batch["observations"])
    ratio = (policy.log_prob(batch["actions"]) - batch["log_probs"]).exp()
    advantages = batch["advantages"]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
    clipped = batch["values"] + (values - batch["values"]).clamp(-CLIP, CLIP)
    errors = torch.max((values - batch["returns"]) ** 2, (clipped - batch["returns"]) ** 2)
    return policy_loss + VALUE_COEF * 0.5 * errors.mean() - ENTROPY_COEF * policy.entropy().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-env-steps", type=int, default=500_000)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    envs = gym.vector.SyncVectorEnv(
        [lambda: Recorded(gym.make("CartPole-v1"))] * ENVS, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE, eps=1e-5)
    rollout = {name: torch.zeros(STEPS, ENVS) for name in ("rewards", "values", "dones", "log_probs")}
    rollout |= {"observations": torch.zeros(STEPS, ENVS, 4), "actions": torch.zeros(STEPS, ENVS, dtype=torch.int64)}
    observations = torch.from_numpy(envs.reset(seed=arguments.seed)[0])
    updates = arguments.total_env_steps // (STEPS * ENVS)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = RATE * (1 - update / updates)
        for t in range(STEPS):
            with torch.no_grad():
                policy, value = agent.policy_of(observations), agent.value_of(observations)
                actions = policy.sample()
                log_probs = policy.log_prob(actions)
            following, rewards, terminated, truncated, _ = envs.step(actions.numpy())
            done = torch.from_numpy(terminated | truncated).float()
            reward = torch.from_numpy(rewards).float()
            for name, what in (("observations", observations), ("actions", actions), ("values", value)):
                rollout[name][t] = what
            rollout["log_probs"][t], rollout["rewards"][t], rollout["dones"][t] = log_probs, reward, done
            observations = torch.from_numpy(following)
        with torch.no_grad():
            last_value = agent.value_of(observations)
        advantages = advantages_of(rollout["rewards"], rollout["values"], rollout["dones"], last_value)
        data = rollout | {"advantages": advantages, "returns": advantages + rollout["values"]}
        flat = {name: what.flatten(0, 1) for name, what in data.items()}
        for _ in range(EPOCHS):
            for rows in np.split(generator.permutation(STEPS * ENVS), MINIBATCHES):
                loss = loss_of(agent, {name: what[torch.from_numpy(rows)] for name, what in flat.items()})
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), MAX_NORM)
                optimizer.step()


if __name__ == "__main__":
    main()
