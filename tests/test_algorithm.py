"""The actor-learner: order of its calls, what it drops, what it learns, and one update beside Stable-Baselines3's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from a3c.actor import Actor
from a3c.algorithms.actor_critic import ActorCriticSettings, actor_learner
from a3c.core.distributions import Categorical
from a3c.core.flat import flat_gradient
from a3c.core.losses import actor_critic_loss
from a3c.core.normalisation import Normaliser
from a3c.core.optimizers import RMSProp
from a3c.core.schedules import Budget, constant, linear
from a3c.core.update_rule import UpdateRule
from a3c.errors import NonFiniteError
from a3c.models.acting import ActingPolicy
from a3c.models.actor_critic import ActorCritic
from a3c.stores.local import LocalStore
from a3c.types import Counts, Episode, PolicyValue, Receipt, Rollout, Snapshot
from builders import box_network
from random_rollout import random_rollout
from scripted_env import Script, ScriptedEnv, vectorise

SETTINGS = ActorCriticSettings(
    rollout_length=6, discount=0.9, lambda_=1.0, entropy_coef=0.01, value_coef=0.5, reduction="mean"
)


class TapedActor:
    """Hands out given rollouts and writes its calls on the tape."""

    def __init__(self, rollouts: Iterable[Rollout], tape: list, episodes: tuple[Episode, ...] = ()) -> None:
        self.rollouts, self.tape, self.episodes = iter(rollouts), tape, episodes

    def unroll(self, length: int) -> Rollout:
        self.tape.append(("unroll", length))
        return next(self.rollouts)

    def finished_episodes(self) -> tuple[Episode, ...]:
        return self.episodes

    def reset_state(self) -> None:
        self.tape.append("reset_state")


class TapedStore:
    """Writes its calls on the tape, keeps what is pushed, and asks to stop at the n-th pull."""

    def __init__(self, tape: list, pulls: int = 10**6) -> None:
        self.tape, self.pulls, self.pushed = tape, pulls, []
        self.env_steps = 0

    def pull(self, out: Tensor) -> Snapshot:
        self.tape.append("pull")
        self.pulls -= 1
        return Snapshot(version=40 + len(self.pushed), env_steps=self.env_steps, episodes=0, stop=self.pulls < 0)

    def push(self, gradient: Tensor | None, counts: Counts, base_version: int) -> Receipt:
        self.tape.append("push" if gradient is not None else "push nothing")
        self.pushed.append((gradient, counts, base_version))
        self.env_steps += counts.env_steps
        return Receipt(gradient is not None, 0, 0.1, 1.0)


def model_for_random_rollouts() -> ActorCritic:
    torch.manual_seed(0)
    return box_network((2,), 3, hidden_sizes=(4,), dtype=torch.float64)


def only_resets() -> Rollout:
    rollout = random_rollout(0, end_probability=0.0)
    rollout.episode_start[1:] = True
    return rollout


def with_nan(field: str, seed: int = 0) -> Rollout:
    rollout = random_rollout(seed, end_probability=0.0)
    getattr(rollout, field)[2, 1] = math.nan
    return rollout


def test_pull_unroll_push_and_only_then_yield():
    tape = []
    learner = actor_learner(
        SETTINGS,
        TapedActor((random_rollout(seed) for seed in range(9)), tape),
        model_for_random_rollouts(),
        TapedStore(tape, pulls=2),
    )
    turn = ["pull", ("unroll", 6), "push"]
    assert tape == []  # nothing happens before the first `next`
    next(learner)
    assert tape == turn
    next(learner)
    assert tape == turn * 2
    with pytest.raises(StopIteration):
        next(learner)
    assert tape == [*turn, *turn, "pull"]  # told to stop, it does not act again


def test_what_is_pushed_and_yielded():
    rollout, episodes = random_rollout(seed=1), (Episode(3.0, 2), Episode(5.0, 4))
    model, store = model_for_random_rollouts(), TapedStore([])
    store.env_steps = 1000
    update = next(actor_learner(SETTINGS, TapedActor([rollout], [], episodes), model, store))
    options = {name: getattr(SETTINGS, name) for name in ("discount", "lambda_", "entropy_coef", "value_coef")}
    loss = actor_critic_loss(model(rollout), rollout, rollout.rewards, model.distribution, **options, reduction="mean")
    ((gradient, counts, base_version),) = store.pushed
    assert torch.equal(gradient, flat_gradient(loss, model))
    assert counts == Counts(rollout.env_steps, 2)
    assert base_version == 40
    assert update.losses == loss.terms()
    assert (update.rollout_steps, update.env_steps) == (rollout.env_steps, 1000)
    assert update.episodes == episodes
    assert update.receipt == Receipt(True, 0, 0.1, 1.0)
    assert update.dropped is None


def test_every_push_hands_over_a_gradient_of_its_own():
    rollouts, model, store = [random_rollout(seed) for seed in range(4)], model_for_random_rollouts(), TapedStore([])
    alone = []
    for rollout in rollouts:
        one = TapedStore([])
        next(actor_learner(SETTINGS, TapedActor([rollout], []), model, one))
        alone.append(one.pushed[0][0].clone())
    list(islice(actor_learner(SETTINGS, TapedActor(rollouts, []), model, store), 4))
    for (gradient, *_), expected in zip(store.pushed, alone, strict=True):
        assert torch.equal(gradient, expected)


def test_a_rollout_that_only_resets_pushes_nothing():
    tape = []
    rollouts = [only_resets(), only_resets(), random_rollout(1)]
    store = TapedStore(tape)
    update = next(actor_learner(SETTINGS, TapedActor(rollouts, tape), model_for_random_rollouts(), store))
    assert tape == ["pull", ("unroll", 6)] * 3 + ["push"]
    assert update.rollout_steps == rollouts[2].env_steps
    assert len(store.pushed) == 1


@pytest.mark.parametrize(("field", "term"), [("observations", "observation"), ("rewards", "reward")])
def test_a_rollout_with_nan_is_dropped_counted_and_named(field, term):
    tape = []
    store = TapedStore(tape)
    store.env_steps = 12_345
    rollouts = [with_nan(field), random_rollout(1)]
    episodes = (Episode(1.0, 1),)
    learner = actor_learner(SETTINGS, TapedActor(rollouts, tape, episodes), model_for_random_rollouts(), store)
    dropped, good = islice(learner, 2)
    assert tape == ["pull", ("unroll", 6), "reset_state", "push nothing", "pull", ("unroll", 6), "push"]
    assert store.pushed[0] == (None, Counts(18, 1), 40)
    assert dropped.dropped == f"non-finite {term} at env step 12,345"
    assert (dropped.losses, dropped.rollout_steps, dropped.episodes) == ({}, 18, episodes)
    assert good.dropped is None


def test_a_dropped_rollout_moves_no_moments_and_ends_the_running_returns():
    normalised = {"observation_sizes": {"": 2}, "scale_rewards": True, "discount": 0.9}
    good, bad, later = random_rollout(1, end_probability=0.0), with_nan("rewards"), random_rollout(2, end_probability=0)

    def pushed_moments(rollouts):
        model, store = model_for_random_rollouts(), TapedStore([])
        model.normaliser = Normaliser(**normalised)
        plain = store.pull
        store.pull = lambda out: plain(out)._replace(moments=torch.ones(3, 3, dtype=torch.float64))
        list(islice(actor_learner(SETTINGS, TapedActor(rollouts, []), model, store), len(rollouts)))
        return [counts.moments for _, counts, _ in store.pushed]

    first, dropped, anew = pushed_moments([good, bad, later])
    assert dropped is None
    assert torch.equal(first, pushed_moments([good])[0])
    assert torch.equal(anew, pushed_moments([later])[0])  # as if nothing had been before it
    assert not torch.equal(anew, pushed_moments([good, later])[1])


class RootModel:
    """A model that is finite at θ = 0 and whose gradient is not: V = sqrt(θ)."""

    def __init__(self) -> None:
        self.flat = torch.zeros(1, dtype=torch.float64)
        self.parameter = nn.Parameter(self.flat)
        self.distribution = Categorical(3)
        self.normaliser = Normaliser()

    def parameters(self):
        return iter([self.parameter])

    def __call__(self, rollout: Rollout) -> PolicyValue:
        values = self.parameter.sqrt().expand(rollout.episode_start.shape)
        return PolicyValue(torch.zeros(*values.shape, 3, dtype=torch.float64) * self.parameter, values)


def test_a_gradient_that_is_not_finite_is_dropped_and_named():
    store = TapedStore([])
    update = next(actor_learner(SETTINGS, TapedActor([random_rollout(1)], []), RootModel(), store))
    assert update.dropped == "non-finite gradient at env step 0"
    assert store.pushed[0][0] is None


def local_store(model: ActorCritic, budget: Budget | None = None, learning_rate: float = 0.01) -> LocalStore:
    return LocalStore(model.flat, UpdateRule(RMSProp(), linear(learning_rate), budget or Budget(), 0.5))


@pytest.mark.parametrize("field", ["observations", "rewards"])
def test_theta_never_sees_a_dropped_rollout(field):
    model = model_for_random_rollouts()
    store, before = local_store(model), model.flat.clone()
    learner = actor_learner(SETTINGS, TapedActor([with_nan(field), random_rollout(1)], []), model, store)
    update = next(learner)
    assert update.dropped is not None
    assert not update.receipt.applied
    state = store.snapshot()
    assert torch.equal(state.parameters, before)
    assert [statistic.abs().max().item() for statistic in state.statistics] == [0.0]
    assert (state.version, state.env_steps) == (0, 18)
    next(learner)
    assert store.snapshot().version == 1
    assert bool(store.snapshot().parameters.isfinite().all())
    assert not torch.equal(store.snapshot().parameters, before)


def test_ten_dropped_in_a_row_are_an_error():
    rollouts = (with_nan("rewards", seed) for seed in range(100))
    learner = actor_learner(SETTINGS, TapedActor(rollouts, []), model_for_random_rollouts(), TapedStore([]))
    assert all(update.dropped for update in islice(learner, 10))  # each is still counted and reported
    with pytest.raises(NonFiniteError, match="10 rollouts in a row were dropped, the last for a non-finite reward"):
        next(learner)


def test_nine_and_a_good_one_are_not():
    cycle = [with_nan("observations") for _ in range(9)] + [random_rollout(1)]
    store = TapedStore([])
    learner = actor_learner(SETTINGS, TapedActor(cycle * 3, []), model_for_random_rollouts(), store)
    updates = list(islice(learner, 30))
    assert [update.dropped is None for update in updates] == ([False] * 9 + [True]) * 3


def test_a_rollout_that_only_resets_is_not_a_good_one():
    rollouts = [r for seed in range(10) for r in (with_nan("rewards", seed), only_resets())]
    learner = actor_learner(SETTINGS, TapedActor(rollouts, []), model_for_random_rollouts(), TapedStore([]))
    list(islice(learner, 10))
    with pytest.raises(NonFiniteError):
        next(learner)


def test_steps_are_counted_past_2_to_the_31():
    model = model_for_random_rollouts()
    store = local_store(model, Budget(env_steps=2**31 + 100))
    store.load_state_dict(store.state_dict() | {"env_steps": 2**31 - 20})
    rollouts = [random_rollout(seed, end_probability=0.0) for seed in range(100)]
    updates = list(actor_learner(SETTINGS, TapedActor(rollouts, []), model, store))
    assert [update.env_steps for update in updates] == [2**31 - 20 + 18 * i for i in range(7)]
    assert store.counters().env_steps == 2**31 - 20 + 18 * 7
    rates = [update.receipt.learning_rate for update in updates]
    assert all(0.0 <= later < earlier for earlier, later in pairwise(rates))


def train(envs: list[ScriptedEnv], *, rollout_length: int, discount: float, lambda_: float, env_steps: int):
    """Train a linear model with a learning rate that falls to zero; returns its value function."""
    torch.manual_seed(0)
    vector_env = vectorise(*envs)
    model = box_network(vector_env.single_observation_space.shape, 2, hidden_sizes=())
    store = LocalStore(
        model.flat, UpdateRule(RMSProp(decay=0.9), linear(0.05), Budget(env_steps=env_steps), max_gradient_norm=None)
    )
    actor = Actor(vector_env, ActingPolicy(model, seed=0), seed=0, max_rollout_length=rollout_length)
    settings = ActorCriticSettings(rollout_length, discount, lambda_, 0.01, 0.5, "mean")
    for update in actor_learner(settings, actor, model, store):
        assert update.dropped is None
    store.pull(model.flat)
    return lambda observation: model.policy_value(torch.tensor(observation)).values.item()


@pytest.mark.parametrize("lambda_", [1.0, 0.9])
def test_with_only_time_limits_the_value_is_that_of_an_endless_episode(lambda_):
    def time_limited() -> ScriptedEnv:
        return ScriptedEnv(Script([1.0] * 4, "truncated"), observe=lambda episode, step: [1.0])

    envs = [time_limited() for _ in range(4)]
    value = train(envs, rollout_length=7, discount=0.8, lambda_=lambda_, env_steps=4000)
    assert value([1.0]) == pytest.approx(1 / (1 - 0.8), rel=0.01)


def test_with_only_terminal_states_the_value_is_that_of_the_episode():
    envs = [ScriptedEnv(Script([1.0] * 4), observe=lambda episode, step: np.eye(5)[step]) for _ in range(4)]
    value = train(envs, rollout_length=7, discount=0.8, lambda_=1.0, env_steps=4000)
    values = [value(np.eye(5, dtype=np.float32)[step]) for step in range(4)]
    assert values == pytest.approx([(1 - 0.8**left) / (1 - 0.8) for left in (4, 3, 2, 1)], rel=0.02)


@pytest.mark.parametrize("rollout_length", [1, 3, 7])
def test_a_reward_at_the_very_end_reaches_the_start(rollout_length):
    envs = [ScriptedEnv(Script([0, 0, 0, 1]), observe=lambda episode, step: np.eye(5)[step]) for _ in range(4)]
    value = train(envs, rollout_length=rollout_length, discount=0.8, lambda_=1.0, env_steps=4000)
    values = [value(np.eye(5, dtype=np.float32)[step]) for step in range(4)]
    assert values == pytest.approx([0.8**3, 0.8**2, 0.8, 1.0], abs=0.02)


LEARNING_RATE, CLIP, ENTROPY_COEF, DISCOUNT = 7e-4, 0.5, 0.01, 0.99
HIDDEN = (16, 16)


def rollout_with_an_end_in_every_lane(model: ActorCritic) -> Rollout:
    """T = 8 rows of B = 3 lanes: one terminated, one truncated, one terminated, each in mid-rollout."""
    noise = np.random.default_rng(0)
    rewards, observations = noise.normal(scale=30.0, size=(3, 20)), noise.normal(size=(3, 4, 20, 5))

    def lane(index: int, first_length: int, end: str) -> ScriptedEnv:
        scripts = Script(rewards[index, :first_length].tolist(), end), Script(rewards[index, first_length:].tolist())
        return ScriptedEnv(*scripts, observe=lambda episode, step: observations[index, episode, step], actions=3)

    envs = vectorise(lane(0, 3, "terminated"), lane(1, 5, "truncated"), lane(2, 2, "terminated"))
    rollout = Actor(envs, ActingPolicy(model, seed=0), seed=0, max_rollout_length=8).unroll(8)
    assert rollout.real.sum(0).tolist() == [7, 7, 7]
    assert rollout.terminated.sum(0).tolist() == [1, 0, 1]
    assert rollout.truncated.sum(0).tolist() == [0, 1, 0]
    return rollout


def stable_baselines_update(ours: ActorCritic, rollout: Rollout, gae_lambda: float) -> Tensor:
    """Train Stable-Baselines3's A2C once from our weights on our rollout; its weights in our order, [P]."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.torch_layers import FlattenExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Double(FlattenExtractor):
        """Undoes `preprocess_obs`, which turns all observations to float32; ours are representable there."""

        def forward(self, observations: Tensor) -> Tensor:
            return super().forward(observations).double()

    lanes, steps = rollout.real.shape[1], int(rollout.real[:, 0].sum())

    def stand_in() -> ScriptedEnv:
        return ScriptedEnv(Script([0.0]), observe=lambda episode, step: np.zeros(5), actions=3)

    algorithm = A2C(
        "MlpPolicy",
        DummyVecEnv([stand_in] * lanes),
        learning_rate=LEARNING_RATE,
        n_steps=steps,
        gamma=DISCOUNT,
        gae_lambda=gae_lambda,
        ent_coef=ENTROPY_COEF,
        vf_coef=0.5,
        max_grad_norm=CLIP,
        rms_prop_eps=1e-5,
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}, "features_extractor_class": Double},
        device="cpu",
    )
    algorithm.set_logger(configure(None, []))
    policy, buffer = algorithm.policy.double(), algorithm.rollout_buffer
    extractor = policy.mlp_extractor
    theirs = nn.ModuleList([extractor.policy_net, extractor.value_net, policy.action_net, policy.value_net])
    with torch.no_grad():
        nn.utils.vector_to_parameters(ours.flat.clone(), theirs.parameters())

    for name in ("rewards", "values", "advantages", "returns", "log_probs", "episode_starts"):
        setattr(buffer, name, getattr(buffer, name).astype(np.float64))
    for lane in range(lanes):
        for step, t in enumerate(rollout.real[:, lane].nonzero().flatten().tolist()):
            reward = rollout.rewards[t, lane].item()
            if rollout.truncated[t, lane]:  # as its collect_rollouts does
                with torch.no_grad():
                    reward += DISCOUNT * policy.predict_values(rollout.observations[t + 1, lane : lane + 1]).item()
            buffer.observations[step, lane] = rollout.observations[t, lane].numpy()
            buffer.actions[step, lane] = rollout.actions[t, lane]
            buffer.rewards[step, lane] = reward
            buffer.episode_starts[step, lane] = rollout.episode_start[t, lane]
    with torch.no_grad():
        for step in range(steps):
            buffer.values[step] = policy.predict_values(torch.from_numpy(buffer.observations[step])).flatten()
        last_values = policy.predict_values(rollout.observations[-1])
    buffer.pos, buffer.full = steps, True
    buffer.compute_returns_and_advantage(last_values, (rollout.terminated | rollout.truncated)[-1].numpy())
    algorithm.train()
    return nn.utils.parameters_to_vector(theirs.parameters()).detach()


@pytest.mark.parametrize("lambda_", [1.0, 0.9])
def test_one_update_equals_one_of_stable_baselines3(lambda_):
    torch.manual_seed(0)
    model = box_network((5,), 3, hidden_sizes=HIDDEN, separate_torsos=True, dtype=torch.float64)
    before = model.flat.clone()
    rollout = rollout_with_an_end_in_every_lane(model)
    settings = ActorCriticSettings(8, DISCOUNT, lambda_, ENTROPY_COEF, 0.5, "mean")
    rule = UpdateRule(RMSProp(decay=0.99, epsilon=1e-5), constant(LEARNING_RATE), Budget(), CLIP)
    store = LocalStore(model.flat, rule)
    update = next(actor_learner(settings, TapedActor([rollout], []), model, store))
    # Its clipping divides by norm + 1e-6: a long gradient makes that unseen.
    assert update.receipt.gradient_norm > 20
    theirs = stable_baselines_update(model, rollout, lambda_)
    assert torch.equal(model.flat, before)
    assert (store.parameters - before).abs().max().item() > 1e-3
    torch.testing.assert_close(store.parameters, theirs, rtol=0, atol=1e-9)
