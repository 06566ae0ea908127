"""What a run's processes do first."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from a3c.models.torsos import image_torso
from a3c.runtimes.child_process import keep_freed_memory, use_one_thread

use_one_thread()
if sys.argv[1] == "keep":
    keep_freed_memory()
torso, images = image_torso("a3c", 4, 84, 84), torch.rand(48, 4, 84, 84)
for update in range(120):
    if update == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.autograd.grad(torso(2 * images).square().mean(), list(torso.parameters()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Where they are not named, glibc raises its thresholds when a large array is freed, and by chance keeps most of them.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def faults(*arguments):
    """Pages that a hundred updates take anew."""
    command = [sys.executable, "-c", FAULTS, *arguments]
    environment = {**os.environ, **GIVES_BACK}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_learning_uses_freed_memory_again_instead_of_fresh_pages():
    assert faults("keep") < faults("give back") / 30


THREADS = """
import os
from a3c.runtimes.child_process import use_one_thread

use_one_thread()
print(os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"])
"""


@pytest.mark.parametrize(("named", "printed"), [({}, "1 1"), ({"OMP_NUM_THREADS": "3"}, "3 1")])
def test_what_is_loaded_later_takes_one_thread_but_where_the_user_says_otherwise(named, printed):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | named
    command = [sys.executable, "-c", THREADS]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.stdout.strip() == printed
