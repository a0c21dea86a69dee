"""Public names have the public module as their `__module__`, and work under that name."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
import traceback
import typing
from types import FunctionType
from typing import Any

import attrs
import msgspec
import pytest

import lightning_trio as agl
from lightning_trio._errors import Terminated
from lightning_trio._records import exception_names
from lightning_trio._serialization import decode, encode

PACKAGES = (
    "lightning_trio",
    "lightning_trio.adapters",
    "lightning_trio.algorithms",
    "lightning_trio.embed",
    "lightning_trio.lanes",
    "lightning_trio.llm",
    "lightning_trio.store",
    "lightning_trio.testing",
    "lightning_trio.tracing",
)


def names(package: str) -> list[str]:
    """Return the names that a package exports to users."""
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    found = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    # Packages that export names for this package's own use, too, say in `__all__` which ones are for users.
    public = found if module is agl else set(getattr(module, "__all__", found))
    assert public <= found
    return sorted(name for name in public if name and not name.startswith("__"))


EXPORTED: dict[str, Any] = {
    **{
        f"{package}.{name}": getattr(importlib.import_module(package), name)
        for package in reversed(PACKAGES)
        for name in names(package)
    },
    **{f"lightning_trio.{name}": each for name, each in vars(agl.emitter).items() if hasattr(agl, name)},
}
CLASSES: dict[str, type] = {name: each for name, each in EXPORTED.items() if inspect.isclass(each)}
FUNCTIONS: dict[str, FunctionType] = {name: each for name, each in EXPORTED.items() if inspect.isfunction(each)}
HOMES = {id(each): name.rpartition(".")[0] for name, each in EXPORTED.items()}
"""The public module of each object: the top one if that exports it."""


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_a_public_name_says_the_public_module(name: str) -> None:
    module, home = EXPORTED[name].__module__, HOMES[id(EXPORTED[name])]
    assert module == home, (
        f"{name} says that it is in {module}; list it in _names.py and __init__.py, or write @public_in({home!r})"
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_hints_of_a_public_class_can_be_resolved(name: str) -> None:
    hints = typing.get_type_hints(CLASSES[name], include_extras=True)

    assert not [hint for hint in hints.values() if isinstance(hint, str | typing.ForwardRef)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_hints_of_a_public_function_can_be_resolved(name: str) -> None:
    assert "return" in typing.get_type_hints(FUNCTIONS[name])


def test_the_types_of_all_records_fields_can_be_resolved() -> None:
    # In another process, because resolving changes the classes.
    program = (
        "import attrs, pickle, sys\n"
        "for kind in pickle.load(sys.stdin.buffer):\n"
        "    assert not [each for each in attrs.fields(attrs.resolve_types(kind)) if isinstance(each.type, str)], kind"
    )
    records = [each for each in CLASSES.values() if attrs.has(each)]

    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(records), capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_a_public_name_is_pickled_as_such(name: str) -> None:
    pickled = pickle.dumps(EXPORTED[name])

    assert pickle.loads(pickled) is EXPORTED[name]
    assert b"lightning_trio._" not in pickled


RECORDS = [
    agl.Usage(1, 2, 0.5),
    agl.RewardDimension("correct", 1.0),
    agl.ErrorRecord("KeyError", "'tea'", ""),
    agl.RolloutConfig(timeout_seconds=1.0, retry_exceptions=[agl.AttemptTimedOut]),
    agl.Rollout("ro-1", "input", 0.0),
    agl.Attempt("at-1", "ro-1", 1, 0.0),
    agl.TraceStatus("ERROR", "why"),
    agl.DatasetFingerprint(3, "digest"),
]


@pytest.mark.parametrize("value", RECORDS, ids=lambda value: type(value).__name__)
def test_a_record_is_pickled_by_its_public_name(value: object) -> None:
    pickled = pickle.dumps(value)

    assert pickle.loads(pickled) == value
    assert b"lightning_trio._" not in pickled


@pytest.mark.parametrize("value", RECORDS, ids=lambda value: type(value).__name__)
def test_msgspec_reads_what_it_wrote_of_a_record(value: object) -> None:
    written = msgspec.json.encode(value)
    read = msgspec.json.decode(written, type=type(value))

    assert type(read) is type(value)
    # Not the value itself, because msgspec makes a list of a sequence.
    assert msgspec.json.encode(read) == written


def test_an_error_is_pickled_and_shown_by_its_public_name() -> None:
    error = agl.RunnerClosed("write: async with runner: …")
    pickled = pickle.dumps(error)

    assert str(pickle.loads(pickled)) == str(error)
    assert b"lightning_trio._" not in pickled
    assert traceback.format_exception_only(error) == ["lightning_trio.RunnerClosed: write: async with runner: …\n"]


@pytest.mark.parametrize("module", ["_errors", "_timeouts_of_another_version"])
def test_exceptions_to_retry_are_kept_by_their_public_names(module: str) -> None:
    assert exception_names([agl.AttemptTimedOut]) == ("lightning_trio.AttemptTimedOut",)
    assert exception_names([f"lightning_trio.{module}.AttemptTimedOut"]) == ("lightning_trio.AttemptTimedOut",)


def test_a_stored_value_names_the_public_class() -> None:
    stored = encode({"by": agl.Usage(1)}, "task", 1000)

    assert '"lightning_trio:Usage"' in stored
    assert decode(stored) == {"by": agl.Usage(1)}
    assert decode(stored.replace("lightning_trio:", "lightning_trio._anywhere:")) == {"by": agl.Usage(1)}


def test_a_private_class_keeps_its_private_name() -> None:
    assert exception_names(["lightning_trio._errors.Terminated"]) == ("lightning_trio._errors.Terminated",)
    assert Terminated.__module__ == "lightning_trio._errors._stop"
