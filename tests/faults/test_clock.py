"""Row 17: a clock that jumps. Durations are of the monotonic clock, and nothing is named after the time."""

import ast
import json
from pathlib import Path

import pytest
from evidence import named, weights

from preceptor.core.artifact import load

SOURCES = Path(__file__).resolve().parents[2] / "src" / "preceptor"
DAY = 86_400
# Where the time of day is looked at, and why that may be.
TOLD = {
    "core/artifact.py",  # when an artifact was made, which is no part of its identity
    "train/events.py",  # when something out of the ordinary was logged
    "train/hooks.py",  # when a step was logged
    "train/trackers.py",  # when a tracker was told
}


@pytest.fixture(scope="module")
def steady(nursery, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steady")
    assert nursery.run(folder / "run", folder / "notes")[0] == 0
    return folder


@pytest.mark.parametrize("jumps", [[DAY], [-DAY], [DAY, -DAY, -DAY, DAY]], ids=["forward", "backward", "both"])
def test_row_17_a_clock_that_jumps_changes_no_weight_no_name_and_no_duration(nursery, steady, tmp_path, jumps):
    run, notes = tmp_path / "run", tmp_path / "notes"
    code, said = nursery.run(run, notes, clock_jumps=jumps)
    assert code == 0, said
    assert weights(notes) == weights(steady / "notes")
    for ours, theirs in zip(named(run), named(steady / "run"), strict=True):
        ours, theirs = load(ours), load(theirs)
        assert ours.path.name == theirs.path.name
        # All but the state, which holds how long the steps took.
        assert {name: file for name, file in ours.files.items() if name != "state.json"} == {
            name: file for name, file in theirs.files.items() if name != "state.json"
        }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["seconds"] < 60 for line in lines)
    state = json.loads((named(run)[-1] / "state.json").read_text())
    assert 0 < state["seconds"] < 600
    assert max(line["at"] for line in lines) - min(line["at"] for line in lines) > DAY / 2, "the clock did not jump"


def test_row_17_the_time_of_day_is_looked_at_only_where_it_is_told():
    found = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.time", "time.time_ns"}:
                found.add(path.relative_to(SOURCES).as_posix())
    assert found <= TOLD, "take time.monotonic() for durations, and put no time into what names something"
