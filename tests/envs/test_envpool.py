"""EnvPool behind "envpool:". Its wheels take some 300 MB, so these run where it is installed, and not in CI."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from a3c.envs.atari import LIFE_LOST, AtariOptions
from a3c.envs.make import EnvSource, examine, reset_seed
from a3c.errors import UnknownEnvironment, UsageError


def test_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    for attempt in (EnvSource("envpool:CartPole-v1").check_exists, EnvSource("envpool:CartPole-v1").make):
        with pytest.raises(UsageError, match=r"EnvPool wants .* missing: pip install \"a3c\[envpool\]\""):
            attempt()


class TestInstalled:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("envpool")

    def test_the_step_after_an_end_is_the_reset(self):
        envs = EnvSource("envpool:CartPole-v1", max_episode_steps=5).make_vector(3)
        assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
        assert envs.single_observation_space.shape == (4,)
        assert envs.single_action_space == spaces.Discrete(2)
        assert envs.action_space == spaces.MultiDiscrete([2, 2, 2])
        first, _ = envs.reset(seed=3)
        rows = [envs.step(np.array([0, 1, 0]))[:4] for _ in range(13)]
        assert [truncated.tolist() for *_, truncated in rows] == [[t in (4, 10)] * 3 for t in range(13)]
        assert not any(terminated.any() for _, _, terminated, _ in rows)
        # Had the step after the end obeyed its action, the cart would have moved on; it stands near the middle instead.
        for t in (5, 11):
            observation, reward, *_ = rows[t]
            assert (reward == 0).all()
            assert (np.abs(observation) <= 0.05).all()
            assert (observation != first).all()
        assert all((rows[t][1] == 1).all() for t in range(13) if t not in (5, 11))
        # Another action in that step changes nothing.
        envs.reset(seed=3)
        again = [envs.step(np.array([0, 1, 0]) if t != 5 else np.array([1, 0, 1]))[0] for t in range(13)]
        assert all((a == row[0]).all() for a, row in zip(again, rows, strict=True))

    def test_an_end_by_itself_is_terminated(self):
        envs = EnvSource("envpool:CartPole-v1").make_vector(2)
        envs.reset(seed=0)
        rows = [envs.step(np.ones(2, np.int64))[2:4] for _ in range(30)]
        assert any(terminated.any() for terminated, _ in rows)
        assert not any(truncated.any() for _, truncated in rows)

    def test_seeds_are_obeyed(self):
        def first(seed):
            envs = EnvSource("envpool:CartPole-v1").make_vector(3)
            return envs.reset(seed=reset_seed(envs, [0, 0, 0], seed))[0]

        assert (first(5) == first(5)).all()
        assert not (first(5) == first(60)).any()
        assert not (first(5) == first(2**31 - 1)).any()
        assert len(np.unique(first(5), axis=0)) == 3
        envs = EnvSource("envpool:CartPole-v1").make_vector(3)
        unseeded = envs.reset()[0].copy()
        assert not (unseeded == envs.reset()[0]).any()  # the next episode
        assert (envs.reset(seed=5)[0] == first(5)).all()
        assert not (EnvSource("envpool:CartPole-v1").make_vector(3).reset()[0] == unseeded).any()

    def test_one_environment_is_the_same_as_many(self):
        source = EnvSource("envpool:CartPole-v1", max_episode_steps=4)
        env, envs = source.make(render_mode="rgb_array"), source.make_vector(1)
        assert env.observation_space == envs.single_observation_space
        observation, info = env.reset(seed=3)
        assert (observation == envs.reset(seed=3)[0][0]).all()
        assert "elapsed_step" in info
        for t in range(4):
            one, many = env.step(1), envs.step(np.array([1]))
            assert (one[0] == many[0][0]).all()
            assert one[1:4] == (1.0, False, t == 3) == (many[1][0], many[2][0], many[3][0])
        assert (env.reset()[0] == envs.step(np.array([1]))[0][0]).all()
        assert env.render().ndim == 3
        assert env.render().dtype == np.uint8
        env.close()

    def test_what_it_is(self):
        facts = examine(EnvSource("envpool:CartPole-v1"))
        assert (facts.name, facts.reward_threshold) == ("envpool:CartPole-v1", 475.0)
        assert facts.source.action_mask is False
        assert pickle.loads(pickle.dumps(facts.source)) == facts.source
        assert examine(EnvSource("envpool:Pendulum-v1")).action_space == spaces.Box(-2, 2, (1,))

    def test_continuous_actions_and_numbers_as_observations(self):
        for env_id in ("envpool:Pendulum-v1", "envpool:FrozenLake-v1"):
            envs = EnvSource(env_id).make_vector(2)
            envs.reset(seed=0)
            observation, *_ = envs.step(envs.action_space.sample())
            assert envs.observation_space.contains(observation.astype(envs.observation_space.dtype))

    def test_atari(self):
        options = AtariOptions("paper", full_action_set=True)
        envs = EnvSource("envpool:SpaceInvaders-v5", atari=options).make_vector(2)
        assert envs.single_observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
        assert envs.single_action_space == spaces.Discrete(18)
        envs.reset(seed=0)
        rewards, lost, over = [], 0, 0
        generator = np.random.default_rng(0)
        for _ in range(500):
            _, reward, terminated, truncated, info = envs.step(generator.integers(18, size=2))
            rewards.append(reward.max())
            assert not (info[LIFE_LOST] & terminated).any()
            assert not truncated.any()
            lost, over = lost + int(info[LIFE_LOST].sum()), over + int(terminated.sum())
        assert max(rewards) > 1  # unclipped
        assert lost >= 2 * over > 0  # two of three lives are lost in a game that goes on
        standard = EnvSource("envpool:SpaceInvaders-v5").make_vector(2)
        standard.reset(seed=0)
        assert LIFE_LOST not in standard.step(np.zeros(2, np.int64))[-1]

    def test_a_task_that_there_is_not(self):
        with pytest.raises(
            UnknownEnvironment, match="no environment 'envpool:CartPol-v1'; did you mean .*envpool:CartPole"
        ):
            EnvSource("envpool:CartPol-v1").check_exists()

    def test_wrappers_are_refused(self):
        with pytest.raises(UsageError, match="takes no wrappers"):
            EnvSource("envpool:CartPole-v1", wrappers=("FlattenObservation",)).make_vector(2)
