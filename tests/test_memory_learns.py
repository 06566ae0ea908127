"""What only memory can solve is solved with it and not without it; so is memory with masks and Dict observations."""

import pytest

import a3c

SOLVED = 0.95
SETTINGS = {
    "hidden_sizes": (32,),
    "memory_size": 32,
    "envs_per_worker": 16,
    "rollout_length": 8,  # the cue and the choice often lie in different rollouts
    "learning_rate": 3e-3,
    "lambda_": 0.95,
    "runtime": "serial",
    "tensorboard": False,
    "quiet": True,
}


@pytest.mark.parametrize("env", ["Recall", "MaskedRecall"])
@pytest.mark.parametrize("memory", ["lstm", "gru"])
@pytest.mark.parametrize("separate_torsos", [False, True])
def test_solved_with_memory(tmp_path, env, memory, separate_torsos):
    name = f"a3c.envs.teaching:{env}"
    run = a3c.train(
        name,
        memory=memory,
        separate_torsos=separate_torsos,
        total_env_steps=60_000,
        stop_at_return=SOLVED,
        run_dir=str(tmp_path),
        **SETTINGS,
    )
    assert run.solved
    assert a3c.evaluate(tmp_path, name, episodes=200).return_mean >= SOLVED


@pytest.mark.parametrize("env", ["Recall", "MaskedRecall"])
def test_not_solved_without(tmp_path, env):
    """Nothing is seen of the cue: guessing between two choices returns 0 on average."""
    name = f"a3c.envs.teaching:{env}"
    run = a3c.train(name, memory=None, total_env_steps=60_000, stop_at_return=SOLVED, run_dir=str(tmp_path), **SETTINGS)
    assert abs(run.summary["return_mean_100"]) < 0.5
    assert not run.solved
