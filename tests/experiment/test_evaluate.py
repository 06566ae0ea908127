"""Evaluation: what is played and counted, what is refused and in which words, and returns that are no numbers."""

import json
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import a3c
import tiny_envs
from a3c.config import TrainConfig
from a3c.envs.make import EnvSource
from a3c.envs.teaching import Recall
from a3c.errors import NonFiniteError, RunDirectoryError, UnsupportedEnvironment, UsageError
from a3c.experiment import checkpoint
from a3c.experiment.environment import find_player
from a3c.experiment.evaluate import Evaluation, bootstrap_interval
from a3c.experiment.launch import env_source
from a3c.experiment.policy_spec import Normalisation, PolicySpec
from a3c.models.actor_critic import Network

SMALL = Network(hidden_sizes=(8,))


class Sevens(tiny_envs.Corridor):
    """Every reward is 7."""

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 7.0, terminated, truncated, info


class Bytes(tiny_envs.Corridor):
    """Fits the corridor's policy but for the kind of its observations."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.uint8)

    def _observe(self):
        return np.zeros(2, np.uint8)


class Endless(tiny_envs.Corridor):
    """Goes on for ever, 1 a step, in every environment whose first number is below a half; 3 steps in the others."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.endless = self.np_random.random() < 0.5
        return observation, info

    def step(self, action):
        self.steps += 1
        return np.ones(2, np.float32), 1.0, not self.endless and self.steps == 3, False, {}


class Nested(gym.Env):
    """Observations and actions of every kind; checks what it is given. Rewards 1 for each step, of 4."""

    observation_space = spaces.Dict(
        {
            "numbers": spaces.Box(-1, 1, (3,), np.float32),
            "pair": spaces.Tuple((spaces.Discrete(4), spaces.MultiBinary(2))),
        }
    )
    action_space = spaces.Dict(
        {
            "move": spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3]))),
            "push": spaces.Box(-2, 2, (2,), np.float32),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space, action
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 4, False, {}


def policy_for(make_env, **settings):
    env = make_env()
    spec = PolicySpec(env.observation_space, env.action_space, network=SMALL, **settings)
    return a3c.Policy(spec, spec.build())


@pytest.fixture
def policy():
    return policy_for(tiny_envs.Corridor)


def as_checkpoint(policy, run_dir):
    """A policy as a run's only checkpoint, of no optimiser."""
    state = {"parameters": policy.model.flat.clone(), "moments": policy.model.normaliser.moments, "env_steps": 0}
    checkpoint.save_checkpoint(run_dir, policy.spec, policy.model, state)


def run_of(path, settings, make_env=tiny_envs.Corridor, **record):
    """A run's directory with these settings in config.json, and a policy."""
    as_checkpoint(policy_for(make_env), path)
    record = {"settings": settings, "env_by_name": True} | record
    (path / "config.json").write_text(json.dumps(record))
    return path


# What is played and counted.


def test_observations_and_actions_of_any_kind():
    result = a3c.evaluate(policy_for(Nested), Nested, episodes=5, greedy=False)
    assert (result.episodes, result.return_mean, result.length_mean) == (5, 4.0, 4.0)


class Counting:
    """Stands for a policy with memory: its state counts the steps of each episode."""

    def __init__(self, spec, model, seed=0):
        self.spec, self.model, self.seen = spec, model, model.seen
        self.checkpoint = None

    def predict(self, observation, state, episode_start, deterministic):
        count = np.zeros((len(episode_start), 1)) if state is None else np.where(episode_start[:, None], 0, state)
        self.seen.append((count[:, 0].copy(), observation[:, 0].copy()))
        return np.ones(len(count), np.int64), count + 1


