"""The command line, as a person types it."""

import ast
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import a3c
from a3c import cli
from a3c.config import TrainConfig, setting_names
from a3c.errors import UsageError
from a3c.experiment.policy_spec import PolicySpec
from a3c.types import MOST_WORKERS

pytestmark = pytest.mark.timeout(120)

QUICK = "--runtime serial --workers 2 --envs-per-worker 4 --total-env-steps 800 --no-tensorboard --quiet".split()  # noqa: SIM905


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = leaving.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    cli.main(["train", "tiny_envs:Corridor", "--run-dir", str(path), *QUICK])
    return path


def test_train_evaluate_compare(capsys, tmp_path):
    runs = []
    for algorithm in ("a3c", "a2c"):
        path = tmp_path / algorithm
        flags = ["--run-dir", path, "--algorithm", algorithm, "--seed", "4", "--stop-at-return", "100", *QUICK[:-1]]
        code, out, _ = run(capsys, "train", "tiny_envs:Corridor", *flags)
        assert code == 0
        assert f"{algorithm}: 2 workers x 4 environments" in out
        assert "not solved" in out
        assert out.rstrip().endswith(str(path))
        runs.append(path)

    code, out, _ = run(capsys, "evaluate", runs[0], "--trust-code", "--episodes", "5", "--seed", "1", "--json")
    result = json.loads(out)
    assert code == 0
    assert set(result) == {
        "episodes", "return_mean", "return_std", "return_ci95", "length_mean", "greedy", "seed", "cut_episodes",
        "checkpoint",
    }  # fmt: skip
    assert (result["episodes"], result["seed"], result["greedy"], result["length_mean"]) == (5, 1, True, 8.0)
    assert result["return_ci95"][0] <= result["return_mean"] <= result["return_ci95"][1]

    code, out, _ = run(capsys, "evaluate", runs[0], "--trust-code", "--sampled")
    assert code == 0
    assert "over 20 sampled episodes" in out

    code, out, _ = run(capsys, "compare", *runs, "--out", tmp_path / "picture.png")
    assert code == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "tiny_envs" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "CartPol-v1"], "did you mean CartPole-v1"),
        (["train", ".x:Foo"], "cannot import '.x' (TypeError"),
        (["train", ":Foo"], "environment ':Foo' names no code"),
        (["train", "raises_on_import:Env"], "cannot import 'raises_on_import' (ZeroDivisionError"),
        (["train", "json:loads"], "cannot be made here (TypeError"),
        (["train", "Nowhere/Pong-v5"], "Namespace Nowhere not found"),
        (["train", "tiny_envs:WithGraphAction"], "has a Graph space"),
        (
            ["train", "tiny_envs:Corridor", "--workers", "1", "--model", "test_own_network:TooDeep"],
            "--model: its forward gave",
        ),
        (["train", "CartPole-v1", "--workers", "0"], "--workers must be at least 1, not 0"),
        (["train", "CartPole-v1", "--total-env-steps", "-5"], "--total-env-steps must be more than 0, not -5"),
        (["train", "CartPole-v1", "--store", "synchronous"], "take --store hogwild or locked"),
        (["train", "CartPole-v1", "--run-dir", "/proc/nowhere"], "cannot write to the run directory"),
        (["evaluate", "/nowhere/run"], "there is no run /nowhere/run"),
        (["evaluate", "/"], "/ is not a run"),
        (["evaluate", __file__], f"{__file__} is a file, and no run's directory"),
        (["record", "/nowhere/run", "--out", "x.gif"], "there is no run /nowhere/run"),
        (["record", "/nowhere/run", "--out", "x.avi"], "--out must end in .mp4 or .gif"),
        (["compare", "/nowhere/run", "--out", "x.png"], "/nowhere/run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line_and_exit_code_2(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert words in err
    assert err.startswith("a3c: ")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["train", "CartPole-v1", "--wrokers", "2"], ["train", "CartPole-v1", "--workers", "two"], ["fly"]],
    ids=str,
)
def test_wrong_flags_exit_with_code_2_and_without_a_traceback(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in out + err


def test_whole_numbers_in_every_writing(capsys, tmp_path):
    options = ("--runtime", "serial", "--workers", "1.0", "--envs-per-worker", "4", "--no-tensorboard", "--quiet")
    for i, text in enumerate(["2e2", "200", "2_00", "200.0"]):
        run_dir = tmp_path / str(i)
        code, *_ = run(capsys, "train", "tiny_envs:Corridor", "--run-dir", run_dir, "--total-env-steps", text, *options)
        assert code == 0
        assert json.loads((run_dir / "config.json").read_text())["settings"]["total_env_steps"] == 200
    for text in ("1.5", "1e-3", "inf", "nan", "many"):
        code, out, err = run(capsys, "train", "CartPole-v1", "--total-env-steps", text)
        assert code == 2
        assert f"'{text}' is no whole number, such as 1_000_000 or" in " ".join((out + err).split())


def test_a_film_is_made_without_a_word_of_missing_devices(tmp_path):
    env = gym.make("CartPole-v1")
    spec = PolicySpec(env.observation_space, env.action_space)
    a3c.Policy(spec, spec.build()).save(tmp_path / "policy")
    command = [sys.executable, "-m", "a3c", "record", tmp_path / "policy", "--out", tmp_path / "x.gif"]
    silent = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SDL_"))}
    done = subprocess.run([*command, "--env", "CartPole-v1"], env=silent, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("given", [("--lr", "0.1"), ("--lr=0.1",)])
def test_a_flag_of_other_libraries(capsys, given):
    code, _, err = run(capsys, "train", "CartPole-v1", *given)
    assert (code, err) == (2, "a3c: there is no --lr: did you mean --learning-rate?\n")


def test_gymnasiums_own_module_form(capsys, tmp_path):
    code, _, _ = run(capsys, "train", "gymnasium:CartPole-v1", "--run-dir", tmp_path / "run", *QUICK)
    assert code == 0


def test_a_run_that_is_there_is_kept(capsys, trained):
    code, _, err = run(capsys, "train", "tiny_envs:Corridor", "--run-dir", trained, *QUICK)
    assert code == 2
    assert "already holds a run" in err
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "holds no JSON object"),
        ("checkpoints/*/policy.json", "{}", "holds no whole checkpoint: "),
        ("checkpoints/*/policy.json", "signed {}", "description is damaged"),
        ("checkpoints/*/policy.json", 'signed {"format": 99}', "format 99"),
        ("checkpoints/*/model.safetensors", "junk", "model.safetensors is not what was written"),
        ("checkpoints/*/model.safetensors", "signed junk", "it is damaged"),
        ("checkpoints/*", None, "holds no checkpoint"),
    ],
    ids=str,
)
def test_a_damaged_run_is_named(capsys, tmp_path, trained, file, content, words):
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    if file == "config.json":  # of which each checkpoint has a copy
        shutil.rmtree(damaged / "checkpoints")
    for path in damaged.glob(file):
        if content is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        path.write_text(content.removeprefix("signed "))
        if content.startswith("signed "):
            checksums = json.loads((path.parent / "checksums.json").read_text())
            checksums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            (path.parent / "checksums.json").write_text(json.dumps(checksums))
    code, _, err = run(capsys, "evaluate", damaged, "--trust-code")
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [["evaluate"], ["record", "--out", "film.gif"]], ids=lambda c: c[0])
def test_a_run_whose_environment_is_code_is_played_only_when_it_is_trusted(capsys, trained, command):
    code, out, err = run(capsys, *command, trained)
    assert (code, out) == (2, "")
    assert err.startswith(f"a3c: this would import and run code that the files of {trained} name, from tiny_envs: ")
    assert "--trust-code" in err
    assert len(err.strip().splitlines()) == 1


