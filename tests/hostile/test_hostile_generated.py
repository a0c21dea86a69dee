"""Generated hostile agents: exceptions, attributes, returned spans and tasks. Those that failed once are kept."""

from __future__ import annotations

import collections
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_agents
import pytest
from hostile_agents import ROWS
from hostile_harness import SharedRunner
from hostile_rows import Row
from hostile_specs import EFFECTS, KINDS, METHODS, PROPERTIES, STAND_INS, ExceptionSpec, make_value
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import lightning_trio as agl

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
"""How many examples each test tries, other ones each time; 0 for the same few in every run."""

pytestmark = pytest.mark.filterwarnings("ignore")

generated = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    # Each failure may take half a minute, so that shrinking is for a hunt only.
    phases=tuple(Phase) if EXAMPLES else (Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
sample = settings(generated, max_examples=8, derandomize=True)

texts = st.text(st.characters(exclude_categories=()), max_size=8)
specs = st.recursive(
    st.builds(
        ExceptionSpec,
        kind=st.sampled_from(sorted(KINDS)),
        odd=st.dictionaries(st.sampled_from(METHODS + PROPERTIES), st.sampled_from(sorted(EFFECTS)), max_size=3),
        text=texts,
        notes=st.none() | st.lists(texts | st.none() | st.integers(), max_size=2),
        cause=st.none() | st.just("itself"),
    ),
    lambda inner: st.builds(
        ExceptionSpec,
        odd=st.dictionaries(st.sampled_from(METHODS + PROPERTIES), st.sampled_from(sorted(EFFECTS)), max_size=1),
        text=texts,
        cause=st.none() | st.just("itself") | inner,
        members=st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 10**400]),
    st.floats(),
    texts,
    st.binary(max_size=4),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.timedeltas(),
    st.uuids(),
    st.ip_addresses(),
    st.sampled_from([datetime.time(1, fold=1), range(3), ..., ValueError, print]),
    st.sampled_from(sorted(STAND_INS)),
)
keys = st.one_of(texts, st.integers(), st.none(), st.booleans(), st.floats(), st.tuples(st.integers(), texts))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.sampled_from(["$tuple", "$set", "$fraction", "$bytes", "$date"]), inner, max_size=2),
    ),
    max_leaves=8,
)
known = st.sampled_from(
    [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.cost",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "agentops.entity.output",
        "agentlightning.reward.0.name",
        "agentlightning.reward.0.value",
        "agentlightning.rollout_id",
        "agentlightning.tag.0",
        "agentlightning.link.0.key_match",
    ]
)
attributes = st.dictionaries(known | texts, values, max_size=4)
ids = st.sampled_from(["1" * 16, "2" * 16, "3" * 32]) | values
oks = st.just(agl.TraceStatus("OK"))
times = st.none() | st.floats()
spans = st.one_of(
    st.fixed_dictionaries(
        {
            "rollout_id": texts | values,
            "attempt_id": texts | values,
            "sequence_id": st.integers() | values,
            "trace_id": ids,
            "span_id": ids,
            "parent_id": st.none() | ids,
            "name": texts | values,
            "status": oks | values,
            "attributes": attributes | values,
            "start_time": times | values,
            "end_time": times | values,
        },
        optional={"events": values, "links": values, "kind": values},
    ),
    st.fixed_dictionaries(
        {"name": texts | values},
        optional={
            "status": oks | values,
            "attributes": attributes | values,
            "start_time": times | values,
            "end_time": times | values,
        },
    ),
)


def make_span(fields: dict[str, Any]) -> Any:
    """Return the span with these fields."""
    made = {name: make_value(value) for name, value in fields.items()}
    return agl.Span(**made) if "trace_id" in fields else agl.SpanCoreFields(**made)


