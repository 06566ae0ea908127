"""Runs that go on: what is taken up is what was left, and no line of a log is missing or there twice."""

import copy
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import a3c
import tiny_envs
from a3c.cli import main
from a3c.config import TrainConfig
from a3c.core.seeding import model_seed
from a3c.envs.make import EnvSource, examine
from a3c.errors import NonFiniteError, RunDirectoryError, UsageError, WorkerFailed
from a3c.experiment import checkpoint, launch, recipe, resuming, train
from a3c.experiment.checkpoint_saver import CheckpointSaver
from a3c.experiment.progress import Progress
from a3c.experiment.run_directory import RunLock, write_json
from a3c.experiment.saved_settings import read_settings
from a3c.experiment.train import make_rule, make_spec, make_store
from a3c.runtimes.processes import ProcessRuntime
from a3c.runtimes.serial import SerialRuntime
from leftovers import nothing_left

pytestmark = pytest.mark.timeout(120)

CORRIDOR = "tiny_envs:Corridor"
QUICK = {
    "workers": 2,
    "envs_per_worker": 4,
    "rollout_length": 8,
    "total_env_steps": 4_000,
    "learning_rate": 5e-3,
    "tensorboard": False,
    "quiet": True,
    "runtime": "serial",
}


@pytest.fixture(autouse=True)
def _a_line_for_every_update(monkeypatch):
    """So that a run can be left at a step, however fast it goes."""
    monkeypatch.setattr(launch, "_REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(train, "_LINE_EVERY_S", 0.0)


def begun(path, env=CORRIDOR, at_step=1_000, **settings):
    """A run that was left at some step."""
    settings = QUICK | {"run_dir": str(path)} | settings
    return a3c.train(env, on_report=lambda line: line["env_steps"] >= at_step, **settings)


def rows_of(path):
    with open(path / "episodes.csv", newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def run_is_whole(found):
    return all(checkpoint.damage_of(path) is None for path in found)


def newest(path):
    return checkpoint.newest_whole_checkpoint(path, lambda _: None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "a2c"},
        {"optimizer": "adam"},
        {"store": "delayed"},
        {"runtime": "processes", "store": "hogwild", "total_env_steps": 10**6},
        {"runtime": "processes", "store": "locked", "total_env_steps": 10**6},
        {"normalise_observations": False, "scale_rewards": False},
    ],
    ids=str,
)
def test_the_shared_state_goes_on_to_the_bit(tmp_path, settings, monkeypatch):
    left = {}  # the store's state as it was at the end, before anybody wrote it

    class Watched(CheckpointSaver):
        def save_last(self, state, progress):
            left.update({name: copy.deepcopy(value) for name, value in state.items()})
            super().save_last(state, progress)

    monkeypatch.setattr(train, "CheckpointSaver", Watched)
    begun(tmp_path / "run", **settings)
    config = TrainConfig(**QUICK | settings)
    spec = make_spec(config, examine(EnvSource(CORRIDOR)))
    model = spec.build(seed=model_seed(1))
    runtime = ProcessRuntime() if config.runtime == "processes" else SerialRuntime()
    store = make_store(config, model.flat, runtime, model.normaliser.tracked)
    progress, rule = Progress(time.time(), None), make_rule(config)
    before = left
    newest_there = resuming.find_newest(tmp_path / "run", spec)
    resumed = resuming.take_up(tmp_path / "run", config, *newest_there, store, progress, rule, rule)
    after = store.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value) if isinstance(value, torch.Tensor) else after[name] == value
    if config.normalise_observations:
        assert bool((before["moments"][0] > 0).all())  # how many numbers there were
    assert before["parameters"].any()
    counters = store.counters()
    rates = [
        rule.schedule(rule.budget.used(*counts))
        for counts in ((before["env_steps"], before["episodes"]), (counters.env_steps, counters.episodes))
    ]
    assert rates[0] == rates[1] == pytest.approx(5e-3 * (1 - before["env_steps"] / config.total_env_steps))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert resumed.env_steps == before["env_steps"] == summary["env_steps"]
    assert progress.episodes == summary["episodes"]
    assert progress.return_mean_100 == summary["return_mean_100"]
    assert summary["seconds"] <= progress.seconds < summary["seconds"] + 60  # which the test itself may take


@pytest.mark.parametrize("runtime", ["serial", "processes"])
@pytest.mark.parametrize("algorithm", ["a3c", "a2c"])
def test_a_run_goes_on_to_its_end(tmp_path, runtime, algorithm):
    first = begun(tmp_path / "run", runtime=runtime, algorithm=algorithm)
    steps, seconds = first.summary["env_steps"], first.summary["seconds"]
    assert 1_000 <= steps < 4_000
    with nothing_left():
        run = a3c.resume(tmp_path / "run", quiet=True, trust_code=True)
    assert run.summary["exit_reason"] == "total_env_steps"
    assert run.summary["env_steps"] >= 4_000
    assert run.summary["seconds"] > seconds
    lines = lines_of(run.path)
    numbers = [line["env_steps"] for line in lines]
    assert numbers == sorted(numbers)
    assert steps in numbers
    later = [line for line in lines if line["env_steps"] > steps]
    assert all(
        line["learning_rate"] <= 5e-3 * (1 - steps / 4_000) for line in later if line["learning_rate"] is not None
    )
    assert later[0]["episodes"] >= first.summary["episodes"]
    assert len(rows_of(run.path)) == run.summary["episodes"]
    record = json.loads((run.path / "config.json").read_text())
    assert [entry["env_steps"] for entry in record["resumed"]] == [steps]
    assert record["resumed"][0]["changes"] == {}
    assert a3c.evaluate(run.path, trust_code=True, episodes=5).return_mean > 0