def test_memory_is_carried_through_an_episode_and_begun_anew_with_each(monkeypatch, policy):
    monkeypatch.setattr("a3c.experiment.evaluate.Policy", Counting)
    monkeypatch.setattr("a3c.experiment.environment.Policy", Counting)
    seen = []
    counting = Counting(policy.spec, SimpleNamespace(seen=seen))
    result = a3c.evaluate(counting, tiny_envs.Corridor, episodes=130)
    assert result.return_mean == 8.0
    for count, position in seen:  # the corridor shows its step / 8; at its end the step that merely resets comes
        np.testing.assert_array_equal(count, 8 * position)


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_a_policy_with_memory_is_the_same_in_any_number_of_environments(memory):
    env = Recall()
    spec = PolicySpec(env.observation_space, env.action_space, network=Network(hidden_sizes=(8,), memory=memory))
    policy = a3c.Policy(spec, spec.build(seed=3))
    seeds = [11, 12, 13]
    vector = EnvSource(Recall).make_vector(3)
    observation, _ = vector.reset(seed=seeds)
    state, start = None, np.ones(3, np.bool_)
    together = []
    for _ in range(6):
        action, state = policy.predict(observation, state, start, deterministic=True)
        observation, *_ = vector.step(action)
        start = np.zeros(3, np.bool_)
        together.append(state)
    for lane, seed in enumerate(seeds):
        observation, _ = env.reset(seed=seed)
        alone = None
        for t in range(6):
            action, alone = policy.predict(observation, alone, np.array([t == 0]), deterministic=True)
            observation, *_ = env.step(action)
            torch.testing.assert_close(torch.tensor(alone[0]), torch.tensor(together[t][lane]))


def test_rewards_are_raw_and_moments_stay():
    policy = policy_for(
        tiny_envs.Corridor, normalisation=Normalisation(observations=True, scale_rewards=True, clip_rewards=0.1)
    )
    moments = torch.tensor([[10.0] * 3, [0.5] * 3, [90.0] * 3], dtype=torch.float64)
    policy.model.normaliser.load(moments.clone())
    result = a3c.evaluate(policy, Sevens, episodes=4)
    assert result.return_mean == 56.0  # 8 steps, whatever 7 is learned as
    assert torch.equal(policy.model.normaliser.moments, moments)


def test_greedy_and_sampled_play_are_not_the_same(policy):
    policy.model.policy_head.linear.weight.data *= 1e-3  # near uniform
    policy.model.policy_head.linear.bias.data[:] = torch.tensor([0.0, 0.01])  # and a little for the right
    greedy = a3c.evaluate(policy, tiny_envs.Corridor, episodes=40)
    sampled = a3c.evaluate(policy, tiny_envs.Corridor, episodes=40, greedy=False)
    assert (greedy.return_mean, greedy.return_std, greedy.greedy) == (8.0, 0.0, True)
    assert abs(sampled.return_mean) < 3
    assert sampled.return_std > 1
    assert not sampled.greedy


def test_the_policys_own_random_stream_is_left_alone(policy):
    before = policy.generator.get_state()
    first = a3c.evaluate(policy, tiny_envs.Corridor, episodes=9, greedy=False, seed=5)
    assert torch.equal(policy.generator.get_state(), before)
    assert a3c.evaluate(policy, tiny_envs.Corridor, episodes=9, greedy=False, seed=5) == first


def test_an_atari_games_rewards_are_its_own():
    """SpaceInvaders pays 5 to 30 points a hit, so clipped rewards would add up to a tenth of that."""
    pytest.importorskip("ale_py")
    source = EnvSource("ALE/SpaceInvaders-v5")
    games = source.make_vector(1)
    spec = PolicySpec(
        games.single_observation_space, games.single_action_space, normalisation=Normalisation(clip_rewards=1.0)
    )
    games.close()
    policy = a3c.Policy(spec, spec.build())
    result = a3c.evaluate(policy, "ALE/SpaceInvaders-v5", episodes=2, greedy=False, seed=1, max_steps_per_episode=400)
    env = source.make()
    observation, _ = env.reset(seed=3)
    assert observation.shape == games.single_observation_space.shape
    env.close()
    total = 2 * result.return_mean
    assert result.episodes == 2
    assert total >= 20
    assert total % 5 == 0


def test_an_episode_without_end_is_cut(policy):
    result = a3c.evaluate(policy, Endless, episodes=30, max_steps_per_episode=50)
    assert 0 < result.cut_episodes < 30
    assert result.episodes == 30
    ends = 30 - result.cut_episodes
    assert result.return_mean == pytest.approx((50 * result.cut_episodes + 3 * ends) / 30)
    assert result.length_mean == result.return_mean
    assert result.to_json()["cut_episodes"] == result.cut_episodes


def test_an_environment_whose_episode_is_cut_plays_no_more(policy):
    result = a3c.evaluate(policy, Endless, episodes=640, max_steps_per_episode=50)  # ten for each of 64
    assert result.cut_episodes <= 64
    assert result.cut_episodes < result.episodes < 640


