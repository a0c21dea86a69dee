"""The contract of a store as a suite of checks that any store can be run through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from .._public import public_in
from ..store import LightningStore
from ._store_checks import CHECKS, Check, check_reopened

_DEADLINE_SECONDS = 30.0
"""How long one check may take: a store that never ends a wait must not hang the suite."""


@public_in("lightning_trio.testing")
def store_checks() -> tuple[Check, ...]:
    """Return the checks that `check_store` runs, one per rule, for running them as separate tests.

    Each is an async function, named after its rule, that takes an open, empty store::

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
    """Check that a store fulfils the contract of `LightningStore`.

    Runs about 150 small checks, one after the other, and stops at the first broken rule. Takes a few seconds for
    a store in memory, and no time with `trio.testing.MockClock`.

    Args:
        open_store: called once for each check; returns a context manager with an open, empty store. The class of a
            store that needs no arguments is such a function.
        reopen: for a store that outlives the process. Takes a store of `open_store` and returns another one on the
            same file or server, which must have everything that the first one had committed when it was closed.

    Raises:
        AssertionError: the store breaks a rule; the message names the rule, and a note the check.
        Exception: any other error of the store, with the same note.

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
