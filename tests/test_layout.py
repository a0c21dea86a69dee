"""The house: packages in one strict order, reached through their doors, no knots, nothing optional imported early."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import lightning_trio

PACKAGE = Path(lightning_trio.__file__).parent

FLOORS = (
    "semconv",
    "_version",
    "_names",
    "_public",
    "_ids",
    "_containers",
    "_plain_values",
    "_quick_init",
    "_exception_text",
    "_log",
    "_repr",
    "_plain_record",
    "_errors",
    "_checks",
    "_concurrency",
    "_host",
    "_chat_format",
    "_spans",
    "_resources",
    "_records",
    "_lifecycle",
    "_serialization",
    "tracing",
    "emitter",
    "adapters",
    "store",
    "llm",
    "server",
    "algorithms",
    "lanes",
    "_agents",
    "_runner",
    "_trainer",
    "embed",
    "testing",
    "compat",
)
"""The rooms from the ground up: each imports only from those before it."""

FLOOR_OF = {name: number for number, name in enumerate(FLOORS)}

TYPE_ONLY_UPWARDS = {
    ("_resources", "_records"): "ProxyLLM names the attempt in its endpoint",
    ("_agents", "_runner"): "a LitAgent gives its runner",
    ("_agents", "_trainer"): "a LitAgent gives its trainer",
    ("algorithms", "_trainer"): "an Algorithm gives its trainer",
}
"""What points up for type checkers only, and why."""


_CLOSES = "closes what it has opened, and raises again"
_BECOMES_AN_OUTCOME = "an attempt's boundary: whatever the agent raises is how its attempt ended"
_TO_ANOTHER_THREAD = "what a call raises goes to the thread that waits for it"
_STAYS_IN_A_LIBRARY = "OpenTelemetry calls it from the agent's code, which no fault of ours may reach; it is logged"
_RUNS_USERS_CODE = "pickling and unpickling run users' code; what they raise is told with what to change"

BROAD_EXCEPTS = {
    "_agents/_copies.py AgentCopies._copy": "copying runs users' code; the agent's attempts fail, or no runner opens",
    "_agents/_injection.py _evaluated": "an annotation is any expression; one that fails chooses no resource",
    "_agents/_injection.py _parameters": "as above; the parameter's others still count",
    "_concurrency/_await_stack.py _look_into": "an awaitable may be of an agent's class; the frames end there",
    "_concurrency/_exception_groups.py split": "the classes of agents' groups may define `derive`; split without it",
    "_concurrency/_exception_groups.py note": "an exception that takes no notes is raised without them",
    "_exception_text.py message_of": "`str()` of a user's exception; a failure is its message",
    "_exception_text.py repr_of": "`repr()` of a user's value; a failure is its text",
    "_exception_text.py _own_lines": "a loader of the program's own may fail; the lines without their text",
    "_exception_text.py traceback_of": "the parts of a user's exception; what cannot be formatted is left out",
    "_containers.py copy_containers": "hashing a key runs users' code; what cannot be copied is shared",
    "_containers.py copy_in_steps": "as above",
    "_containers.py is_long_to_copy": "another thread may change it, or it contains itself; it is taken for short",
    "_host/_exit.py _leave_behind": "at exit, raised, it would keep Python from joining the program's threads",
    "_concurrency/_leavable_nursery.py LeavableNursery.hold": "a system task would crash Trio; raised in the block's",
    "_concurrency/_leavable_nursery.py open_leavable_nursery": "what ends the block cancels its tasks; raised again",
    "_host/_signals.py _print_descriptions": "in a signal's handler, which would raise into any code; it is printed",
    "_log.py Log._log": "filters and handlers are the program's or an agent's; the message is lost, and no rollout",
    "_log.py _report": "an agent may have replaced standard error; the report is lost as well, and no rollout",
    "_repr.py one_line.__repr__": "a repr must not raise in a debugger; it names what failed",
    "_repr.py shortened": "`repr()` of any value, for a message; a failure shows its class",
    "_resources/_api_keys.py _clean_record": "a log message is of any values; its handlers report what it raises",
    "_runner/_attempt.py _call_watched": "an agent that has returned keeps its result, whatever its watcher did then",
    "_runner/_attempt.py _close": "what a hook lets through ends the attempt, as if the agent had raised it",
    "_runner/_attempt.py _reach_ending": _BECOMES_AN_OUTCOME,
    "_runner/_attempt.py run_attempt": "reading what an agent raised or recorded runs its code; a bare record",
    "_runner/_commits.py Commits._commit": "what a store raises for one outcome, a user's too, fails its attempt",
    "_runner/_engine.py Engine._next_attempt": "gives its slot and the rollout back, and raises again",
    "_runner/_fit.py Fit._record_last": "why the run is being cut off is on its way up; it is logged",
    "_runner/_fit.py Fit._work": "makes the run's last record, and raises again",
    "_runner/_hooks.py HookCalls._call": "hooks watch rollouts and do not fail them; it is logged",
    "lanes/_returns.py _converted": "a returned span may be a user's object; the attempt fails",
    "lanes/_returns.py _owned": "a returned span may be a user's object; the attempt fails",
    "_runner/_looks.py Looks.take": "tasks, frames and names are an agent's; the watch over all attempts goes on",
    "_runner/_lease.py _end_lease": "the runner is closing, and leases expire by themselves; it is logged",
    "_runner/_runner.py Runner.__aenter__": "a runner that has failed to open can be opened again; raised again",
    "_serialization/_large_values.py _Reader._part": "noted, and raised again unchanged",
    "_serialization/_large_values.py _encode_large": "as below, for a large value, which `encode` then says more about",
    "_serialization/_large_values.py is_large": "an attribute may be computed by a user's code; it is taken for small",
    "_serialization/_large_values.py decode_value": "as `decode`, for a large value",
    "_serialization/_tag_writer.py tagged": "reading an object may run a user's code; the error has its path",
    "_serialization/_values.py _encoded": "as above, for a value that changes while it is read",
    "_runner/_storable.py finish_bare": "what a store raises for a root span; a status and plain text take its place",
    "_serialization/_spans.py _guarded": "methods of whatever is in a span run; the error has the rollout",
    "_serialization/_values.py _read_back": "making an object again may run a user's code; the error has its path",
    "_serialization/_values.py encode_mapping": "a user's mapping; the error has its name",
    "_serialization/_values.py decode": "making objects runs users' code, in a store's thread; the text is unreadable",
    "_spans/_attributes.py _plain_number": "methods of any value; `to_json` describes it",
    "_spans/_attributes.py to_json": "`str()` of any value; describing it must not stop the agent",
    "algorithms/_datasets.py _are_same": "comparing runs users' code; what cannot be compared is taken for the same",
    "algorithms/_datasets.py encoded_task": "`repr()` of any task; a failure shows its class",
    "compat/_runners.py logging_errors": "clean-up goes on, as in Agent-lightning 0.3; it is logged",
    "compat/_script.py _call": "a program's errors are shown as Python shows them, without the frames that run it",
    "compat/_tracers.py DummyTracer.operation_context": "the span shows what ended its block; raised again",
    "compat/_tracers.py OpenOperation.running": "the span shows what ended its block; raised again",
    "embed/_blocking.py BlockingRunner.__enter__": _CLOSES,
    "embed/_blocking.py _Caller.wait": "a caller that is interrupted cancels what it waits for; raised again",
    "embed/_host.py TrioHost._run": _TO_ANOTHER_THREAD,
    "embed/_loop_stream.py LoopStream.__aenter__": _CLOSES,
    "embed/_loop_stream.py LoopStream._read": _TO_ANOTHER_THREAD,
    "embed/_outside_stream.py read_task": _TO_ANOTHER_THREAD,
    "lanes/_asyncio/_background.py _kind_of": "a task may be of an agent's class; its class stands for its function",
    "lanes/_asyncio/_background.py _name_of": "a task may be of an agent's class; the message names what it raises",
    "lanes/_asyncio/_call.py AsyncioCall._run": _BECOMES_AN_OUTCOME,
    "lanes/_asyncio/_call.py AsyncioCall._end_children": "an agent's tasks are of its classes; its result is kept",
    "lanes/_asyncio/_call.py AsyncioCall._watch_others": "what agents hold is of their classes; logged, and cancelled",
    "lanes/_asyncio/_clean_up.py CleanUp.end": "comparing the callbacks of a future runs agents' code; one stays there",
    "lanes/_asyncio/_loop.py AgentLoop._cancel_calls": "at exit; what one agent awaits keeps no other from its end",
    "lanes/_asyncio/_loop.py _cancel_all": "at exit; a task may be of an agent's class, and the others end",
    "lanes/_asyncio/_loop.py AgentLoop.location": "names code of agents, in Trio's thread, where it would end the run",
    "lanes/_asyncio/_loop.py AgentLoop._run": "the end of a thread: what killed its loop fails the calls in it",
    "lanes/_asyncio/_loop.py AgentLoop._run_stage": "a task's SystemExit must not keep the loop from closing",
    "lanes/_asyncio/_loop.py _log_error": "asyncio's filters and handlers may be an agent's; it is logged",
    "lanes/_asyncio/_shared_loop.py tasks_of": "a task may be of an agent's class; those of the lane are found",
    "lanes/_asyncio/_shared_loop.py _is_pending": "as above; it is left alone",
    "lanes/_place.py code_line": "a module's loader may be the program's own; the line is shown without its text",
    "lanes/_thread.py _call": "what an agent raises goes to Trio's thread",
    "lanes/_process/_pickling.py _find_culprit": "pickling runs users' code; a part that fails is the one looked for",
    "lanes/_process/_pickling.py pack_agent": _RUNS_USERS_CODE,
    "lanes/_process/_pickling.py unpack_agent": _RUNS_USERS_CODE,
    "lanes/_process/_pool.py OpenProcessLane._pack": _RUNS_USERS_CODE,
    "lanes/_process/_pool.py _to_local": "unpickling runs users' code; an exception that fails is known by its name",
    "lanes/_process/_worker.py _pickled": "pickling of a user's exception; another one stands for it",
    "lanes/_process/_worker.py run_in_worker": _BECOMES_AN_OUTCOME,
    "store/_postgres/_connection.py PostgresConnection._connect_once": _CLOSES,
    "store/_postgres/_notifications.py Hints._listen": _CLOSES,
    "store/_postgres/_store.py PostgresLightningStore._open_writer": _CLOSES,
    "store/_postgres/_store.py PostgresLightningStore.on_open": _CLOSES,
    "store/_postgres/_tables.py prepare": "rolls back, and raises again",
    "store/_primitives.py _marks_open.enter": _CLOSES,
    "store/_sql/_group_commit.py GroupCommit._commit": _TO_ANOTHER_THREAD,
    "store/_sql/_group_commit.py GroupCommit._run_each": _TO_ANOTHER_THREAD,
    "store/_sql/_group_commit.py GroupCommit._try": "one call of a group fails; the others are run again without it",
    "store/_sql/_group_commit.py _Thread._main": _TO_ANOTHER_THREAD,
    "store/_sql/_store.py SqlLightningStore._open_first": _CLOSES,
    "store/_sqlite/_store.py SqliteLightningStore._open_writer": _CLOSES,
    "store/_sqlite/_store.py SqliteLightningStore._connect_reader": _CLOSES,
    "store/_sqlite/_store.py SqliteLightningStore._open_once": _CLOSES,
    "store/_sqlite/_store.py SqliteLightningStore._prepare": "rolls back, and raises again",
    "store/_run_store.py RunStore.enqueue": "gives back what was counted, and raises again",
    "testing/_check_store.py _run": "adds the name of the check, and raises again",
    "tracing/_export.py ExportQueue._export": "an exporter may be a user's; what it loses is counted",
    "tracing/_export.py ExportQueue._try_to_convert": "an agent may have returned the span; its loss is counted",
    "tracing/_otel.py SpanRouter.on_end": _STAYS_IN_A_LIBRARY,
    "tracing/_otel.py SpanRouter.on_start": _STAYS_IN_A_LIBRARY,
}
"""Where `Exception` or `BaseException` is caught, whether or not it is raised again, and why."""


class Import(NamedTuple):
    """One imported name: the file or package it comes from, and whether only type checkers see it."""

    source: Path
    name: str
    type_only: bool
    line: int

    @property
    def file(self) -> Path:
        """The file that is executed by it: that of a module, or of the package whose name it is."""
        for path in (self.source / f"{self.name}.py", self.source / self.name / "__init__.py"):
            if self.source.is_dir() and path.is_file():
                return path
        return self.source / "__init__.py" if self.source.is_dir() else self.source.with_suffix(".py")


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def short(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room(path: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    """What a file imports from this package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node, type_only in walk(tree, False):
        if isinstance(node, ast.ImportFrom) and node.level:
            source = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                yield Import(source, alias.name, type_only, node.lineno)


