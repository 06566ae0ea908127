"""What reaches the workers: scripts without a `__main__` guard, notebooks, and what cannot."""

import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import a3c
from a3c.errors import UsageError, WorkerError
from leftovers import nothing_left
from tiny_envs import Corridor

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[1]

SCRIPT = """
import gymnasium as gym, numpy as np
print("the script begins", flush=True)

class Here(gym.Env):
    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {{}}
    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), float(action), self.steps == 5, False, {{}}

import a3c
run = a3c.train(Here, workers=2, envs_per_worker=2, total_env_steps=500, tensorboard=False,
                start_method={start_method!r}, run_dir={run_dir!r})
print("the script ends", run.summary["env_steps"] >= 500, flush=True)
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_script_without_a_guard(tmp_path, start_method):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(start_method=start_method, run_dir=str(tmp_path / "run")))
    with nothing_left():
        result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.count("the script begins") == 1
    assert result.stdout.count("the script ends True") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_an_environment_that_the_script_registers(tmp_path, start_method):
    script = tmp_path / "script.py"
    text = SCRIPT.format(start_method=start_method, run_dir=str(tmp_path / "run"))
    register = 'gym.register("Mine-v0", entry_point=Here, max_episode_steps=3)\n\nimport a3c\n'
    script.write_text(text.replace("import a3c\n", register).replace("a3c.train(Here", 'a3c.train("Mine-v0"'))
    with nothing_left():
        result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.count("the script ends True") == 1


@pytest.mark.parametrize("env", ["Mine-v0", "mine:Mine-v0"])
def test_an_environment_that_a_module_beside_the_script_registers(tmp_path, env):
    definition = SCRIPT[SCRIPT.index("class Here") : SCRIPT.index("import a3c")].format()
    (tmp_path / "mine.py").write_text(
        f'import gymnasium as gym, numpy as np\n{definition}\ngym.register("Mine-v0", entry_point="mine:Here")\n'
    )
    text = SCRIPT.format(start_method="forkserver", run_dir=str(tmp_path / "run"))
    script = tmp_path / "script.py"
    script.write_text(text.replace(definition, "import mine\n\n").replace("a3c.train(Here", f"a3c.train({env!r}"))
    with nothing_left():
        result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.count("the script ends True") == 1
    assert "Overriding" not in result.stderr  # registered once in each process


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("example", ["quickstart", "custom_env"])
def test_an_example_pasted_into_a_notebook_cell(tmp_path, example):
    import nbformat
    from nbclient import NotebookClient

    code = (ROOT / "examples" / f"{example}.py").read_text()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    before = os.getcwd()
    with nothing_left(patience_s=20):
        os.chdir(tmp_path)
        try:
            NotebookClient(notebook, timeout=100, kernel_name="python3").execute(cwd=str(tmp_path))
        finally:
            os.chdir(before)
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "mean return" in printed or "return_mean" in printed
    assert not any(output.output_type == "error" for output in notebook.cells[0].outputs)


def test_the_quickstart_as_a_script(tmp_path):
    with nothing_left():
        result = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "quickstart.py")],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
    assert "return" in result.stdout


def test_what_no_other_process_can_have_is_refused_before_anything_is_written(tmp_path):
    env = Corridor()
    env.lock = threading.Lock()
    with nothing_left(), pytest.raises(UsageError, match=r"cannot be sent to a worker \(TypeError.*--runtime serial"):
        a3c.train(lambda: env, run_dir=str(tmp_path / "run"), total_env_steps=100, quiet=True)
    assert not (tmp_path / "run").exists()


ONLY_HERE = """
import sys, types
module = types.ModuleType("only_here")
exec({code!r}, module.__dict__)
sys.modules["only_here"] = module
import a3c
a3c.train(**{settings!r}, {given}, tensorboard=False)
"""
HERE_CODE = "from tiny_envs import Corridor\nimport gymnasium\nclass Here(Corridor): pass\n" + (
    "class Around(gymnasium.Wrapper): pass\n"
    "import torch\nclass Torso(torch.nn.Linear):\n  features = 4\n  def __init__(self, space): super().__init__(2, 4)\n"
)


@pytest.mark.parametrize(
    "given",
    [
        "env=module.Here",
        "env='tiny_envs:Corridor', wrappers=(module.Around,)",
        "env='tiny_envs:Corridor', model=module.Torso",
    ],
)
def test_what_only_the_callers_process_can_import_is_named_and_costs_nothing_saved(tmp_path, given):
    script, settings = tmp_path / "script.py", {"run_dir": str(tmp_path / "run"), "total_env_steps": 100}
    script.write_text(ONLY_HERE.format(code=HERE_CODE, settings=settings, given=given))
    path = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    with nothing_left():
        result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100, env=path)
    assert result.returncode == 1
    assert "cannot be loaded in a worker (ModuleNotFoundError: No module named 'only_here'" in result.stderr
    assert (tmp_path / "run" / "config.json").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_reason"] == "worker_failed"


def test_a_class_that_only_this_process_can_import(tmp_path, monkeypatch):
    module = types.ModuleType("only_here")
    exec("from tiny_envs import Corridor\nclass Here(Corridor): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with nothing_left(), pytest.raises(WorkerError, match=r"cannot be loaded in a worker \(ModuleNotFoundError"):
        a3c.train(module.Here, start_method="spawn", run_dir=str(tmp_path), total_env_steps=100, quiet=True)