def test_one_step_is_enough_to_end_in_time(policy):
    result = a3c.evaluate(policy, tiny_envs.Corridor, episodes=3, max_steps_per_episode=8)
    assert result.cut_episodes == 0
    assert a3c.evaluate(policy, tiny_envs.Corridor, episodes=3, max_steps_per_episode=7).cut_episodes == 3


# Where a run plays.


def test_the_run_s_own_settings_make_the_environment(tmp_path):
    settings = {
        "env": "CartPole-v1",
        "env_kwargs": {"sutton_barto_reward": True},
        "wrappers": ["FlattenObservation"],
        "import_": [],
        "max_episode_steps": 5,
        "atari_preprocessing": "paper",
        "sticky_actions": 0.5,
        "full_action_set": True,
        "life_loss_ends": True,
        "learning_rate": 1.0,
    }
    run = run_of(tmp_path, settings, lambda: gym.make("CartPole-v1"))
    source = find_player(run).source
    assert source == env_source(
        "CartPole-v1",
        TrainConfig(
            env_kwargs={"sutton_barto_reward": True},
            wrappers=("FlattenObservation",),
            max_episode_steps=5,
            atari_preprocessing="paper",
            sticky_actions=0.5,
            full_action_set=True,
            life_loss_ends=True,
        ),
    )
    result = a3c.evaluate(run, episodes=3)
    assert (result.return_mean, result.length_mean) == (0.0, 5.0)  # Sutton and Barto's: -1 only where it falls


def test_an_environment_that_is_named_stands_within_the_runs_wrappers(tmp_path):
    settings = {
        "env": "CartPole-v1",
        "env_kwargs": {"sutton_barto_reward": True},
        "wrappers": ["FlattenObservation"],
        "import_": ["no_such_module"],
        "max_episode_steps": 5,
        "atari_preprocessing": "paper",
    }
    source = find_player(run_of(tmp_path, settings), "Acrobot-v1").source
    assert source == env_source(
        "Acrobot-v1", TrainConfig(wrappers=("FlattenObservation",), atari_preprocessing="paper")
    )


def test_settings_that_an_older_run_has_not_recorded_are_the_defaults(tmp_path):
    run = run_of(tmp_path, {"env": "CartPole-v1"}, lambda: gym.make("CartPole-v1"))
    assert find_player(run).source == EnvSource("CartPole-v1")


def test_a_saved_policy_plays_where_it_is_told(tmp_path, policy):
    policy.save(tmp_path)
    assert a3c.evaluate(tmp_path, tiny_envs.Corridor, episodes=2).episodes == 2
    with pytest.raises(RunDirectoryError, match=r"config\.json"):
        a3c.evaluate(tmp_path)


# Whose code is run.


UNTRUSTED = [
    ({"env": "raises_on_import:Env"}, "raises_on_import"),
    ({"env": "raises_on_import:Env-v0"}, "raises_on_import"),
    ({"env": "gymnasium.utils.play:play"}, "gymnasium.utils.play"),
    ({"env": "CartPole-v1", "wrappers": ["FlattenObservation", "raises_on_import:Wrap"]}, "raises_on_import"),
    ({"env": "CartPole-v1", "wrappers": ['raises_on_import:Wrap:{"a": 1}']}, "raises_on_import"),
    ({"env": 'raises_on_import:{"a":1}'}, r'raises_on_import:\{"a"'),
    ({"env": "CartPole-v1", "model": 'raises_on_import:{"a":1}'}, r'raises_on_import:\{"a"'),
    ({"env": "CartPole-v1", "import_": ["raises_on_import"]}, "raises_on_import"),
    ({"env": "CartPole-v1", "model": "raises_on_import:torso"}, "raises_on_import"),
    ({"env": "tiny_envs:Corridor", "import_": ["raises_on_import"]}, "raises_on_import, tiny_envs"),
]


@pytest.mark.parametrize(("settings", "modules"), UNTRUSTED, ids=str)
def test_code_that_a_run_names_is_not_run_unasked(tmp_path, settings, modules):
    run = run_of(tmp_path, settings)
    with pytest.raises(UsageError, match=rf"name, from {modules}: .*--trust-code .*trust_code=True"):
        a3c.evaluate(run)
    assert "raises_on_import" not in sys.modules