def walk(tree: ast.AST, type_only: bool) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        inside = type_only or (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        )
        yield node, inside
        yield from walk(node, inside)


def broad_excepts(tree: ast.AST, scope: tuple[str, ...] = ()) -> Iterator[str]:
    """The functions, by their qualified names, in which anything is caught."""
    for node in ast.iter_child_nodes(tree):
        inner = scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*scope, node.name)
        if isinstance(node, ast.ExceptHandler) and (node.type is None or names_all_exceptions(node.type)):
            yield ".".join(scope)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            yield from [".".join(scope) for argument in node.args if names_all_exceptions(argument)]
        yield from broad_excepts(node, inner)


def names_all_exceptions(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(map(names_all_exceptions, node.elts))
    return isinstance(node, ast.Name) and node.id in ("Exception", "BaseException")


@functools.cache
def imported_modules() -> frozenset[str]:
    """What is imported in a process that has imported the package and nothing else."""
    program = "import sys, lightning_trio; print(*sys.modules)"
    # Where coverage is measured, it is in every process, and imports modules of its own.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    ended = subprocess.run([sys.executable, "-c", program], env=unmeasured, capture_output=True, text=True, check=True)
    return frozenset(ended.stdout.split())


@pytest.mark.parametrize("path", [path for path in files() if room(path) != "__init__"], ids=short)
def test_imports_point_down(path: Path) -> None:
    own = room(path)

    wrong = [
        f"line {each.line}: {each.name}"
        for each in imports(path)
        if FLOOR_OF[room(each.file)] > FLOOR_OF[own]
        and not (each.type_only and (own, room(each.file)) in TYPE_ONLY_UPWARDS)
    ]

    assert not wrong


def test_the_exceptions_to_it_are_few_and_all_in_use() -> None:
    used = {
        (room(path), room(each.file))
        for path in files()
        if room(path) != "__init__"
        for each in imports(path)
        if FLOOR_OF[room(each.file)] > FLOOR_OF[room(path)]
    }

    assert used == set(TYPE_ONLY_UPWARDS)
    assert len(TYPE_ONLY_UPWARDS) <= 5


@pytest.mark.parametrize("path", files(), ids=short)
def test_a_package_is_reached_through_its_door(path: Path) -> None:
    """A module whose name begins with ``_`` is imported by its own package and by packages inside that one only."""
    wrong = [
        f"line {each.line}: {each.source.relative_to(PACKAGE)}"
        for each in imports(path)
        if each.file.name != "__init__.py"
        and each.file.stem.startswith("_")
        and not path.is_relative_to(each.file.parent)
    ]

    assert not wrong


def test_no_name_of_another_module_is_private() -> None:
    wrong = [
        f"{short(path)}:{each.line} {each.name}"
        for path in files()
        for each in imports(path)
        if each.name.startswith("_") and each.name != "__version__" and each.file == each.source.with_suffix(".py")
    ]

    assert not wrong


def test_at_most_two_files_import_each_other() -> None:
    """Type-only imports count; a package's own list of names does not, since it imports all of its files."""
    edges = {
        path: {each.file for each in imports(path) if each.file != path and each.file.name != "__init__.py"}
        for path in files()
    }

    knots = [sorted(map(short, knot)) for knot in strongly_connected(edges) if len(knot) > 2]

    assert not knots


def strongly_connected(edges: Mapping[Path, set[Path]]) -> list[set[Path]]:
    reachable = {path: reached_from(path, edges) for path in edges}
    knots: list[set[Path]] = []
    seen: set[Path] = set()
    for path in edges:
        if path not in seen:
            knot = {other for other in reachable[path] if path in reachable[other]} | {path}
            knots.append(knot)
            seen |= knot
    return knots


def reached_from(start: Path, edges: Mapping[Path, set[Path]]) -> set[Path]:
    found: set[Path] = set()
    todo = [start]
    while todo:
        for path in edges.get(todo.pop(), set()) - found:
            found.add(path)
            todo.append(path)
    return found


def test_every_room_has_its_floor() -> None:
    assert {room(path) for path in files()} - {"__init__"} == set(FLOORS)


def test_nothing_but_the_test_kit_imports_the_test_kit() -> None:
    importers = [
        short(path)
        for path in files()
        if room(path) != "testing" and any(room(each.file) == "testing" for each in imports(path))
    ]

    assert not importers


def test_nothing_imports_the_old_names() -> None:
    importers = [
        short(path)
        for path in files()
        if room(path) != "compat" and any(room(each.file) == "compat" for each in imports(path))
    ]

    assert not importers


def test_every_export_is_there_and_public() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    shown = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "_names"]
    exported = [alias for node in shown for alias in node.names if alias.name != "TYPE_CHECKING"]

    assert all(alias.name == alias.asname and hasattr(lightning_trio, alias.name) for alias in exported)
    assert not [alias.name for alias in exported if alias.name.startswith("_") and alias.name != "__version__"]


