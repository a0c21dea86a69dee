"""The store in a SQLite file: the contract, what survives, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from lightning_trio import SqliteLightningStore
from lightning_trio.testing._check_store import store_checks
from lightning_trio.testing._store_checks._steps import Check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


# On the real clock: the store's threads do not wait for a mocked one.
@pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
async def test_the_store_keeps_the_rule(check: Check, path: Path) -> None:
    with trio.fail_after(30):
        async with SqliteLightningStore(path) as store:
            await check(store)