def test_workers_begin_with_streams_of_their_own(tmp_path, monkeypatch):
    seeds, plain = [], recipe.worker_seeds

    def watched(*arguments):
        seeds.append(plain(*arguments))
        return seeds[-1]

    monkeypatch.setattr(recipe, "worker_seeds", watched)
    begun(tmp_path / "run", at_step=0, workers=1)
    first = {str(seed) for seed in seeds}
    for _ in range(2):
        seeds.clear()
        a3c.resume(tmp_path / "run", tiny_envs.Corridor, quiet=True, on_report=lambda line: True)
        # Each time from the newest checkpoint; as if the run had been killed before the next, take that away.
        shutil.rmtree(checkpoint.checkpoints(tmp_path / "run")[-1])
        later = {str(seed) for seed in seeds}
        assert not later & first
        first |= later


def test_a_class_may_stand_for_its_name_and_the_name_stays(tmp_path):
    begun(tmp_path / "run", at_step=0)
    a3c.resume(tmp_path / "run", tiny_envs.Corridor, quiet=True, on_report=lambda line: True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["env"] == CORRIDOR
    assert a3c.resume(tmp_path / "run", trust_code=True, quiet=True).summary["env_steps"] >= 4_000


def test_keyword_arguments_that_json_changes_or_does_not_hold(tmp_path):
    class Opaque:
        pass

    def make(size=None, what=None):
        assert size == (8, 8)
        assert isinstance(what, Opaque)
        return tiny_envs.Corridor()

    kwargs = {"size": (8, 8), "what": Opaque()}
    begun(tmp_path / "run", make, env_kwargs=kwargs)
    with pytest.raises(UsageError, match="pass them again"):
        a3c.resume(tmp_path / "run", make)
    with pytest.raises(UsageError, match="--env-kwargs"):
        a3c.resume(tmp_path / "run", make, env_kwargs=kwargs | {"size": (9, 9)})
    assert a3c.resume(tmp_path / "run", make, env_kwargs=kwargs, quiet=True).summary["env_steps"] >= 4_000


def test_what_was_solved_for_a_smaller_goal_is_not_solved_for_a_larger(tmp_path):
    first = begun(tmp_path / "run", at_step=10**9, stop_at_return=-1.0)
    assert first.solved
    run = a3c.resume(tmp_path / "run", trust_code=True, quiet=True, stop_at_return=1_000.0)
    assert not run.solved
    assert run.summary["solved_return"] == 1_000.0


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "metrics.jsonl", "episodes.csv", "evaluations.csv", "summary.json", "error.txt", ".lock",
        ".writable", "checkpoints", "tensorboard", "wandb", "checkpoints/step-000000000000",
        "checkpoints/.step-000000004000.tmp", "checkpoints/step-000000000000/state.json",
        "tensorboard/events.out.tfevents.1",
    ],
)  # fmt: skip
def test_a_link_within_a_run_is_left_alone(tmp_path, name):
    begun(tmp_path / "run", at_step=0)
    link, mine = tmp_path / "run" / name, tmp_path / "mine"
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(mine)
    else:
        mine.write_text("precious")
    link.symlink_to(mine)

    def content():
        return {path: path.read_bytes() for path in (mine, *mine.rglob("*")) if path.is_file()}

    before = content()
    with pytest.raises(RunDirectoryError, match=f"{name} is a link, which no run writes"):
        a3c.resume(tmp_path / "run", trust_code=True)
    with pytest.raises(RunDirectoryError, match=f"{name} is a link, which no run writes"):
        begun(tmp_path / "run", overwrite=True)
    assert content() == before


def test_a_run_directory_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    begun(tmp_path / "run", at_step=0)
    assert a3c.resume(tmp_path / "run", trust_code=True, quiet=True).summary["env_steps"] >= 4_000


def test_what_is_written_aside_is_written_through_no_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    for name in (".config.json.tmp", ".summary.json.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
        write_json(tmp_path / name[1:-4], {"a": 1})
    assert (tmp_path / "mine").read_text() == "precious"
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}


def test_a_torn_or_short_log_costs_only_what_is_gone(tmp_path, capsys):
    run = begun(tmp_path / "run", at_step=10**9)
    content = (run.path / "episodes.csv").read_bytes()
    (run.path / "episodes.csv").write_bytes(content[:-3])
    a3c.resume(run.path, trust_code=True, total_env_steps=8_000)
    assert "episodes.csv is shorter than it was at the checkpoint: some lines are missing" in capsys.readouterr().out
    assert all(None not in row.values() and row["length"] for row in rows_of(run.path))


def test_other_versions_are_said(tmp_path, capsys):
    run = begun(tmp_path / "run")
    record = json.loads((run.path / "config.json").read_text())
    record["versions"]["torch"] = "1.0"
    (run.path / "config.json").write_text(json.dumps(record))
    a3c.resume(run.path, trust_code=True)
    assert f"other versions than before: torch 1.0 -> {torch.__version__}" in capsys.readouterr().out


