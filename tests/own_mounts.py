"""Programs that have file systems of their own, for tests of full, small and unwritable ones."""

import subprocess

import pytest


def where_file_systems_may_be_mounted(script):
    """A script's end, by bash, which has file systems of its own; it exits with 77 where it cannot mount one."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "unshare" in ended.stderr or ended.returncode == 77:
        pytest.skip("needs a user namespace")
    return ended
