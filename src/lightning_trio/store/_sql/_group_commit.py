"""The writer: a thread that commits the operations of all tasks that wait, together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import attrs
import outcome
import trio

from ..._errors import NotBegun, StoreError, StoreFormatError, StoreUnavailable, TryAgain
from .._rollout_ids import RolloutIdCipher
from ._counts import add_counts
from ._transaction import CommitSummary, Connection, Transaction
from ._workers import write_notes

T = TypeVar("T")

Operation: TypeAlias = Callable[[Transaction, RolloutIdCipher, Sequence[Any]], Sequence[T]]
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
    raise_cancel: Callable[[], NoReturn] | None = None
    """Set once the task is cancelled: it waits on, but not for a server to come back."""
    undone: bool = False
    """Whether nothing was done, so that the task may be cancelled after all."""

    def note_cancelled(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Let the task wait on: it must know whether its call was committed."""
        self.raise_cancel = raise_cancel
        return trio.lowlevel.Abort.FAILED

    def fail(self, exc: BaseException) -> None:
        """Fail with an error that others may get as well."""
        self.undone = isinstance(exc, NotBegun)
        self.result = outcome.Error(_copy(exc, StoreUnavailable if self.undone else None))


class GroupCommit:
    """Run operations in threads of their own, all that wait in one transaction with one commit.

    Each task waits for its own call only and has one at a time, so all calls that wait are concurrent and may be run
    in any order: those of one kind are run as one.

    Args:
        open_connection: opens a connection, in its thread.
        on_commit: called in Trio's thread after each commit, before the results are there.
        threads: how many there are; whichever is free takes all calls that wait.
    """

    def __init__(
        self, open_connection: Callable[[], Connection], on_commit: Callable[[CommitSummary], None], threads: int = 1
    ) -> None:
        self._open_connection = open_connection
        self._on_commit = on_commit
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._threads = [_Thread(self._run, self._token) for _ in range(threads)]

    async def open(self) -> None:
        """Start the threads and wait until their connections are open.

        Raises:
            StoreError: one cannot be opened.
        """
        # The first one alone, since it may have to make the tables.
        for threads in self._threads[:1], self._threads[1:]:
            for thread in threads:
                thread.start()
            with trio.CancelScope(shield=True):
                for thread in threads:
                    await thread.opened.wait()
            failures = [thread.failure for thread in threads if thread.failure is not None]
            if failures:
                await self.aclose()
                raise failures[0]

    async def aclose(self) -> None:
        """Wait until what was submitted is committed and the threads have ended."""
        for _ in self._threads:
            self._calls.put(None)
        with trio.CancelScope(shield=True):
            # Not by an event: the run that it was opened in may be over.
            await trio.to_thread.run_sync(self._join)

    def _join(self) -> None:
        deadline = time.monotonic() + _LAST_SECONDS
        for thread in self._threads:
            thread.join(deadline - time.monotonic())

    async def call(self, operation: Operation[T], argument: Any) -> T:
        """Run an operation and wait for its commit.

        Cancelled before it is submitted, nothing happens; afterwards the wait goes on to its end, so that the caller
        always knows whether it was committed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(operation, argument, trio.lowlevel.current_task())
        self._calls.put(call)
        result: T = await trio.lowlevel.wait_task_rescheduled(call.note_cancelled)
        return result

    # In the thread.

    def _run(self, opened: Callable[[], None]) -> None:
        connection = self._open_connection()
        opened()
        try:
            open_for_more = True
            while open_for_more:
                calls, open_for_more = self._take(connection)
                if calls:
                    self._commit(connection, calls)
        finally:
            connection.close()

    def _take(self, connection: Connection) -> tuple[list[_Call], bool]:
        """Take all calls that wait, at least one."""
        calls: list[_Call] = []
        if self._calls.empty():
            connection.rest()
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
        connection.unwanted = lambda: all(call.raise_cancel is not None for call in calls)
        try:
            while not self._try(connection, calls):
                _undo(connection)
        except BaseException as exc:
            _undo(connection)
            for call in calls:
                call.fail(exc)
        summary = connection.summary
        _tell(self._token, lambda: self._deliver(calls, summary))

    def _try(self, connection: Connection, calls: Sequence[_Call]) -> bool:
        """Run all in one transaction and commit it; tell whether it took place."""
        connection.summary = CommitSummary()
        try:
            try:
                self._run_all(connection, calls)
            except (StoreUnavailable, StoreFormatError, TryAgain):
                raise
            except Exception:
                # One of them is wrong: the others must not suffer for it.
                _undo(connection)
                self._run_each(connection, calls)
            write_notes(connection)
            add_counts(connection, connection.shard)
            connection.summary.after_others = connection.others_committed()
            connection.commit()
        except TryAgain:
            return False
        return True

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
            before = connection.summary.copy()
            connection.execute("SAVEPOINT one")
            try:
                [result] = call.operation(connection, connection.ids, [call.argument])
            except (StoreUnavailable, StoreFormatError, TryAgain):
                raise
            except Exception as exc:
                connection.execute("ROLLBACK TO one")
                connection.known_spans.clear()
                connection.summary = before
                call.result = outcome.Error(exc)
            else:
                call.result = outcome.Value(result)
            connection.execute("RELEASE one")

    # In Trio's thread.

    def _deliver(self, calls: Sequence[_Call], summary: CommitSummary) -> None:
        self._on_commit(summary)
        for call in calls:
            result = call.result
            if call.undone and call.raise_cancel is not None:
                result = outcome.capture(call.raise_cancel)
            assert result is not None
            trio.lowlevel.reschedule(call.task, result)


class _Thread:
    """A thread that says in Trio when it has begun its work, or could not."""

    def __init__(self, run: Callable[[Callable[[], None]], None], token: trio.lowlevel.TrioToken) -> None:
        self.opened = trio.Event()
        self.failure: BaseException | None = None
        self._run = run
        self._token = token
        self._thread = threading.Thread(target=self._main, name="lightning_trio store", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for its end, if it was started, for `seconds` at most."""
        if self._thread.ident is not None:
            self._thread.join(max(seconds, 0.0))

    def _main(self) -> None:
        try:
            self._run(lambda: _tell(self._token, self.opened.set))
        except BaseException as exc:
            self.failure = exc
        _tell(self._token, self.opened.set)


def _tell(token: trio.lowlevel.TrioToken, fn: Callable[[], object]) -> None:
    try:
        token.run_sync_soon(fn)
    except trio.RunFinishedError:
        # Nobody is left to tell; what was committed is committed.
        return


def _undo(connection: Connection) -> None:
    connection.rollback()
    connection.known_spans.clear()
    connection.summary = CommitSummary()


def _copy(exc: BaseException, kind: type[StoreError] | None) -> BaseException:
    """Give every task an exception of its own, since each adds its traceback."""
    if not isinstance(exc, StoreError):
        return exc
    copy = (kind or type(exc))(*exc.args)
    # What it names; notes are added by those who get it.
    vars(copy).update((name, value) for name, value in vars(exc).items() if name != "__notes__")
    copy.__cause__ = exc.__cause__
    return copy
