"""The asyncio lane: agents written for asyncio, on one loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from programs import interrupt_program

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner
from lightning_trio.lanes._asyncio._loop import close_loops

pytestmark = pytest.mark.filterwarnings("error")


@agl.rollout(runs_in="asyncio")
async def half(task: float) -> float:
    await asyncio.sleep(0.001)
    return task / 2


def side_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lightning_trio-asyncio"]


def limit(seconds: float = 0.1) -> RolloutConfig:
    return RolloutConfig(timeout_seconds=seconds)


async def test_gives_what_the_agent_returned() -> None:
    async with Runner(half) as runner:
        done = await runner.step(3)

    assert done.final_reward == 1.5


async def test_raises_what_the_agent_raised() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(0)
        raise KeyError("room")

    async with Runner(agent) as runner:
        with pytest.raises(KeyError, match="room"):
            await runner.step(1)


async def test_all_agents_share_one_loop_in_one_side_thread() -> None:
    where: set[tuple[int, int]] = set()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(0.01)
        where.add((id(asyncio.get_running_loop()), threading.get_ident()))

    result = await Runner(agent, max_concurrency=50).fit(range(50))

    assert result.counts["succeeded"] == 50
    assert len(where) == 1
    assert where.pop()[1] != threading.main_thread().ident


async def test_they_run_at_the_same_time() -> None:
    arrived: list[int] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        arrived.append(task)
        while len(arrived) < 20:
            await asyncio.sleep(0.001)

    with trio.fail_after(10):
        result = await Runner(agent, max_concurrency=20).fit(range(20))

    assert result.counts["succeeded"] == 20


async def test_emits_reach_their_rollout_from_child_tasks_and_threads() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        async def child() -> None:
            await asyncio.sleep(0.001)
            agl.emit_message(f"child {task}")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        await asyncio.to_thread(agl.emit_message, f"thread {task}")

    async with Runner(agent, max_concurrency=20) as runner, runner.stream(range(20)) as results:
        async for done in results:
            texts = [agl.get_message_value(span) for span in done.spans[1:]]
            assert texts == [f"child {done.rollout.input}", f"thread {done.rollout.input}"]


async def test_context_variables_of_the_caller_reach_the_agent() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    seen: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        seen.append(who.get())

    async with Runner(agent) as runner:
        who.set("me")
        await runner.step(1)

    assert seen == ["me"]


@pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
async def test_a_base_exception_fails_its_attempt_and_leaves_its_neighbours(exception: BaseException) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        await asyncio.sleep(0.01)
        if task == 1:
            raise exception
        await asyncio.sleep(0.05)
        return 1.0

    with trio.fail_after(10):
        result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_at_its_deadline_an_agent_is_cancelled_and_its_finally_may_await() -> None:
    cleaned: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            for step in ("one", "two"):
                await asyncio.sleep(0.01)
                cleaned.append(step)

    with trio.fail_after(10):
        async with Runner(agent, config=limit()) as runner:
            with pytest.raises(agl.AttemptTimedOut):
                await runner.step(1)

    assert cleaned == ["one", "two"]


async def test_an_error_in_the_clean_up_at_the_deadline_is_a_failed_attempt() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("in the clean-up")

    async with Runner(agent, config=limit()) as runner:
        with pytest.raises(ValueError, match="in the clean-up"):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts(status_in=["failed"])
        attempt = await runner.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.status == "failed"


async def test_a_cancelled_step_cancels_its_agent_and_waits_for_the_clean_up() -> None:
    events: list[str] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        events.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            events.append("cleaned")
            raise

    async def cancel_when_begun(scope: trio.CancelScope) -> None:
        while not events:
            await trio.sleep(0.01)
        scope.cancel()

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_begun, scope)
            await runner.step(1)
        events.append("step ended")

        [rollout] = await runner.store.query_rollouts()
    assert scope.cancelled_caught
    assert events == ["begun", "cleaned", "step ended"]
    assert rollout.status == "cancelled"


async def test_a_deadline_that_passes_before_the_agent_begins_still_ends_it() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.sleep(60)

    with trio.fail_after(10):
        result = await Runner(agent, config=limit(1e-9), max_concurrency=2).fit(range(10))

    assert result.counts["failed"] == 10


async def test_an_agent_may_use_asyncios_own_timeouts() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return 1.0
        return 0.0

    result = await Runner(agent, config=limit(5)).fit([1])

    assert result.mean_reward["train"] == 1.0


async def test_no_loop_is_started_where_no_agent_needs_one() -> None:
    async def native(task: int) -> None: ...

    close_loops()
    async with Runner(native) as runner:
        await runner.step(1)

        assert not side_threads()


# A rollout's own tasks that outlive its agent; for others see `test_asyncio_background.py`.


async def test_tasks_that_recorded_something_are_cancelled_awaited_and_named(caplog: pytest.LogCaptureFixture) -> None:
    events: list[str] = []

    async def forgotten() -> None:
        agl.emit_message("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            events.append("cleaned")

    @agl.rollout(runs_in="asyncio")
    async def leaky(task: int) -> float:
        asyncio.create_task(forgotten(), name="the heartbeat")  # noqa: RUF006
        await asyncio.sleep(0)
        return 1.0

    async with Runner(leaky) as runner:
        done = await runner.step(1)
        events.append("step ended")

    assert done.final_reward == 1.0
    assert events == ["cleaned", "step ended"]
    [message] = [message for message in caplog.messages if "left tasks behind" in message]
    assert f"rollout {done.rollout.rollout_id} (leaky)" in message
    assert "the heartbeat (" in message


async def test_tasks_left_behind_that_do_not_end_do_not_hold_up_the_attempts_end() -> None:
    async def ignore() -> None:
        agl.emit_message("begun")
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.2))
    async def agent(task: int) -> None:
        background.append(asyncio.create_task(ignore()))
        await asyncio.sleep(60)

    background: list[asyncio.Task[None]] = []
    async with Runner(agent) as runner, runner.stream([1]) as results:
        [done] = [each async for each in results]
        still_there = not background[0].done()
        abandoned = runner.statistics().abandoned_threads
        with trio.fail_after(10):
            while runner.statistics().abandoned_threads:
                await trio.sleep(0.05)

    assert done.attempt.status == "timeout"
    assert (still_there, abandoned) == (True, 1)
    assert background[0].done()


async def test_tasks_left_behind_by_an_agent_at_its_deadline_are_cancelled_too() -> None:
    tasks: list[asyncio.Task[None]] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        await asyncio.sleep(60)

    async with Runner(agent, config=limit()) as runner:
        with pytest.raises(agl.AttemptTimedOut):
            await runner.step(1)

        assert tasks[0].cancelled()


async def test_a_task_the_agent_has_cancelled_itself_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        asyncio.create_task(asyncio.sleep(60)).cancel()

    async with Runner(agent) as runner:
        await runner.step(1)

    assert not caplog.messages


async def test_a_task_that_ignores_its_cancellation_holds_the_attempt_up_for_a_moment_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[BaseException] = []

    async def stubborn() -> None:
        agl.emit_message("begun")
        while not heard:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
                try:
                    agl.emit_message("late")
                except agl.NoActiveRollout as exc:
                    heard.append(exc)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        asyncio.create_task(stubborn(), name="mule")  # noqa: RUF006
        await asyncio.sleep(0)
        return 1.0

    with trio.fail_after(20):
        async with Runner(agent) as runner:
            done = await runner.step(1)
            while not heard:
                await trio.sleep(0.01)

    assert done.final_reward == 1.0
    assert any("do not end although they are cancelled: mule" in message for message in caplog.messages)
    assert "has ended, and this code still runs" in str(heard[0])


class OddTask(asyncio.Task[None]):
    """One that cannot be asked, or cancelled."""

    raised: type[BaseException]

    def done(self) -> bool:
        raise self.raised


class OddlyCancelled(OddTask):
    done = asyncio.Task.done

    def cancel(self, msg: object = None) -> bool:
        raise self.raised


@pytest.mark.parametrize("kind", [OddTask, OddlyCancelled])
@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
async def test_tasks_left_behind_whose_methods_raise_do_not_cost_the_agents_result(
    kind: type[OddTask], raised: type[BaseException], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddTask, "raised", raised, raising=False)
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        agl.emit_annotation({"a": 1})
        await asyncio.Event().wait()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: kind(coro, loop=loop, **options))
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(0.01)
        return 1.0

    with trio.fail_after(5):
        async with Runner(agent) as runner:
            assert (await runner.step(1)).final_reward == 1.0
    asyncio.Task.get_loop(tasks[0]).call_soon_threadsafe(asyncio.Task.cancel, tasks[0])

    assert f"a method of one of them raised {raised.__name__}" in caplog.text


async def test_a_fault_in_the_end_of_a_call_fails_its_attempt_and_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*args: object) -> None:
        raise OSError("a fault of the lane's own")

    monkeypatch.setattr("lightning_trio.lanes._asyncio._call.AsyncioCall._end_children", fail)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        await asyncio.create_task(asyncio.sleep(0))

    with trio.fail_after(5):
        async with Runner(agent) as runner:
            with pytest.raises(OSError, match="a fault of the lane's own"):
                await runner.step(1)


async def test_a_task_whose_name_raises_does_not_keep_the_others_left_behind_from_being_cancelled() -> None:
    left: list[asyncio.Task[None]] = []
    ended: list[str] = []

    class Nameless(asyncio.Task[None]):
        def get_name(self) -> str:
            raise ValueError("no name")

    async def work() -> None:
        agl.emit_annotation({"a": 1})
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("work")

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: Nameless(coro, loop=loop, **options))
        left.extend(asyncio.create_task(work()) for _ in range(2))
        await asyncio.sleep(0.01)

    async with Runner(agent) as runner:
        await runner.step(1)

    assert ended == ["work", "work"]


async def test_a_blocking_task_that_cannot_be_named_ends_no_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._CHECK_SECONDS", 0.05)

    class Nameless(asyncio.Task[None]):
        def get_name(self) -> str:
            raise ValueError("no name")

    async def block() -> None:
        for _ in range(300):
            if "has been blocked for" not in caplog.text:
                time.sleep(0.01)  # noqa: ASYNC251 - the fault

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        await Nameless(block(), loop=asyncio.get_running_loop(), context=contextvars.Context())
        return 1.0

    with trio.fail_after(10):
        async with Runner(agent) as runner:
            assert (await runner.step(1)).final_reward == 1.0


async def test_a_task_in_a_context_of_its_own_serves_many_rollouts(caplog: pytest.LogCaptureFixture) -> None:
    pool: list[asyncio.Task[None]] = []

    async def serve() -> None:
        await asyncio.sleep(60)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not pool:
            pool.append(asyncio.create_task(serve(), context=contextvars.Context()))
        await asyncio.sleep(0)
        return float(not pool[0].done())

    result = await Runner(agent, max_concurrency=1).fit([1, 2])

    assert result.mean_reward["train"] == 1.0
    assert not caplog.messages


# Exceptions that asyncio treats differently from Trio.


async def test_a_cancelled_error_of_the_agents_own_is_a_failure_that_says_so() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        other.cancel()
        await other

    async with Runner(agent) as runner:
        with pytest.raises(agl.AgentError, match=r"raised asyncio\.CancelledError although its rollout was not"):
            await runner.step(1)

        [rollout] = await runner.store.query_rollouts()
    assert rollout.status == "failed"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_a_child_task_that_exits_ends_its_own_attempt_and_not_the_loop(kind: type[BaseException]) -> None:
    async def leave() -> None:
        raise kind

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if task == 1:
            await asyncio.create_task(leave())
        await asyncio.sleep(0.05)
        return 1.0

    with trio.fail_after(10):
        result = await Runner(agent).fit([0, 1, 2])

    assert result.counts == {"cancelled": 0, "failed": 1, "succeeded": 2}


async def test_groups_come_as_they_are() -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with asyncio.TaskGroup() as group:
            group.create_task(fail(KeyError("a")))
            group.create_task(fail(ValueError("b")))

    async with Runner(agent) as runner:
        with pytest.raises(ExceptionGroup) as caught:
            await runner.step(1)

    assert {type(exc) for exc in caught.value.exceptions} == {KeyError, ValueError}


async def test_an_agent_that_stops_the_loop_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return 1.0

    with trio.fail_after(10):
        result = await Runner(agent).fit([1, 2])

    assert result.counts["succeeded"] == 2
    assert "an agent called stop() on the asyncio loop" in caplog.text


async def test_a_loop_that_dies_fails_its_calls_and_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if task == 1:
            # An error in the loop itself, such as from a closed selector or a patched loop.
            asyncio.get_running_loop()._process_events = None  # type: ignore[attr-defined]
            await asyncio.sleep(60)
        await asyncio.sleep(0.01)
        return 1.0

    with trio.fail_after(10):
        async with Runner(agent) as runner:
            with pytest.raises(agl.AgentError, match="the asyncio loop that the agent ran on died"):
                await runner.step(1)
            assert (await runner.step(2)).final_reward == 1.0

    assert "the agents' asyncio loop died" in caplog.text
    await wait_for_one_loop()


# A blocked loop.


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event to block on, set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


async def wait_for_one_loop() -> None:
    """Wait until replaced loops have closed; raise `trio.TooSlowError` if they do not."""
    with trio.fail_after(5):
        while len(side_threads()) > 1:
            await trio.sleep(0.01)


async def test_an_agent_that_blocks_the_loop_is_named_with_its_current_line(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    @agl.rollout(runs_in="asyncio")
    async def blocker(task: int) -> float:
        await asyncio.sleep(0)
        gate.wait(20)  # the line
        return 1.0

    async with Runner(blocker) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        with trio.fail_after(10):
            while "has been blocked for" not in caplog.text:
                await trio.sleep(0.05)
        [rollout] = await runner.store.query_rollouts()
        gate.set()

    assert f"by the agent of rollout {rollout.rollout_id} (blocker)" in caplog.text
    assert "in blocker at " in caplog.text
    assert "gate.wait(20)  # the line" in caplog.text


async def test_an_agent_that_blocks_the_loop_is_abandoned_at_its_deadline_and_others_continue(
    gate: threading.Event,
) -> None:
    heard: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        loops.append(asyncio.get_running_loop())
        if task == 0:
            gate.wait(20)
            try:
                agl.emit_message("too late")
            except BaseException as exc:
                heard.append(exc)
                raise
        await asyncio.sleep(0)
        return 1.0

    with trio.fail_after(15):
        async with Runner(agent, config=limit(0.2)) as runner:
            with pytest.raises(agl.AttemptTimedOut) as caught:
                await runner.step(0)
            assert runner.statistics().abandoned_threads == 1
            assert (await runner.step(1)).final_reward == 1.0
            gate.set()
            while runner.statistics().abandoned_threads:
                await trio.sleep(0.01)
            [rollout] = await runner.store.query_rollouts(status_in=["failed"])
            attempt = await runner.store.get_latest_attempt(rollout.rollout_id)

    assert "Its asyncio call could not be stopped and was abandoned." in caught.value.__notes__
    assert isinstance(heard[0], agl.AttemptAbandoned)
    assert attempt is not None
    assert (attempt.status, attempt.final_reward) == ("timeout", None)
    assert runner.statistics().late_results == 1
    assert loops[0] is not loops[1]
    await wait_for_one_loop()


async def test_an_agent_that_blocks_the_loop_as_it_cleans_up_is_abandoned_like_one_that_blocks_before(
    gate: threading.Event,
) -> None:
    @agl.rollout(runs_in="asyncio", config=RolloutConfig(timeout_seconds=0.2))
    async def agent(task: int) -> float:
        try:
            await asyncio.sleep(task * 20)
        finally:
            if task:
                gate.wait(20)
        return 1.0

    async with Runner(agent) as runner:
        with trio.fail_after(6):
            with pytest.raises(agl.AttemptTimedOut):
                await runner.step(1)
            done = await runner.step(0)
        assert not gate.is_set()
        gate.set()

    assert done.final_reward == 1.0


async def test_rollouts_that_wait_behind_a_blocked_agent_are_moved_to_another_loop(gate: threading.Event) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if task == 0:
            gate.wait(20)
        await asyncio.sleep(0)
        return 1.0

    async with Runner(agent) as runner:

        async def blocked() -> None:
            with trio.move_on_after(0.3):
                await runner.step(0)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(blocked)
                await trio.sleep(0.1)
                done = await runner.step(1)

        assert done.final_reward == 1.0
        gate.set()


async def test_a_rollout_the_blocked_loop_has_not_started_ends_at_its_own_deadline_at_once(
    gate: threading.Event,
) -> None:
    ran: list[int] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        ran.append(task)
        gate.wait(20)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 0)
        while not ran:
            await trio.sleep(0.01)
        with trio.move_on_after(0.1) as scope:
            await runner.step(1)

        assert scope.cancelled_caught
        assert runner.statistics().abandoned_threads == 0
        gate.set()
    assert ran == [0]


async def test_a_loop_blocked_for_long_gets_no_new_rollouts_and_still_ends_those_it_has(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._REPLACE_SECONDS", 0.3)
    results: list[agl.CompletedRollout] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if task == 0:
            gate.wait(20)
        await asyncio.sleep(0.01)
        return float(task)

    async def collect(task: int) -> None:
        results.append(await runner.step(task))

    await wait_for_one_loop()
    with trio.fail_after(15):
        async with Runner(agent) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(collect, 0)
            await trio.sleep(0.1)
            await collect(1)
            assert len(side_threads()) == 2
            gate.set()

    assert [done.final_reward for done in results] == [1.0, 0.0]
    await wait_for_one_loop()


async def test_leaving_the_runner_does_not_wait_for_a_blocked_loop(
    gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        gate.wait(20)

    with trio.fail_after(10):
        result = await Runner(agent, config=limit()).fit([1])

    assert result.counts["failed"] == 1
    assert "(agent) did not stop within 0.2 s and is left behind" in caplog.text


def test_ctrl_c_ends_a_program_whose_asyncio_agent_blocks_the_loop() -> None:
    ended = interrupt_program(
        """
        import sys, time, trio, lightning_trio as agl

        @agl.rollout(runs_in="asyncio")
        async def agent(task):
            print("ready", flush=True)
            time.sleep(3600)

        try:
            trio.run(agl.Runner(agent, grace_seconds=0.5).fit, [1])
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )

    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err


