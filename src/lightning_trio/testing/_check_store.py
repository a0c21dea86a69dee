"""The contract of a store as a suite that can be run on any."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from .._public import public_in
from ..store import LightningStore
from ._store_checks import CHECKS, Check, check_reopened

_DEADLINE_SECONDS = 30.0
"""How long one check may take: a wait that nobody ends must not hang the suite."""


@public_in("lightning_trio.testing")
def store_checks() -> tuple[Check, ...]:
    """Give the checks that `check_store` runs, one a rule, to run them as tests of their own.

    Each is an async function that takes an open, empty store, named after its rule::

        @pytest.mark.parametrize("check", store_checks(), ids=lambda check: check.__name__)
        async def test_my_store(check: Callable[[LightningStore], Awaitable[None]]) -> None:
            async with MyStore() as store:
                await check(store)
    """
    return CHECKS


@public_in("lightning_trio.testing")
async def check_store(
    open_store: Callable[[], AbstractAsyncContextManager[LightningStore]],
    *,
    reopen: Callable[[LightningStore], AbstractAsyncContextManager[LightningStore]] | None = None,
) -> None:
    """Check that a store keeps the contract of `LightningStore`.

    Runs about 150 small checks, one after the other, and stops at the first broken rule. Takes a few seconds for
    a store in memory, none with `trio.testing.MockClock`.

    Args:
        open_store: called once for each check; gives an open, empty store. A store class that needs no arguments
            will do.
        reopen: for a store that outlives the process. Is given a store of `open_store`, and gives another one on the
            same file or server, which must have what an earlier one was told before it was closed.

    Raises:
        AssertionError: the store breaks a rule; the message says which, and a note names the check.
        Exception: whatever else the store raises, with the same note.

    >>> from lightning_trio import InMemoryLightningStore
    >>> trio.run(check_store, InMemoryLightningStore)
    """
    for check in CHECKS:
        await _run(check.__name__, check, open_store)
    if reopen is not None:
        await _run("a_later_store_has_everything", partial(check_reopened, reopen=reopen), open_store)


async def _run(name: str, check: Check, open_store: Callable[[], AbstractAsyncContextManager[LightningStore]]) -> None:
    try:
        with trio.fail_after(_DEADLINE_SECONDS):
            async with open_store() as store:
                await check(store)
    except Exception as exc:
        exc.add_note(f"while check_store ran the check {name}")
        raise
