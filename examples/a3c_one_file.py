"""A3C in one file, for readers: Mnih et al. 2016, algorithm S3, on CartPole-v1, as plainly as it can be done right.

    python examples/a3c_one_file.py

The library does the same, faster and on any environment; a test holds this file's first update against the
library's. Symbols are the paper's: theta and T are shared by all actor-learners, as are RMSProp's statistics g.
"""

import argparse
import collections
import queue
import time

import gymnasium as gym
import torch
import torch.multiprocessing as mp
from torch import nn

GAMMA, BETA, T_MAX_ROLLOUT = 0.99, 0.01, 20
LEARNING_RATE, DECAY, EPSILON, CLIP = 3e-3, 0.99, 1e-5, 5.0


class ActorCritic(nn.Module):
    """pi(a|s) and V(s)."""

    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        self.value = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, states):
        """Logits [..., A] and values [...] of states [..., 4]."""
        return self.policy(states), self.value(states).squeeze(-1)


def run_until_t_max_or_the_end(env, state, model, sample):
    """One rollout: states [t+1, 4], actions [t], rewards [t], and how it ended.

    The last state is what follows the last action, be it terminal or not. `sample` draws an action from logits.
    """
    states, actions, rewards = [state], [], []
    terminated = truncated = False
    while len(rewards) < T_MAX_ROLLOUT and not (terminated or truncated):
        with torch.no_grad():
            action = sample(model(states[-1])[0])
        observation, reward, terminated, truncated, _ = env.step(int(action))
        states.append(torch.as_tensor(observation))
        actions.append(action)
        rewards.append(float(reward))
    return torch.stack(states), torch.stack(actions), rewards, terminated, truncated


def loss_of(model, states, actions, rewards, terminated):
    """The sum over t of policy loss, half the squared value error, and minus beta times the entropy."""
    logits, values = model(states)
    R = 0.0 if terminated else float(values[-1].detach())  # a time limit is no terminal state: it bootstraps
    returns = []
    for reward in reversed(rewards):
        R = reward + GAMMA * R
        returns.append(R)
    advantages = torch.tensor(returns[::-1], dtype=values.dtype) - values[:-1]
    log_pi = logits[:-1].log_softmax(-1)
    log_pi_a = log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)
    return (-log_pi_a * advantages.detach() + 0.5 * advantages**2 - BETA * entropy).sum()


def gradient_of(loss, model):
    """d theta as a fresh flat vector: a value, never an alias of a shared .grad."""
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def rmsprop(theta, g, gradient, learning_rate):
    """theta <- theta - eta d theta / (sqrt(g) + eps), in place, without a lock: Hogwild."""
    gradient = gradient * min(1.0, CLIP / (float(gradient.norm()) + 1e-12))
    new_g = DECAY * g + (1 - DECAY) * gradient**2  # private until the step is done
    theta -= learning_rate * gradient / (new_g.sqrt() + EPSILON)
    g.copy_(new_g)


def write_flat(theta, model):
    """theta' <- theta."""
    torch.nn.utils.vector_to_parameters(theta, model.parameters())


def actor_learner(worker, seed, theta, g, steps, stop, total_steps, episodes):
    """One worker; `steps` [W] holds each worker's own count, so that T is their sum and no count is lost."""
    torch.set_num_threads(1)
    env, model = gym.make("CartPole-v1"), ActorCritic()
    generator = torch.Generator().manual_seed(1000 * seed + worker)

    def sample(logits):
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)

    state, score = torch.as_tensor(env.reset(seed=1000 * seed + worker)[0]), 0.0
    while not stop.is_set() and (T := int(steps.sum())) < total_steps:
        write_flat(theta.clone(), model)
        states, actions, rewards, terminated, truncated = run_until_t_max_or_the_end(env, state, model, sample)
        gradient = gradient_of(loss_of(model, states, actions, rewards, terminated), model)
        rmsprop(theta, g, gradient, LEARNING_RATE * (1 - T / total_steps))
        steps[worker] += len(rewards)
        state, score = states[-1], score + sum(rewards)
        if terminated or truncated:
            episodes.put(score)
            state, score = torch.as_tensor(env.reset()[0]), 0.0
    episodes.put(None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--total-env-steps", type=int, default=500_000)
    parser.add_argument("--stop-at-return", type=float, default=475.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, context = time.time(), mp.get_context("spawn")
    torch.manual_seed(options.seed)
    theta = nn.utils.parameters_to_vector(ActorCritic().parameters()).detach().clone().share_memory_()
    g = torch.zeros_like(theta).share_memory_()
    steps = torch.zeros(options.workers, dtype=torch.int64).share_memory_()
    stop, episodes = context.Event(), context.Queue()
    shared = (options.seed, theta, g, steps, stop, options.total_env_steps, episodes)
    workers = [context.Process(target=actor_learner, args=(w, *shared), daemon=True) for w in range(options.workers)]
    for process in workers:
        process.start()
    last, count, running = collections.deque(maxlen=100), 0, options.workers
    while running:
        if any(process.exitcode for process in workers):  # it raised or was killed: no None will come from it
            raise SystemExit("a worker failed; the others are stopped")  # being daemons, they end with this process
        try:
            score = episodes.get(timeout=1)
        except queue.Empty:
            continue
        if score is None:
            running -= 1
            continue
        last.append(score)
        count += 1
        mean = sum(last) / len(last)
        if count % 100 == 0:
            print(f"{count} episodes, {int(steps.sum()):,} steps, mean {mean:.1f}, {time.time() - started:.0f} s")
        if len(last) == 100 and mean >= options.stop_at_return:
            stop.set()
    for process in workers:
        process.join()
    print(f"{'solved' if stop.is_set() else 'ended'} after {int(steps.sum()):,} steps, {time.time() - started:.1f} s")


if __name__ == "__main__":
    main()