def test_an_environment_that_is_named_is_trusted(capsys, trained):
    code, out, _ = run(capsys, "evaluate", trained, "--env", "tiny_envs:Corridor", "--episodes", "3")
    assert code == 0
    assert "over 3 greedy episodes of 8 steps" in out


def test_episodes_that_are_cut_are_told(capsys, trained):
    flags = ["--trust-code", "--episodes", "3", "--max-steps-per-episode", "5"]
    code, out, err = run(capsys, "evaluate", trained, *flags)
    assert code == 0
    assert "over 3 greedy episodes of 5 steps" in out
    told = "had not ended after 5 steps (--max-steps-per-episode) and were cut: they count with what they had"
    assert err == f"a3c: 3 of 3 episodes {told}\n"


def test_record(capsys, tmp_path):
    path = tmp_path / "run"
    assert run(capsys, "train", "CartPole-v1", "--run-dir", path, *QUICK)[0] == 0
    film = tmp_path / "film.gif"
    code, out, err = run(capsys, "record", path, "--out", film, "--seed", "4", "--sampled", "--fps", "25")
    assert (code, err) == (0, "")
    steps = int(out.split(" in ")[1].split()[0])
    assert out == f"return {steps:.1f} in {steps} steps: {film}\n"
    assert film.read_bytes().startswith(b"GIF89a")
    code, _, err = run(capsys, "record", path, "--out", film, "--env", "tiny_envs:Corridor")
    assert code == 2
    assert "'tiny_envs:Corridor' cannot be rendered" in err


