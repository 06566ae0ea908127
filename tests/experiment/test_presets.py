"""Where a run's settings come from."""

import numpy as np
import pytest

from a3c.config import TrainConfig, setting_names
from a3c.errors import UsageError
from a3c.experiment.presets import NAMED_PRESETS, PRESETS, resolve


@pytest.mark.parametrize("env", PRESETS)
@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
def test_presets_are_valid_settings(env, algorithm):
    assert set(PRESETS[env]) <= setting_names()
    config, line = resolve(env, {"algorithm": algorithm})
    assert f"preset for {env}" in line
    assert all(getattr(config, name) == value for name, value in PRESETS[env].items())


@pytest.mark.parametrize(
    ("env", "preset"),
    [
        ("gymnasium:CartPole-v1", "CartPole-v1"),
        ("minatar:MinAtar/Breakout-v1", "MinAtar"),
        ("ale_py:ALE/Pong-v5", "Atari"),
        ("my_package:Maze", "there is no preset"),
    ],
)
def test_an_id_with_its_module_has_the_ids_preset(env, preset):
    assert preset in resolve(env, {})[1]


@pytest.mark.parametrize(("task", "preset"), [("Pong-v5", "preset for Atari"), ("CartPole-v1", "preset for CartPole")])
def test_envpools_tasks_have_presets(task, preset):
    pytest.importorskip("envpool")
    assert preset in resolve(f"envpool:{task}", {})[1]


def test_wrappers_make_other_observations_which_are_normalised():
    wrapped = {"wrappers": ("TimeAwareObservation",)}
    config, source = resolve("CartPole-v1", wrapped)
    assert config.normalise_observations
    assert "preset for CartPole-v1, with normalised observations for the wrappers' sake" in source
    assert config.learning_rate == resolve("CartPole-v1", {})[0].learning_rate
    assert not resolve("CartPole-v1", {})[0].normalise_observations
    assert not resolve("CartPole-v1", wrapped | {"normalise_observations": False})[0].normalise_observations
    assert not resolve("CartPole-v1", wrapped | {"preset": "paper"})[0].normalise_observations
    assert "sake" not in resolve("LunarLander-v3", wrapped)[1]


@pytest.mark.parametrize("named", [{"torso": "a3c"}, {"hidden_sizes": (8,)}, {"activation": "relu"}], ids=str)
def test_a_network_of_your_own_takes_no_settings_of_ours(named):
    with pytest.raises(UsageError, match="changes nothing of --model"):
        resolve("CartPole-v1", named | {"model": "module:factory"})


@pytest.mark.parametrize(
    ("named", "without"),
    [
        ({"delay": 3}, "--delay changes nothing without --store delayed"),
        ({"adam_beta1": 0.5}, "--adam-beta1 changes nothing without --optimizer adam"),
        ({"memory_size": 64}, "--memory-size changes nothing without --memory lstm or gru"),
        ({"noise_steps": 4}, "--noise-steps changes nothing without --log-std gsde"),
        ({"wandb_project": "mine"}, "--wandb-project changes nothing without --wandb:"),
    ],
    ids=str,
)
def test_a_setting_that_would_change_nothing_is_refused(named, without):
    with pytest.raises(UsageError, match=without):
        resolve("CartPole-v1", named)


@pytest.mark.parametrize(
    "named",
    [
        {"delay": 3, "store": "delayed", "runtime": "serial"},
        {"adam_beta1": 0.5, "optimizer": "adam"},
        {"memory_size": 64, "memory": "gru"},
        {"wandb_project": "mine", "wandb": False},
    ],
    ids=str,
)
def test_it_is_not_where_what_it_goes_with_is_named(named):
    resolve("CartPole-v1", named)


def test_arguments_of_an_environment_are_left_as_they_are():
    goal, sizes = np.ones(2), [1, 2]
    config, _ = resolve("CartPole-v1", {"env_kwargs": {"goal": goal, "sizes": sizes, "dtype": np.float32}})
    assert config.env_kwargs["goal"] is goal
    assert config.env_kwargs["sizes"] is sizes
    assert config.env_kwargs["dtype"] is np.float32
    assert config.to_json()["env_kwargs"] == {"goal": repr(goal), "sizes": [1, 2], "dtype": repr(np.float32)}


def test_the_users_word_wins():
    config, line = resolve("CartPole-v1", {"discount": 0.5, "workers": 1})
    assert (config.discount, config.workers) == (0.5, 1)
    assert config.envs_per_worker == PRESETS["CartPole-v1"]["envs_per_worker"]
    assert line.endswith("yours: discount, workers)")


def test_without_a_preset_the_general_defaults_hold():
    config, line = resolve("Elsewhere-v0", {})
    assert config == TrainConfig()
    assert "there is no preset" in line