@pytest.mark.parametrize(
    "value", ["/secret.xml", "mine/secret.xml", "..", "~root", "secret:make", {"a": ["/b"]}], ids=str
)
def test_a_path_that_a_run_names_is_not_opened_unasked(tmp_path, value):
    run = run_of(tmp_path, {"env": "CartPole-v1", "env_kwargs": {"render_mode": "rgb_array", "xml_file": value}})
    with pytest.raises(
        UsageError, match=r"may be a path that the files of .* name, in --env-kwargs: '.*': .*--trust-code"
    ):
        find_player(run)
    assert find_player(run, "CartPole-v1").source.env_kwargs == {}
    assert find_player(run, trust_code=True).source.env_kwargs["xml_file"] == value


def test_words_for_a_wrapper_that_a_run_names_need_trust(tmp_path):
    wrappers = ['FrameStackObservation:{"stack_size": 2}', 'RecordVideo:{"video_folder": "films", "fps": 1e9}']
    run = run_of(tmp_path, {"env": "CartPole-v1", "wrappers": wrappers})
    with pytest.raises(
        UsageError, match=r"give a wrapper what may be a path or too large .* --wrappers: 'films', 1000000000\.0: "
    ):
        find_player(run)
    assert find_player(run, trust_code=True).source.wrappers == tuple(wrappers)
    (tmp_path / "plain").mkdir()
    assert find_player(run_of(tmp_path / "plain", {"env": "CartPole-v1", "wrappers": wrappers[:1]}))


def test_small_sizes_of_wrappers_that_make_a_huge_one_together_need_trust(tmp_path):
    pictures = ['MaxAndSkipObservation:{"skip": 4}', 'ResizeObservation:{"shape": [84, 84]}']
    usual = [*pictures, 'FrameStackObservation:{"stack_size": 4}', 'TimeLimit:{"max_episode_steps": 50000}']
    stack = 'FrameStackObservation:{"stack_size": 300}'
    for number, wrappers in enumerate((usual, [stack] * 3, ['FrameStackObservation:{"stack_size": 60000}'] * 99)):
        (tmp_path / str(number)).mkdir()
        run = run_of(tmp_path / str(number), {"env": "CartPole-v1", "wrappers": wrappers})
        if number == 0:
            assert find_player(run)
        else:
            with pytest.raises(UsageError, match=r"too large .* in --wrappers: (300, 300, 300|60000, 60000, .*): "):
                find_player(run)


def test_keyword_arguments_besides_the_runs_own(tmp_path):
    run = run_of(tmp_path, {"env": "FrozenLake-v1", "env_kwargs": {"map_name": "8x8", "desc": "/a"}})
    with pytest.raises(UsageError, match="may be a path"):
        find_player(run, env_kwargs={"is_slippery": False})
    source = find_player(run, env_kwargs={"is_slippery": False, "desc": None}).source
    assert source.env_kwargs == {"map_name": "8x8", "is_slippery": False, "desc": None}
    assert find_player(run, "CartPole-v1", env_kwargs={"a": 1}).source == EnvSource("CartPole-v1", env_kwargs={"a": 1})
    assert find_player(policy_for(tiny_envs.Corridor), "CartPole-v1", env_kwargs={"a": 1}).source.env_kwargs == {"a": 1}


@pytest.mark.parametrize(("environments", "made"), [(1, 1), (3, 3), (64, 5)])
def test_no_more_environments_at_once_than_are_wanted(policy, environments, made):
    stepped = set()

    class Seen(tiny_envs.Corridor):
        def step(self, action):
            stepped.add(self)
            return super().step(action)

    assert a3c.evaluate(policy, Seen, episodes=5, environments=environments).episodes == 5
    assert len(stepped) == made


def test_options_that_are_no_paths_need_no_trust(tmp_path):
    kwargs = {"map_name": "8x8", "desc": ["SFFF", "FHFH"], "gravity": -9.5, "xml_file": "ant.xml", "deep": {"a": None}}
    run = run_of(tmp_path, {"env": "FrozenLake-v1", "env_kwargs": kwargs})
    assert find_player(run).source.env_kwargs == kwargs


