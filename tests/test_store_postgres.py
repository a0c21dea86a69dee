"""The store in PostgreSQL: the contract, several processes, a server that goes away, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from postgres_server import PostgresServer, postgres

from lightning_trio import PostgresLightningStore
from lightning_trio.testing._check_store import store_checks
from lightning_trio.testing._store_checks._steps import Check

__all__ = ["postgres"]


@pytest.fixture
def dsn(postgres: PostgresServer) -> Iterator[str]:
    postgres.psql("DROP SCHEMA IF EXISTS lightning_trio CASCADE")
    return postgres.dsn


@pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
async def test_the_store_keeps_the_rule(check: Check, dsn: str) -> None:
    with trio.fail_after(30):
        async with PostgresLightningStore(dsn, connections=2) as store:
            await check(store)
