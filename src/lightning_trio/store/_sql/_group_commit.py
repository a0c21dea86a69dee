"""The writer: a thread that commits the operations of all tasks that wait, together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import attrs
import outcome
import trio

from ..._errors import StoreError, StoreFormatError, StoreUnavailable
from .._rollout_ids import Scramble
from ._counting import add_tallies
from ._transaction import Connection, Effects, Transaction

T = TypeVar("T")

Operation: TypeAlias = Callable[[Transaction, Scramble, Sequence[Any]], Sequence[T]]
"""Take the arguments of several calls and give the result of each; raise if any call fails."""

_AT_ONCE: Final = 1024
"""The most calls in one transaction."""

_LAST_SECONDS: Final = 60.0
"""How long closing waits for what was submitted."""


@attrs.define(eq=False)
class _Call:
    """What one task waits for."""

    operation: Operation[Any]
    argument: Any
    task: trio.lowlevel.Task
    result: outcome.Outcome[Any] | None = None


class GroupCommit:
    """Run operations in a thread of their own, all that wait in one transaction with one commit.

    Each task waits for its own call only and has one at a time, so all calls that wait are concurrent and may be run
    in any order: those of one kind are run as one.

    Args:
        open_connection: opens the connection, in the thread.
        on_commit: called in Trio's thread after each commit, before the results are there.
    """

    def __init__(self, open_connection: Callable[[], Connection], on_commit: Callable[[Effects], None]) -> None:
        self._open_connection = open_connection
        self._on_commit = on_commit
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._opened = trio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lightning_trio store", daemon=True)

    async def open(self) -> None:
        """Start the thread and wait until its connection is open.

        Raises:
            StoreError: it cannot be opened.
        """
        self._thread.start()
        with trio.CancelScope(shield=True):
            await self._opened.wait()
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """Wait until what was submitted is committed and the thread has ended."""
        self._calls.put(None)
        with trio.CancelScope(shield=True):
            # Not by an event: the run that it was opened in may be over.
            await trio.to_thread.run_sync(self._thread.join, _LAST_SECONDS)

    async def call(self, operation: Operation[T], argument: Any) -> T:
        """Run an operation and wait for its commit.

        Cancelled before it is submitted, nothing happens; afterwards the wait goes on to its end, so that the caller
        always knows whether it was committed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._calls.put(_Call(operation, argument, trio.lowlevel.current_task()))
        result: T = await trio.lowlevel.wait_task_rescheduled(_not_aborted)
        return result

    # In the thread.

    def _run(self) -> None:
        try:
            connection = self._open_connection()
        except BaseException as exc:
            self._failure = exc
            self._tell(self._opened.set)
            return
        self._tell(self._opened.set)
        try:
            open_for_more = True
            while open_for_more:
                calls, open_for_more = self._take()
                if calls:
                    self._commit(connection, calls)
        finally:
            connection.close()

    def _take(self) -> tuple[list[_Call], bool]:
        """Take all calls that wait, at least one."""
        calls: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            calls.append(call)
            if len(calls) >= _AT_ONCE:
                break
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                break
        return calls, call is not None

    def _commit(self, connection: Connection, calls: Sequence[_Call]) -> None:
        connection.effects = Effects()
        try:
            try:
                self._run_all(connection, calls)
            except (StoreUnavailable, StoreFormatError):
                raise
            except Exception:
                # One of them is wrong: the others must not suffer for it.
                connection.rollback()
                connection.known_spans.clear()
                connection.effects = Effects()
                self._run_each(connection, calls)
            add_tallies(connection, connection.shard)
            connection.effects.after_others = connection.others_committed()
            connection.commit()
        except BaseException as exc:
            connection.rollback()
            connection.known_spans.clear()
            for call in calls:
                call.result = outcome.Error(_copy(exc))
            connection.effects = Effects()
        effects = connection.effects
        self._tell(lambda: self._deliver(calls, effects))

    @staticmethod
    def _run_all(connection: Connection, calls: Sequence[_Call]) -> None:
        kinds: dict[Operation[Any], list[_Call]] = {}
        for call in calls:
            kinds.setdefault(call.operation, []).append(call)
        connection.begin(write=True)
        for operation, same in kinds.items():
            results = operation(connection, connection.ids, [call.argument for call in same])
            for call, result in zip(same, results, strict=True):
                call.result = outcome.Value(result)

    @staticmethod
    def _run_each(connection: Connection, calls: Sequence[_Call]) -> None:
        connection.begin(write=True)
        for call in calls:
            before = connection.effects.copy()
            connection.execute("SAVEPOINT one")
            try:
                [result] = call.operation(connection, connection.ids, [call.argument])
            except (StoreUnavailable, StoreFormatError):
                raise
            except Exception as exc:
                connection.execute("ROLLBACK TO one")
                connection.known_spans.clear()
                connection.effects = before
                call.result = outcome.Error(exc)
            else:
                call.result = outcome.Value(result)
            connection.execute("RELEASE one")

    def _tell(self, fn: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(fn)
        except trio.RunFinishedError:
            # Nobody is left to tell; what was committed is committed.
            return

    # In Trio's thread.

    def _deliver(self, calls: Sequence[_Call], effects: Effects) -> None:
        self._on_commit(effects)
        for call in calls:
            assert call.result is not None
            trio.lowlevel.reschedule(call.task, call.result)


def _not_aborted(raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _copy(exc: BaseException) -> BaseException:
    """Give every task an exception of its own, since each adds its traceback."""
    if not isinstance(exc, StoreError):
        return exc
    copy = type(exc)(*exc.args)
    copy.__cause__ = exc.__cause__
    return copy