def test_the_budget_the_workers_and_the_runtime_may_change(tmp_path, capsys):
    first = begun(tmp_path / "run")
    rate = min(line["learning_rate"] for line in lines_of(first.path) if line["learning_rate"])
    run = a3c.resume(
        tmp_path / "run", trust_code=True, total_env_steps=8_000, workers=3, runtime="processes", quiet=False
    )
    said = capsys.readouterr().out
    assert "--total-env-steps 4000 -> 8000" in said
    assert "--workers 2 -> 3" in said
    assert "the learning rate goes from" in said
    assert run.summary["env_steps"] >= 8_000
    lines = [line for line in lines_of(run.path) if line["learning_rate"]]
    later = next(line for line in lines if line["env_steps"] > first.summary["env_steps"])
    assert later["learning_rate"] > rate
    record = json.loads((run.path / "config.json").read_text())
    assert record["resumed"][0]["changes"]["workers"] == [2, 3]
    assert record["settings"]["workers"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.1}, "--learning-rate 0.1 is not what the run has had .0.005. and would change what it is"),
        ({"hidden_sizes": [32]}, r"--hidden-sizes \[32\] is not what the run has had \(\[64, 64\]\)"),
        ({"seed": 3}, "--seed 3"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"fnord": 0}, "no setting 'fnord'"),
        ({"total_env_steps": 1_000}, "is done: --total-env-steps is 1,000, and it has come to "),
        ({"total_episodes": 1}, "is done: --total-episodes is 1, and it has come to "),
        ({"stop_at_return": -100.0}, "is done: --stop-at-return is -100, and it has come to "),
        ({"store": "synchronous"}, "--store synchronous does not go with"),
        ({"max_restarts_per_hour": 5}, "--max-restarts-per-hour changes nothing without --on-worker-failure restart"),
        ({"env": "CartPole-v1"}, "is a run on 'tiny_envs:Corridor', not on 'CartPole-v1'"),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_refused_and_loses_nothing(tmp_path, settings, message):
    begun(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with nothing_left(), pytest.raises(UsageError, match=message):
        a3c.resume(tmp_path / "run", trust_code=True, **settings)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_where_there_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="there is no run"):
        a3c.resume(tmp_path / "fnord")
    with pytest.raises(RunDirectoryError, match="is not a run|has no config.json"):
        a3c.resume(tmp_path)


def test_a_run_that_somebody_trains_in_is_left_alone(tmp_path):
    begun(tmp_path / "run")
    lock = RunLock(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="is being trained in by another process"):
        a3c.resume(tmp_path / "run", trust_code=True)
    with pytest.raises(RunDirectoryError, match="is being trained in by another process"):
        begun(tmp_path / "run", overwrite=True)
    lock.close()
    assert a3c.resume(tmp_path / "run", trust_code=True, quiet=True).summary["env_steps"] >= 4_000


def test_code_that_the_files_name_wants_trust(tmp_path, capsys):
    begun(tmp_path / "run")
    with pytest.raises(UsageError, match="would import and run code .* from tiny_envs: if you trust it, add"):
        a3c.resume(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["resume", str(tmp_path / "run")])
    assert ended.value.code == 2
    main(["resume", str(tmp_path / "run"), "--trust-code", "--no-tensorboard", "--checkpoint-every-s", "None"])
    said = capsys.readouterr().out
    assert "total_env_steps at 4," in said
    assert "--checkpoint-every-s 60.0 -> None" in said


def changed_settings(path, **settings):
    """Write other settings into a run's config.json."""
    record = json.loads((path / "config.json").read_text())
    record["settings"] |= settings
    (path / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ray_address": "10.6.6.6:6379"}, "connect to a Ray cluster that .* name, --ray-address 10.6.6.6:6379: "),
        ({"ray_runtime_env": {"pip": ["it"]}}, 'what a Ray cluster runs that .* --ray-runtime-env {"pip": ..it..}: '),
        ({"env_kwargs": {"xml_file": "/secret.xml"}}, "what may be a path that .* in --env-kwargs: '/secret.xml': "),
    ],
    ids=str,
)
def test_hosts_and_paths_that_the_files_name_want_trust(tmp_path, settings, message):
    begun(tmp_path / "run", "CartPole-v1", at_step=0)
    changed_settings(tmp_path / "run", **{"runtime": "ray"} | settings)
    with nothing_left(), pytest.raises(UsageError, match=f"this would .*{message}.*--trust-code"):
        a3c.resume(tmp_path / "run")
    saved = read_settings(tmp_path / "run")
    resuming.check_code(tmp_path / "run", saved, None, {}, trust_code=True)
    resuming.check_code(tmp_path / "run", saved, None, settings, trust_code=False)  # what is named is the user's word
    if "env_kwargs" not in settings:  # of no use elsewhere
        assert a3c.resume(tmp_path / "run", runtime="serial", quiet=True).summary["env_steps"] >= 4_000


def test_levels_without_end_are_damage(tmp_path):
    begun(tmp_path / "run", "CartPole-v1", at_step=0)
    changed_settings(tmp_path / "run", env_kwargs={"a": json.loads("[" * 900 + "]" * 900)})
    for found in checkpoint.checkpoints(tmp_path / "run"):
        shutil.rmtree(found)  # with its copy
    for read in (a3c.resume, a3c.evaluate):
        with pytest.raises(RunDirectoryError, match="config.json holds more than 200 levels: the run is damaged"):
            read(tmp_path / "run")


@pytest.mark.parametrize(
    "damage", [{"resumed": 5}, {"resumed": {}}, {"versions": []}, {"versions": None}, {"id": 7}], ids=str
)
def test_what_is_of_a_wrong_kind_in_config_json_is_damage(tmp_path, damage):
    begun(tmp_path / "run", at_step=0)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(record | damage))
    with pytest.raises(RunDirectoryError, match=f"config.json is damaged: its '{next(iter(damage))}' is no "):
        a3c.resume(tmp_path / "run", trust_code=True)


