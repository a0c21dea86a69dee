"""Each row of the table in its lanes and on all stores: the others succeed, and nothing is left behind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_agents import ROWS
from hostile_harness import SharedRunner, run_row
from hostile_rows import STORES, Row
from postgres_server import PostgresServer, postgres

import lightning_trio as agl

__all__ = ["postgres"]

SAMPLE: frozenset[str] = frozenset(
    {
        "frozen_dataclass-trio-memory",
        "str_exits-thread-sqlite",
        "str_interrupts-trio-memory",
        "notes_are_a_number-asyncio-memory",
        "group_with_an_interrupt-thread-memory",
        "group_three_thousand_deep-trio-sqlite",
        "says_it_is_a_group-trio-memory",
        "class_is_a_property_that_exits-asyncio-memory",
        "stop_iteration-trio-memory",
        "syntax_error_with_odd_fields-thread-memory",
        "store_unavailable_of_a_store_of_its_own-trio-sqlite",
        "generator_exit-asyncio-sqlite",
        "unpickling_exits-process-sqlite",
        "integer_beyond_floats-trio-sqlite",
        "what_cannot_be_shown-thread-memory",
        "spans_of_another_rollout-trio-sqlite",
        "span_with_strange_times-trio-sqlite",
        "more_tokens_than_63_bits-trio-postgres",
        "attributes_with_zero_bytes-trio-postgres",
        "brackets_in_a_message_of_agentops-asyncio-memory",
        "cost_beyond_floats-thread-sqlite",
        "object_whose_to_dict_never_ends-trio-memory",
        "library_span_that_an_odd_exception_leaves-trio-memory",
        "named_tuple_with_a_constructor_of_its_own-trio-sqlite",
        "keys_of_the_store_itself-trio-sqlite",
        "list_fifty_thousand_deep-trio-sqlite",
        "takes_all_file_descriptors-trio-sqlite",
        "generator_that_emits_when_it_is_collected-trio-memory",
        "done_callback_that_exits-asyncio-memory",
        "template_that_calls_itself-trio-memory",
        "closes_the_loop-asyncio-memory",
    }
)
"""What the default run has of the table."""


def combinations() -> Iterator[Any]:
    for row in ROWS.values():
        for lane in row.lanes:
            for store in STORES:
                # These two take longest, and neither makes a difference to the other.
                if (lane == "process" and store != "sqlite") or (store == "postgres" and lane != row.lanes[0]):
                    continue
                name = f"{row.name}-{lane}-{store}"
                marks = () if name in SAMPLE else pytest.mark.hostile
                yield pytest.param(row, lane, store, id=name, marks=marks)


class Stores:
    """The stores of the rows, and the runners that many rows share."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._shared: dict[tuple[str, str], SharedRunner] = {}

    def make(self, kind: str, folder: Path) -> agl.LightningStore:
        """Make an empty store."""
        if kind == "memory":
            return agl.InMemoryLightningStore()
        if kind == "sqlite":
            return agl.SqliteLightningStore(folder / "runs.db", synchronous="normal")
        server: PostgresServer = self._request.getfixturevalue("postgres")
        return agl.PostgresLightningStore(server.dsn, schema=f"hostile_{next(_numbers)}", connections=1)

    def shared(self, lane: str, kind: str) -> SharedRunner:
        """Return the runner that rows share."""
        if (lane, kind) not in self._shared:
            folder = self._folder / f"{lane} {next(_numbers)}"
            folder.mkdir()
            self._shared[lane, kind] = SharedRunner(lane, self.make(kind, folder))
        return self._shared[lane, kind]

    def drop(self, lane: str, kind: str) -> None:
        """Close a shared runner."""
        self._shared.pop((lane, kind)).close()

    def close(self) -> None:
        """Close the shared runners."""
        for key in list(self._shared):
            self.drop(*key)


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(request, tmp_path_factory.mktemp("shared"))
    yield stores
    stores.close()


# What agents forget and break may be found whenever the garbage collector runs.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("row", "lane", "store"), list(combinations()))
def test_what_one_agent_does_ends_nothing_else(row: Row, lane: str, store: str, stores: Stores, tmp_path: Path) -> None:
    row = row.at(lane, store)
    # It takes a second to start worker processes, and half of one to make a schema.
    if row.timeout is None and (lane == "process" or store == "postgres"):
        try:
            stores.shared(lane, store).run_row(row, tmp_path)
        except BaseException:
            stores.drop(lane, store)
            raise
    else:
        run_row(row, lane, stores.make(store, tmp_path), tmp_path)


def test_there_are_rows_of_every_kind() -> None:
    assert len(ROWS) >= 150
    assert {row.kind for row in ROWS.values()} == {
        "exceptions",
        "returns",
        "emits",
        "tasks",
        "resources",
        "callbacks",
    }
    assert not SAMPLE - {param.id for param in combinations()}


def test_every_row_has_one_right_end_in_each_place() -> None:
    assert [row.name for row in ROWS.values() for end in (row, *row.but.values()) if end.right == "either"] == []
