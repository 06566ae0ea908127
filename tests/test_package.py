"""The package's shape: one-way imports, a lazy front, public names that are documented."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import a3c

SOURCE = Path(a3c.__file__).parent
MIDDLE = {"algorithms", "actor", "models", "envs", "stores", "runtimes"}
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "own_code": {"errors"},
    "core": {"types", "errors"},
    "spaces": {"core", "types", "errors"},
    **{part: {"spaces", "own_code", "core", "types", "errors"} for part in MIDDLE},
    "config": {"errors"},
    "experiment": MIDDLE | {"spaces", "own_code", "core", "types", "errors", "config", "__init__"},
    "cli": {"experiment", "config", "errors", "__init__"},
    "__main__": {"cli"},
    "__init__": {"experiment", "config", "errors"},
}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "a3c":
                known = len(parts) > 1 and parts[1] in ALLOWED
                found.add(parts[1] if known else "__init__")
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    part = part_of(path)
    assert imported_parts(path) - {part} <= ALLOWED[part]


def test_no_import_cycle():
    modules = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(["a3c", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        modules[name] = path
    imports = {
        name: {t for node in imports_at_run_time(ast.parse(path.read_text())) for t in targets(node, modules)} - {name}
        for name, path in modules.items()
    }
    done, under_way = set(), []

    def visit(name):
        assert name not in under_way, f"import cycle: {[*under_way, name]}"
        if name in done:
            return
        under_way.append(name)
        for target in imports[name]:
            visit(target)
        done.add(under_way.pop())

    for name in modules:
        visit(name)


def imports_at_run_time(node):
    """Every `from ... import` below the node, those inside functions too, but not those for type checkers."""
    if isinstance(node, ast.ImportFrom):
        yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children = node.orelse
    for child in children:
        yield from imports_at_run_time(child)


def targets(node, modules):
    for alias in node.names:
        submodule = f"{node.module}.{alias.name}"
        if submodule in modules:
            yield submodule
        elif node.module in modules:
            yield node.module


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, a3c; print(sorted({'torch', 'numpy', 'gymnasium', 'tyro', 'rich'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_command_lines_help_imports_no_torch():
    code = (
        "import sys, a3c.cli\n"
        "try: a3c.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'gymnasium' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_the_fork_server_can_start_before_torch_is_imported():
    code = "import sys, a3c.experiment.launch; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_heavy_modules_are_not_imported_for_training():
    code = "import sys, a3c.experiment.train; print(sorted({'wandb', 'matplotlib', 'tensorboard'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_all_lists_what_there_is():
    assert set(a3c.__all__) == set(a3c._HOMES) | {"__version__"}
    for name in a3c.__all__:
        assert getattr(a3c, name) is not None
    assert set(a3c.__all__) == set(dir(a3c))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = a3c.tarin


def test_public_names_are_documented():
    for name in set(a3c.__all__) - {"__version__"}:
        assert getattr(a3c, name).__doc__, name


def test_the_one_file_example_is_short():
    path = Path(__file__).parents[1] / "examples" / "a3c_one_file.py"
    assert len(path.read_text().splitlines()) <= 150
