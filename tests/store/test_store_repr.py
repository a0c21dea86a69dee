"""The repr of stores: their place and whether they are open, without a password."""

from __future__ import annotations

from pathlib import Path

import pytest

import lightning_trio as agl
from lightning_trio.store._run_store import RunStore


async def test_a_store_in_memory_shows_how_much_it_keeps() -> None:
    store = agl.InMemoryLightningStore()
    async with store:
        await store.enqueue_rollout("tea")

        assert repr(store) == "<InMemoryLightningStore: open, 1 rollout kept>"
    assert repr(store) == "<InMemoryLightningStore: closed, 1 rollout kept>"


async def test_a_file_shows_its_path(tmp_path: Path) -> None:
    store = agl.SqliteLightningStore(tmp_path / "runs.db")
    async with store:
        assert repr(store) == f"<SqliteLightningStore {tmp_path / 'runs.db'}: open>"
    assert repr(store) == f"<SqliteLightningStore {tmp_path / 'runs.db'}: closed>"


def test_a_server_shows_its_place_without_the_password() -> None:
    pytest.importorskip("psycopg")

    store = agl.PostgresLightningStore("postgresql://ada:s3cret@db.example:5433/runs", schema="trio")

    assert repr(store) == "<PostgresLightningStore in schema 'trio' of database 'runs' at db.example:5433: closed>"


def test_a_store_of_a_run_shows_both() -> None:
    store = RunStore(agl.InMemoryLightningStore(), "run-1", lambda mode, resources: None)

    assert repr(store) == "<RunStore of run-1 in <InMemoryLightningStore: closed, 0 rollouts kept>>"
