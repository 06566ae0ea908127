"""Run directories as a kill, at whatever moment, or a stranger may have left them."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import a3c
from a3c.errors import RunDirectoryError
from a3c.experiment import checkpoint, run_directory
from leftovers import nothing_left

QUICK = {
    "workers": 1,
    "envs_per_worker": 4,
    "rollout_length": 8,
    "hidden_sizes": (4,),
    "total_env_steps": 64,
    "tensorboard": False,
    "quiet": True,
    "runtime": "serial",
}


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


class Killed(BaseException):
    pass


def trained(path, **settings):
    return a3c.train("CartPole-v1", run_dir=str(path), **QUICK | settings)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=["anew", "overwrite", "resume"])
def test_folders_without_anything_in_them_are_no_run(tmp_path, how):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert trained(tmp_path / "run", **how).summary["env_steps"] >= 64


def test_a_folder_with_something_in_it_is_somebodys(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "mine.txt").touch()
    for how in {"overwrite": True}, {"resume": True}:
        with pytest.raises(RunDirectoryError, match="holds a checkpoints that is not of a run"):
            trained(tmp_path / "run", **how)


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}], ids=["overwrite", "resume"])
@pytest.mark.parametrize("whole", [True, False], ids=["a run", "one without a checkpoint"])
def test_a_kill_while_a_run_is_being_replaced_stops_nobody_from_trying_again(tmp_path, monkeypatch, how, whole):
    trained(tmp_path / "whole")
    if not whole:
        shutil.rmtree(tmp_path / "whole" / "checkpoints")
    for kill_at in range(30):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        calls = []

        def killed(name, plain, calls=calls, kill_at=kill_at):
            def call(*args, **kwargs):
                calls.append(name)
                if len(calls) > kill_at:
                    raise Killed
                return plain(*args, **kwargs)

            return call

        with monkeypatch.context() as patched:
            for name in "unlink", "rmdir", "mkdir", "replace":
                patched.setattr(os, name, killed(name, getattr(os, name)))
            try:
                run_directory.create(tmp_path / "run", overwrite=True).close()
            except Killed:
                pass
            else:
                break  # nothing was left to kill
        again = trained(tmp_path / "run", total_env_steps=128, **how)
        assert again.summary["env_steps"] >= 128
        assert a3c.Policy.load(again.path)
    assert kill_at > 3
    assert set(calls) >= {"unlink", "mkdir"}


def step_of(path):
    return checkpoint.checkpoints(path)[-1]


@pytest.mark.parametrize(
    "resume", [a3c.resume, lambda path, **more: trained(path, resume=True, **more)], ids=["resume", "train"]
)
def test_a_checkpoint_that_was_just_being_replaced_is_put_back(tmp_path, resume):
    run = trained(tmp_path / "run")
    for older in checkpoint.checkpoints(run.path)[:-1]:
        shutil.rmtree(older)
    newest = step_of(run.path)
    os.replace(newest, newest.with_name(f".{newest.name}.old.tmp"))
    again = resume(run.path, total_env_steps=128)
    assert newest in checkpoint.checkpoints(run.path)
    assert again.summary["env_steps"] >= 128
    (resumption,) = json.loads((run.path / "config.json").read_text())["resumed"]
    assert resumption["env_steps"] == run.summary["env_steps"]


def test_the_best_evaluations_policy_is_put_back_too(tmp_path):
    run = trained(tmp_path / "run", evaluate_every=16, evaluate_episodes=1)
    kept, best = run.path / "checkpoints" / "best-evaluation", run.summary["best_evaluation"]
    os.replace(kept, kept.with_name(".best-evaluation.old.tmp"))
    shutil.copytree(kept.with_name(".best-evaluation.old.tmp"), kept.with_name(".best-evaluation.tmp"))
    checkpoint.put_back(run.path)
    assert checkpoint.best_evaluation(run.path) == best
    os.replace(kept, kept.with_name(".best-evaluation.old.tmp"))
    (kept.parent / "..old.tmp").mkdir()  # a stranger's
    again = a3c.resume(run.path, total_env_steps=128, quiet=True)
    assert again.summary["best_evaluation"]["return_mean"] >= best["return_mean"]
    assert checkpoint.best_evaluation(run.path) == again.summary["best_evaluation"]


def test_the_command_line_tells_of_a_damaged_config_json_in_one_line(tmp_path):
    run = trained(tmp_path / "run")
    (run.path / "config.json").write_text("{")
    command = [sys.executable, "-m", "a3c", "evaluate", str(run.path), "--episodes", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert re.fullmatch(r"a3c: .*config\.json cannot be read .*; going by the copy in step-\d+\n", ended.stderr)


def test_where_config_json_cannot_be_read_the_newest_checkpoints_copy_is_gone_by(tmp_path):
    run = trained(tmp_path / "run")
    written = (run.path / "config.json").read_text()
    for step, damage in enumerate((written[:100], None)):
        if damage is None:
            (run.path / "config.json").unlink()
        else:
            (run.path / "config.json").write_text(damage)
        with pytest.warns(UserWarning, match=r"config\.json.*; going by the copy in step-0") as told:
            again = a3c.resume(run.path, total_env_steps=128 * (step + 1), quiet=True)
        assert len(told) == 1
        assert again.summary["env_steps"] >= 128 * (step + 1)
        record = json.loads((run.path / "config.json").read_text())
        assert record["settings"]["env"] == "CartPole-v1"
        assert len(record["resumed"]) == step + 1
    (step_of(run.path) / "config.json").write_text(written)
    assert checkpoint.damage_of(step_of(run.path)) == "config.json is not what was written"


def test_a_log_of_a_terabyte_and_a_description_of_one_are_refused(tmp_path):
    run = trained(tmp_path / "run")
    for name in ("metrics.jsonl", "config.json"):
        path, whole = run.path / name, (run.path / name).read_bytes()
        os.truncate(path, 2**40)
        sizes = {name: 2**40}
        if name == "config.json":
            with pytest.raises(RunDirectoryError, match="config.json cannot be read .it has more than"):
                run_directory.read_json(path)
        else:
            with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl holds a line of more than"):
                run_directory.take_up(run.path, sizes)
        path.unlink()
        path.write_bytes(whole)


@pytest.mark.parametrize("more", [0, 5])
def test_a_log_is_cut_at_its_last_whole_line(tmp_path, more):
    (tmp_path / "episodes.csv").write_bytes(b"x" * 70 + b"\n" + b"y" * 30 + b"\n" + b"z" * 9)
    said = run_directory.take_up(tmp_path, {"episodes.csv": 102 + more})
    assert (tmp_path / "episodes.csv").stat().st_size == 102
    assert len(said) == (more > 0)


def test_one_that_was_going_for_good_does_not_come_back(tmp_path):
    run = trained(tmp_path / "run")
    oldest = checkpoint.checkpoints(run.path)[0]
    os.replace(oldest, oldest.with_name(f".{oldest.name}.gone.tmp"))
    a3c.resume(run.path, total_env_steps=128, quiet=True)
    assert [path.name for path in (run.path / "checkpoints").glob(".*")] == []
    assert oldest not in checkpoint.checkpoints(run.path)


def test_a_step_may_be_damaged_twice(tmp_path):
    run = trained(tmp_path / "run")
    newest = step_of(run.path)
    shutil.copytree(newest, tmp_path / "whole")
    for _ in range(2):
        (newest / "state.json").write_text("{}")
        checkpoint.set_damaged_aside(run.path)
        assert not newest.exists()
        shutil.copytree(tmp_path / "whole", newest)
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    trained(tmp_path / "run", overwrite=True)
    assert not list(newest.parent.glob("damaged-*"))


def without_a_checkpoint(path):
    for step in (path / "checkpoints").iterdir():
        step.rename(step.with_name(f".{step.name}.tmp"))


def without_a_summary(path):
    (path / "summary.json").unlink()  # a checkpoint may be of the last step before that is written


@pytest.mark.parametrize("leave", [without_a_checkpoint, without_a_summary])
def test_the_same_call_goes_on_from_what_a_kill_at_either_end_leaves(tmp_path, leave):
    leave(trained(tmp_path / "run").path)
    run = trained(tmp_path / "run", resume=True)
    assert run.summary["env_steps"] >= 64
    assert (run.path / "summary.json").exists()


FILES = ("state.json", "checksums.json", "policy.json", "progress.json", "model.safetensors", "optimizer.safetensors")


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:.*no ordinary file.*going by the copy")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", [*FILES, "config.json", "metrics.jsonl", "episodes.csv", ".lock"])
def test_a_named_pipe_in_place_of_a_file_keeps_nobody_waiting(tmp_path, name):
    run = trained(tmp_path / "run")
    for step in checkpoint.checkpoints(run.path)[:-1]:
        shutil.rmtree(step)
    file = (step_of(run.path) if name in FILES else run.path) / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RunDirectoryError, match=f"{name}.*neither a file nor a folder|no ordinary file"):
        a3c.resume(run.path, total_env_steps=128, quiet=True)
    if name in FILES:
        with pytest.raises(RunDirectoryError, match="no ordinary file"):
            a3c.Policy.load(run.path)
