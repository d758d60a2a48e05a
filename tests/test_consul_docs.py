"""docs/consul.md names a test for every scenario and hazard that concerns us, and each is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "consul.md").read_text()
ROW = re.compile(r"^\| (H?\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)?::(\w+)`")


@cache
def functions_of(file: str) -> dict[str, str]:
    """Return the functions of a file of tests, with their docstrings."""
    tree = ast.parse((TESTS / file).read_text())
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def named(cell: str) -> list[tuple[str, str]]:
    """Return the tests that a cell names; `::name` is in the file of the one before."""
    file = ""
    found = []
    for path, name in NAMED.findall(cell):
        file = path or file
        found.append((file, name))
    return found


def test_every_scenario_and_every_hazard_has_a_row() -> None:
    rows = [number for number, _, _ in ROW.findall(TEXT)]

    assert rows == [*map(str, range(1, 48)), *(f"H{number}" for number in range(1, 23))]


def test_every_test_that_is_named_is_there_and_says_what_it_is_about() -> None:
    count = 0
    for number, _, cell in ROW.findall(TEXT):
        numbers = set()
        for file, name in named(cell):
            assert name in functions_of(file), (number, file, name)
            told = f"{name} {functions_of(file)[name]}".lower()
            numbers |= set(re.findall(r"(?<![\d:#])h?\d+", told.replace("_", " ")))
            count += 1
        assert not numbers or number.lower() in numbers or number in {"45", "H14", "H19"}, number
    assert count > 60
