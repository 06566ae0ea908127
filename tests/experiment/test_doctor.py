"""What the doctor finds, and that it finds what is wrong."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from a3c.cli import main
from a3c.experiment import doctor
from a3c.experiment.doctor import Finding
from leftovers import nothing_left
from own_mounts import where_file_systems_may_be_mounted

pytestmark = pytest.mark.timeout(120)


def test_a_sound_machine(tmp_path, capsys):
    with nothing_left():
        main(["doctor", "--run-dir", str(tmp_path), "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert all(finding["ok"] and not finding["fix"] for finding in findings)
    looked_at = {finding["what"] for finding in findings}
    assert {
        "Python",
        "torch",
        "cores",
        "shared memory",
        "gradients, forkserver",
        "gradients, spawn",
        "GPU",
        "numpy",
        "gymnasium",
        "memory",
        "open files",
        "run directory",
    } <= looked_at
    assert list(tmp_path.iterdir()) == []


def test_a_fix_stands_beside_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_python", lambda: Finding("Python", False, "2.7 [old]", "take a newer one"))
    for name in ("_extras", "_cores", "_memory", "_shared_memory", "_open_files", "_gpu"):
        monkeypatch.setattr(doctor, name, lambda: Finding("x", True, "fine", "nothing of this is shown"))
    monkeypatch.setattr(doctor, "_gradients", lambda method: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "take a newer one" in said
    assert "2.7 [old]" in said
    assert "ZeroDivisionError" in said
    assert "gradients, spawn" in said
    assert "nothing of this is shown" not in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such limit")
def test_too_few_open_files_are_the_fix_of_what_they_break():
    script = (
        "import resource, a3c.experiment.doctor as doctor, json\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        "print(json.dumps([finding._asdict() for finding in doctor.doctor()]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    bad = {row["what"]: row["fix"] for row in json.loads(ended.stdout.splitlines()[-1]) if not row["ok"]}
    assert bad.pop("open files") == "ulimit -n 4096"
    assert {"gradients, forkserver", "gradients, spawn"} <= bad.keys()
    assert set(bad.values()) <= {"ulimit -n 4096", "see the line of open files"}


def test_gradients_that_go_wrong_are_found(monkeypatch):
    plain = doctor._expected
    monkeypatch.setattr(doctor, "_expected", lambda pushes: plain(pushes + 1))
    with nothing_left():
        finding = doctor._gradients(multiprocessing.get_all_start_methods()[-1])
    assert not finding.ok
    assert "θ is not what the gradients make of it" in finding.said


def test_what_is_expected_is_what_one_process_comes_to():
    assert torch.equal(doctor._expected(0), torch.zeros(doctor._SIZE))
    assert doctor._expected(1).sign().equal(-doctor._gradient().sign())
    assert not torch.equal(doctor._expected(50), doctor._expected(51))


def test_too_old_a_package(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.3.1+cpu")
    assert doctor._package("torch", (2, 4)) == Finding("torch", False, "2.3.1+cpu", 'pip install "torch>=2.4"')
    assert doctor._package("torch", (2, 3)).ok


def test_a_directory_that_cannot_be_written(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.os, "fsync", full)
    finding = doctor._disk(tmp_path / "runs" / "deep")
    assert not finding.ok
    assert finding.said == f"{tmp_path}: No space left on device"
    assert finding.fix == "name another --run-dir"
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_takes_nothing_is_named(tmp_path):
    script = (
        f"mount -t tmpfs -o ro tmpfs {tmp_path} || exit 77\n"
        f"exec {sys.executable} -c 'from a3c.experiment import doctor; from pathlib import Path; "
        f"""print(doctor._disk(Path("{tmp_path}")))'"""
    )
    ended = where_file_systems_may_be_mounted(script)
    assert "Read-only file system" in ended.stdout, ended.stderr
    assert "fix='name another --run-dir'" in ended.stdout
