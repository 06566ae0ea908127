"""How many workers and environments, where nobody says so."""

import multiprocessing
import os
import time

import gymnasium as gym
import pytest

import a3c
from a3c.config import TrainConfig
from a3c.envs.make import EnvSource
from a3c.envs.teaching import MaskedRecall
from a3c.errors import UnsupportedEnvironment
from a3c.experiment import shape
from a3c.experiment.shape import StepTime, choose, cores, fit, measure
from leftovers import nothing_left
from scripted_env import Script, ScriptedEnv

CORRIDOR = EnvSource("tiny_envs:Corridor")


@pytest.mark.parametrize(
    ("seconds", "busy", "expected"),
    [
        (2e-6, 1.0, (4, 16)),
        (30e-6, 1.0, (4, 8)),
        (1e-3, 1.0, (4, 4)),
        (5e-3, 1.0, (4, 1)),  # computes: more workers than cores would only wait
        (5e-3, 0.25, (16, 1)),
        (20e-3, 0.0, (32, 1)),
    ],
)
def test_the_choice_by_hand(seconds, busy, expected):
    workers, envs, why = choose(StepTime(seconds, busy), cores=4)
    assert (workers, envs) == expected
    assert "on 4 cores" in why
    assert ("waiting" in why) == (workers > 4)


def test_a_step_is_measured():
    class Waits(ScriptedEnv):
        def __init__(self):
            super().__init__(Script([1.0] * 5))

        def step(self, action):
            time.sleep(0.01)
            return super().step(action)

    waiting = measure(EnvSource(Waits))
    assert 0.0099 <= waiting.seconds < 0.1  # by clocks that agree to a part in a hundred
    assert waiting.busy < 0.5
    assert 0 < measure(CORRIDOR).seconds < 1e-2


def test_one_step_that_takes_long_is_no_measure():
    class HangsOnce(ScriptedEnv):
        def __init__(self):
            super().__init__(Script([1.0] * 5))
            self.count = 0

        def step(self, action):
            self.count += 1
            time.sleep(1.2 if self.count == 1 else 0.001)
            return super().step(action)

    step = measure(EnvSource(HangsOnce))
    assert 0.001 <= step.seconds < 0.1


def occupied(core, until):
    os.sched_setaffinity(0, {core})
    while not until.is_set():
        pass


@pytest.mark.skipif(shape._put_off_s() == 0.0, reason="the system does not tell how long a thread is put off")
def test_time_that_others_took_is_no_waiting():
    class Computes(ScriptedEnv):
        def __init__(self):
            super().__init__(Script([1.0] * 5))

        def step(self, action):
            began = time.thread_time()
            while time.thread_time() - began < 0.002:
                pass
            return super().step(action)

    context = multiprocessing.get_context("spawn")
    mine, until = os.sched_getaffinity(0), context.Event()
    core = min(mine)
    others = [context.Process(target=occupied, args=(core, until)) for _ in range(2)]
    for other in others:
        other.start()
    os.sched_setaffinity(0, {core})
    try:
        time.sleep(1)
        step = measure(EnvSource(Computes))
    finally:
        os.sched_setaffinity(0, mine)
        until.set()
        for other in others:
            other.join()
    assert 0.0019 <= step.seconds < 0.004  # and not three times as long
    assert step.busy > 0.7


def broken():
    raise RuntimeError("no display")


class Fails(ScriptedEnv):
    def __init__(self):
        super().__init__(Script([1.0]))

    def step(self, action):
        raise RuntimeError("no simulator")


@pytest.mark.parametrize("env", [broken, Fails, MaskedRecall])
def test_what_cannot_be_measured_is_left_to_the_defaults(env):
    assert measure(EnvSource(env)) is None
    config = TrainConfig()
    assert fit(config, "as it was", EnvSource(env), ()) == (config, "as it was")


@pytest.mark.parametrize(
    ("source", "config", "named"),
    [
        (CORRIDOR, TrainConfig(workers=3), ("workers",)),
        (CORRIDOR, TrainConfig(envs_per_worker=3), ("envs_per_worker",)),
        (CORRIDOR, TrainConfig(runtime="serial"), ("runtime",)),
        (EnvSource("CartPole-v1"), TrainConfig(), ()),
    ],
)
def test_whoever_has_chosen_is_not_overruled(monkeypatch, source, config, named):
    monkeypatch.setattr(shape, "measure", lambda *_: pytest.fail("nothing is to be measured"))
    assert fit(config, "as it was", source, named) == (config, "as it was")


def test_more_workers_take_a_smaller_rate(monkeypatch):
    monkeypatch.setattr(shape, "measure", lambda *_: StepTime(20e-3, 0.0))
    monkeypatch.setattr(shape, "cores", lambda: 2)
    config, line = fit(TrainConfig(), "", CORRIDOR, ())
    assert (config.workers, config.envs_per_worker, config.learning_rate) == (32, 1, 5e-4)
    assert "general defaults; a step takes 20.0 ms, mostly of waiting on 2 cores: " in line
    assert "--workers 32 --envs-per-worker 1 --learning-rate 0.0005" in line
    config, line = fit(TrainConfig(learning_rate=0.1), "", CORRIDOR, ("learning_rate",))
    assert config.learning_rate == 0.1


def test_cores_are_those_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(shape.os, "sched_getaffinity", lambda _: {0, 1, 5, 6}, raising=False)
    quota = tmp_path / "cpu.max"
    assert cores(quota) == 4
    for text, expected in [("max 100000\n", 4), ("200000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000", 4)]:
        quota.write_text(text)
        assert cores(quota) == expected


@pytest.mark.timeout(60)
def test_a_run_says_what_was_chosen_and_keeps_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(shape, "measure", lambda *_: StepTime(1e-3, 1.0))
    monkeypatch.setattr(shape, "cores", lambda: 2)
    gym.register("Short-v0", entry_point="tiny_envs:Corridor")
    try:
        with nothing_left():
            run = a3c.train("Short-v0", run_dir=str(tmp_path / "run"), total_env_steps=200, tensorboard=False)
    finally:
        del gym.registry["Short-v0"]
    assert "a step takes 1.0 ms on 2 cores: --workers 2 --envs-per-worker 4" in capfd.readouterr().out
    assert '"envs_per_worker": 4' in (run.path / "config.json").read_text()


def test_an_environment_that_breaks_its_word_is_refused_before_anything_is_written(tmp_path):
    class Four(ScriptedEnv):
        def __init__(self):
            super().__init__(Script([5]))

        def step(self, action):
            return super().step(action)[:4]

    with pytest.raises(UnsupportedEnvironment, match="returned a tuple of 4"):
        a3c.train(Four, run_dir=str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_one_that_hangs_is_given_up(capfd, monkeypatch):
    class Hangs(ScriptedEnv):
        def __init__(self):
            super().__init__(Script([5]))

        def step(self, action):
            time.sleep(5)
            return super().step(action)

    monkeypatch.setattr(shape, "_PATIENCE_S", 0.1)
    began = time.monotonic()
    assert measure(EnvSource(Hangs), quiet=False) is None
    assert time.monotonic() - began < 4
    assert "measuring how long a step of Hangs takes" in capfd.readouterr().err
    assert measure(EnvSource(Hangs)) is None
    assert capfd.readouterr().err == ""
