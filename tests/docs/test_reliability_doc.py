"""The fault table in docs/reliability.md: every row names tests, and these exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")

_NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[str]:
    lines = [line for line in TABLE.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith(("|---", "| Fault |"))]


@functools.cache
def names_in(file: str) -> frozenset[str]:
    [path] = (ROOT / "tests").rglob(file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip())
def test_every_fault_has_a_test_that_exists(row: str) -> None:
    fault, happens, named = (cell.strip() for cell in row.strip("|").split(" | "))

    found = _NAMED.findall(named)
    assert fault
    assert happens
    assert found, f"no test is named for: {fault}"
    missing = [f"{file}::{test}" for file, test in found if test not in names_in(file)]
    assert not missing


def test_there_are_rows_to_check() -> None:
    assert len(rows()) > 25
