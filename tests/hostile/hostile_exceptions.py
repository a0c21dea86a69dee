"""Rows: what agents raise."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import sys
import threading
import types
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import attrs
import trio
from hostile_rows import IN_ONE_PROCESS, fails, row

import lightning_trio as agl

raises = partial(row, "exceptions", "fails")


class Empty(Exception):
    """What the classes here derive from."""


# Exceptions as records: they refuse notes, causes, tracebacks, or to be hashed.


@dataclasses.dataclass(frozen=True)
class FrozenFailure(Exception):
    tool: str


@raises(error="FrozenFailure")
def frozen_dataclass() -> None:
    raise FrozenFailure("search")


@dataclasses.dataclass
class UnhashableFailure(Exception):
    tool: str


@raises(error="UnhashableFailure")
def unhashable_dataclass() -> None:
    raise UnhashableFailure("search")


@raises(error="ExceptionGroup")
def group_of_unhashable_dataclasses() -> None:
    raise ExceptionGroup("tools", [UnhashableFailure("search"), UnhashableFailure("fetch")])


@attrs.frozen
class AttrsFailure(Exception):
    tool: str


@raises(error="AttrsFailure")
def frozen_attrs_class() -> None:
    raise AttrsFailure("search")


class ReadOnly(Empty):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is read-only")


@raises(error="ReadOnly")
def read_only() -> None:
    raise ReadOnly("stays")


@raises(error="ReadOnly")
def read_only_from_another() -> None:
    try:
        raise ReadOnly("the first")
    except ReadOnly as exc:
        raise ReadOnly("the second") from exc


@raises(error="ReadOnly", timeout=1.0, lanes=("trio",), is_async=True)
async def read_only_at_its_deadline() -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ReadOnly("while it is cancelled") from None


@raises(error="FrozenFailure", timeout=1.0, lanes=("asyncio",), is_async=True)
async def frozen_at_its_deadline() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise FrozenFailure("while it is cancelled") from None


class NoNotes(Empty):
    def add_note(self, note: str) -> NoReturn:
        raise SystemExit(4)


@raises(error="NoNotes")
def add_note_exits() -> None:
    raise NoNotes("no notes")


@raises(error="ExceptionGroup")
def group_of_those_without_notes() -> None:
    raise ExceptionGroup("several", [NoNotes("a"), ReadOnly("b")])


# Texts.


class Says(Empty):
    """An exception with a text that is made by a function."""

    def __str__(self) -> str:
        return self.args[0]()  # type: ignore[no-any-return]


def _raise(exc: BaseException) -> NoReturn:
    raise exc


class StrExits(Empty):
    def __str__(self) -> str:
        raise SystemExit(3)


class StrInterrupts(Empty):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class StrFails(Empty):
    def __str__(self) -> str:
        return self.response.text  # type: ignore[attr-defined,no-any-return]


class StrReturnsNone(Empty):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class StrRecurses(Empty):
    def __str__(self) -> str:
        return f"{self}!"


class StrCancels(Empty):
    def __str__(self) -> str:
        raise asyncio.CancelledError


class StrRaisesItself(Empty):
    def __str__(self) -> str:
        raise self


class StrGroup(Empty):
    def __str__(self) -> str:
        raise BaseExceptionGroup("of str", [KeyboardInterrupt(), ValueError("x")])


class OddText(str):
    __slots__ = ()

    def __format__(self, spec: str) -> str:
        raise SystemExit(5)

    def __str__(self) -> str:
        raise SystemExit(6)

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise SystemExit(7)

    def __len__(self) -> int:
        return -1


class StrIsOdd(Empty):
    def __str__(self) -> str:
        return OddText("odd")


@raises(error="StrExits")
def str_exits() -> None:
    raise StrExits


@raises(error="StrInterrupts")
def str_interrupts() -> None:
    raise StrInterrupts


@raises(error="StrFails")
def str_needs_an_attribute_that_is_missing() -> None:
    raise StrFails("no response")


@raises(error="StrReturnsNone")
def str_returns_none() -> None:
    raise StrReturnsNone


@raises(error="StrRecurses")
def str_recurses() -> None:
    raise StrRecurses


@raises(error="StrCancels")
def str_raises_cancelled_error() -> None:
    raise StrCancels


@raises(error="StrRaisesItself")
def str_raises_itself() -> None:
    raise StrRaisesItself


@raises(error="StrGroup")
def str_raises_a_group_with_an_interrupt() -> None:
    raise StrGroup


@raises(error="StrIsOdd")
def str_is_of_an_odd_class() -> None:
    raise StrIsOdd


@raises(error="ValueError")
def argument_with_an_odd_class() -> None:
    raise ValueError(OddText("an argument"))


class BadRepr:
    def __repr__(self) -> str:
        raise SystemExit(8)


@raises(error="KeyError")
def key_error_of_what_cannot_be_shown() -> None:
    raise KeyError(BadRepr())


@raises(error="ValueError")
def arguments_nested_deeply() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    raise ValueError(nested)


@raises(error="ValueError")
def text_of_many_megabytes() -> None:
    raise ValueError("x" * 5_000_000)


@raises(error="ValueError")
def text_with_lone_surrogates() -> None:
    raise ValueError("cut in two: \ud83d")


@raises(error="ValueError")
def text_with_zero_bytes() -> None:
    raise ValueError("binary \x00 output \x00")


@raises(error="UnicodeDecodeError")
def text_that_is_not_utf8() -> None:
    (b"\xff" * 1_000_000).decode()


# Notes.


@raises(error="ValueError")
def notes_are_a_number() -> None:
    exc = ValueError("x")
    exc.__notes__ = 5  # type: ignore[assignment]
    raise exc


@raises(error="ValueError")
def notes_are_a_tuple() -> None:
    exc = ValueError("x")
    exc.__notes__ = ("a", "b")  # type: ignore[assignment]
    raise exc


@raises(error="ValueError")
def notes_that_are_no_texts() -> None:
    exc = ValueError("x")
    exc.__notes__ = [BadRepr(), StrExits(), None, b"\xff"]  # type: ignore[list-item]
    raise exc


@raises(error="ValueError")
def notes_that_contain_themselves() -> None:
    exc = ValueError("x")
    notes: list[Any] = ["a"]
    notes.append(notes)
    exc.__notes__ = notes
    raise exc


@raises(error="ValueError")
def a_hundred_thousand_notes() -> None:
    exc = ValueError("x")
    exc.__notes__ = [f"step {number}" for number in range(100_000)]
    raise exc


@raises(error="ValueError")
def note_with_zero_byte_and_surrogate() -> None:
    exc = ValueError("x")
    exc.add_note("\x00\udfff")
    raise exc


class NotesExit(Empty):
    @property
    def __notes__(self) -> list[str]:
        raise SystemExit(9)


@raises(error="NotesExit")
def notes_are_a_property_that_exits() -> None:
    raise NotesExit("x")


class EndlessNotes(list[str]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("notes changed during iteration")


@raises(error="ValueError")
def notes_that_cannot_be_iterated() -> None:
    exc = ValueError("x")
    exc.__notes__ = EndlessNotes(["a"])
    raise exc


# Causes and contexts.


@raises(error="ValueError")
def cause_of_itself() -> None:
    exc = ValueError("x")
    exc.__cause__ = exc
    raise exc


@raises(error="ValueError")
def causes_in_a_circle() -> None:
    first, second = ValueError("x"), KeyError("y")
    first.__cause__, second.__cause__ = second, first
    raise first


@raises(error="ValueError")
def contexts_in_a_circle_through_a_group() -> None:
    inner = KeyError("y")
    group = ExceptionGroup("g", [inner])
    inner.__context__ = group
    outer = ValueError("x")
    outer.__context__ = group
    group.__cause__ = outer
    raise outer


@raises(error="ValueError")
def ten_thousand_causes() -> None:
    exc: Exception = ValueError("the first")
    for number in range(10_000):
        last, exc = exc, ValueError(f"retry {number}")
        exc.__cause__ = last
    raise exc


@raises(error="RecursionError")
def endless_recursion() -> None:
    endless_recursion()


@raises(error="ValueError")
def retries_that_chain_their_contexts() -> None:
    def retry(left: int) -> None:
        try:
            raise TimeoutError(f"{left} left")
        except TimeoutError:
            if not left:
                raise ValueError("no retries left") from None
            retry(left - 1)

    retry(200)


class EndlessCause(Empty):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        return EndlessCause("another")


@raises(error="EndlessCause")
def causes_without_end() -> None:
    raise EndlessCause("the first")


class CauseExits(Empty):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise SystemExit(10)

    @property
    def __context__(self) -> BaseException:  # type: ignore[override]
        raise SystemExit(11)


@raises(error="CauseExits")
def cause_is_a_property_that_exits() -> None:
    raise CauseExits("x")


@raises(error="ValueError")
def cause_with_a_text_that_exits() -> None:
    raise ValueError("x") from StrExits()


class NoTraceback(Empty):
    def with_traceback(self, tb: object) -> NoReturn:
        raise SystemExit(27)


@raises(error="NoTraceback")
def with_traceback_exits() -> None:
    raise NoTraceback("x")


class TracebackExits(Empty):
    @property
    def __traceback__(self) -> NoReturn:  # type: ignore[override]
        raise SystemExit(28)


@raises(error="TracebackExits")
def traceback_is_a_property_that_exits() -> None:
    raise TracebackExits("x")


class DictFails(Empty):
    @property
    def __dict__(self) -> NoReturn:  # type: ignore[override]
        raise ValueError("no attributes")


@raises(error="DictFails")
def dict_is_a_property_that_fails() -> None:
    raise DictFails("x")


# Groups.


@raises(error="ValueError")
def group_three_thousand_deep() -> None:
    exc: Exception = ValueError("x")
    for _ in range(3000):
        exc = ExceptionGroup("g", [exc])
    raise exc


@raises(error="ValueError")
def group_fifty_thousand_deep() -> None:
    exc: Exception = ValueError("x")
    for _ in range(50_000):
        exc = ExceptionGroup("g", [exc])
    raise exc


@raises(error="ExceptionGroup")
def group_of_twenty_thousand() -> None:
    raise ExceptionGroup("searches", [ValueError(f"search {number}") for number in range(20_000)])


@raises(error="AgentError", but={"process": fails("KeyboardInterrupt")})
def group_with_an_interrupt() -> None:
    raise BaseExceptionGroup("x", [KeyboardInterrupt()])


@raises(error="BaseExceptionGroup")
def group_with_an_exit_and_a_failure() -> None:
    raise BaseExceptionGroup("x", [SystemExit(2), ValueError("y")])


@raises(error="GeneratorExit")
def group_with_generator_exit() -> None:
    raise BaseExceptionGroup("x", [GeneratorExit()])


@raises(error="BaseExceptionGroup")
def group_with_cancelled_error() -> None:
    raise BaseExceptionGroup("x", [asyncio.CancelledError(), ExceptionGroup("y", [ValueError("z")])])


@raises(error="BaseExceptionGroup")
def group_with_everything() -> None:
    raise BaseExceptionGroup(
        "x",
        [
            KeyboardInterrupt(),
            BaseExceptionGroup("y", [SystemExit(), GeneratorExit(), StrExits()]),
            ExceptionGroup("z", [NoNotes(), ReadOnly()]),
        ],
    )


@raises(error="ExceptionGroup")
def group_of_groups_with_one_member_shared() -> None:
    exc: Exception = ValueError("x")
    for _ in range(12):
        exc = ExceptionGroup("twice", [exc, exc])
    raise exc


class Underivable(ExceptionGroup[Exception]):
    def derive(self, excs: Sequence[Exception]) -> NoReturn:  # type: ignore[override]
        raise TypeError("needs a status code")


@raises(error="Underivable")
def group_that_cannot_be_derived() -> None:
    raise Underivable("several", [ValueError("a"), KeyError("b")])


class Unsplittable(BaseExceptionGroup[BaseException]):
    def split(self, *args: Any) -> NoReturn:  # type: ignore[override]
        raise SystemExit(12)

    def subgroup(self, *args: Any) -> NoReturn:  # type: ignore[override]
        raise SystemExit(12)


@raises(error="ExceptionGroup", but={"process": fails("Unsplittable")})
def group_that_cannot_be_split() -> None:
    raise Unsplittable("several", [KeyboardInterrupt(), ValueError("a")])


class SelfContaining(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> tuple[Exception, ...]:  # type: ignore[override]
        return (self,)


@raises(error="ValueError")
def group_that_contains_itself() -> None:
    raise SelfContaining("round", [ValueError("a")])


class EmptyGroup(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> tuple[Exception, ...]:  # type: ignore[override]
        return ()


@raises(error="ValueError")
def group_that_says_it_is_empty() -> None:
    raise EmptyGroup("nothing", [ValueError("a")])


class DerivesNone(ExceptionGroup[Exception]):
    def derive(self, excs: Sequence[Exception]) -> None:  # type: ignore[override]
        return None


@raises(error="DerivesNone")
def group_that_derives_none() -> None:
    raise DerivesNone("several", [ValueError("a"), KeyError("b")])


@raises(error="AgentError", lanes=("thread", "process"), but={"process": fails("KeyboardInterrupt")})
def interrupt_out_of_a_nested_trio_run() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            raise KeyboardInterrupt

    trio.run(main)


@raises(error="SystemExit", lanes=("thread", "process"))
def exit_out_of_a_nested_asyncio_run() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            raise SystemExit(13)

    asyncio.run(main())


@raises(error="ExceptionGroup", lanes=("trio",), is_async=True)
async def interrupt_and_failure_out_of_a_nursery() -> None:
    async def child() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("a child's")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()
    except BaseExceptionGroup as group:
        raise BaseExceptionGroup("both", [*group.exceptions, KeyboardInterrupt()]) from group


# Lies about classes.


class LiesAboutClass(Empty):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return KeyboardInterrupt


class ClassExits(Empty):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise SystemExit(14)


class SaysCancelled(Empty):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return trio.Cancelled


class SaysGroup(Empty):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return BaseExceptionGroup


@raises(error="LiesAboutClass")
def says_it_is_an_interrupt() -> None:
    raise LiesAboutClass("x")


@raises(error="ClassExits")
def class_is_a_property_that_exits() -> None:
    raise ClassExits("x")


@raises(error="SaysCancelled")
def says_it_is_cancelled() -> None:
    raise SaysCancelled("x")


@raises(error="SaysGroup")
def says_it_is_a_group() -> None:
    raise SaysGroup("x")


@raises(error="Wrapped")
def proxy_that_was_closed() -> None:
    """Raise what a remote-call library makes, whose attributes are read from a connection."""

    class Wrapped(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(f"the proxy was closed before {name} was read")

    raise Wrapped


class Shouts(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(15)

    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise SystemExit(16)

    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit(17)

    def __subclasscheck__(cls, subclass: type) -> bool:
        raise SystemExit(18)


class OfOddMetaclass(Exception, metaclass=Shouts):
    pass


@raises(error="SystemExit")
def class_of_an_odd_metaclass() -> None:
    raise OfOddMetaclass("x")


class NoModule(Empty):
    pass


NoModule.__module__ = None  # type: ignore[assignment]


@raises(error="NoModule")
def class_without_a_module() -> None:
    raise NoModule("x")


@raises(error="UnicodeEncodeError")
def class_with_a_strange_name() -> None:
    raise type("Fehler\x00\ud800", (Exception,), {"__module__": "a\x00b"})("x")


@raises()
def class_with_a_long_name() -> None:
    raise type("E" * 200_000, (Exception,), {})("x")


# Exceptions that mean something to Python, Trio, asyncio, or to us.


@raises(error="Abort")
def base_exception_of_its_own() -> None:
    class Abort(BaseException):
        pass

    raise Abort("x")


@raises(error="SystemExit")
def exit_with_an_object() -> None:
    sys.exit(BadRepr())  # type: ignore[arg-type]


@raises(error="AgentError")
def keyboard_interrupt() -> None:
    raise KeyboardInterrupt


@raises(error="RuntimeError")
def stop_iteration() -> None:
    # Python makes a RuntimeError of it where it leaves a coroutine.
    next(iter(()))


@raises(error="StopAsyncIteration")
def stop_async_iteration() -> None:
    raise StopAsyncIteration


@raises(error="AgentError")
def generator_exit() -> None:
    raise GeneratorExit("x")


@raises(error="CancelledError", but={"asyncio": fails("AgentError")})
def cancelled_error_of_asyncio() -> None:
    raise asyncio.CancelledError("by the agent")


@raises(error="CancelledError")
def cancelled_error_of_futures() -> None:
    raise concurrent.futures.CancelledError


@raises(error="MemoryError")
def memory_error() -> None:
    raise MemoryError


KEPT: list[BaseException] = []


@raises(error="AgentError", lanes=("trio", "thread"))
def cancellation_that_was_kept() -> None:
    """Raise a `trio.Cancelled` of a scope that has ended long ago, as a cache of outcomes does."""

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as exc:
                KEPT.append(exc)
                raise

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()
    raise KEPT.pop()


@raises(error="ValueError", lanes=("trio",), is_async=True)
async def group_with_a_cancellation_that_was_kept() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            kept = exc
            raise
    raise BaseExceptionGroup("searches", [kept, ValueError("the second")])


@raises(error="TrioInternalError")
def internal_error_of_trio() -> None:
    raise trio.TrioInternalError("of a nested run")


@raises(error="StoreUnavailable")
def store_unavailable_of_a_store_of_its_own() -> None:
    raise agl.StoreUnavailable("the agent's vector store is away")


@raises(error="StoreFull")
def store_full_of_a_store_of_its_own() -> None:
    raise agl.StoreFull("the agent's disk is full")


@raises(error="StaleAttempt")
def stale_attempt_of_a_store_of_its_own() -> None:
    raise agl.StaleAttempt("of the agent")


@raises(error="NotStorable")
def not_storable_of_a_store_of_its_own() -> None:
    raise agl.NotStorable("of the agent")


@raises(error="Evicted")
def evicted_of_a_store_of_its_own() -> None:
    raise agl.Evicted("of the agent")


@raises(error="RolloutCancelled")
def rollout_cancelled() -> None:
    raise agl.RolloutCancelled("by the agent")


@raises(error="AttemptTimedOut")
def attempt_timed_out() -> None:
    raise agl.AttemptTimedOut("by the agent")


@raises(error="AttemptAbandoned")
def attempt_abandoned() -> None:
    raise agl.AttemptAbandoned("by the agent")


@raises(error="RunnerClosed")
def runner_closed() -> None:
    raise agl.RunnerClosed("of the agent")


# Exceptions with attributes that tracebacks look at.


@raises(error="SyntaxError")
def syntax_error_with_odd_fields() -> None:
    exc = SyntaxError("bad template")
    exc.filename, exc.lineno, exc.offset, exc.text = 5, "one", None, b"text"  # type: ignore[assignment]
    raise exc


@raises(error="SyntaxError")
def syntax_error_of_a_missing_file() -> None:
    raise SyntaxError("bad", ("gone.py", 10**9, 10**9, "x\x00y" * 1000, -5, -7))


class OddDir:
    def __dir__(self) -> list[str]:
        raise SystemExit(19)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"no {name}", name=name, obj=self)


@raises(error="AttributeError")
def attribute_of_an_object_with_an_odd_dir() -> None:
    OddDir().colour  # noqa: B018


@raises(error="NameError")
def name_error_with_an_odd_name() -> None:
    raise NameError("x", name=BadRepr())  # type: ignore[arg-type]


@raises(error="ImportError")
def import_error_with_odd_fields() -> None:
    exc = ImportError("x", name="a\x00", path="b")
    exc.name = BadRepr()  # type: ignore[assignment]
    raise exc


@raises(error="OSError")
def os_error_with_odd_fields() -> None:
    raise OSError("errno", BadRepr(), StrExits())


@raises(error="ValueError")
def code_from_a_file_that_does_not_exist() -> None:
    exec(compile("def f():\n    raise ValueError('x')\nf()", "<generated \x1b[31m>", "exec"), {})


@raises(error="ValueError")
def code_with_a_loader_that_fails() -> None:
    class Loader:
        def get_source(self, name: str) -> NoReturn:
            raise SystemExit(20)

    code = compile("def f():\n    raise ValueError('x')\nf()", "generated_file.py", "exec")
    exec(code, {"__loader__": Loader(), "__name__": "generated", "__spec__": None})


@raises(error="ValueError")
def code_with_a_strange_line() -> None:
    fn = types.FunctionType(_raise.__code__.replace(co_firstlineno=2**31 - 10, co_name="a\ud800"), globals())
    fn(ValueError("x"))


@raises(error="ValueError")
def traceback_of_another_exception() -> None:
    try:
        endless_recursion()
    except RecursionError as exc:
        raise ValueError("x").with_traceback(exc.__traceback__) from None


@raises(error="TypeError")
def mock_as_an_exception() -> None:
    exc = unittest.mock.MagicMock(spec=ValueError)
    raise exc


@raises(error="TypeError")
def class_that_cannot_be_made() -> None:
    class Needs(Exception):
        def __init__(self, message: str) -> None:
            super().__init__(message)

    raise Needs  # type: ignore[call-arg]


# What worker processes must pickle.


class ReduceExits(Empty):
    def __reduce__(self) -> NoReturn:
        raise SystemExit(21)


class ReduceMisleads(Empty):
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return int, ("5",)


class UnpicklingExits(Empty):
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return sys.exit, (22,)


class UnpicklingInterrupts(Empty):
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _raise, (KeyboardInterrupt(),)


class NeedsKeyword(Empty):
    def __init__(self, message: str, *, response: int) -> None:
        super().__init__(message)
        self.response = response


class KeepsLock(Empty):
    def __init__(self) -> None:
        super().__init__("x")
        self.lock = threading.Lock()


class UnpicklesAsGroupWithInterrupt(Empty):
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return BaseExceptionGroup, ("x", [KeyboardInterrupt()])


class EqualsFails(Empty):
    def __eq__(self, other: object) -> bool:
        raise SystemExit(23)

    def __hash__(self) -> int:
        raise SystemExit(24)

    def __bool__(self) -> bool:
        raise SystemExit(25)


@raises(error="ReduceExits")
def pickling_exits() -> None:
    raise ReduceExits("x")


@raises(error="ReduceMisleads", but={"process": fails("TypeError")})
def pickles_as_a_number() -> None:
    raise ReduceMisleads("x")


@raises(error="UnpicklingExits")
def unpickling_exits() -> None:
    raise UnpicklingExits("x")


@raises(error="UnpicklingInterrupts")
def unpickling_interrupts() -> None:
    raise UnpicklingInterrupts("x")


@raises(error="UnpicklesAsGroupWithInterrupt")
def unpickles_as_a_group_with_an_interrupt() -> None:
    raise UnpicklesAsGroupWithInterrupt("x")


@raises(error="NeedsKeyword")
def needs_a_keyword() -> None:
    raise NeedsKeyword("x", response=429)


@raises(error="KeepsLock")
def keeps_a_lock() -> None:
    raise KeepsLock


@raises(error="EqualsFails")
def cannot_be_compared_hashed_or_tested() -> None:
    raise EqualsFails("x")


class DiesLoudly(Empty):
    def __del__(self) -> None:
        raise SystemExit(26)


@raises(error="DiesLoudly", lanes=IN_ONE_PROCESS)
def exits_when_it_is_collected() -> None:
    raise DiesLoudly("x")