def test_an_environments_arguments_wrappers_and_imports(capsys, tmp_path):
    words = ["--env-kwargs", '{"is_slippery": false, "map_name": "8x8"}', "--import", "json", "tiny_envs"]
    words += ["--wrappers", "FlattenObservation", 'FrameStackObservation:{"stack_size": 2}']
    flags = [flag if flag != "serial" else "processes" for flag in QUICK]
    code, _, err = run(capsys, "train", "FrozenLake-v1", "--run-dir", tmp_path / "run", *words, *flags)
    assert (code, err) == (0, "")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["env_kwargs"] == {"is_slippery": False, "map_name": "8x8"}
    assert settings["import_"] == ["json", "tiny_envs"]
    assert settings["wrappers"] == ["FlattenObservation", 'FrameStackObservation:{"stack_size": 2}']
    assert a3c.load(tmp_path / "run").spec.observation_space.shape == (2, 64)


def test_a_failing_environment_exits_with_code_1_and_the_workers_traceback(capsys, tmp_path):
    code, _, err = run(capsys, "train", "tiny_envs:Exploding", "--run-dir", tmp_path / "run", *QUICK)
    assert code == 1
    assert err.count("worker 0 failed: RuntimeError: the corridor collapsed") == 1
    assert err.count("Traceback (most recent call last)") == 1
    assert "in reset" in err


@pytest.mark.parametrize("runtime", ["serial", "processes"])
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("FourValues", "a tuple of 4"),
        ("Grows", "array (3,)"),
        ("Complex", "an array (2,) of complex64"),
        ("SpeaksInWords", "is a str: a number is wanted"),
    ],
)
def test_an_environment_that_breaks_its_word_in_the_middle_of_a_run_costs_nothing_saved(
    capsys, tmp_path, runtime, env, words
):
    flags = [flag if flag != "serial" else runtime for flag in QUICK]
    code, _, err = run(capsys, "train", f"tiny_envs:{env}", "--run-dir", tmp_path / "run", *flags)
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("a3c: ")]
    assert env in line
    assert words in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "worker_failed"
    assert summary["episodes"] == len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) - 1 > 0
    assert a3c.load(tmp_path / "run").predict([0.0, 1.0], deterministic=True)[0] in (0, 1)


@pytest.mark.parametrize("runtime", ["serial", "processes"])
@pytest.mark.parametrize(
    ("env", "term"), [("NaNAtLast", "observation"), ("FarAwayAtLast", "observation"), ("InfiniteAtLast", "reward")]
)
def test_numbers_that_are_not_finite_ten_times_in_a_row_exit_with_code_1_and_the_last_good_weights(
    capsys, tmp_path, runtime, env, term
):
    flags = [{"serial": runtime, "800": "100000"}.get(flag, flag) for flag in QUICK]
    code, _, err = run(capsys, "train", f"tiny_envs:{env}", "--run-dir", tmp_path / "run", *flags)
    assert code == 1
    assert re.search(rf"worker \d dropped a rollout: non-finite {term} at env step [\d,]+", err)
    assert re.search(rf"10 rollouts in a row were dropped, the last for a non-finite {term} at env step [\d,]+", err)
    assert "10 rollouts in a row" in (tmp_path / "run" / "error.txt").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exit_reason"] == "worker_failed"
    assert summary["dropped_rollouts"] >= 10
    assert summary["updates"] > 0
    policy = a3c.load(tmp_path / "run")
    assert all(bool(tensor.isfinite().all()) for tensor in policy.model.parameters())
    assert policy.predict([0.0, 1.0], deterministic=True)[0] in (0, 1)


@pytest.mark.parametrize(
    ("env", "expected", "words"),
    [
        ("AlwaysNaN", 1, "a NaN or an infinity as its observation"),
        ("Exploding", 2, "cannot be played (RuntimeError: the corridor collapsed"),
    ],
)
def test_an_evaluation_in_a_broken_environment_is_no_result(capsys, trained, env, expected, words):
    code, out, err = run(capsys, "evaluate", trained, "--env", f"tiny_envs:{env}", "--environments", "1")
    assert (code, out) == (expected, "")
    assert words in err


class BlindCartPole(CartPoleEnv):
    """Sees nothing but NaN."""

    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed, options=options)
        return np.full_like(seen, np.nan), info


