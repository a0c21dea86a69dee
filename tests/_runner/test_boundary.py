"""An attempt's boundary: whatever an agent raises or records fails its own attempt, and gives its slot back."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import Runner
from lightning_trio._errors import Terminated
from lightning_trio._runner import _closing


class RudeText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class RudeGroup(BaseExceptionGroup[BaseException]):
    def derive(self, excs: Any) -> RudeGroup:
        raise SystemExit(3)


class RudeKind(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(3)

    @property
    def __mro__(cls) -> tuple[type, ...]:  # type: ignore[override]
        raise SystemExit(3)


class OfRudeKind(Exception, metaclass=RudeKind):
    pass


class RudeParts(Exception):
    """Each part of it that is read after the agent."""

    def _raise(self, *_: object) -> Any:
        raise SystemExit(3)

    __class__ = __cause__ = __context__ = __notes__ = args = property(_raise)  # type: ignore[assignment]
    add_note = __bool__ = __eq__ = _raise
    __hash__ = Exception.__hash__


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    tool: str


def nested(depth: int) -> BaseException:
    exc: BaseException = ValueError("x")
    for _ in range(depth):
        exc = ExceptionGroup("deep", [exc])
    return exc


def sharing(depth: int) -> BaseException:
    exc: BaseException = ValueError("x")
    for _ in range(depth):
        exc = ExceptionGroup("twice", [exc, exc])  # type: ignore[list-item]
    return exc


def chained(length: int) -> BaseException:
    exc: BaseException = ValueError("x")
    for _ in range(length):
        cause, exc = exc, ValueError("x")
        exc.__cause__ = cause
    return exc


def circular() -> BaseException:
    first, second = ValueError("x"), ValueError("y")
    first.__cause__, second.__cause__ = second, first
    return first


RAISED: dict[str, Callable[[], BaseException]] = {
    "text raises": RudeText,
    "derive raises": lambda: RudeGroup("x", [ValueError(), SystemExit(3)]),
    "derive raises, interrupted": lambda: RudeGroup("x", [ValueError(), KeyboardInterrupt()]),
    "metaclass raises": OfRudeKind,
    "parts raise": RudeParts,
    "frozen": lambda: Frozen("search"),
    "deep groups": lambda: nested(3_000),
    "groups that share a member": lambda: sharing(100),
    "deep groups, interrupted": lambda: BaseExceptionGroup("x", [nested(3_000), KeyboardInterrupt()]),
    "long chain": lambda: chained(10_000),
    "circular chain": circular,
    "KeyboardInterrupt": KeyboardInterrupt,
    "group of KeyboardInterrupt": lambda: BaseExceptionGroup("x", [KeyboardInterrupt()]),
    "SIGTERM's": Terminated,
    "GeneratorExit": GeneratorExit,
}
"""What no program should raise, and some agent's library does."""


def in_lane(lane: str, fn: Callable[[int], float | None]) -> agl.LitAgent[Any]:
    """Return a plain function as an agent of a lane."""
    if lane == "thread":
        return agl.rollout(fn)

    async def agent(task: int) -> float | None:
        return fn(task)

    return agl.rollout(runs_in=lane)(agent)


@pytest.mark.parametrize("lane", ["trio", "thread", "asyncio"])
@pytest.mark.parametrize("name", RAISED)
async def test_an_exception_of_any_kind_fails_its_own_attempt(name: str, lane: str) -> None:
    def agent(task: int) -> float:
        if task == 1:
            raise RAISED[name]()
        return 1.0

    with trio.fail_after(20):
        result = await Runner(in_lane(lane, agent)).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


@pytest.mark.parametrize("name", RAISED)
async def test_raised_at_the_deadline_it_gives_its_slot_back(autojump_clock: MockClock, name: str) -> None:
    async def agent(task: int) -> float:
        if task == 1:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise RAISED[name]() from None
        return 1.0

    async with Runner(agent, max_concurrency=1, config=agl.RolloutConfig(timeout_seconds=0.1)) as runner:
        caught: list[BaseException] = []
        try:
            await runner.step(1)
        except BaseException as exc:  # noqa: BLE001  # of any kind
            caught.append(exc)

        assert caught
        assert (await runner.step(0)).final_reward == 1.0
        assert runner.statistics().running == 0


