"""What a kill in a run's first moments, or in its last ones, leaves: the same call begins it anew, or ends it."""

import pytest

import a3c


def nothing_but_the_folder(run_dir):
    (run_dir / "checkpoints").mkdir(parents=True)  # made before config.json is written


def without_a_checkpoint(run_dir):
    begin(run_dir)
    for path in (run_dir / "checkpoints").iterdir():
        path.rename(path.with_name(f".{path.name}.tmp"))


def done_without_a_summary(run_dir):
    begin(run_dir)
    (run_dir / "summary.json").unlink()  # a checkpoint may be of the last step before the summary is written


@pytest.mark.parametrize("leave", [nothing_but_the_folder, without_a_checkpoint, done_without_a_summary])
def test_the_same_call_goes_on_from_what_a_kill_leaves(tmp_path, leave):
    leave(tmp_path / "run")
    run = begin(tmp_path / "run", resume=True)
    assert run.summary["env_steps"] >= 200
    assert (tmp_path / "run" / "summary.json").exists()


def begin(run_dir, **more):
    return a3c.train(
        "CartPole-v1",
        run_dir=str(run_dir),
        workers=1,
        envs_per_worker=1,
        total_env_steps=200,
        runtime="serial",
        tensorboard=False,
        quiet=True,
        **more,
    )