def test_a_broad_except_is_where_it_is_listed_with_its_reason() -> None:
    found = {
        f"{short(path)} {function}"
        for path in files()
        for function in broad_excepts(ast.parse(path.read_text(encoding="utf-8")))
    }

    assert sorted(found) == sorted(BROAD_EXCEPTS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n try: g()\n except: pass", ["f"]),
        ("class C:\n def f(self):\n  try: g()\n  except (OSError, BaseException): raise", ["C.f"]),
        ("def f():\n with contextlib.suppress(OSError, Exception): g()", ["f"]),
        ("def f():\n try: g()\n except* Exception: pass", ["f"]),
        ("def f():\n try: g()\n except OSError: pass", []),
    ],
    ids=["bare", "tuple", "suppress", "star", "narrow"],
)
def test_a_broad_except_is_found_in_any_shape(source: str, found: list[str]) -> None:
    assert list(broad_excepts(ast.parse(source))) == found


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
def test_a_rollout_in_memory_pulls_in_nothing_that_it_does_not_need(module: str, one_rollout_loads: set[str]) -> None:
    assert module not in one_rollout_loads


@pytest.fixture(scope="module")
def one_rollout_loads() -> set[str]:
    # What the extra `openai` is instrumented with imports asyncio, where it is installed.
    program = (
        "import sys, trio, lightning_trio as agl\n"
        "async def agent(task: str) -> float:\n"
        "    return 1.0\n"
        "async def main() -> None:\n"
        "    async with agl.Runner(agent, tracer=agl.Tracer(instrument_openai=False)) as runner:\n"
        "        assert (await runner.step('task')).status == 'succeeded'\n"
        "trio.run(main)\n"
        "print(*sys.modules)"
    )
    # Coverage, which starts in every subprocess by these variables, loads modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=env)
    return set(done.stdout.split())


def test_all_errors_are_in_one_tree() -> None:
    from lightning_trio import _errors

    raised = [each for each in vars(_errors).values() if isinstance(each, type)]

    outside = (lightning_trio.AttemptAbandoned, _errors.Terminated, _errors.TryAgain, _errors.WorkerTraceback)
    assert all(issubclass(each, (lightning_trio.LightningTrioError, *outside)) for each in raised)


def test_the_tree_in_the_errors_docstring_names_them_all() -> None:
    from lightning_trio import _errors

    assert _errors.__doc__ is not None
    missing = [name for name, each in vars(_errors).items() if isinstance(each, type) and name not in _errors.__doc__]

    assert not missing
