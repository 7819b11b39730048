"""docs/reliability.md and the tests agree: each row has its tests, and each test of a row is named there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "faults"
ROWS = [*range(1, 30)]
TABLE = {
    int(row[1]): set(re.findall(r"`(tests/\S+\.py::\w+)`", row[0]))
    for row in re.finditer(r"^\| (\d+) \|.*$", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"), re.M)
}


def names_in(path: Path) -> list[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_the_table_has_every_row():
    assert list(TABLE) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_tests_that_exist(row):
    assert TABLE[row]
    for name in TABLE[row]:
        file, _, test = name.partition("::")
        assert test in names_in(ROOT / file), name


def test_each_test_of_a_row_is_named_in_that_row():
    for path in sorted(FOLDER.glob("test_*.py")):
        for test in names_in(path):
            if found := re.match(r"test_row_(\d\d)_", test):
                assert f"tests/faults/{path.name}::{test}" in TABLE[int(found[1])], test


def test_make_faults_runs_every_file_of_the_table():
    listed = re.search(r"^FAULT_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert listed
    run = [ROOT / name for name in listed[1].split()]
    for name in sorted({name.partition("::")[0] for names in TABLE.values() for name in names}):
        assert any((ROOT / name).is_relative_to(each) for each in run), name
