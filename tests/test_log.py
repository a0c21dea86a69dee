"""The package's loggers: whatever a filter, a handler or a record factory raises, the caller goes on."""

from __future__ import annotations

import ast
import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio._log import Log

NAME = "lightning_trio.runner"

PACKAGE = Path(agl.__file__).parent


class Rude(logging.Handler):
    """A handler and a filter that raise."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind

    def handle(self, record: logging.LogRecord) -> bool:
        raise self.kind

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.kind


@pytest.fixture
def install() -> Generator[Callable[..., None]]:
    """Make a part of a logger raise until the test ends."""
    undo: list[Callable[[], object]] = []

    def do(part: str, kind: type[BaseException] = ValueError, name: str = NAME) -> None:
        logger, rude = logging.getLogger(name), Rude(kind)
        if part == "factory":
            undo.append(partial(logging.setLogRecordFactory, logging.getLogRecordFactory()))

            def make(*_: object, **__: object) -> Any:
                raise kind

            logging.setLogRecordFactory(make)
        elif part == "filter":
            logger.addFilter(rude)
            undo.append(lambda: logger.removeFilter(rude))
        else:
            logger.addHandler(rude)
            undo.append(lambda: logger.removeHandler(rude))

    yield do
    for each in reversed(undo):
        each()


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("part", ["filter", "handler", "factory"])
def test_what_a_filter_or_handler_raises_loses_the_message_alone(
    part: str, kind: type[BaseException], install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(part, kind)

    Log(NAME).warning("the key is %s", "sk-1")

    said = capsys.readouterr().err
    assert f"{NAME} raised {kind.__name__}, and a message is lost: 'the key is %s'" in said
    assert "sk-1" not in said


def test_the_loss_of_a_message_is_not_reported_where_a_program_wants_no_such_reports(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("filter")
    monkeypatch.setattr(logging, "raiseExceptions", False)

    Log(NAME).warning("x")

    assert capsys.readouterr().err == ""


def test_without_a_standard_error_nothing_is_raised_either(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("filter")
    monkeypatch.setattr(sys, "stderr", None)

    Log(NAME).warning("x")


class Broken:
    """A standard error that an agent has put in the place of Python's."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def write(self, text: str) -> int:
        raise self.kind


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_with_a_broken_standard_error_nothing_is_raised_either(
    kind: type[BaseException], install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("filter")
    monkeypatch.setattr(sys, "stderr", Broken(kind))

    Log(NAME).warning("x")


@pytest.mark.parametrize("lane", ["trio", "thread", "asyncio"])
def test_a_standard_error_that_an_agent_has_broken_ends_no_run(
    lane: Any, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner logs how many have failed."""
    install("filter")

    async def agent(task: int) -> None:
        plain(task)

    def plain(task: int) -> None:
        sys.stderr = Broken(KeyboardInterrupt)  # type: ignore[assignment]
        if task == 1:
            raise ValueError

    monkeypatch.setattr(sys, "stderr", sys.stderr)
    runner = Runner(plain if lane == "thread" else agl.rollout(agent, runs_in=lane))
    result = trio.run(runner.fit, [0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


def test_a_ctrl_c_while_a_message_is_logged_is_raised(install: Callable[..., None]) -> None:
    install("filter", KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        Log(NAME).warning("x")


async def test_where_trio_raises_no_ctrl_c_it_is_the_filters_own(install: Callable[..., None]) -> None:
    install("filter", KeyboardInterrupt)

    trio.lowlevel.enable_ki_protection(Log(NAME).warning)("x")


async def test_without_a_signal_it_is_the_filters_own_while_a_runner_is_open(install: Callable[..., None]) -> None:
    async with Runner(nothing):
        install("filter", KeyboardInterrupt)

        Log(NAME).warning("x")


async def nothing(task: int) -> None:
    pass


class Signalled(logging.Filter):
    """A filter during which signals come."""

    def __init__(self, signum: int, number: int) -> None:
        super().__init__()
        self.signum = signum
        self.number = number

    def filter(self, record: logging.LogRecord) -> bool:
        for _ in range(self.number):
            signal.raise_signal(self.signum)
        return True


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize(
    ("signum", "number", "raised"),
    [
        (signal.SIGINT, 1, KeyboardInterrupt),
        (signal.SIGINT, 2, KeyboardInterrupt),
        (signal.SIGTERM, 2, SystemExit),
    ],
)
def test_a_signal_that_comes_while_the_runner_logs_stops_the_run(
    signum: int, number: int, raised: type[BaseException]
) -> None:
    signalled = Signalled(signum, number)
    began: list[int] = []

    async def agent(task: int) -> None:
        began.append(task)

    logging.getLogger("lightning_trio.hooks").addFilter(signalled)
    try:
        with pytest.raises(raised):
            trio.run(Runner(agent, hooks=[FailingHook()], max_concurrency=1).fit, list(range(1000)))
    finally:
        logging.getLogger("lightning_trio.hooks").removeFilter(signalled)

    assert len(began) < 1000


async def test_a_filter_that_raises_another_tasks_cancellation_loses_its_message_alone() -> None:
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept.append(exc)
            raise

    def check(record: logging.LogRecord) -> bool:
        raise kept[0]

    logging.getLogger(NAME).addFilter(check)
    try:
        Log(NAME).warning("x")
    except trio.Cancelled as exc:
        kept.append(exc)
    finally:
        logging.getLogger(NAME).removeFilter(check)

    assert len(kept) == 1


def test_outside_of_the_main_thread_it_is_the_filters_own(install: Callable[..., None]) -> None:
    install("filter", KeyboardInterrupt)
    returned: list[None] = []

    thread = threading.Thread(target=lambda: returned.append(Log(NAME).warning("x")))
    thread.start()
    thread.join()

    assert returned == [None]


async def test_the_cancellation_of_a_thread_is_raised(install: Callable[..., None]) -> None:
    def check(record: logging.LogRecord) -> bool:
        trio.from_thread.check_cancelled()
        return True

    logging.getLogger(NAME).addFilter(check)
    try:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.to_thread.run_sync(Log(NAME).warning, "x", abandon_on_cancel=False)
    finally:
        logging.getLogger(NAME).removeFilter(check)

    assert scope.cancelled_caught


def test_a_record_has_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    Log(NAME).warning("%d of %d", 1, 2)

    [record] = caplog.records
    assert (record.filename, record.funcName) == ("test_log.py", "test_a_record_has_the_line_that_logged_it")
    assert (record.name, record.getMessage()) == (NAME, "1 of 2")


def test_no_module_logs_by_a_logger_that_may_raise() -> None:
    """Those of users' code, of Hypercorn and of `compat`'s public names are the standard library's."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "getLogger"
    }

    assert found == {
        "_log.py",
        "_resources/_api_keys.py",
        "compat/_attributes.py",
        "compat/_logging.py",
        "server/_server.py",
    }


class FailingHook(agl.Hook):
    async def on_rollout_end(self, **_: object) -> None:
        raise ValueError("hook")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("part", ["filter", "handler", "factory"])
def test_a_log_that_an_agent_has_made_to_raise_ends_no_run(
    part: str, kind: type[BaseException], install: Callable[..., None]
) -> None:
    """The runner logs the failed hook, the attempt that outlives its deadline, the empty list and the failures."""

    async def agent(task: int) -> list[agl.Span] | None:
        if task == 3:
            for name in ("runner", "hooks", "agent"):
                install(part, kind, name=f"lightning_trio.{name}")
            raise ValueError
        if task == 5:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
        return [] if task == 6 else None

    config = RolloutConfig(timeout_seconds=1)
    result = trio.run(
        Runner(agent, config=config, hooks=[FailingHook()], max_concurrency=2).fit,
        list(range(8)),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )

    assert result.counts == {"cancelled": 0, "failed": 2, "succeeded": 6}


def test_a_log_of_asyncio_that_an_agent_has_made_to_raise_ends_no_loop(install: Callable[..., None]) -> None:
    def fail() -> None:
        raise RuntimeError

    async def agent(task: int) -> float:
        if task == 0:
            install("filter", name="asyncio")
            asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.05)
        return 1.0

    result = trio.run(Runner(agl.rollout(agent, runs_in="asyncio")).fit, list(range(5)))

    assert result.counts == {"cancelled": 0, "failed": 0, "succeeded": 5}