class Bench:
    """Runners that stay open for all examples of a module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runners: dict[tuple[str, str], SharedRunner] = {}
        self._made = 0

    def run(self, kind: str, act: Callable[[], Any], lane: str, store: str, task: str = "generated") -> None:
        """Run one agent among twenty others, in a lane and on a store."""
        row = Row(task, kind, act, "fails" if kind == "exceptions" else "either", None, (lane,), None, is_async=False)
        ROWS[task] = row
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        if (lane, store) not in self._runners:
            in_memory = store == "memory"
            made = agl.InMemoryLightningStore() if in_memory else agl.SqliteLightningStore(folder / "runs.db")
            self._runners[lane, store] = SharedRunner(lane, made)
        try:
            self._runners[lane, store].run_row(row, folder)
        except BaseException:
            self._runners.pop((lane, store)).close()
            raise
        finally:
            del ROWS[task]

    def close(self) -> None:
        """Close the runners."""
        for runner in self._runners.values():
            runner.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # The collector may run where a deep value has filled the stack, and pytest's hook fails on what is reported there.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    bench = Bench(tmp_path_factory.mktemp("generated"))
    yield bench
    bench.close()
    sys.unraisablehook = hook


def run_exception(bench: Bench, spec: ExceptionSpec, lane: str, store: str) -> None:
    def act() -> None:
        raise spec.make()

    bench.run("exceptions", act, lane, store, hostile_agents.GENERATED + spec.dump())


def run_attributes(bench: Bench, value: Any, lane: str, store: str) -> None:
    bench.run("emits", lambda: agl.emit_annotation(make_value(value)), lane, store)


def run_spans(bench: Bench, value: Any, lane: str, store: str) -> None:
    bench.run("returns", lambda: [make_span(each) for each in value], lane, store)


def run_task(bench: Bench, value: Any, lane: str, store: str) -> None:
    bench.run("tasks", lambda: make_value(value), lane, store)


lanes = st.sampled_from(["trio", "thread", "asyncio"])
stores = st.sampled_from(["memory", "sqlite"])


@sample
@given(specs, lanes, stores)
def test_a_sample_of_generated_exceptions(bench: Bench, spec: ExceptionSpec, lane: str, store: str) -> None:
    run_exception(bench, spec, lane, store)


@pytest.mark.hostile
@generated
@given(specs, lanes, stores)
@example(ExceptionSpec("CancelledError", {"with_traceback": "exits", "split": "returns None"}), "thread", "memory")
@example(
    ExceptionSpec(
        odd={"__dict__": "returns another exception"},
        cause=ExceptionSpec("SystemExit", {"add_note": "returns 5", "__hash__": "recurses", "__context__": "fails"}),
        members=[ExceptionSpec("RuntimeError", {"__dict__": "returns 5", "__setattr__": "fails"}, cause="itself")],
    ),
    "trio",
    "sqlite",
)
def test_generated_exceptions(bench: Bench, spec: ExceptionSpec, lane: str, store: str) -> None:
    run_exception(bench, spec, lane, store)


@pytest.mark.hostile
@generated
@given(specs)
def test_generated_exceptions_in_worker_processes(bench: Bench, spec: ExceptionSpec) -> None:
    run_exception(bench, spec, "process", "sqlite")


@sample
@given(attributes, lanes, stores)
def test_a_sample_of_generated_attributes(bench: Bench, value: Any, lane: str, store: str) -> None:
    run_attributes(bench, value, lane, store)


@pytest.mark.hostile
@generated
@given(attributes, lanes, stores)
def test_generated_attributes(bench: Bench, value: Any, lane: str, store: str) -> None:
    run_attributes(bench, value, lane, store)


@sample
@given(st.lists(spans, max_size=3), lanes, stores)
def test_a_sample_of_generated_spans(bench: Bench, value: Any, lane: str, store: str) -> None:
    run_spans(bench, value, lane, store)


@pytest.mark.hostile
@generated
@given(st.lists(spans, max_size=3), lanes, stores)
@example([{"name": "x", "attributes": {"gen_ai.usage.cost": {"$bytes": (), "$fraction": [1]}}}], "thread", "memory")
def test_generated_spans(bench: Bench, value: Any, lane: str, store: str) -> None:
    run_spans(bench, value, lane, store)


@sample
@given(values, stores)
def test_a_sample_of_generated_tasks(bench: Bench, value: Any, store: str) -> None:
    run_task(bench, value, "trio", store)


@pytest.mark.hostile
@generated
@given(values, stores)
@example([[2**63, "<a huge integer>"]], "memory")
def test_generated_tasks(bench: Bench, value: Any, store: str) -> None:
    run_task(bench, value, "trio", store)
