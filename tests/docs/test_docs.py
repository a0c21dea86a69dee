"""The code in the README, in docs/ and in docstrings runs and prints what is written below it."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import importlib
import inspect
import io
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import lightning_trio

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(python|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Example(NamedTuple):
    """A ```python block, the line it starts on, and the ```output block after it, if there is one."""

    line: int
    code: str
    output: str | None


def examples(document: Path) -> list[Example]:
    text = document.read_text(encoding="utf-8")
    found: list[Example] = []
    for match in _FENCED.finditer(text):
        kind, body = match.groups()
        if kind == "python":
            found.append(Example(text.count("\n", 0, match.start(2)), body, None))
        else:
            found[-1] = found[-1]._replace(output=body)
    return found


def package_modules() -> Iterator[str]:
    yield lightning_trio.__name__
    for module in pkgutil.walk_packages(lightning_trio.__path__, f"{lightning_trio.__name__}."):
        # pytest has loaded its plugin before this, and the plugin has no examples.
        if not module.name.endswith(".pytest_plugin"):
            yield module.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_the_code_in_a_document_runs_and_prints_what_it_says(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    namespace = ModuleType(f"documents.{document.stem}")
    monkeypatch.setitem(sys.modules, namespace.__name__, namespace)

    for example in examples(document):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            # Blank lines before it let a traceback name the document's own line.
            exec(compile("\n" * example.line + example.code, document, "exec"), vars(namespace))

        if example.output is not None:
            got, where = printed.getvalue(), f"{document.name}, the block at line {example.line}"
            assert doctest.OutputChecker().check_output(example.output, got, _FLAGS), f"{where} printed:\n{got}"


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class DefinedIn(doctest.DocTestFinder):
    """Go by where a class or function is defined: its ``__module__`` may be the public module that exports it."""

    def _from_module(self, module: ModuleType, object: Any) -> bool:
        if isinstance(object, property) or any(vars(module).get(name) is object for name in defined_names(module)):
            return True
        # Inside a class; what the module imported has other globals.
        return getattr(inspect.unwrap(object), "__globals__", None) is vars(module)


@functools.cache
def defined_names(module: ModuleType) -> list[str]:
    tree = ast.parse(inspect.getsource(module))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef | FUNCTIONS)]


@pytest.mark.parametrize("name", list(package_modules()))
def test_the_examples_in_a_modules_docstrings_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("OPENAI_")]:
        monkeypatch.delenv(variable)
    runner = doctest.DocTestRunner()

    with contextlib.redirect_stdout(io.StringIO()) as report:
        for found in DefinedIn().find(importlib.import_module(name)):
            runner.run(found)

    assert not runner.failures, report.getvalue()


def test_all_examples_in_docstrings_are_found() -> None:
    """A finder skips what it takes for another module's, and says nothing."""
    written = sum(
        len(doctest.DocTestParser().get_examples(docstring))
        for path in sorted(Path(lightning_trio.__path__[0]).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | FUNCTIONS)
        if (docstring := ast.get_docstring(node, clean=False))
    )

    found = sum(
        len(each.examples) for name in package_modules() for each in DefinedIn().find(importlib.import_module(name))
    )

    assert found == written
