"""An agent in Trio that does not end at its deadline is named and given up."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio._runner import _overdue

LIMITED = RolloutConfig(timeout_seconds=0.2)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_overdue, "_OVERDUE_SECONDS", 0.25)


class Stuck:
    """An agent stuck in a thread until `go_on` is set, if its task says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.after: Callable[[], Any] = lambda: None
        self.seen: list[BaseException] = []
        self.ended = trio.Event()

    async def __call__(self, task: str) -> float:
        if task != "stuck":
            return 1.0
        try:
            await trio.to_thread.run_sync(self.go_on.wait)
            self.after()
        except BaseException as exc:
            self.seen.append(exc)
            raise
        finally:
            self.ended.set()
        return 1.0


@asynccontextmanager
async def stuck_agent() -> AsyncGenerator[Stuck]:
    agent = Stuck()
    try:
        yield agent
    finally:
        agent.go_on.set()
        with trio.fail_after(5):
            await agent.ended.wait()


def overdue(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "after it was cancelled at its deadline" in record.message]


async def test_an_agent_stuck_in_a_thread_is_named_with_its_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED) as runner:
        with trio.fail_after(5), pytest.raises(agl.AttemptTimedOut) as caught:
            await runner.step("stuck")
        [rollout] = await runner.store.query_rollouts()

    [warning] = overdue(caplog)
    assert warning.startswith(f"rollout {rollout.rollout_id} (agent __call__) still runs 1.0 s after")
    assert f"in __call__ at {__file__}" in warning
    assert "await trio.to_thread.run_sync(self.go_on.wait)" in warning
    assert "Its task could not be stopped and was abandoned." in caught.value.__notes__


async def test_fit_returns_without_it_and_counts_it() -> None:
    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED) as runner:
        with trio.fail_after(5):
            result = await runner.fit(["ok", "stuck", "ok"])

    assert dict(result.counts) == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_a_stream_goes_on_without_it() -> None:
    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED) as runner:
        with trio.fail_after(5):
            async with runner.stream(["ok", "stuck", "ok"]) as results:
                statuses = sorted([done.attempt.status async for done in results])

    assert statuses == ["succeeded", "succeeded", "timeout"]


async def test_it_keeps_its_slot_until_its_task_ends() -> None:
    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED, max_concurrency=1) as runner:
        with trio.fail_after(5), pytest.raises(agl.AttemptTimedOut):
            await runner.step("stuck")
        before = runner.statistics()
        with trio.move_on_after(0.2) as waiting:
            await runner.step("ok")
        agent.go_on.set()
        with trio.fail_after(5):
            await runner.step("ok")
        after = runner.statistics()

    assert waiting.cancelled_caught
    assert (before.running, before.abandoned_threads, before.late_results) == (0, 1, 0)
    assert (after.running, after.abandoned_threads, after.late_results) == (0, 0, 1)


async def test_it_can_report_nothing_any_more() -> None:
    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED) as runner:
        agent.after = lambda: agl.emit_reward(1.0)
        with trio.fail_after(5):
            async with runner.stream(["stuck"]) as results:
                [done] = [done async for done in results]
        agent.go_on.set()
        with trio.fail_after(5):
            await agent.ended.wait()
        attempt = await runner.store.get_latest_attempt(done.rollout.rollout_id)

    assert isinstance(agent.seen[0], agl.AttemptAbandoned)
    assert attempt is not None
    assert (attempt.status, attempt.final_reward) == ("timeout", None)


async def test_a_retry_does_not_wait_for_it() -> None:
    async with stuck_agent() as agent:
        config = RolloutConfig(timeout_seconds=0.2, max_attempts=2, retry_condition=["timeout"], backoff_seconds=0.01)
        calls = 0

        async def stuck_once(task: str) -> float:
            nonlocal calls
            calls += 1
            return await agent("stuck" if calls == 1 else "ok")

        async with Runner(stuck_once, config=config) as runner:
            with trio.fail_after(5):
                done = await runner.step("task")

    assert (done.status, done.attempt.sequence_id) == ("succeeded", 2)


