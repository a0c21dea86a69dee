"""`import lightning_trio` brings nothing, and every name when it is used first."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

import pytest

import lightning_trio as agl
from lightning_trio import _names
from lightning_trio.compat._modules import TOP_NAMES
from lightning_trio.compat._tree import GONE, STUBS, TREE


def for_type_checkers() -> Iterator[tuple[str | None, str]]:
    for node in ast.walk(ast.parse(inspect.getsource(agl))):
        if isinstance(node, ast.ImportFrom) and node.level and node.col_offset:
            for alias in node.names:
                assert alias.asname is not None
                if not alias.asname.startswith("__") and node.module != "_names":
                    yield node.module, alias.asname


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_type_checkers_and_programs_see_the_same_names() -> None:
    table = {(module, name) for name, module in _names.NAMES.items()}
    modules = {(None, name) for name in _names.MODULES}

    assert set(for_type_checkers()) == table | modules


@pytest.mark.parametrize("name", _names.ALL)
def test_every_name_is_there(name: str) -> None:
    assert getattr(agl, name) is getattr(agl, name)
    assert name in vars(agl)


def test_importing_the_package_imports_no_other() -> None:
    loaded = run("import sys, lightning_trio; print(*sys.modules)").split()

    assert "trio" not in loaded
    assert "attr" not in loaded
    assert {name for name in loaded if name.startswith("lightning_trio.")} == {
        "lightning_trio._version",
        "lightning_trio._names",
    }


def test_names_and_modules_can_be_listed_before_they_are_used() -> None:
    listed = run("import lightning_trio; print(*dir(lightning_trio))").split()

    assert set(listed) >= {*_names.ALL, "__version__"}


def test_all_names_can_be_imported_at_once() -> None:
    run("from lightning_trio import *; Runner, rollout, AttemptTimedOut, semconv.LightningSpanAttributes")


def test_a_submodule_is_an_attribute() -> None:
    assert run("import lightning_trio as agl; print(agl.embed.open_asyncio.__module__)") == "lightning_trio.embed\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Traner", "module 'lightning_trio' has no attribute 'Traner'; did you mean Trainer?"),
        ("emit_rewards", "module 'lightning_trio' has no attribute 'emit_rewards'; did you mean emit_reward?"),
        (
            "TraceTree",
            "module 'lightning_trio' has no attribute 'TraceTree'; for a trace as text write: format_trace(spans)",
        ),
        ("xyzzy", "module 'lightning_trio' has no attribute 'xyzzy'"),
        ("_private", "module 'lightning_trio' has no attribute '_private'"),
        (
            "Lane",
            "module 'lightning_trio' has no attribute 'Lane'; for the Literal of lane names write: LaneName; "
            "for the protocol of lanes write: lightning_trio.lanes.Lane",
        ),
        (
            "OtelTracer",
            "module 'lightning_trio' has no attribute 'OtelTracer'; write: Tracer; programs of Agent-lightning 0.3 "
            "find it in lightning_trio.compat, and run unchanged with python -m lightning_trio.compat script.py",
        ),
        (
            "APO",
            "module 'lightning_trio' has no attribute 'APO'; Agent-lightning 0.3 has it, and this package does "
            "not have it yet; see docs/migrating.md",
        ),
    ],
)
def test_a_name_that_is_not_there_says_what_to_write(name: str, message: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(agl, name)

    assert str(raised.value) == message
    assert raised.value.name == name
    # Python would add a suggestion of its own.
    assert traceback.format_exception_only(raised.value) == [f"AttributeError: {message}\n"]
    assert not hasattr(agl, name)


def test_names_reported_as_removed_are_gone() -> None:
    assert not _names.INSTEAD.keys() & {*_names.ALL}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("Traner", "did you mean Trainer?"),
        ("AgentOpsTracer", _names.INSTEAD["AgentOpsTracer"]),
        ("VERL", _names.INSTEAD["VERL"]),
    ],
)
def test_importing_a_name_that_is_not_there_says_what_to_write(name: str, advice: str) -> None:
    with pytest.raises(ImportError) as raised:
        exec(f"from lightning_trio import {name}")

    assert str(raised.value) == f"cannot import name {name!r} from 'lightning_trio'; {advice}"
    assert traceback.format_exception_only(raised.value) == [f"ImportError: {raised.value}\n"]


def test_tools_that_look_for_dunders_find_none() -> None:
    module: ModuleType = agl

    assert inspect.unwrap(module) is module
    assert not hasattr(module, "__wrapped__")
    assert inspect.getdoc(module)


def missing_names() -> list[str]:
    """Return the names of the package of Agent-lightning 0.3, and its modules, that do not exist here."""
    modules = {path.partition(".")[0] for path in TREE}
    return sorted({*TOP_NAMES, *modules} - {*_names.NAMES, *_names.MODULES})


@pytest.mark.parametrize("name", missing_names())
def test_each_name_of_agent_lightning_says_what_to_write_and_whether_compat_has_it(name: str) -> None:
    advice = _names.INSTEAD[name]

    assert ("lightning_trio.compat" in advice) == (name not in GONE and name not in STUBS)
