"""Atari: the native games, the single one that equals them, whole games, lives, stickiness and seeds."""

from __future__ import annotations

import pickle
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

pytest.importorskip("ale_py")

from a3c.envs import atari
from a3c.envs.atari import LIFE_LOST, AtariGame, AtariOptions, LostLives, shrink
from a3c.envs.make import EnvSource, examine
from a3c.errors import UnknownEnvironment, UsageError

PAPER = AtariOptions("paper")
NOT_STICKY = AtariOptions(sticky_actions=0.0)


@pytest.fixture
def no_noops(monkeypatch):
    """Every game begins alike."""
    monkeypatch.setattr(atari, "_NOOPS", 0)


@pytest.fixture
def fresh_registry():
    """A registry without ALE's games, as in a process that has not imported ale_py."""
    games = {name: spec for name, spec in gym.registry.items() if atari.is_atari(spec)}
    for name in games:
        del gym.registry[name]
    yield
    gym.registry.update(games)


def play(envs, steps, seed=0, actions=0):
    """Observations, rewards, terminated, truncated, lives and lost lives of random play, [T, B, ...]."""
    envs.reset(seed=seed)
    generator = np.random.default_rng(actions)
    rows = []
    for _ in range(steps):
        action = generator.integers(envs.single_action_space.n, size=envs.num_envs)
        observation, reward, terminated, truncated, info = envs.step(action)
        lost = info.get(LIFE_LOST, np.zeros(envs.num_envs, bool))
        rows.append((observation.copy(), reward.copy(), terminated, truncated, info["lives"].copy(), lost))
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_games_are_stepped_natively():
    envs = EnvSource("ALE/Breakout-v5").make_vector(3)
    assert type(envs.unwrapped).__mro__[1].__name__ == "AtariVectorEnv"
    assert envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert "autoreset_mode" not in VectorEnv.metadata  # of which ALE's would make a liar
    assert envs.single_observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert envs.single_action_space == spaces.Discrete(4)
    facts = examine(EnvSource("ALE/Breakout-v5", atari=AtariOptions(full_action_set=True)))
    assert facts.action_space == spaces.Discrete(18)
    assert facts.observation_space == envs.single_observation_space


def test_native_games_are_stepped_on_one_thread(monkeypatch):
    import ale_py

    options = {}

    class Native(ale_py.AtariVectorEnv):
        def __init__(self, *args, **settings):
            options.update(settings)
            super().__init__(*args, **settings)

    monkeypatch.setattr(ale_py, "AtariVectorEnv", Native)
    EnvSource("ALE/Pong-v5").make_vector(3)
    assert options["num_threads"] == 1


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("ALE/Breakout-v5", NOT_STICKY),
        ("ALE/Breakout-v5", PAPER),
        ("ALE/SpaceInvaders-v5", AtariOptions("paper", full_action_set=True)),
        ("PongNoFrameskip-v4", AtariOptions()),
    ],
)
def test_one_game_is_the_same_as_many(no_noops, env_id, options):
    source = EnvSource(env_id, max_episode_steps=110, atari=options)
    envs, env = source.make_vector(1), source.make(render_mode="rgb_array")
    assert (envs.single_observation_space, envs.single_action_space) == (env.observation_space, env.action_space)
    generator = np.random.default_rng(0)
    batch, _ = envs.reset(seed=3)
    observation, _ = env.reset(seed=3)
    over, ends, lost = False, 0, 0
    for _ in range(260):
        # ALE shrinks pictures in single precision: a grey that falls between two rounds either way.
        np.testing.assert_allclose(observation.astype(int), batch[0].astype(int), atol=1)
        assert (observation == batch[0]).mean() > 0.95
        action = generator.integers(env.action_space.n)
        batch, rewards, terminated, truncated, infos = envs.step(np.array([action]))
        if over:
            observation, _ = env.reset()
            over = False
            assert rewards[0] == 0.0
            continue
        observation, reward, *end, info = env.step(action)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, *end)
        assert infos["lives"][0] == info["lives"]
        assert (LIFE_LOST in infos) == (LIFE_LOST in info) == options.reports_lives
        if options.reports_lives:
            assert infos[LIFE_LOST][0] == info[LIFE_LOST]
            lost += info[LIFE_LOST]
        over = any(end)
        ends += over
    assert ends == 2
    assert (lost > 0) == (options.reports_lives and "Breakout" in env_id)
    assert env.render().shape == (210, 160, 3)
    assert env.render().dtype == np.uint8


