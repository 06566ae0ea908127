"""Where the time goes: that all of it is accounted for, and that looking changes nothing of what is done."""

import json
import re
from dataclasses import replace
from itertools import islice, pairwise
from typing import ClassVar
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv

import a3c
from a3c.cli import main
from a3c.config import TrainConfig
from a3c.core import moments
from a3c.core.seeding import model_seed
from a3c.envs.make import EnvSource, examine
from a3c.errors import UsageError
from a3c.experiment import profiling
from a3c.experiment.profiling import STAGES, Profile, Reference, Stopwatch, Subject, Timed, profile, table
from a3c.experiment.train import make_recipe, make_spec, make_store
from a3c.runtimes.serial import SerialRuntime
from a3c.types import Report
from leftovers import nothing_left

SETTINGS = {"workers": 1, "envs_per_worker": 4, "rollout_length": 4, "runtime": "serial"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but where it is told to go on."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(profiling.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_every_moment_belongs_to_the_innermost_function(clock):
    watch = Stopwatch("rest")

    def spend(seconds):
        clock.now += seconds
        return seconds

    inner = watch.timed("inner", spend)

    def outer_function():
        spend(1)
        inner(10)
        spend(2)
        return "done"

    outer = watch.timed("outer", outer_function)
    spend(100)
    assert outer() == "done"
    assert inner(20) == 20
    assert watch.take() == {"rest": 100, "outer": 3, "inner": 30}
    spend(5)
    assert watch.take() == {"rest": 5}


def test_a_function_that_raises_is_over(clock):
    watch = Stopwatch("rest")

    def fail():
        clock.now += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watch.timed("failing", fail)()
    clock.now += 7
    assert watch.take() == {"failing": 1, "rest": 7}


def recipe_and_store(env="CartPole-v1", **settings):
    config = TrainConfig(**SETTINGS | settings)
    facts = examine(EnvSource(env))
    spec = make_spec(config, facts)
    model = spec.build(seed=model_seed(0))
    store = make_store(config, model.flat, SerialRuntime(), model.normaliser.tracked)
    return make_recipe(facts.source, config, spec, "cpu"), store


@pytest.mark.parametrize(
    ("by_stage", "told"), [(True, {*STAGES, "steps", "begun"}), (False, {"seconds", "steps", "begun"})]
)
def test_looking_changes_nothing(by_stage, told):
    plain, store = recipe_and_store()
    timed, other = recipe_and_store()
    updates = list(islice(plain(0, store.connect(0)), 20))
    seen = list(islice(Timed(timed, by_stage)(0, other.connect(0)), 20))
    assert torch.equal(store.snapshot().parameters, other.snapshot().parameters)
    assert [update.episodes for update in updates] == [update.episodes for update in seen]
    assert set().union(*(update.losses for update in seen)) == told
    assert all(second >= 0 for update in seen for second in update.losses.values())


def test_what_is_told_is_of_all_updates_since_the_last_that_told(monkeypatch):
    monkeypatch.setattr(profiling, "_TAKEN_EVERY_S", 0.01)
    recipe, store = recipe_and_store()
    seen = list(islice(Timed(recipe)(0, store.connect(0)), 300))
    telling = [i for i, update in enumerate(seen) if update.losses]
    assert 2 < len(telling) < 300
    for i in telling:
        until = seen[: i + 1]
        assert sum(update.losses.get("steps", 0) for update in until) == sum(update.rollout_steps for update in until)


def test_the_algorithm_is_left_as_it_was():
    before = vars(profiling.actor_critic).copy(), vars(profiling.losses).copy()
    recipe, store = recipe_and_store()
    learner = Timed(recipe)(0, store.connect(0))
    next(learner)
    learner.close()
    assert (vars(profiling.actor_critic), vars(profiling.losses)) == before


@pytest.mark.parametrize("what", ["environment", "forward", "backward"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_one_thing_alone(env, what):
    recipe, store = recipe_and_store(env)
    learner = Reference(recipe, what, 0.05)(0, store.connect(0))
    updates = list(islice(learner, 3))
    assert [update.losses["begun"] for update in updates] == [1, 0, 0]
    assert all(update.losses["seconds"] > 0 for update in updates)
    assert all(update.losses["done"] > 0 for update in updates)
    store.request_stop()
    assert list(learner) == []
    assert store.snapshot().version == 0


def test_bare_environments_take_the_course_that_the_policy_took():
    recipe, _ = recipe_and_store("Pendulum-v1")
    actions, rewards = [], []
    with recipe.made(0) as (actor, _):
        for _ in range(60):  # past an episode's end, at 200
            rollout = actor.unroll(4)
            actions += [row.numpy().copy() for row in rollout.actions]
            rewards += rollout.rewards[rollout.real].tolist()
        seed = recipe.env_seed(0, actor.envs)
    seen = []

    class Watched(gym.Wrapper):
        def step(self, action):
            result = super().step(action)
            seen.append(result[1])
            return result

    bare = EnvSource(lambda: Watched(gym.make("Pendulum-v1"))).make_bare(4)
    bare.reset(seed)
    stepped = sum(bare.step(recipe.spec.actions.to_environment(action)) for action in actions)
    bare.close()
    assert stepped == len(seen)
    assert seen == pytest.approx(rewards)


class Shown(gym.Wrapper):
    """Pendulum whose rewards, and resets with a seed, can be seen."""

    seen: ClassVar[list[object]] = []

    def __init__(self):
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=7))

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            Shown.seen.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        result = super().step(action)
        Shown.seen.append(result[1])
        return result


def test_bare_environments_take_that_course_again_from_its_beginning():
    recipe, store = recipe_and_store(Shown, envs_per_worker=1)
    reference = Reference(recipe, "environment", 0.01)
    with recipe.made(0) as (actor, model):
        store.connect(0).pull(model.flat)
        turns = reference._environment(0, actor, model)
        Shown.seen, counted = [], []
        first = recipe.env_seed(0, actor.envs)[0]
        while Shown.seen.count(first) < 3:
            counted.append(next(turns))
        turns.close()
    assert counted[0] is counted[-1] is None  # to begin anew is no step, nor is its time counted
    assert counted.count(None) == 3
    begins = [i for i, what in enumerate(Shown.seen) if what == first]
    courses = [Shown.seen[begin:end] for begin, end in pairwise(begins)]
    assert len(courses[0]) > 4
    assert courses[0] == courses[1]


def test_bare_vectors_begin_anew_at_a_reset():
    bare = EnvSource("CartPole-v1").make_bare(8)
    course = []
    for _ in range(2):
        bare.reset(3)
        course.append([bare.step(np.zeros(8, np.int64)) for _ in range(10)])  # ends within these
    assert course[0] == course[1]
    bare.close()


@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1"])
def test_bare_environments_have_nothing_of_ours_around_them(env):
    bare = EnvSource(env).make_bare(8)
    bare.reset([1] * 8 if env == "FrozenLake-v1" else 1)
    assert bare.step(np.zeros(8, np.int64)) == 8
    for one in bare.envs:
        while isinstance(one, gym.Wrapper):
            assert not type(one).__module__.startswith("a3c")
            one = one.env
        assert isinstance(one, gym.Env | VectorEnv)
    bare.close()


@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
def test_a_profile_of_processes(algorithm):
    with nothing_left():
        result = profile("CartPole-v1", seconds=0.3, algorithm=algorithm, workers=2, envs_per_worker=8)
    assert (result.env, result.workers, result.envs_per_worker) == ("CartPole-v1", 2, 8)
    assert set(result.stage_us) == set(STAGES)
    assert result.steps_per_second > 0
    assert min(result.stage_us.values()) >= 0
    assert result.stage_us["act"] > 0
    assert min(result.environment_us, result.forward_us, result.backward_us) > 0
    assert "reference ceiling" in table(result)
    assert table(result).startswith(f"CartPole-v1, {algorithm}: 2 workers x 8 environments, ")


def test_the_rate_is_that_of_all_workers_without_a_stopwatch(monkeypatch):
    # Of two workers, each for a second; a report also adds up what is no time.
    sums = {"steps": 300.0, "begun": 0.0, "gradient_norm": 1e3}
    asked = []

    def fake(recipe):
        asked.append(recipe.by_stage)
        return sums | ({"report": 1.5, "act": 0.5} if recipe.by_stage else {"seconds": 2.0})

    subject = Subject.of("CartPole-v1", **SETTINGS | {"runtime": "processes", "workers": 2})
    monkeypatch.setattr(Subject, "_sums", lambda self, recipe, seconds: fake(recipe))
    assert subject.steps_per_second(1.0) == pytest.approx(300.0)
    seconds = {"report": 1.5, "act": 0.5}
    assert subject.stage_us(1.0) == {stage: seconds.get(stage, 0.0) / 300 * 1e6 for stage in STAGES}
    assert asked == [False, True]


class Scripted:
    """A runtime that hands out reports at times that are written down."""

    def __init__(self, clock, reports):
        self.clock, self.reports = clock, reports

    def prepare(self):
        pass

    def close(self):
        pass

    def run(self, recipe, store, workers):
        for now, sums in self.reports:
            self.clock.now = now
            yield Report(updates=1, sums=sums)


def test_nothing_counts_until_all_workers_have_begun(monkeypatch, clock):
    subject = Subject.of("CartPole-v1", **SETTINGS | {"runtime": "processes", "workers": 2})
    done, begins = {"done": 1.0, "begun": 0.0}, {"done": 1.0, "begun": 1.0}
    reports = [(0, begins), (5, done), (9, begins), (9.5, done), (11, done), (12, done), (13.5, done), (16, done)]
    store = mock.Mock()
    monkeypatch.setattr(profiling, "make_runtime", lambda config: Scripted(clock, reports))
    monkeypatch.setattr(profiling, "make_store", lambda *_: store)
    monkeypatch.setattr(profiling.time, "monotonic", lambda: clock.now)
    sums = subject._sums(subject.recipe, 3.0)
    assert sums["done"] == 3  # of the reports at 11, 12 and 13.5: a second after all had begun, and for three
    store.request_stop.assert_called_once()


def test_a_shape_that_was_chosen_is_told_with_its_reason_and_flags():
    with nothing_left():
        result = profile("FrozenLake-v1", seconds=0.05)
    flags = f"--workers {result.workers} --envs-per-worker {result.envs_per_worker}"
    assert re.search(rf"general defaults; a step takes .* on \d+ cores: {flags}", table(result))


def test_the_ceiling_by_hand():
    alone = {"environment_us": 10.0, "forward_us": 40.0, "backward_us": 200.0}
    result = Profile("E", 2, 4, 5, 1e4, {"act": 50.0}, **alone, description="")
    assert result.environment_only == pytest.approx(2e6 / 10)
    assert result.ceiling == pytest.approx(2e6 / (10 + 40 / 4 + 200 / 20))
    assert result.to_json()["ceiling"] == result.ceiling


def test_a_run_to_begin_with(tmp_path, capsys):
    run = a3c.train(
        "CartPole-v1", run_dir=str(tmp_path / "run"), quiet=True, tensorboard=False, total_env_steps=100, **SETTINGS
    )
    command = ["profile", "CartPole-v1", "--runtime", "serial", "--workers", "1", "--seconds", "0.05", "--json"]
    main([*command, "--run", str(run.path)])
    assert json.loads(capsys.readouterr().out)["workers"] == 1
    with pytest.raises(UsageError, match=r"--run .* is of another network than these settings make"):
        profile("CartPole-v1", run=run.path, hidden_sizes=(8,), seconds=0.05, **SETTINGS)


def test_the_policy_of_a_run_stays_as_it_is_while_it_is_timed(tmp_path, monkeypatch):
    stores = []
    monkeypatch.setattr(profiling, "make_store", lambda *given: stores.append(make_store(*given)) or stores[-1])
    settings = {"normalise_observations": True, "scale_rewards": True, **SETTINGS}
    run = a3c.train(
        "CartPole-v1", run_dir=str(tmp_path / "run"), quiet=True, tensorboard=False, total_env_steps=2000, **settings
    )
    profile("CartPole-v1", run=run.path, seconds=0.05, **settings)
    model = a3c.Policy.load(run.path).model
    assert all(store.counters().version > 0 for store in stores[:2])  # without and with a stopwatch
    for store in stores:
        state = store.snapshot()
        torch.testing.assert_close(state.parameters, model.flat, rtol=0, atol=1e-12)
        for number in (moments.mean, moments.variance):
            ours, theirs = number(state.moments), number(model.normaliser.moments)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="leave --learning-rate out"):
        profile("CartPole-v1", run=run.path, learning_rate=1e-3, **settings)


def test_workers_that_share_a_process_are_not_measured():
    with pytest.raises(UsageError, match="add --workers 1"):
        profile("CartPole-v1", **SETTINGS | {"workers": 2})


def test_a_measurement_that_can_hardly_be_true_is_said_to_be_none():
    sound = Profile("E", 2, 4, 5, 1000.0, {"act": 1.0}, 100.0, 10.0, 10.0, "settings")
    assert sound.steps_per_second < sound.environment_only
    assert "Measure again" not in table(sound)
    assert "Measure again" in table(replace(sound, environment_us=5000.0))