def test_a_network_that_only_the_settings_describe_is_not_built(tmp_path):
    begun(tmp_path / "run", "CartPole-v1", at_step=0)
    changed_settings(tmp_path / "run", hidden_sizes=[65_536] * 50)
    began = time.monotonic()
    with pytest.raises(UsageError, match="begun with other spaces, or another network"):
        a3c.resume(tmp_path / "run")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 10**9}, "--workers must be at most 4,096, not 1000000000"),
        ({"envs_per_worker": 10**9}, "--envs-per-worker must be at most 65,536"),
        ({"rollout_length": 10**9}, "--rollout-length must be at most 1,048,576"),
        (
            {"workers": 4096, "envs_per_worker": 2**16},
            "keep 2,147,483,648 transitions at a time, of at most 67,108,864",
        ),
        ({"hidden_sizes": [10**9]}, "--hidden-sizes must be at most 65,536 each"),
        ({"hidden_sizes": [8] * 1000}, "--hidden-sizes must be at most 100, not 1000"),
        ({"memory_size": 10**9}, "--memory-size must be at most 65,536"),
        ({"delay": 10**9}, "--delay must be at most 10,000"),
        ({"total_env_steps": 10**400}, "--total-env-steps must be less than 2 to the 63rd"),
        ({"learning_rate": 10**400}, "--learning-rate must be less than 2 to the 63rd"),
        ({"stop_at_return": 10**400}, "--stop-at-return must be less than 2 to the 63rd"),
        ({"initial_log_std": 10**400}, "--initial-log-std must be less than 2 to the 63rd"),
        ({"discount": -(10**400)}, "--discount must be less than 2 to the 63rd"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_counts_that_would_take_all_memory_are_refused(tmp_path, settings, message):
    begun(tmp_path / "run", "CartPole-v1", at_step=0)
    changed_settings(tmp_path / "run", **settings)
    with pytest.raises(RunDirectoryError, match=f"config.json is damaged: .*{message}"):
        a3c.resume(tmp_path / "run", runtime="serial", quiet=True)


def test_train_goes_on_where_there_is_a_run_and_begins_one_where_there_is_none(tmp_path, capsys):
    def make():
        return tiny_envs.Corridor()

    with pytest.raises(UsageError, match="name run_dir"):
        a3c.train(make, resume=True, **QUICK)
    first = begun(tmp_path / "run", make, resume=True)
    assert 1_000 <= first.summary["env_steps"] < 4_000
    with pytest.raises(UsageError, match="no importable name.*a3c.train.env, run_dir=..., resume=True"):
        a3c.resume(tmp_path / "run")
    with pytest.raises(UsageError, match="--rollout-length 4"):
        begun(tmp_path / "run", make, resume=True, rollout_length=4)
    second = a3c.train(make, run_dir=tmp_path / "run", resume=True, **QUICK)
    assert second.summary["env_steps"] >= 4_000
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["resumed"]) == 1
    # Once it is done it is merely returned.
    third = a3c.train(make, run_dir=tmp_path / "run", resume=True, **QUICK)
    assert third.summary == json.loads(json.dumps(second.summary))
    assert third.policy().model.flat.isfinite().all()
    # A run that was killed before its first checkpoint is begun anew.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    fourth = a3c.train(make, run_dir=tmp_path / "run", resume=True, **(QUICK | {"quiet": False}))
    said = capsys.readouterr().out
    assert "holds no checkpoint: it is begun anew" in said
    assert "yours: envs_per_worker, learning_rate" in said  # and not overwrite, which nobody has named
    assert fourth.summary["env_steps"] >= 4_000
    assert "resumed" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_a_class_that_can_be_imported_need_not_be_passed_again(tmp_path):
    begun(tmp_path / "run", tiny_envs.Corridor)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["env"] == "tiny_envs:Corridor"
    with pytest.raises(UsageError, match="from tiny_envs"):
        a3c.resume(tmp_path / "run")
    assert a3c.resume(tmp_path / "run", trust_code=True, total_env_steps=6_000).summary["env_steps"] >= 6_000
    assert a3c.resume(tmp_path / "run", tiny_envs.Corridor, total_env_steps=8_000).summary["env_steps"] >= 8_000
    assert a3c.evaluate(tmp_path / "run", episodes=2, trust_code=True).episodes == 2


def test_callables_are_passed_again(tmp_path):
    import gymnasium as gym

    def wrapper(env):
        return gym.wrappers.TimeAwareObservation(env)

    begun(tmp_path / "run", "CartPole-v1", wrappers=(wrapper,))
    with pytest.raises(UsageError, match="wrappers that have no importable name: pass wrappers again"):
        a3c.resume(tmp_path / "run")
    assert a3c.resume(tmp_path / "run", wrappers=(wrapper,), quiet=True).summary["env_steps"] >= 4_000


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    first = begun(tmp_path / "run", at_step=10**9)
    found = checkpoint.checkpoints(first.path)
    assert len(found) == 2
    assert run_is_whole(found)
    with open(found[-1] / "optimizer.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.warns(
        UserWarning,
        match=f"{found[-1].name} is damaged .optimizer.safetensors.*back to {found[0].name}, which has learned nothing",
    ):
        a3c.load(tmp_path / "run")
    run = a3c.resume(tmp_path / "run", trust_code=True, keep=1)
    assert f"{found[-1].name} is damaged" in capsys.readouterr().out
    assert found[-1].with_name(f"damaged-{found[-1].name}").is_dir()
    assert run_is_whole(checkpoint.checkpoints(run.path))
    assert newest(run.path).name == f"step-{run.summary['env_steps']:012d}"
    assert run.summary["env_steps"] >= 4_000
    numbers = [line["env_steps"] for line in lines_of(run.path)]
    assert numbers == sorted(numbers)
    assert len(rows_of(run.path)) == run.summary["episodes"]