async def test_an_agent_that_swallows_its_cancellation_is_abandoned(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._CLEAN_UP_SECONDS", 0.3)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    with trio.fail_after(10):
        async with Runner(agent, config=limit()) as runner:
            with pytest.raises(agl.AttemptTimedOut) as caught:
                await runner.step(1)
            assert runner.statistics().abandoned_threads == 1
            gate.set()
            while runner.statistics().abandoned_threads:
                await trio.sleep(0.01)

    assert "Its asyncio call could not be stopped and was abandoned." in caught.value.__notes__


async def test_a_blocked_call_of_to_thread_holds_up_neither_others_nor_the_end(gate: threading.Event) -> None:
    """The executor of asyncio itself has as few as six threads, and the interpreter waits for each of them."""

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if task < 40:
            await asyncio.to_thread(gate.wait, 20)
        return await asyncio.to_thread(float, 1)

    with trio.fail_after(10):
        result = await Runner(agent, config=limit(0.5)).fit(range(42))

    assert result.counts == {"cancelled": 0, "failed": 40, "succeeded": 2}


async def test_a_class_may_choose_the_lane() -> None:
    class Agent(agl.LitAgent[int]):
        runs_in = "asyncio"

        async def rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
            await asyncio.sleep(0)
            return 1.0

    assert (await Runner(Agent()).fit([1])).mean_reward["train"] == 1.0


async def test_a_host_may_already_run_another_asyncio_loop_elsewhere() -> None:
    """The lane's loop is set in its own thread only."""
    await Runner(half).fit([1])

    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert "trio_asyncio" not in sys.modules