def test_an_episode_is_a_whole_game_and_a_lost_life_ends_nothing(no_noops):
    envs = EnvSource("ALE/Breakout-v5", atari=PAPER).make_vector(1)
    _, rewards, terminated, truncated, lives, lost = (column[:, 0] for column in play(envs, 400, actions=1)[:6])
    ends = np.flatnonzero(terminated)
    assert len(ends) >= 1
    assert not truncated.any()
    end = ends[0]
    assert lost[: end + 1].sum() == 4  # of five lives; the last one ends the game
    assert lives[end] == 0
    assert not lost[end]
    assert (np.flatnonzero(lost) != end + 1).all()
    for t in np.flatnonzero(lost):
        assert lives[t] == lives[t - 1] - 1
        assert not terminated[t]
    assert lives[end + 1] == 5  # NEXT_STEP: the row after the end is the next game's first
    assert (rewards[end + 1], terminated[end + 1], lost[end + 1]) == (0.0, False, False)

    # The plain emulator, given the same actions for four frames each, scores the same game.
    game = gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0)
    game.reset(seed=0)
    actions = np.random.default_rng(1)
    score, over = 0.0, False
    for _ in range(end + 1):
        action = actions.integers(4, size=1)[0]
        for _ in range(4):
            if not over:
                _, reward, over, _, _ = game.step(action)
                score += reward
    assert over
    assert rewards[: end + 1].sum() == score


def test_lives_are_reported_only_if_asked_for():
    for options, reported in [(AtariOptions(), False), (AtariOptions(life_loss_ends=True), True), (PAPER, True)]:
        envs = EnvSource("ALE/Breakout-v5", atari=options).make_vector(1)
        envs.reset(seed=0)
        assert (LIFE_LOST in envs.step(np.zeros(1, np.int64))[-1]) == reported