@pytest.mark.parametrize(("settings", "modules"), UNTRUSTED[:1] + UNTRUSTED[3:5] + UNTRUSTED[7:9], ids=str)
def test_code_that_a_run_names_is_run_when_it_is_trusted(tmp_path, settings, modules):
    run = run_of(tmp_path, settings, lambda: gym.make("CartPole-v1"))
    if "model" in settings:  # but the network that is there is a plain one
        with pytest.raises(UsageError, match="network is one of a3c's own"):
            a3c.evaluate(run, episodes=1, trust_code=True)
        return
    with pytest.raises(UsageError, match="cannot import 'raises_on_import' .ZeroDivisionError"):
        a3c.evaluate(run, trust_code=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"env": "CartPole-v1", "wrappers": ["FlattenObservation"]},
        {"env": "gymnasium:CartPole-v1"},
        {"env": "CartPole-v1", "import_": ["ale_py", "minatar", "gymnasium"]},
        {"env": "ALE/Pong-v5"},
        {"env": "MinAtar/Breakout-v1"},
        {"env": "envpool:CartPole-v1"},
        {"env": "a3c.envs.teaching:MaskedRecall"},
    ],
    ids=str,
)
def test_what_gymnasium_and_its_kin_register_needs_no_trust(tmp_path, settings):
    assert find_player(run_of(tmp_path, settings)).source.name == settings["env"]


def test_an_environment_that_is_passed_is_the_callers_own_word(tmp_path):
    run = run_of(tmp_path, {"env": "raises_on_import:Env", "import_": ["raises_on_import"]})
    assert a3c.evaluate(run, "tiny_envs:Corridor", episodes=2).episodes == 2
    assert a3c.evaluate(run, tiny_envs.Corridor, episodes=2).episodes == 2


def test_a_run_with_a_network_of_ones_own(tmp_path):
    spec = PolicySpec(
        tiny_envs.Corridor.observation_space, tiny_envs.Corridor.action_space, model="test_evaluate:make_torso"
    )
    trained = a3c.Policy(spec, spec.build())
    as_checkpoint(trained, tmp_path)
    settings = {"env": "tiny_envs:Corridor", "model": "test_evaluate:make_torso"}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings, "env_by_name": True}))
    with pytest.raises(UsageError, match="from test_evaluate, tiny_envs: "):
        a3c.evaluate(tmp_path)
    with pytest.raises(UsageError, match="from test_evaluate: "):
        a3c.evaluate(tmp_path, tiny_envs.Corridor)
    expected = a3c.evaluate(trained, tiny_envs.Corridor, episodes=3)
    result = a3c.evaluate(tmp_path, episodes=3, trust_code=True)
    assert result == expected
    assert (result.checkpoint, expected.checkpoint) == ("step-000000000000", None)
    assert a3c.evaluate(tmp_path, tiny_envs.Corridor, episodes=3, model=make_torso) == expected
    assert a3c.evaluate(tmp_path, tiny_envs.Corridor, episodes=3, model="test_evaluate:make_torso") == expected


def make_torso(observation_space):
    return torch.nn.Linear(2, 4)


# What is refused.


def test_a_failing_step_is_the_environments(policy):
    class Disconnected(tiny_envs.Corridor):
        def step(self, action):
            raise OSError("sensor lost")

    with pytest.raises(UnsupportedEnvironment, match=r"'Disconnected' cannot be played \(OSError: sensor lost"):
        a3c.evaluate(policy, Disconnected, episodes=2)


