"""The house: imports point down, exports are real, nothing optional is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_trio

PACKAGE = Path(lightning_trio.__file__).parent

LAYERS: list[set[str]] = [
    {
        "semconv",
        "_async_signs",
        "_collector",
        "_components",
        "_containers",
        "_errors",
        "_exception_names",
        "_groups",
        "_ids",
        "_keys",
        "_processes",
        "_signals",
        "_stopping",
        "_version",
    },
    {"_records", "_resources", "_span"},
    {"_lifecycle", "_attributes", "_rewards", "_usage", "_trace_tree", "_redaction"},
    {"tracing", "_context", "emitter"},
    {"_signature", "_injection", "_packing", "_agent", "_returns", "_hooks", "store", "llm"},
    {"lanes", "_attempt", "_running", "_describe"},
    {
        "_datasets",
        "_lease",
        "_resume",
        "_audit",
        "_failures",
        "_storable",
        "_engine",
        "_stream",
        "_fit",
        "_runner",
        "algorithms",
    },
    {"_trainer", "embed"},
    {"testing"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The top-level module or package a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms of this package that a module imports when it runs."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            if node.module is None:
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.split(".")[0]


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = LAYER_OF[room(path)]

    above = [name for name in imported_rooms(path) if LAYER_OF[name] > own]

    assert not above


def test_nothing_but_the_test_kit_imports_the_test_kit() -> None:
    importers = [path.name for path in modules() if room(path) != "testing" and "testing" in imported_rooms(path)]

    assert not importers


def test_every_export_is_there_and_public() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    exported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]

    assert all(alias.name == alias.asname and hasattr(lightning_trio, alias.name) for alias in exported)
    assert not [alias.name for alias in exported if alias.name.startswith("_") and alias.name != "__version__"]


@pytest.mark.parametrize(
    "module",
    [
        "openai",
        "opentelemetry.sdk",
        "starlette",
        "hypercorn",
        "xllamacpp",
        "jinja2",
        "httpx",
        "asyncio",
        "trio_parallel",
        "multiprocessing",
    ],
)
def test_import_pulls_in_nothing_that_is_not_needed_yet(module: str) -> None:
    program = f"import sys, lightning_trio; sys.exit({module!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_all_errors_are_in_one_tree() -> None:
    from lightning_trio import _errors

    raised = [each for each in vars(_errors).values() if isinstance(each, type)]

    assert all(issubclass(each, lightning_trio.LightningTrioError | lightning_trio.AttemptAbandoned) for each in raised)


def test_the_tree_in_the_errors_docstring_names_them_all() -> None:
    from lightning_trio import _errors

    assert _errors.__doc__ is not None
    missing = [name for name, each in vars(_errors).items() if isinstance(each, type) and name not in _errors.__doc__]

    assert not missing