async def test_leaving_the_runner_does_not_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async with stuck_agent() as agent:
        with trio.fail_after(5):
            async with Runner(agent.__call__, config=LIMITED) as runner:
                with pytest.raises(agl.AttemptTimedOut):
                    await runner.step("stuck")
        still_runs = not agent.ended.is_set()

    assert still_runs
    assert "the runner is closed, and 1 abandoned attempts still run (Trio waits for 1 of them" in caplog.text


async def test_hooks_see_its_end(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[str] = []

    class Ends(agl.Hook):
        async def on_trace_end(self, **_: Any) -> None:
            await trio.lowlevel.checkpoint()
            ends.append(agl.current_rollout().input)

        async def on_rollout_end(self, *, spans: Any, **_: Any) -> None:
            ends.append(spans[0].status.status_code)

    async with stuck_agent() as agent, Runner(agent.__call__, config=LIMITED, hooks=Ends()) as runner:
        with trio.fail_after(5), pytest.raises(agl.AttemptTimedOut):
            await runner.step("stuck")

    assert ends == ["stuck", "ERROR"]


async def test_clean_up_in_a_shielded_scope_has_ten_seconds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(task: float) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(task)
                agl.emit_message("tidy")

    async with Runner(agent, config=RolloutConfig(timeout_seconds=1)) as runner, runner.stream([5.0, 30.0]) as results:
        done = [(each, trio.current_time()) async for each in results]

    assert [(round(when), len(each.spans), each.attempt.status) for each, when in done] == [
        (6, 2, "timeout"),
        (11, 1, "timeout"),
    ]
    assert len(overdue(caplog)) == 2


async def test_clean_up_that_wakes_up_at_that_moment_is_not_stuck(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(6):
                    await trio.sleep(0.25)
                agl.emit_message("tidy")

    async with Runner(agent, config=RolloutConfig(timeout_seconds=1)) as runner, runner.stream(range(20)) as results:
        done = [each async for each in results]

    assert [len(each.spans) for each in done] == [2] * 20


async def test_an_agent_that_blocked_past_its_deadline_is_not_stuck(caplog: pytest.LogCaptureFixture) -> None:
    """Its cancellation is delivered when Trio's thread is free, before or after the watch looks, as Trio chooses."""

    async def agent(task: str) -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - the fault
        await trio.sleep(0.01)

    async with Runner(agent, config=LIMITED) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step("blocks")

    assert not overdue(caplog)
    assert runner.statistics().abandoned_threads == 0


async def test_a_silent_agent_that_cannot_be_stopped_is_given_up() -> None:
    config = RolloutConfig(unresponsive_seconds=0.2)
    async with stuck_agent() as agent, Runner(agent.__call__, config=config) as runner:
        with trio.fail_after(5):
            async with runner.stream(["stuck"]) as results:
                [done] = [done async for done in results]

    assert done.attempt.status == "unresponsive"


async def test_a_child_task_that_is_stuck_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with stuck_agent() as stuck:

        async def agent(task: str) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stuck, "stuck")

        async with Runner(agent, config=LIMITED) as runner:
            with trio.fail_after(5), pytest.raises(agl.AttemptTimedOut):
                await runner.step("task")

    [warning] = overdue(caplog)
    assert "await trio.to_thread.run_sync(self.go_on.wait)" in warning


async def nest(nurseries: int) -> None:
    """Sleep below so many nested nurseries."""
    if nurseries == 0:
        await trio.sleep(3)
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nest, nurseries - 1)


async def in_nurseries(task: str) -> None:
    if task == "stuck":
        with trio.CancelScope(shield=True):
            await nest(900)


async def test_nurseries_nested_deeper_than_python_recurses_end_no_run(autojump_clock: MockClock) -> None:
    result = await Runner(in_nurseries, config=LIMITED).fit(["stuck", "a", "b"])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_a_look_that_fails_is_logged_once_and_gives_the_attempt_up_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise KeyboardInterrupt

    async def agent(task: str) -> None:
        with trio.CancelScope(shield=task == "stuck"):
            await trio.sleep(20 if task == "stuck" else 0)

    monkeypatch.setattr(_overdue, "may_end", fail)
    result = await Runner(agent, config=LIMITED).fit(["stuck", "stuck", "a"])

    assert result.counts == {"cancelled": 0, "failed": 2, "succeeded": 1}
    failures = [each for each in caplog.messages if "looking at the attempts beyond their deadlines failed" in each]
    assert len(failures) == 1