@pytest.mark.parametrize("error", [RuntimeError("no display"), ImportError("no pygame"), KeyError("map")])
def test_an_environment_that_cannot_be_made(policy, error):
    def broken():
        raise error

    with pytest.raises(UnsupportedEnvironment, match=f"'broken' cannot be made here .{type(error).__name__}") as raised:
        a3c.evaluate(policy, broken)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_episode_steps", ["200", 1.5, True, 0, -3, [5], {}]),
        ("env_kwargs", [None, [], "gravity", 3]),
        ("wrappers", [None, "TimeLimit", [3], [["a"]], {}]),
        ("import_", [None, "os", [None]]),
        ("atari_preprocessing", ["fast", None, 3, []]),
        ("sticky_actions", ["0.25", -0.1, 1.5, float("nan"), True, []]),
        ("full_action_set", [None, 1, "yes"]),
        ("life_loss_ends", [None, 0, []]),
        ("model", [3, [], {"callable": "x"}]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_setting_is_named(tmp_path, name, values):
    for value in values:
        run = run_of(tmp_path, {"env": "CartPole-v1", name: value})
        flag = "--" + name.rstrip("_").replace("_", "-")
        with pytest.raises(RunDirectoryError, match=rf"config\.json is damaged: {flag} must be"):
            a3c.evaluate(run, trust_code=True)


@pytest.mark.parametrize("settings", [None, [], "x", {}, {"env": 3}, {"env": None}])
def test_a_record_without_an_environment_is_damaged(tmp_path, settings):
    with pytest.raises(RunDirectoryError, match=r"config\.json is damaged: it does not say which environment"):
        a3c.evaluate(run_of(tmp_path, settings))


@pytest.mark.parametrize("by_name", [False, None, "yes"])
def test_a_run_on_a_callable_wants_the_environment(tmp_path, by_name):
    run = run_of(tmp_path, {"env": "Corridor"}, env_by_name=by_name)
    with pytest.raises(UsageError, match="no importable name.* pass the environment"):
        a3c.evaluate(run)
    assert a3c.evaluate(run, tiny_envs.Corridor, episodes=2).episodes == 2


def test_a_run_with_wrappers_that_have_no_name(tmp_path):
    run = run_of(tmp_path, {"env": "CartPole-v1", "wrappers": ["<wrap>"]})
    with pytest.raises(UsageError, match="wrappers that have no importable name: load the policy"):
        a3c.evaluate(run)


def test_a_policy_alone_does_not_say_where(policy):
    with pytest.raises(UsageError, match="name the environment"):
        a3c.evaluate(policy)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 0}, "--episodes must be at least 1, not 0"),
        ({"seed": -1}, "--seed must be 0 or more, not -1"),
        ({"max_steps_per_episode": 0}, "--max-steps-per-episode must be at least 1, not 0"),
    ],
)
def test_numbers_out_of_range(policy, settings, words):
    with pytest.raises(UsageError, match=words):
        a3c.evaluate(policy, tiny_envs.Corridor, **settings)


class Unsound(tiny_envs.Corridor):
    """Gives a number that is none as its `term`, in the third step."""

    def __init__(self, term, number):
        self.term, self.number = term, number

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps == 3 and self.term == "reward":
            reward = self.number
        elif self.steps == 3:
            observation = np.full(2, self.number, np.float32)
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("term", ["observation", "reward"])
@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_numbers_that_are_none_end_it(policy, term, number):
    with pytest.raises(NonFiniteError, match=f"a NaN or an infinity as its {term}"):
        a3c.evaluate(policy, lambda: Unsound(term, number), episodes=3)


def test_returns_that_are_not_finite_are_null_in_json():
    result = Evaluation(3, np.inf, np.nan, (-np.inf, np.nan), 8.0, True, 0)
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["return_mean"] is None
    assert record["return_std"] is None
    assert record["return_ci95"] == [None, None]
    assert record["length_mean"] == 8


def test_finite_returns_stay_as_they_are(policy):
    result = a3c.evaluate(policy, tiny_envs.Corridor, episodes=3)
    assert result.to_json()["return_ci95"] == list(result.return_ci95)


def test_observations_of_another_kind_are_refused_by_name(policy):
    with pytest.raises(UsageError, match=r"observations Box.*\(2,\), float32.*'Bytes' gives .*uint8"):
        a3c.evaluate(policy, Bytes)


class Goal(tiny_envs.Corridor):
    """Takes an argument that is no JSON."""

    def __init__(self, goal=None):
        assert goal is None or isinstance(goal, np.ndarray)


def test_a_run_with_arguments_that_json_does_not_hold(tmp_path):
    settings = {"runtime": "serial", "total_env_steps": 200, "tensorboard": False, "quiet": True}
    run = a3c.train("test_evaluate:Goal", env_kwargs={"goal": np.ones(2)}, run_dir=str(tmp_path), **settings)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["settings"]["env_kwargs"] == {"goal": repr(np.ones(2))}
    with pytest.raises(UsageError, match="env_kwargs that JSON does not hold, so pass the environment"):
        a3c.evaluate(run.path, trust_code=True)
    assert a3c.evaluate(run.path, Goal, episodes=2).episodes == 2


def test_the_interval_of_many_episodes_is_taken_in_pieces(monkeypatch):
    values = np.random.default_rng(0).normal(size=300)
    at_once = bootstrap_interval(values, 0)
    monkeypatch.setattr("a3c.experiment.evaluate._MOST_NUMBERS_AT_ONCE", 300 * 7)
    assert bootstrap_interval(values, 0) == at_once
