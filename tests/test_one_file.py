"""The one-file example is the same algorithm: its first update equals the library's."""

import importlib.util
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from a3c.core.distributions import Categorical
from a3c.core.flat import flat_gradient, flatten_parameters
from a3c.core.losses import actor_critic_loss
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, linear
from a3c.core.update_rule import UpdateRule
from a3c.stores.local import LocalStore
from a3c.types import Counts, PolicyValue, Rollout

PATH = Path(__file__).parents[1] / "examples" / "a3c_one_file.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("a3c_one_file", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_rollout(example, model, seed, push_right):
    """The example's first rollout; pushing right all the time ends it early, in a terminal state."""
    env = gym.make("CartPole-v1")
    state = torch.as_tensor(env.reset(seed=seed)[0])
    generator = torch.Generator().manual_seed(seed)

    def sample(logits):
        return torch.tensor(1) if push_right else torch.multinomial(logits.softmax(-1), 1, generator=generator)[0]

    return example.run_until_t_max_or_the_end(env, state, model, sample)


@pytest.mark.parametrize("push_right", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_first_update_equals_the_librarys(example, monkeypatch, seed, push_right):
    monkeypatch.setattr(example, "T_MAX_ROLLOUT", 20 if push_right else 5)  # falls within 20; bootstraps after 5
    torch.manual_seed(seed)
    model = example.ActorCritic().double()
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    states, actions, rewards, terminated, truncated = first_rollout(example, example.ActorCritic(), seed, push_right)
    assert terminated == push_right
    states = states.double()

    # The library's: the same rollout as a Rollout of one environment.
    length = len(rewards)
    last = np.arange(length) == length - 1
    rollout = Rollout(
        observations=states.unsqueeze(1),
        actions=actions.unsqueeze(1),
        rewards=torch.tensor(rewards, dtype=torch.float64).unsqueeze(1),
        terminated=torch.from_numpy(last & terminated).unsqueeze(1),
        truncated=torch.from_numpy(last & truncated).unsqueeze(1),
        episode_start=torch.zeros(length + 1, 1, dtype=torch.bool),
    )
    loss = actor_critic_loss(
        PolicyValue(*model(rollout.observations)),
        rollout,
        rollout.rewards,
        Categorical(2),
        discount=example.GAMMA,
        lambda_=1.0,
        entropy_coef=example.BETA,
        value_coef=0.5,
        reduction="sum",
    )
    rule = UpdateRule(
        RMSProp(example.DECAY, example.EPSILON), linear(example.LEARNING_RATE), Budget(10**12), example.CLIP
    )
    store = LocalStore(theta, rule)
    store.push(flat_gradient(loss, model), Counts(0, 0), 0)

    # The example's own.
    g = torch.zeros_like(theta)
    gradient = example.gradient_of(example.loss_of(model, states, actions, rewards, terminated), model)
    example.rmsprop(theta, g, gradient, example.LEARNING_RATE)

    assert not torch.equal(theta, flatten_parameters(model))
    torch.testing.assert_close(store.parameters, theta, rtol=0, atol=1e-12)
    torch.testing.assert_close(store.statistics[0], g, rtol=0, atol=1e-12)