def test_lost_lives_by_hand():
    class Counts(VectorEnv):
        num_envs = 3
        lives = iter(
            [
                [3, 3, 0],
                [2, 3, 0],  # the first loses one
                [2, 1, 0],  # the second two at once
                [0, 0, 0],  # the first's game is over; the second still plays without a life left
                [3, 0, 0],  # the first begins anew
                [2, 0, 0],
                [4, 0, 0],  # ... gets bonus lives
                [3, 0, 0],  # ... and is cut off with a life lost in its last step
                [4, 0, 0],  # (this is a reset)
                [3, 0, 0],
                [4, 0, 0],  # cut off
                [3, 0, 0],  # a reset: fewer lives than before, but none was lost
            ]
        )
        ends = iter([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        cuts = iter([0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0])

        def reset(self, *, seed=None, options=None):
            return None, {"lives": np.array(next(self.lives))}

        def step(self, actions):
            info = {"lives": np.array(next(self.lives))}
            return None, None, np.array([next(self.ends), 0, 0], bool), np.array([next(self.cuts), 0, 0], bool), info

    envs = LostLives(Counts())
    envs.reset()
    lost = [envs.step(None)[-1][LIFE_LOST].tolist() for _ in range(11)]
    no = [False, False, False]
    first, second = [True, False, False], [False, True, False]
    assert lost == [first, second, no, no, first, no, first, no, first, no, no]


def test_rewards_are_the_games_own():
    _, rewards, *_ = play(EnvSource("ALE/SpaceInvaders-v5").make_vector(2), 200)
    assert rewards.max() > 1


@pytest.mark.parametrize("wrappers", [(), ("RecordEpisodeStatistics",)])
def test_a_time_limit_truncates(wrappers):
    envs = EnvSource("ALE/Pong-v5", max_episode_steps=7, wrappers=wrappers).make_vector(2)
    assert isinstance(envs.unwrapped, SyncVectorEnv) == bool(wrappers)
    envs.reset(seed=0)
    ends = [envs.step(np.zeros(2, np.int64))[2:4] for _ in range(16)]
    assert [terminated.any() for terminated, _ in ends] == [False] * 16
    assert [truncated.tolist() for _, truncated in ends] == [[t in (6, 14)] * 2 for t in range(16)]


def test_half_an_hour_of_play_without_a_limit():
    env = EnvSource("ALE/Pong-v5").make()
    while not isinstance(env, AtariGame):
        env = env.env
    assert env.most_frames == 108_000
    env.frames = 108_000 - 6
    env.reset = None
    ends = [env.step(0)[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


def test_seeds_are_obeyed():
    source = EnvSource("ALE/Breakout-v5")
    first = play(source.make_vector(2), 40, seed=5)
    again = play(source.make_vector(2), 40, seed=5)
    for one, other in zip(first, again, strict=True):
        assert (one == other).all()
    others = [play(source.make_vector(2), 40, seed=seed)[0] for seed in (6, 2**31 - 1, 10**12)]
    for other in others:
        assert (other != first[0]).any()
    assert (first[0][:, 0] != first[0][:, 1]).any()


def test_a_seed_is_begun_again_at_a_reset():
    envs = EnvSource("ALE/Breakout-v5").make_vector(2)
    first = play(envs, 30, seed=5)[0]
    assert (play(envs, 30, seed=5)[0] == first).all()


@pytest.mark.parametrize(
    ("env_id", "options", "probability"),
    [
        ("ALE/Pong-v5", AtariOptions(), 0.25),
        ("PongNoFrameskip-v0", AtariOptions(), 0.25),
        ("PongNoFrameskip-v4", AtariOptions(), 0.0),
        ("ALE/Pong-v5", PAPER, 0.0),
        ("ALE/Pong-v5", AtariOptions(sticky_actions=0.1), 0.1),
        ("PongNoFrameskip-v4", AtariOptions("paper", sticky_actions=1.0), 1.0),
    ],
)
def test_stickiness_is_what_the_id_says_unless_it_is_named(env_id, options, probability):
    env = EnvSource(env_id, imports=("ale_py",), atari=options).make()
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == pytest.approx(probability)


@pytest.mark.parametrize(("env_id", "imports"), [("Pong-v0", ()), ("Pong-v4", ("ale_py",))])
def test_a_random_frame_skip_is_not_silently_replaced(env_id, imports):
    with pytest.raises(UnknownEnvironment, match=f"'{env_id}' is .* random frame skip.* take ALE/Pong-v5"):
        EnvSource(env_id, imports=imports).make()


@pytest.mark.parametrize(("options", "sticky"), [(AtariOptions(), True), (NOT_STICKY, False)])
def test_sticky_games_differ_though_they_are_played_alike(no_noops, options, sticky):
    envs = EnvSource("ALE/Breakout-v5", atari=options).make_vector(2)
    envs.reset(seed=1)
    generator = np.random.default_rng(0)
    differ = False
    for _ in range(60):
        observation, *_ = envs.step(np.full(2, generator.integers(4)))
        differ |= bool((observation[0] != observation[1]).any())
    assert differ == sticky


def test_fire_is_pressed_at_a_reset_but_not_in_the_paper(no_noops):
    frames = {}
    for options in (AtariOptions(), PAPER):
        _, info = EnvSource("ALE/Breakout-v5", atari=options).make_vector(1).reset(seed=0)
        _, single = EnvSource("ALE/Breakout-v5", atari=options).make().reset(seed=0)
        frames[options.preprocessing] = (info["episode_frame_number"][0], single["episode_frame_number"])
    assert frames == {"standard": (1, 1), "paper": (0, 0)}


def test_an_episode_begins_with_up_to_29_no_ops():
    envs = EnvSource("ALE/Breakout-v5", atari=PAPER).make_vector(10)
    env = EnvSource("ALE/Breakout-v5", atari=PAPER).make()
    env.reset(seed=0)
    native = np.concatenate([envs.reset(seed=seed)[1]["episode_frame_number"] for seed in (0, None, None, None)])
    single = [env.reset()[1]["episode_frame_number"] for _ in range(40)]
    for noops in (native, single):
        assert 0 <= min(noops) < 8
        assert 21 < max(noops) <= 29


def test_a_picture_is_shrunk_by_area():
    rows = np.array([[3.0, 0.0], [6.0, 9.0], [9.0, 3.0]])
    np.testing.assert_allclose(shrink(rows, 2), [[4.0, 3.0], [8.0, 5.0]])  # (3 + 6/2) / 1.5, ...
    np.testing.assert_allclose(shrink(rows, 1), [[6.0, 4.0]])
    np.testing.assert_allclose(shrink(rows, 3), rows)
    picture = np.random.default_rng(0).integers(256, size=(210, 160), dtype=np.uint8)
    overlap = np.array([[max(0, min(2.5 * i + 2.5, j + 1) - max(2.5 * i, j)) for j in range(210)] for i in range(84)])
    np.testing.assert_allclose(shrink(picture, 84), overlap @ picture / 2.5, rtol=1e-9)


def test_modes_of_a_game_and_wrappers_take_single_games():
    source = EnvSource("ALE/Breakout-v5", env_kwargs={"mode": 4, "difficulty": 1}, atari=PAPER)
    envs = source.make_vector(2)
    assert isinstance(envs, SyncVectorEnv)
    observation, _ = envs.reset(seed=[1, 2])
    assert observation.shape == (2, 4, 84, 84)
    info = envs.step(np.zeros(2, np.int64))[-1]
    assert info[LIFE_LOST].tolist() == [False, False]
    flat = EnvSource("ALE/Breakout-v5", wrappers=("FlattenObservation",)).make_vector(2)
    assert flat.reset()[0].shape == (2, 4 * 84 * 84)


@pytest.mark.parametrize("name", ["frameskip", "obs_type", "repeat_action_probability", "full_action_space"])
def test_what_the_preprocessing_settles_is_not_taken(name):
    with pytest.raises(UsageError, match=f"'ALE/Pong-v5' takes no {name}: the Atari preprocessing settles it"):
        EnvSource("ALE/Pong-v5", env_kwargs={name: 1}).make()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "PongNoFrameskip-v4", "ale_py:ALE/Pong-v5"])
def test_games_are_registered_unasked(fresh_registry, monkeypatch, env_id):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ale_py" and name != "ale_py._ale_py"]:
        monkeypatch.delitem(sys.modules, name)
    EnvSource(env_id).check_exists()
    assert "ALE/Breakout-v5" in gym.registry


def test_a_game_goes_to_another_process():
    source = EnvSource("ALE/Pong-v5", atari=AtariOptions("paper", sticky_actions=0.1))
    sent = pickle.dumps(source)
    assert pickle.loads(sent) == source


def test_a_game_without_namespace_and_version():
    with pytest.raises(UnknownEnvironment, match=r"no environment 'Pong'; did you mean ALE/Pong-v5\?"):
        EnvSource("Pong").check_exists()


def test_a_game_that_there_is_not():
    with pytest.raises(UnknownEnvironment, match="did you mean ALE/Breakout-v5"):
        EnvSource("ALE/Brakeout-v5").check_exists()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "PongNoFrameskip-v4"])
def test_without_its_package(fresh_registry, monkeypatch, env_id):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UsageError, match=rf"environment '{env_id}' wants .* missing: pip install \"a3c\[atari\]\""):
        EnvSource(env_id).check_exists()
