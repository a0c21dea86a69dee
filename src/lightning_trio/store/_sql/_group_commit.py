"""The writer: threads that run the operations of all waiting tasks in one transaction."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import attrs
import outcome
import trio

from ..._concurrency import run_in_thread
from ..._errors import NotBegun, NotStorable, StoreError, StoreFormatError, StoreUnavailable, TryAgain
from .._rollout_ids import RolloutIdCipher
from ._counts import add_counts
from ._transaction import CommitSummary, Connection, Transaction
from ._workers import write_notes

T = TypeVar("T")

Operation: TypeAlias = Callable[[Transaction, RolloutIdCipher, Sequence[Any]], Sequence[T]]
"""Takes the arguments of several calls and returns the result of each; raises if any call fails."""

_AT_ONCE: Final = 1024
"""The most calls in one transaction."""

_LAST_SECONDS: Final = 60.0
"""How long closing waits for submitted calls."""


@attrs.define(eq=False)
class _Call:
    """A call that a task waits for."""

    operation: Operation[Any]
    argument: Any
    task: trio.lowlevel.Task
    result: outcome.Outcome[Any] | None = None
    raise_cancel: Callable[[], NoReturn] | None = None
    """Set once the task is cancelled: it keeps waiting, but not for a server that is away."""
    undone: bool = False
    """Whether nothing was changed, so that the task may be cancelled after all."""

    def note_cancelled(self, raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        """Record the cancellation and keep the task waiting: it must learn whether its call was committed."""
        self.raise_cancel = raise_cancel
        return trio.lowlevel.Abort.FAILED

    def fail(self, exc: BaseException) -> None:
        """Set an error as the result; other calls may get the same one."""
        self.undone = isinstance(exc, NotBegun)
        if isinstance(exc, UnicodeEncodeError):
            exc = NotStorable.name(exc.object)
        self.result = outcome.Error(_copy(exc, StoreUnavailable if self.undone else None))


class GroupCommit:
    """Run operations in threads, all waiting calls in one transaction with one commit.

    Each task waits for its own call and has one at a time, so all waiting calls are concurrent and may run in any
    order: calls of one operation run together.

    Args:
        open_connection: opens a connection; called in the thread that uses it.
        on_commit: called in Trio's thread after each commit, before results are delivered.
        threads: how many threads write; whichever is free takes all waiting calls.
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
            StoreError: a connection cannot be opened.
        """
        # The first thread alone, because it may have to create the tables.
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
        """Wait until submitted calls are committed and the threads have ended."""
        for _ in self._threads:
            self._calls.put(None)
        with trio.CancelScope(shield=True):
            # Not by an event: the Trio run in which the threads were started may be over.
            await run_in_thread(self._join)

    def _join(self) -> None:
        deadline = time.monotonic() + _LAST_SECONDS
        for thread in self._threads:
            thread.join(deadline - time.monotonic())

    async def call(self, operation: Operation[T], argument: Any) -> T:
        """Run an operation and wait for its commit.

        Cancelled before it is submitted, the operation does not run; afterwards the wait continues to its end, so that
        the caller always learns whether it was committed.
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
        """Return all waiting calls, at least one unless the store closes, and whether to take more."""
        calls: list[_Call] = []
        if self._calls.empty():
            connection.on_idle()
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
            if len(calls) > 1 and not isinstance(exc, StoreUnavailable):
                # It came after the operations, as their changes were added up, or from one of a damaged record: the
                # calls have transactions of their own, so that it fails only the one that it is about.
                for call in calls:
                    self._commit(connection, [call])
                return
            for call in calls:
                call.fail(exc)
        summary = connection.summary
        _run_in_trio(self._token, lambda: self._deliver(calls, summary))

    def _try(self, connection: Connection, calls: Sequence[_Call]) -> bool:
        """Run all calls in one transaction and commit it; return False if it must be tried again."""
        connection.summary = CommitSummary()
        try:
            try:
                self._run_all(connection, calls)
            except (StoreUnavailable, StoreFormatError, TryAgain):
                raise
            except Exception:
                # One call failed: the others must not fail with it.
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
                call.fail(exc)
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
    """A thread that sets an event in Trio once it has started its work or failed to."""

    def __init__(self, run: Callable[[Callable[[], None]], None], token: trio.lowlevel.TrioToken) -> None:
        self.opened = trio.Event()
        self.failure: BaseException | None = None
        self._run = run
        self._token = token
        self._thread = threading.Thread(target=self._main, name="lightning_trio store", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end, if it was started, for `seconds` at most."""
        if self._thread.ident is not None:
            self._thread.join(max(seconds, 0.0))

    def _main(self) -> None:
        try:
            self._run(lambda: _run_in_trio(self._token, self.opened.set))
        except BaseException as exc:
            self.failure = exc
        _run_in_trio(self._token, self.opened.set)


def _run_in_trio(token: trio.lowlevel.TrioToken, fn: Callable[[], object]) -> None:
    try:
        token.run_sync_soon(fn)
    except trio.RunFinishedError:
        # No task is left to wake; the commit stands.
        return


def _undo(connection: Connection) -> None:
    connection.rollback()
    connection.known_spans.clear()
    connection.summary = CommitSummary()


def _copy(exc: BaseException, kind: type[StoreError] | None) -> BaseException:
    """Return an exception for one task, because each task adds its own traceback."""
    if not isinstance(exc, StoreError):
        return exc
    copy = (kind or type(exc))(*exc.args)
    # The fields, but not the notes, which each task adds for itself.
    vars(copy).update((name, value) for name, value in vars(exc).items() if name != "__notes__")
    copy.__cause__ = exc.__cause__
    return copy
