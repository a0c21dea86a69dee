"""The map in docs/architecture.md is one of what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lightning_trio

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(lightning_trio.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

PATHS = sorted(set(re.findall(r"`([\w/]+(?:\.py|\.md|\.toml|/))`", PAGE)))
"""The files and folders that the page names."""

FOLDERS = (PACKAGE, ROOT, *(PACKAGE / name for name in ("store", "lanes", "tracing", "tracing/instrumentation")))
"""What paths in the page are relative to."""

TO_COME = {"export/", "tests/export/", "cli/", "tests/cli/"}
"""What the page says is not there yet."""


def floors() -> list[str]:
    """Read the floors from the test that enforces them."""
    tree = ast.parse((ROOT / "tests" / "test_layout.py").read_text(encoding="utf-8"))
    [value] = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS"
    ]
    return list(ast.literal_eval(value))


def test_the_table_has_all_floors_in_their_order() -> None:
    table = PAGE.partition("## The floors")[2].partition("\n## ")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == floors()


@pytest.mark.parametrize("path", [path for path in PATHS if "NAME" not in path])
def test_a_file_that_the_page_names_is_there(path: str) -> None:
    found = [folder / path for folder in FOLDERS if (folder / path).exists()]

    assert bool(found) == (path not in TO_COME)


def test_the_life_of_a_rollout_has_twelve_steps() -> None:
    life = PAGE.partition("## The life of a rollout")[2].partition("\n## ")[0]

    assert [int(number) for number in re.findall(r"^(\d+)\. ", life, re.MULTILINE)] == list(range(1, 13))


@pytest.mark.parametrize(
    "what", ["lane", "store", "kind of span", "adapter", "instrumentation", "algorithm", "export", "command"]
)
def test_the_page_says_how_to_add_one(what: str) -> None:
    assert re.search(rf"^### … an? {what}\?$", PAGE, re.MULTILINE)
