"""A person's own code by name: where it is looked for, and what is said where it cannot be had."""

import sys
from pathlib import Path

import pytest

from a3c.envs.lookup import is_class_path
from a3c.errors import UnknownEnvironment, UsageError
from a3c.own_code import find_code, importable, importable_name, reason


@pytest.fixture
def module_file(tmp_path, monkeypatch):
    """Writes a module into the current directory and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []

    def write(code):
        names.append(f"own_code_{tmp_path.name}_{len(names)}".replace("-", "_"))
        (tmp_path / f"{names[-1]}.py").write_text(code)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_functions_and_classes_are_found_in_the_current_directory(module_file):
    name = module_file("def make(space): return space\nclass Net(dict): pass\n")
    assert find_code(f"{name}:make", "--model")(3) == 3
    assert find_code(f"{name}:Net", "--model")(size=3) == {"size": 3}


@pytest.mark.parametrize("path", ["net", "net:", ":make", ""])
def test_a_path_without_both_halves_is_refused(path):
    with pytest.raises(UsageError, match=r"--model names no code: write package\.module:name"):
        find_code(path, "--model")


@pytest.mark.parametrize("error", [UsageError, UnknownEnvironment])
def test_what_cannot_be_found_is_refused_with_the_reason(module_file, error):
    def refused(path, match):
        with pytest.raises(error, match=match):
            find_code(path, f"--model {path!r}", error)

    refused("no_such_mod:f", r"--model 'no_such_mod:f': cannot import 'no_such_mod' \(ModuleNotFoundError.*directory")
    name = module_file("1 / 0\n")
    refused(f"{name}:f", rf"ZeroDivisionError: division by zero, {name}.py line 1\)")
    name = module_file("raise SystemExit('bye')\n")
    refused(f"{name}:f", "SystemExit: bye")
    name = module_file("size = 3\n")
    refused(f"{name}:make", f"module '{name}' has no 'make'; name a class or a function in it")
    refused(f"{name}:size", "has no callable but a int 'size'")


@pytest.mark.parametrize("path", ["./envs:Maze", "envs.py:Maze", "some/where/envs:Maze"])
def test_a_path_in_place_of_a_module_is_told(path):
    with pytest.raises(UsageError, match="the thing: name the module without its path and ending, envs, in"):
        find_code(path, "the thing")


class Outer:
    class Inner:
        pass


def test_a_class_within_a_class():
    name = f"{__name__}:Outer.Inner"
    assert importable_name(Outer.Inner) == name
    assert find_code(name, "it") is Outer.Inner
    assert is_class_path(name)
    with pytest.raises(UsageError, match=r"has no 'Outer\.Other'"):
        find_code(f"{__name__}:Outer.Other", "it")


def test_what_can_be_imported_by_its_name_has_one():
    assert importable_name(Path) == f"{Path.__module__}:Path"
    assert find_code(importable_name(UsageError), "it") is UsageError
    assert importable_name(lambda: None) is None
    assert importable_name(Path("x").exists) is None
    assert importable_name(type("Local", (), {})) is None


def test_a_module_is_found_without_being_run(module_file):
    assert importable(module_file("raise ZeroDivisionError"))
    assert importable("json")
    assert importable("json.decoder")
    assert not importable("no_such_module")
    assert not importable("")


def test_a_long_reason_is_shortened():
    assert len(reason(ValueError("x" * 10_000))) < 500
    assert reason(ValueError("a  b\nc")) == "ValueError: a b c"
