"""The table of benchmarks/learning.py: which runs make a row, and how surely its mean is known."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import curves
import learning


def record(seed, mean, **more):
    return {
        "name": "CartPole-v1",
        "env": "CartPole-v1",
        "by": "a3c",
        "seed": seed,
        "commit": "abc",
        "command": f"a3c train CartPole-v1 --seed {seed}",
        "env_steps": 1000,
        "seconds": 60.0,
        "training_return": mean,
        "return_mean": mean,
        "machine": {"platform": "Linux", "cores": 2},
        **more,
    }


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| Cart")]


def test_seeds_of_the_next_thousand_stand_in_place_of_those_the_preset_was_chosen_by():
    old = [record(seed, 100.0 * (seed - 999)) for seed in (1000, 1001, 1002)]
    new = [record(seed, 7.0, evaluation_seed=10_000 + seed) for seed in (2000, 2001)]
    (row,) = cells(learning.table(old, "some.jsonl"))
    assert row[:7] == ["CartPole-v1", "a3c", "500", "**200.0**", "100.0 to 300.0", "100.0", "1000 to 1002"]
    text = learning.table([*old, *new], "some.jsonl")
    (row,) = cells(text)
    assert row[3:8] == ["**7.00**", "7.00 to 7.00", "7.00", "2000 to 2001", "7.00, 7.00"]
    assert "is in some.jsonl." in text
    assert "Of a3c's 5 policies 3 were evaluated by seed 0, the others by 10000 + S." in text


def test_where_a_peer_has_other_seeds_a3cs_of_those_are_told():
    ours = [record(1000, 3.0, commit="old"), record(1000, 5.0), record(1001, 7.0), record(2000, 100.0)]
    theirs = [record(seed, 1.0, by="sb3") for seed in (1000, 1001, 1002)]
    text = learning.table([*ours, *theirs], "some.jsonl")
    assert "- CartPole-v1: 6.00 (abc, seeds 1000, 1001)" in text
    assert "By the seeds of a peer's row" not in learning.table([*ours, record(2000, 1.0, by="sb3")], "some.jsonl")


def test_a_run_is_evaluated_by_a_seed_of_its_own(tmp_path, monkeypatch):
    evaluation = {"seed": 11_003, "return_mean": 1.0, "return_std": 0.0, "return_ci95": [1.0, 1.0]}
    asked = []
    monkeypatch.setattr(learning.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(learning, "last_line", lambda command: asked.append(command) or json.dumps(evaluation))
    (tmp_path / "summary.json").write_text(json.dumps({"env_steps": 8, "seconds": 1.0, "return_mean_100": None}))
    assert learning.run_ours("CartPole-v1", 1003, {}, tmp_path)["evaluation_seed"] == 11_003
    assert asked[0][-2:] == ["--seed", "11003"]


def test_beside_a_peer_a_seed_is_run_by_both_or_by_none(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "code_commit", lambda by: "abc")
    results = tmp_path / "some.jsonl"
    lines = [record(1, 1.0), record(2, 1.0), record(2, 1.0, by="sb3"), record(3, 1.0, commit="old"), record(4, 1.0)]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def undone(libraries, resume=False):
        return list(learning.undone("CartPole-v1", range(1, 5), libraries, results, resume))

    assert undone(["a3c"]) == [(3, "a3c")]
    assert undone(["a3c"], resume=True) == []
    assert undone(["a3c", "sb3"]) == [(seed, by) for seed in (1, 3, 4) for by in ("a3c", "sb3")]


def test_what_is_said_under_the_table_is_of_its_rows():
    text = learning.table([record(1000, 3.0)], "some.jsonl")
    assert "Rows by sb3" not in text
    assert [line for line in text.splitlines() if " within " in line] == [
        "- CartPole-v1: 500 within 500,000 steps, rl-zoo's A2C"
    ]
    assert "Rows by sb3" in learning.table([record(1000, 3.0), record(1000, 1.0, by="sb3")], "some.jsonl")


def test_a_curve_begins_where_a_hundred_episodes_have_ended():
    rows = [f"0,{100 * (number // 4)},{number},{number % 2},5,{number + 1}" for number in range(400)]  # four at a step
    curve = curves.learning_curve(rows)
    assert curve[0].tolist() == [2400.0, 99 / 60, 0.5]
    assert curve[-1].tolist()[0] == 9900.0
    older = [row.rpartition(",")[0] for row in rows]  # without a number
    assert (curves.learning_curve(older) == curve).all()
    (short,) = curves.learning_curve(rows[:3])
    assert short.tolist() == [0.0, 2 / 60, 1 / 3]