@pytest.mark.parametrize("name", RAISED)
async def test_recorded_it_stops_nobody(name: str) -> None:
    async def agent(task: int) -> float:
        try:
            with agl.operation():
                raise RAISED[name]()
        except BaseException as exc:  # noqa: BLE001  # of any kind
            agl.emit_exception(exc)
        return 1.0

    result = await Runner(agent).fit([0])

    assert result.counts["succeeded"] == 1


@pytest.mark.parametrize("name", ["metaclass raises", "deep groups", "parts raise"])
async def test_it_can_be_tried_again(name: str) -> None:
    tried: list[int] = []

    async def agent(task: int) -> float:
        tried.append(task)
        if len(tried) == 1:
            raise RAISED[name]()
        return 1.0

    config = agl.RolloutConfig(
        max_attempts=2, retry_condition=["failed"], retry_exceptions=[Exception], backoff_seconds=0
    )
    result = await Runner(agent, config=config).fit([0])

    assert (result.counts["succeeded"], len(tried)) == (1, 2)


async def test_the_error_of_a_rude_exception_says_what_is_known() -> None:
    async def agent(task: int) -> None:
        raise RudeText

    async with Runner(agent) as runner:
        with pytest.raises(RudeText):
            await runner.step(1)
        [rollout] = await runner.store.query_rollouts()
        [attempt] = await runner.store.query_attempts(rollout.rollout_id)

    assert attempt.error is not None
    assert (attempt.error.type, attempt.error.message) == ("RudeText", "<str() of it raised SystemExit>")
    assert "in agent" in attempt.error.traceback


async def test_a_traceback_that_cannot_be_formatted_has_the_lines_of_the_agent() -> None:
    async def agent(task: int) -> None:
        raise RudeParts

    async with Runner(agent) as runner:
        await runner.fit([0])
        [rollout] = await runner.store.query_rollouts()
        [attempt] = await runner.store.query_attempts(rollout.rollout_id)

    assert attempt.error is not None
    assert "raise RudeParts" in attempt.error.traceback
    assert "could not be formatted: RudeParts makes its own" in attempt.error.traceback


async def test_records_that_cannot_be_read_end_their_attempt_with_a_bare_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(*_: object) -> Any:
        raise SystemExit(3)

    async def agent(task: int) -> float:
        agl.emit_message("hello")
        return 1.0

    async with Runner(agent, max_concurrency=1) as runner:
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(_closing, "sum_usage", unreadable)
            with pytest.raises(agl.AgentError, match="cannot be read: reading it raised SystemExit"):
                await runner.step(1)
        done = await runner.step(1)
        statuses = [rollout.status for rollout in await runner.store.query_rollouts()]
        spans = await runner.store.query_spans((await runner.store.query_rollouts())[0].rollout_id)

    assert (statuses, done.final_reward) == (["failed", "succeeded"], 1.0)
    assert [span.name for span in spans] == ["invoke_agent agent"]
    assert "ends without its spans" in caplog.text


async def test_what_is_deep_in_a_text_is_no_reward() -> None:
    async def agent(task: int) -> float | None:
        if task == 1:
            agl.emit_annotation({"agentops.entity.output": "[" * 100_000})
            return None
        return 1.0

    result = await Runner(agent).fit([0, 1, 2])

    assert result.counts["succeeded"] == 3


async def test_a_ctrl_c_in_an_agent_is_still_one() -> None:
    async def agent(task: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        async with Runner(agent) as runner:
            await runner.step(1)
            await trio.sleep(1)


# What an agent leaves open in its task.


async def opens_a_nursery() -> None:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)


async def opens_a_scope() -> None:
    trio.move_on_after(1).__enter__()


async def opens_both() -> None:
    trio.move_on_after(1).__enter__()
    await opens_a_nursery()
    trio.CancelScope().__enter__()


async def drops_a_generator() -> None:
    async def pages() -> AsyncGenerator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield 1

    kept.append(pages())
    async for _ in kept[-1]:
        break


kept: list[AsyncGenerator[int]] = []


