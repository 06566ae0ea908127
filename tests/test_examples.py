"""The examples run to their end, and what the documents name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from leftovers import nothing_left

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

TINY = 2_000  # environment steps

# `python SCRIPT ARGUMENTS`, but for the budget of what it trains.
RUNNER = f"""
import runpy, sys
import a3c
train = a3c.train
a3c.train = lambda env, **settings: train(env, **(settings | dict(total_env_steps={TINY})))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_to_its_end(name, tmp_path):
    own = ["--total-env-steps", str(TINY)] if name == "a3c_one_file.py" else []  # it does not use the library
    command = [sys.executable, "-c", RUNNER, str(ROOT / "examples" / name), *own]
    with nothing_left():
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(r"mean return -?\d|after [\d,]+ steps", result.stdout.splitlines()[-1])


def anchor(heading: str) -> str:
    """What a heading is called in a link, as GitHub has it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), target


def test_code_beside_the_papers_pseudocode_is_in_the_library():
    document = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
    table = document.partition("| algorithm S3")[2].partition("\n\n")[0]
    code = [snippet for row in table.splitlines() for snippet in re.findall(r"`([^`]+)`", row.split(" | ")[-1])]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert len(code) >= 10
    assert [snippet for snippet in code if snippet not in sources] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document):
    """Each `test_...` stands in the test file that is linked last before it."""
    text, source = document.read_text(encoding="utf-8"), ""
    for linked, name in re.findall(r"\]\(([^)\s]*tests/[^)\s]*\.py)\)|`(test_\w+)`", text):
        if linked:
            source = (document.parent / linked).read_text(encoding="utf-8")
        else:
            assert re.search(rf"def {name}\b", source), name