def test_where_every_checkpoint_is_damaged_each_is_named(tmp_path):
    run = begun(tmp_path / "run")
    for path in checkpoint.checkpoints(run.path):
        (path / "state.json").unlink()
    with pytest.raises(
        RunDirectoryError, match="holds no whole checkpoint: .*step-.*state.json.*step-000000000000.*state"
    ):
        a3c.resume(tmp_path / "run", trust_code=True)
    with pytest.raises(RunDirectoryError, match="holds no whole checkpoint"):
        a3c.load(tmp_path / "run")


def test_the_newest_checkpoints_are_kept_and_the_best(tmp_path):
    run = begun(tmp_path / "run", total_env_steps=20_000, at_step=10**9, checkpoint_every_s=0.02, keep=2)
    found = checkpoint.checkpoints(run.path)
    assert 2 <= len(found) <= 3
    assert int(found[-1].name[5:]) == run.summary["env_steps"]
    assert checkpoint.find_checkpoint(run.path, "best", pytest.fail) in found
    assert checkpoint.find_checkpoint(run.path, "latest", pytest.fail) == found[-1]
    assert checkpoint.find_checkpoint(run.path, found[0].name, pytest.fail) == found[0]
    with pytest.raises(RunDirectoryError, match="has no checkpoint 'fnord'; it has latest, best, step-"):
        a3c.load(run.path, checkpoint="fnord")
    assert a3c.evaluate(run.path, checkpoint="best", trust_code=True, episodes=3).episodes == 3


def test_the_best_is_the_best(tmp_path):
    for step, mean in ((1, None), (2, 5.0), (3, 7.0), (4, 7.0), (5, 6.0)):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "progress.json").write_text(json.dumps({"return_mean_100": mean}))
    (tmp_path / "step-6").mkdir()
    assert checkpoint.best(sorted(tmp_path.iterdir())).name == "step-4"


def test_a_checkpoint_that_cannot_be_written_costs_no_training(tmp_path, monkeypatch, capsys):
    plain = checkpoint.save_checkpoint

    def full(run_dir, spec, model, state, progress, **more):
        if state["env_steps"] < 4_000:
            raise OSError(28, "No space left on device")
        return plain(run_dir, spec, model, state, progress, **more)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    run = begun(tmp_path / "run", at_step=10**9, checkpoint_every_s=0.01)
    assert run.summary["exit_reason"] == "total_env_steps"
    said = capsys.readouterr().err
    assert "no checkpoint at 0 steps (No space left on device: free some space there); the run goes on" in said
    assert len(checkpoint.checkpoints(run.path)) == 1