def test_a_named_episode_budget_is_not_cut_short_by_the_presets_steps():
    assert resolve("CartPole-v1", {"total_episodes": 10**6})[0].total_env_steps is None
    assert resolve("CartPole-v1", {"total_episodes": 10**6, "total_env_steps": 5})[0].total_env_steps == 5


def test_more_workers_than_the_preset_was_measured_with_step_more_slowly():
    rate = PRESETS["CartPole-v1"]["learning_rate"]
    config, line = resolve("CartPole-v1", {"workers": 8})
    assert config.learning_rate == pytest.approx(rate / 2)
    assert "rate / sqrt(8/2) for staleness" in line
    assert resolve("CartPole-v1", {"workers": 8, "runtime": "serial"})[0].learning_rate == rate
    assert resolve("CartPole-v1", {"workers": 1})[0].learning_rate == rate
    assert resolve("CartPole-v1", {"workers": 8, "algorithm": "a2c"})[0].learning_rate == rate
    assert resolve("CartPole-v1", {"workers": 8, "learning_rate": 0.1})[0].learning_rate == 0.1


def test_a2c_with_more_workers_makes_as_many_updates():
    budget = PRESETS["CartPole-v1"]["total_env_steps"]
    config, line = resolve("CartPole-v1", {"workers": 8, "algorithm": "a2c"})
    assert config.total_env_steps == 4 * budget
    assert "steps x 8/2 for as many updates" in line
    assert resolve("CartPole-v1", {"workers": 8, "algorithm": "a2c", "total_env_steps": 7})[0].total_env_steps == 7
    assert resolve("CartPole-v1", {"workers": 8})[0].total_env_steps == budget


def test_a_list_of_sizes_is_as_good_as_a_tuple():
    assert resolve("CartPole-v1", {"hidden_sizes": [32, 16]})[0].hidden_sizes == (32, 16)


def test_numpy_numbers_and_paths_are_as_good_as_plain_ones(tmp_path):
    config, _ = resolve("CartPole-v1", {"seed": np.int64(3), "discount": np.float32(0.5), "run_dir": tmp_path})
    assert (config.seed, config.discount, config.run_dir) == (3, 0.5, str(tmp_path))
    assert type(config.seed) is int


def test_a_setting_that_does_not_exist():
    with pytest.raises(UsageError, match="there is no setting 'wrokers'"):
        resolve("CartPole-v1", {"wrokers": 3})


@pytest.mark.parametrize("preset", NAMED_PRESETS)
@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5", "Elsewhere-v0"])
def test_a_named_preset_holds_for_any_environment(env, preset):
    config, line = resolve(env, {"preset": preset})
    assert f"preset {preset}" in line
    assert all(getattr(config, name) == value for name, value in NAMED_PRESETS[preset].items())


def test_the_paper_preset_is_the_papers():
    """Mnih et al. 2016, section 8 and supplement; muupan's record of what the first author added."""
    config, _ = resolve("ALE/Pong-v5", {"preset": "paper"})
    assert (config.algorithm, config.workers, config.envs_per_worker) == ("a3c", 16, 1)
    assert (config.rollout_length, config.end_rollout_at_episode_end) == (5, True)
    assert (config.discount, config.lambda_, config.entropy_coef, config.value_coef) == (0.99, 1.0, 0.01, 0.5)
    assert (config.optimizer, config.optimizer_decay) == ("rmsprop", 0.99)
    assert (config.optimizer_epsilon, config.epsilon_inside_root, config.bias_correction) == (0.1, True, False)
    assert (config.learning_rate, config.learning_rate_schedule) == (7e-4, "linear")
    assert (config.loss_reduction, config.clip_rewards, config.total_env_steps) == ("sum", 1.0, 80_000_000)
    assert config.resolved_store == "hogwild"
    assert not any((config.normalise_observations, config.scale_rewards, config.separate_torsos))
    assert config.atari_preprocessing == "paper"


def test_no_preset_when_none_is_asked_for():
    config, line = resolve("CartPole-v1", {"preset": "none"})
    assert config == TrainConfig(preset="none")
    assert "as asked for" in line


@pytest.mark.parametrize("env", ["ALE/Breakout-v5", "ale_py:ALE/Breakout-v5", "BreakoutNoFrameskip-v4"])
def test_atari_games_have_the_atari_preset_unasked(env):
    config, line = resolve(env, {})
    assert "preset for Atari" in line
    assert config.clip_rewards == 1.0


def test_minatar_games_share_a_preset():
    config, line = resolve("MinAtar/Seaquest-v1", {})
    assert "preset for MinAtar" in line
    assert config.total_env_steps == 3_000_000


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="--preset"):
        resolve("CartPole-v1", {"preset": "best"})