@pytest.mark.parametrize("timeout_seconds", [None, 60.0], ids=["without a deadline", "with one"])
@pytest.mark.parametrize("leave_open", [opens_a_nursery, opens_a_scope, opens_both])
async def test_what_an_agent_leaves_open_fails_its_attempt_and_harms_neither_caller_nor_neighbour(
    autojump_clock: MockClock, leave_open: Callable[[], Awaitable[None]], timeout_seconds: float | None
) -> None:
    async def agent(task: int) -> float:
        if task == 1:
            await leave_open()
        await trio.lowlevel.checkpoint()
        return 1.0

    config = agl.RolloutConfig(timeout_seconds=timeout_seconds)
    async with Runner(agent, config=config, max_concurrency=1) as runner:
        with pytest.raises((agl.AgentError, RuntimeError), match=r"entered and not left|stack corrupted"):
            await runner.step(1)
        await trio.sleep(5)
        result = await runner.fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_a_dropped_async_generator_with_a_nursery_fails_its_attempt_only() -> None:
    async def agent(task: int) -> float:
        if task == 1:
            await drops_a_generator()
        return 1.0

    result = await Runner(agent).fit([0, 1, 2])
    # Its clean-up is misnested, which Trio logs.
    with suppress(AttributeError, RuntimeError):
        await kept.pop().aclose()

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_the_errors_of_its_child_tasks_are_the_cause() -> None:
    async def fails() -> None:
        raise KeyError("tea")

    async def agent(task: int) -> float:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(fails)
        return 1.0

    async with Runner(agent) as runner:
        with pytest.raises(agl.AgentError) as caught:
            await runner.step(1)

    assert isinstance(caught.value.__cause__, ExceptionGroup)


# Trio warns of the generator.
@pytest.mark.filterwarnings("ignore")
async def test_a_dropped_async_generator_whose_tasks_still_run_keeps_no_one_waiting() -> None:
    @asynccontextmanager
    async def client() -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield

    async def agent(task: int) -> float:
        if task == 1:
            await client().__aenter__()
        return 1.0

    with trio.fail_after(10):
        result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


@pytest.mark.filterwarnings("ignore")
async def test_a_dropped_async_generator_that_trio_closes_first_fails_its_attempt_once() -> None:
    @asynccontextmanager
    async def client() -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield

    async def agent(task: int) -> float:
        await client().__aenter__()
        return 1.0

    # Trio runs tasks in a random order, so that one of them would be too few.
    async with Runner(agent) as runner:
        await runner.fit(range(30))
        rollouts = await runner.store.query_rollouts()
        attempts = [each for one in rollouts for each in await runner.store.query_attempts(one.rollout_id)]

    assert [each.error and each.error.type for each in attempts] == ["AgentError"] * 30


async def test_a_log_filter_of_an_agent_that_raises_stops_no_attempt_from_ending() -> None:
    def rude(record: logging.LogRecord) -> bool:
        raise SystemExit(3)

    logger = logging.getLogger("lightning_trio.runner")

    def unreadable(*_: object) -> Any:
        raise SystemExit(3)

    async def agent(task: int) -> float:
        logger.addFilter(rude)
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_closing, "sum_usage", unreadable)
        async with Runner(agent, max_concurrency=1) as runner:
            try:
                with pytest.raises(agl.AgentError, match="cannot be read"):
                    await runner.step(1)
            finally:
                logger.removeFilter(rude)


async def test_an_agent_that_cancels_the_runners_nursery_ends_the_run_with_an_error_that_says_so() -> None:
    @agl.rollout
    async def agent(task: int) -> None:
        trio.lowlevel.current_task().parent_nursery.cancel_scope.cancel()  # type: ignore[union-attr]
        await trio.sleep_forever()

    with trio.fail_after(5), pytest.raises(RuntimeError, match="Open a nursery in the agent"):
        await Runner(agent, store=agl.InMemoryLightningStore()).fit([1])


@pytest.mark.parametrize("tokens", [40, 1])
async def test_agents_that_take_all_of_trios_threads_for_good_hold_up_neither_their_run_nor_its_store(
    tokens: int, tmp_path: Path
) -> None:
    may_end = threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()

    @agl.rollout(config=agl.RolloutConfig(timeout_seconds=0.2))
    async def agent(task: int) -> None:
        limiter.total_tokens = tokens
        await trio.to_thread.run_sync(may_end.wait, abandon_on_cancel=True)

    try:
        with trio.fail_after(10):
            async with agl.SqliteLightningStore(tmp_path / "runs.db") as store:
                result = await Runner(agent, store=store).fit(range(40))
    finally:
        may_end.set()
    assert result.counts["failed"] == 40