def test_a_real_full_disk_costs_no_training(tmp_path):
    script = (
        "import resource, a3c\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        f"a3c.train('CartPole-v1', run_dir={str(tmp_path / 'run')!r}, quiet=True, tensorboard=False,\n"
        "          runtime='serial', total_env_steps=3_000, hidden_sizes=(128, 128))\n"
    )
    with nothing_left():
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    fix = "raise the limit of a file's size (ulimit -f)"
    assert f"no checkpoint at 0 steps (File too large: {fix}); the run goes on" in ended.stderr
    assert "SavingFailed: cannot save to" in ended.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "total_env_steps"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_disk_that_is_full_for_a_while_costs_only_lines(tmp_path):
    script = (
        "import resource, a3c\n"
        "def look(line):\n"
        "    full = 1_000 < line['env_steps'] < 2_000\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1 if full else 10**9, 10**9))\n"
        "from a3c.experiment import launch, train\n"
        "launch._REPORT_EVERY_S = train._LINE_EVERY_S = 0.0\n"
        f"a3c.train({CORRIDOR!r}, on_report=look, run_dir={str(tmp_path / 'run')!r}, **{QUICK!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with nothing_left():
        ended = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, env=environment
        )
    assert ended.returncode == 0, ended.stderr
    for name in ("metrics.jsonl", "episodes.csv"):
        fix = "raise the limit of a file's size (ulimit -f)"
        assert f"{name} cannot be written (File too large: {fix}): lines are lost; the run goes on" in ended.stderr
    lost = [int(number) for number in re.findall(r"is written again; (\d+) lines of it are lost", ended.stderr)]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    steps = [line["env_steps"] for line in lines_of(tmp_path / "run")]
    assert steps == sorted(steps)
    assert not [step for step in steps if 1_100 < step < 2_000]
    assert steps[-1] == summary["env_steps"]
    rows = rows_of(tmp_path / "run")
    assert len(lost) == 2
    assert len(rows) + max(lost) == summary["episodes"]
    assert all(None not in row.values() and row["length"] == "8" for row in rows)


def test_a_finished_run_that_is_moved_to_where_one_trains_is_left_as_it_is(tmp_path):
    begun(tmp_path / "finished", seed=5)
    files = {path: path.read_bytes() for path in (tmp_path / "finished").rglob("*") if path.is_file()}

    def look(line):
        if line["env_steps"] > 1_000 and (tmp_path / "finished").exists():
            while (tmp_path / "run").exists():
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
            os.replace(tmp_path / "finished", tmp_path / "run")

    with pytest.raises(RunDirectoryError, match="is another run's by now, and left to it"):
        a3c.train(CORRIDOR, on_report=look, run_dir=tmp_path / "run", **QUICK | {"total_env_steps": 100_000})
    for path, content in files.items():
        assert (tmp_path / "run" / path.relative_to(tmp_path / "finished")).read_bytes() == content
    assert len(checkpoint.checkpoints(tmp_path / "run")) == sum(path.name == "checksums.json" for path in files)


def test_a_failure_is_not_written_into_a_finished_run_that_was_moved_there(tmp_path, monkeypatch, capsys):
    begun(tmp_path / "finished", seed=5)
    monkeypatch.setattr(train, "_LINE_EVERY_S", 100.0)  # nothing else looks between the first line and the failure

    def look(line):
        if (tmp_path / "finished").exists():
            while (tmp_path / "run").exists():
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
            os.replace(tmp_path / "finished", tmp_path / "run")

    before = (tmp_path / "finished" / "config.json").read_bytes(), sorted((tmp_path / "finished").rglob("*"))
    with pytest.raises((RunDirectoryError, WorkerFailed)):
        a3c.train("tiny_envs:Exploding", on_report=look, run_dir=tmp_path / "run", **QUICK)
    assert "error.txt cannot be written" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.json").read_bytes() == before[0]
    assert len(list((tmp_path / "run").rglob("*"))) == len(before[1])


def test_a_run_directory_that_vanishes_is_made_anew(tmp_path, capsys):
    gone = []

    def look(line):
        if line["env_steps"] < 2_000:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            gone.append(line)
        else:
            with pytest.raises(RunDirectoryError, match="is being trained in by another process"):
                RunLock(tmp_path / "run")

    run = a3c.train(CORRIDOR, on_report=look, run_dir=tmp_path / "run", checkpoint_every_s=0.01, **QUICK)
    said = capsys.readouterr().err
    assert "config.json has vanished: it is written anew" in said
    assert "metrics.jsonl has vanished: it is begun anew, its earlier lines are lost" in said
    assert "episodes.csv has vanished" in said
    lines, rows = lines_of(run.path), rows_of(run.path)
    assert lines[0]["env_steps"] > gone[-1]["env_steps"]
    assert lines[-1]["env_steps"] == run.summary["env_steps"]
    assert len(rows) == run.summary["episodes"] - gone[-1]["episodes"]
    assert (
        a3c.resume(tmp_path / "run", trust_code=True, quiet=True, total_env_steps=6_000).summary["env_steps"] >= 6_000
    )


@pytest.mark.parametrize(
    "settings", [{}, {"tensorboard": True}, {"evaluate_every": 200, "evaluate_episodes": 1}], ids=str
)
def test_a_directory_that_another_run_has_taken_is_left_to_it(tmp_path, settings):
    theirs = []
    settings = {"total_env_steps": 100_000} | settings

    def look(line):
        if line["env_steps"] > 1_000 and not theirs:
            while (tmp_path / "run").exists():  # the first checkpoint may just be written there
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
            (tmp_path / "run").mkdir()
            theirs.append(RunLock(tmp_path / "run"))

    with pytest.raises(RunDirectoryError, match="is being trained in by another process"):
        a3c.train(CORRIDOR, on_report=look, run_dir=tmp_path / "run", **QUICK | settings)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    theirs[0].close()


@pytest.mark.parametrize(
    "settings",
    [{}, {"algorithm": "a2c"}, {"runtime": "processes"}, {"runtime": "processes", "algorithm": "a2c"}],
    ids=str,
)
def test_a_checkpoint_is_written_when_the_rows_that_it_counts_are(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(launch, "_REPORT_EVERY_S", 0.3)
    seen = []

    class Watched(CheckpointSaver):
        def begin(self, state, progress):
            rows, numbers = rows_of(tmp_path / "run"), {}
            for row in rows:
                numbers.setdefault(int(row["worker"]), set()).add(int(row["worker_episode"]))
            counted = state["worker_episodes"]
            assert sum(counted) == state["episodes"]
            for worker, count in enumerate(counted):
                assert set(range(1, count + 1)) <= numbers.get(worker, set())
            seen.append(state["episodes"])
            super().begin(state, progress)

    monkeypatch.setattr(train, "CheckpointSaver", Watched)
    settings = QUICK | {"total_env_steps": 10**9, "checkpoint_every_s": 0.1} | settings
    run = a3c.train(CORRIDOR, run_dir=str(tmp_path / "run"), on_report=lambda _: len(seen) > 3, **settings)
    assert seen[3] > 0
    assert run.summary["lost_episodes"] == 0
    numbers = [(row["worker"], int(row["worker_episode"])) for row in rows_of(run.path)]
    assert sorted(numbers) == sorted(set(numbers))


class Killed(CheckpointSaver):
    """Writes two checkpoints of episodes and no more, as of a run that is killed at some moment after them."""

    most = 2
    latest = None

    def __init__(self, *given):
        super().__init__(*given)
        Killed.latest = self

    @property
    def due(self):
        return super().due and self.most > 0

    @property
    def is_done(self):
        return self.most == 0 and not self._thread.is_alive()

    def begin(self, state, progress):
        self.most -= state["episodes"] > 0
        super().begin(state, progress)

    def save_last(self, state, progress):
        if self._thread is not None:
            self._thread.join()


def numbers_of(path):
    """Which episodes have rows, by worker and number."""
    return sorted((int(row["worker"]), int(row["worker_episode"])) for row in rows_of(path))


def counted_by(checkpoint_path):
    """Which episodes a checkpoint counts, likewise."""
    state = json.loads((checkpoint_path / "state.json").read_text())
    assert sum(state["worker_episodes"]) == state["episodes"] > 0
    return [(worker, n) for worker, count in enumerate(state["worker_episodes"]) for n in range(1, count + 1)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"algorithm": "a2c"},
        {"store": "delayed"},
        {"runtime": "processes"},
        {"runtime": "processes", "algorithm": "a2c"},
    ],
    ids=str,
)
def test_the_rows_are_those_of_the_episodes_that_the_checkpoint_counts(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(launch, "_REPORT_EVERY_S", 0.1)
    path = tmp_path / "run"
    settings = QUICK | {"total_env_steps": 10**9, "checkpoint_every_s": 0.2} | settings

    def has_gone_on(line):
        return Killed.latest.is_done and line["episodes"] > len(counted_by(newest(path)))

    with monkeypatch.context() as patched:
        patched.setattr(train, "CheckpointSaver", Killed)
        a3c.train(CORRIDOR, run_dir=str(path), on_report=has_gone_on, **settings)
        left = newest(path)
        counted = counted_by(left)
        assert set(counted) < set(numbers_of(path))
        patched.setattr(Killed, "most", 0)
        for workers in (1, 3):  # taken up and killed again, before there is another checkpoint
            (path / "summary.json").unlink()
            a3c.resume(path, trust_code=True, quiet=True, workers=workers, on_report=lambda _: True)
            assert newest(path) == left
            rows = numbers_of(path)
            assert set(counted) <= set(rows)
            assert len(rows) == len(set(rows))
    (path / "summary.json").unlink()
    run = a3c.resume(path, trust_code=True, quiet=True, on_report=lambda _: True)
    assert run.summary["lost_episodes"] == 0
    assert run.summary["episodes"] == len(rows_of(path)) >= len(counted)
    assert numbers_of(path) == counted_by(newest(path))


def test_a_report_that_never_comes_holds_no_checkpoint_up_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_REPORTS_S", 0.5)
    add, seen = Progress.add, []

    def without_episodes(self, report):
        report.episodes.clear()
        return add(self, report)

    monkeypatch.setattr(Progress, "add", without_episodes)

    class Watched(CheckpointSaver):
        def begin(self, state, progress):
            seen.append(time.monotonic())
            super().begin(state, progress)

    monkeypatch.setattr(train, "CheckpointSaver", Watched)
    settings = QUICK | {"total_env_steps": 10**9, "checkpoint_every_s": 0.1}
    a3c.train(CORRIDOR, run_dir=str(tmp_path / "run"), on_report=lambda _: len(seen) > 2, **settings)
    assert 0.5 <= seen[2] - seen[1] < 30


def test_tensorboard_forgets_what_happens_once_more(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    begun(tmp_path / "run", tensorboard=True)
    # A kill after the last checkpoint: the event file knows of later steps.
    from a3c.experiment.loggers.tensorboard import TensorBoardLogger

    later = TensorBoardLogger(tmp_path / "run" / "tensorboard")
    later.write(3_999, {"episodes": 9.0})
    later.write(1, {"episode": 10**6, "return": 77.0, "length": 1})
    later.close()
    (tmp_path / "run" / "summary.json").unlink()
    (first,) = (file for file in (tmp_path / "run" / "tensorboard").iterdir() if file != later._path)
    somebody_elses = tmp_path / "run" / "tensorboard" / "events.out.tfevents.1700000000.host.17.0"
    somebody_elses.write_bytes(first.read_bytes())
    watched = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    watched.Reload()
    assert 3_999 in [event.step for event in watched.Scalars("episodes")]
    time.sleep(1.1)  # event files are read in the order of their names, which hold the time
    a3c.resume(tmp_path / "run", trust_code=True, quiet=True)
    anew = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    anew.Reload()
    watched.Reload()  # one that has read the older file forgets that
    lines, rows = lines_of(tmp_path / "run"), rows_of(tmp_path / "run")
    assert max(line["env_steps"] for line in lines) >= 4_000
    assert [event.step for event in anew.Scalars("episodes")] == [line["env_steps"] for line in lines]
    assert 3_999 not in [event.step for event in watched.Scalars("episodes")]
    returns = [(event.step, event.value) for event in anew.Scalars("episode/return")]
    assert returns == [(int(row["env_steps"]), pytest.approx(float(row["return"]))) for row in rows]
    began = lines[0]["seconds"] - anew.Scalars("episodes")[0].wall_time
    for line, event in zip(lines, anew.Scalars("episodes"), strict=True):
        assert event.wall_time + began == pytest.approx(line["seconds"], abs=1.0)
    left = [file for file in somebody_elses.parent.iterdir() if file.stat().st_size]
    assert len(left) == 2
    assert somebody_elses in left


@pytest.mark.parametrize("name", ["episodes.csv", "metrics.jsonl"])
def test_tensorboard_keeps_what_a_log_that_is_gone_had(tmp_path, name):
    begun(tmp_path / "run", tensorboard=True)
    (first,) = (tmp_path / "run" / "tensorboard").iterdir()
    before = first.read_bytes()
    for gone in ("summary.json", name):
        (tmp_path / "run" / gone).unlink()
    a3c.resume(tmp_path / "run", trust_code=True, quiet=True)
    assert first.read_bytes() == before
    assert len(list(first.parent.iterdir())) == 2


def test_tensorboard_that_was_not_told_all_is_told_it_the_next_time(tmp_path):
    begun(tmp_path / "run", tensorboard=True)
    (first,) = (tmp_path / "run" / "tensorboard").iterdir()
    (first.parent / ".written-anew.tmp").write_bytes(b"half of it")
    a3c.resume(tmp_path / "run", trust_code=True, quiet=True)
    assert first.stat().st_size == 0
    assert len(list(first.parent.iterdir())) == 2


def test_tensorboard_goes_on_in_another_file_where_a_run_had_ended(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    begun(tmp_path / "run", tensorboard=True)
    (first,) = (tmp_path / "run" / "tensorboard").iterdir()
    before = first.read_bytes()
    time.sleep(1.1)
    a3c.resume(tmp_path / "run", trust_code=True, quiet=True)
    assert first.read_bytes() == before
    events = EventAccumulator(str(first.parent), size_guidance={"scalars": 0})
    events.Reload()
    assert [each.step for each in events.Scalars("episodes")] == [
        each["env_steps"] for each in lines_of(tmp_path / "run")
    ]
    returns = [(each.step, pytest.approx(each.value)) for each in events.Scalars("episode/return")]
    assert returns == [(int(row["env_steps"]), float(row["return"])) for row in rows_of(tmp_path / "run")]


def test_evaluations_go_on(tmp_path):
    begun(tmp_path / "run", evaluate_every=500, evaluate_episodes=3)
    run = a3c.resume(tmp_path / "run", trust_code=True, quiet=True)
    with open(run.path / "evaluations.csv", newline="") as file:
        steps = [int(row["env_steps"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert [step // 500 for step in steps] == list(range(1, len(steps) + 1))
    assert run.summary["best_evaluation"] is not None


def test_a_run_whose_parent_is_killed_goes_on(tmp_path):
    run_dir = tmp_path / "run"
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items() if name not in ("tensorboard", "quiet")
    ]
    flags = [flag for flag in flags if "runtime" not in flag and "total" not in flag]
    command = [sys.executable, "-m", "a3c", "train", "tiny_envs:Slow", "--run-dir", str(run_dir), "--quiet", *flags]
    command += ["--no-tensorboard", "--checkpoint-every-s", "0.3", "--total-env-steps", "1000000"]
    here = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with nothing_left():
        process = subprocess.Popen(command, env=environment, cwd=tmp_path)
        try:
            while len(list((run_dir / "checkpoints").glob("step-*"))) < 3:
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (run_dir / "summary.json").exists()
    left_at = int(newest(run_dir).name[5:])
    run = a3c.resume(run_dir, trust_code=True, quiet=True, total_env_steps=left_at + 200)
    assert run.summary["env_steps"] >= left_at + 200
    numbers = [line["env_steps"] for line in lines_of(run_dir)]
    assert numbers == sorted(numbers)
    rows = rows_of(run_dir)
    assert len(rows) == run.summary["episodes"]
    assert not list(run_dir.glob("checkpoints/.step-*"))


def test_weights_and_normalisation_of_another_run(tmp_path, monkeypatch):
    first = begun(tmp_path / "first", "Pendulum-v1", total_env_steps=2_000, at_step=10**9, normalise_observations=True)
    learned = a3c.load(first.path).model
    seen = []

    class Watched(CheckpointSaver):
        def begin(self, state, progress):
            seen.append(state)
            super().begin(state, progress)

    monkeypatch.setattr(train, "CheckpointSaver", Watched)
    second = begun(tmp_path / "second", "Pendulum-v1", init_from=str(first.path), seed=5, at_step=10**9)
    assert torch.equal(seen[0]["parameters"], learned.flat)
    assert torch.equal(seen[0]["moments"], learned.normaliser.moments)
    assert seen[0]["env_steps"] == seen[0]["version"] == 0
    assert not seen[0]["square_average"].any()
    assert second.summary["env_steps"] >= 4_000
    assert json.loads((second.path / "config.json").read_text())["settings"]["init_from"] == str(first.path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"hidden_sizes": (32,)},
            UsageError,
            r"--init-from .*first is of another network than .*: its hidden_sizes is \(64, 64\), not \(32,\): name",
        ),
        ({"normalise_observations": False}, UsageError, "of another network .* normalisation included"),
        ({"init_from": "fnord"}, RunDirectoryError, "there is no run fnord"),
    ],
    ids=str,
)
def test_another_network_is_refused_before_anything_is_written(tmp_path, settings, error, message):
    first = begun(tmp_path / "first", "Pendulum-v1", at_step=0)
    with pytest.raises(error, match=message):
        begun(tmp_path / "second", "Pendulum-v1", **{"init_from": str(first.path)} | settings)
    assert not (tmp_path / "second").exists()


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    run = begun(tmp_path / "run", at_step=0)
    found = checkpoint.read_checkpoint(newest(run.path))
    said = []
    saver = CheckpointSaver(run.path, found.spec, found.spec.build(), 60.0, 3, said.append)
    state = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in found.state.items()}
    state |= {"env_steps": 10**6}
    state["parameters"][3] = float("nan")
    saver.begin(state, found.progress)
    with pytest.raises(
        NonFiniteError, match="the weights hold NaN or infinity: the checkpoint before is the last good"
    ):
        saver.save_last(state, found.progress)
    assert len(said) == 1
    assert said[0].startswith("no checkpoint at 1,000,000 steps (the weights hold NaN or infinity: ")
    state["parameters"][3], state["moments"][0, 0] = 0.0, float("inf")
    with pytest.raises(NonFiniteError, match="the moments hold NaN or infinity"):
        saver.save_last(state, found.progress)
    state["moments"][0, 0], state["square_average"][3] = 1.0, float("nan")
    with pytest.raises(NonFiniteError, match="the square average hold NaN or infinity"):
        saver.save_last(state, found.progress)
    assert said[0].endswith("; the run goes on")
    assert newest(run.path) == found.path


def test_a_resumed_run_goes_on_under_its_name_at_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run"
    with nothing_left():
        begun(path, wandb=True)
        a3c.resume(path, trust_code=True)
    first, second = sorted((path / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    assert second.name.split("-")[3] == first.name.split("-")[3]  # offline-run-TIME-ID, and -1 within one second
    (written,) = second.glob("*.wandb")
    assert b"running time" in written.read_bytes()