def test_a_film_of_a_broken_environment_is_none_and_exits_with_code_1(capsys, tmp_path):
    train = ["--run-dir", tmp_path / "run", "--total-env-steps", "64", "--runtime", "serial", "--no-tensorboard"]
    run(capsys, "train", "CartPole-v1", *train)
    film = tmp_path / "film.gif"
    code, _, err = run(capsys, "record", tmp_path / "run", "--env", "test_cli:BlindCartPole", "--out", film)
    assert code == 1, err
    assert "a NaN or an infinity as its observation" in err
    assert not film.exists()


def test_what_was_chosen_unasked_is_told_in_the_first_line(capsys, tmp_path):
    flags = ["--run-dir", tmp_path / "run", "--total-env-steps", "64", "--runtime", "serial", "--no-tensorboard"]
    code, out, _ = run(capsys, "train", "CartPole-v1", *flags)
    assert code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    first = " ".join(out[: out.index(")")].split())  # the terminal may have broken it
    workers, environments, rollout = (config[name] for name in ("workers", "envs_per_worker", "rollout_length"))
    assert first.startswith(f"a3c: {workers} workers x {environments} environments, {rollout} steps a rollout, ")
    assert f"discount {config['discount']:g}, lambda {config['lambda_']:g}, entropy {config['entropy_coef']:g}" in first
    assert "(preset for CartPole-v1; yours: " in first


def test_a_killed_worker_exits_with_code_1_and_a_clear_line(capsys, tmp_path):
    flags = [flag if flag != "serial" else "processes" for flag in QUICK]
    code, _, err = run(capsys, "train", "tiny_envs:Killed", "--run-dir", tmp_path / "run", *flags)
    assert code == 1
    assert "died: killed by signal 9" in err
    assert "Traceback" not in err


def test_flags_fields_and_keyword_arguments_have_the_same_names(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", out))
    for name in setting_names():
        flag = "--" + name.rstrip("_").replace("_", "-")
        assert {flag, "--no-" + flag[2:]} & flags


def test_every_setting_says_what_it_is(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    text = re.sub(r"\W+", "", out)  # however the table is drawn
    tree = ast.parse(inspect.getsource(TrainConfig))
    body = tree.body[0].body
    described = {
        field.target.id: word.value.value
        for field, word in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(word, ast.Expr) and isinstance(word.value, ast.Constant)
    }
    assert set(described) == setting_names()
    for description in described.values():
        assert re.sub(r"\W+", "", description)[:30] in text


def test_a_saved_state_may_be_of_as_many_workers_as_the_settings_take():
    TrainConfig(workers=MOST_WORKERS).validate()
    with pytest.raises(UsageError, match="--workers"):
        TrainConfig(workers=MOST_WORKERS + 1).validate()


def test_only_named_settings_override_the_preset():
    named = cli.named_settings(["train", "CartPole-v1", "--lambda", "0.5", "--no-tensorboard", "--total_env_steps=5"])
    assert named == {"lambda_", "tensorboard", "total_env_steps"}


def test_the_command_is_installed_and_counts_seconds_from_the_process_start(tmp_path):
    command = [sys.executable, "-m", "a3c", "train", "tiny_envs:Corridor", "--run-dir", str(tmp_path / "run"), *QUICK]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run(command, check=True, env=environment)
    seconds = json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"]
    assert seconds > 0.2  # the imports are part of it
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["command"][1:3] == ["train", "tiny_envs:Corridor"]
    assert config["versions"]["a3c"] == a3c.__version__


def test_the_program_ends_quickly_and_forgets_nothing():
    code = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from a3c import cli

def late():
    time.sleep(0.3)
    print("the thread has ended")

def main():
    idle.submit(threading.Thread(target=late).start).result()
    print("done", end=" ")
    raise SystemExit(int(sys.argv[1]))

idle = ThreadPoolExecutor(1)  # which nobody shuts down
atexit.register(print, "registered")
cli.main = main
cli.program()
print("never reached")
"""
    for expected in (0, 2):
        ended = subprocess.run([sys.executable, "-c", code, str(expected)], capture_output=True, text=True, check=False)
        assert ended.returncode == expected
        assert ended.stdout == "done the thread has ended\nregistered\n"
        assert ended.stderr == ""


def test_an_error_that_nobody_foresaw_has_its_traceback():
    code = "from a3c import cli; cli.main = lambda: 1 / 0; cli.program()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_a_reader_that_goes_away_leaves_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "a3c", "train", "--help"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert ended.stderr == ""


def test_the_version_is_told(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"a3c {a3c.__version__}\n"
