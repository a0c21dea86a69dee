"""The code of an abandoned attempt makes no runner do anything; hooks, and runners that it opened, go on."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
import trio

import lightning_trio as agl
from lightning_trio.embed import BlockingRunner
from lightning_trio.tracing import as_runner


class Thread:
    """An agent in a thread that calls `early`, is abandoned while it waits, and then calls `late`."""

    def __init__(self, late: Callable[[], object], early: Callable[[], object] = bool) -> None:
        self.scope = trio.CancelScope()
        """Around the step that runs it."""
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.raised: agl.AttemptAbandoned | None = None
        self._late, self._early = late, early

    def __call__(self, task: object) -> None:
        try:
            self._early()
            trio.from_thread.run_sync(self.scope.cancel)
            self.go_on.wait(20)
            self._late()
        except agl.AttemptAbandoned as exc:
            self.raised = exc
        finally:
            self.ended.set()

    async def finish(self) -> agl.AttemptAbandoned | None:
        """Let it go on to its end, and return what its call raised."""
        self.go_on.set()
        with trio.fail_after(20):
            await trio.to_thread.run_sync(self.ended.wait, abandon_on_cancel=True)
        return self.raised


async def run_late(runner: agl.Runner[Any], thread: Thread) -> agl.AttemptAbandoned | None:
    with thread.scope:
        await runner.step("outer")
    return await thread.finish()


async def iterate(runner: agl.Runner[Any]) -> None:
    async with runner.stream(["inner"]) as results:
        async for _ in results:
            pass


CALLS: dict[str, Callable[[agl.Runner[Any]], Awaitable[object]]] = {
    "step": lambda runner: runner.step("inner"),
    "step with resources": lambda runner: runner.step("inner", resources={"a": agl.LLM("http://localhost", "m")}),
    "stream": iterate,
    "fit": lambda runner: runner.fit(["inner"]),
    "serve": lambda runner: runner.serve(),
    "fit of its own": lambda runner: agl.Runner(len, store=runner.store).fit(["inner"]),
    "fit in a store of its own": lambda runner: agl.Runner(len).fit(["inner"]),
}


@pytest.mark.parametrize("call", CALLS)
async def test_an_abandoned_thread_makes_no_runner_do_anything(call: str) -> None:
    thread = Thread(lambda: trio.from_thread.run(CALLS[call], runner))
    store = agl.InMemoryLightningStore()
    async with agl.Runner(thread, store=store, max_concurrency=2) as runner:
        with trio.fail_after(20):
            raised = await run_late(runner, thread)
        attempts = runner.statistics().attempts
    statistics = await store.statistics()

    assert raised is not None
    assert (attempts, statistics.total_rollouts, statistics.total_resources) == (1, 1, 0)
    assert len(await store.query_runs()) == 0


def test_code_of_a_runner_can_be_closed_in_another_context() -> None:
    def code() -> Generator[None]:
        with as_runner():
            yield

    running = code()
    copy_context().run(next, running)

    running.close()


class Watching(agl.Hook):
    """Hooks that change the store, and let the abandoned thread go on meanwhile."""

    def __init__(self, store: agl.LightningStore) -> None:
        self.store = store
        self.thread: Thread | None = None
        self.raised: agl.AttemptAbandoned | None = None

    async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: agl.AttemptedRollout) -> None:
        await self.store.add_resources({"a": agl.LLM("http://localhost", "m")})
        if self.thread is not None:
            self.raised = await self.thread.finish()
        agl.emit_annotation({"seen": True})

    async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: agl.AttemptedRollout, spans: Any) -> None:
        await self.store.enqueue_rollout("of the hook")


async def test_closing_hooks_of_an_abandoned_attempt_change_the_store_while_its_thread_cannot() -> None:
    store = agl.InMemoryLightningStore()
    hook = Watching(store)
    hook.thread = thread = Thread(partial(trio.from_thread.run, store.enqueue_rollout, "late"))
    async with agl.Runner(thread, store=store, hooks=hook) as runner:
        with thread.scope:
            await runner.step("outer")
    statistics = await store.statistics()

    assert hook.raised is not None
    assert [rollout.input for rollout in await store.query_rollouts()] == ["outer", "of the hook"]
    assert statistics.total_resources == 1
    assert statistics.total_spans == 2


async def test_an_abandoned_thread_starts_nothing_while_its_closing_hooks_run() -> None:
    store = agl.InMemoryLightningStore()
    hook = Watching(store)
    hook.thread = thread = Thread(lambda: trio.from_thread.run(runner.step, "inner"))
    async with agl.Runner(thread, store=store, hooks=hook) as runner:
        with thread.scope:
            await runner.step("outer")
        attempts = runner.statistics().attempts

    assert hook.raised is not None
    assert attempts == 1


async def test_closing_hooks_see_the_task_as_it_was_when_the_attempt_was_abandoned() -> None:
    class Reads(agl.Hook):
        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: agl.AttemptedRollout, spans: Any) -> None:
            await thread.finish()
            seen.append(rollout.input)

    seen: list[object] = []
    task = {"rooms": [1]}
    tasks: list[Any] = []
    thread = Thread(lambda: tasks[0]["rooms"].append(2), early=lambda: tasks.append(agl.current_rollout().input))
    async with agl.Runner(thread, hooks=Reads()) as runner:
        with thread.scope:
            await runner.step(task)

    assert seen == [{"rooms": [1]}]


async def test_a_hook_of_an_abandoned_attempt_may_run_rollouts() -> None:
    class Judges(agl.Hook):
        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: agl.AttemptedRollout, spans: Any) -> None:
            done.append((await judge.step("judge")).status)

    done: list[str] = []
    thread = Thread(bool)
    async with agl.Runner(len) as judge, agl.Runner(thread, hooks=Judges()) as runner:
        await run_late(runner, thread)

    assert done == ["succeeded"]


@pytest.mark.parametrize("name", ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"])
async def test_a_service_that_a_hook_has_started_goes_on_when_the_attempt_is_abandoned(name: str) -> None:
    async def serve() -> None:
        await abandoned.wait()
        await store.update_worker("service")
        await judge.step("judge")
        with pytest.raises(agl.NoActiveRollout):
            agl.emit_reward(1.0)

    class Starts(agl.Hook):
        pass

    async def start(self: agl.Hook, **arguments: Any) -> None:
        nursery.start_soon(serve)

    setattr(Starts, name, start)
    store = agl.InMemoryLightningStore()
    abandoned = trio.Event()
    thread = Thread(bool)
    async with (
        agl.Runner(len) as judge,
        trio.open_nursery() as nursery,
        agl.Runner(thread, store=store, hooks=Starts()) as runner,
    ):
        with thread.scope:
            await runner.step("outer")
        abandoned.set()
        await thread.finish()

    assert [worker.worker_id for worker in await store.query_workers()][-1] == "service"


async def test_an_abandoned_agent_is_refused_though_a_hook_has_run_in_its_context() -> None:
    store = agl.InMemoryLightningStore()
    thread = Thread(partial(trio.from_thread.run, store.enqueue_rollout, "late"))
    async with agl.Runner(thread, store=store, hooks=Watching(store)) as runner:
        raised = await run_late(runner, thread)

    assert raised is not None


async def test_a_runner_that_an_abandoned_thread_opened_for_others_still_stores_what_they_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = agl.Runner(len, lease_seconds=0.15)
    opened = trio.Event()

    async def keep_open() -> None:
        async with inner:
            opened.set()
            await trio.sleep_forever()

    thread = Thread(bool, early=lambda: trio.from_thread.run_sync(nursery.start_soon, keep_open))
    async with trio.open_nursery() as nursery, agl.Runner(thread) as runner:
        await run_late(runner, thread)
        await opened.wait()
        # Its lease is renewed meanwhile.
        await trio.sleep(0.3)
        done = await inner.step("for others")
        [worker] = await inner.store.query_workers()
        nursery.cancel_scope.cancel()

    assert done.status == "succeeded"
    assert worker.lease_left_seconds is not None
    assert worker.lease_left_seconds > 0
    assert [record for record in caplog.records if "lease" in record.getMessage()] == []


async def test_a_fit_of_an_abandoned_thread_ends_and_can_be_resumed(caplog: pytest.LogCaptureFixture) -> None:
    store = agl.InMemoryLightningStore()

    async def stop_outer(task: int) -> None:
        thread.scope.cancel()
        await trio.sleep_forever()

    thread = Thread(bool, early=lambda: trio.from_thread.run(agl.Runner(stop_outer, store=store).fit, [1, 2]))
    async with agl.Runner(thread) as runner:
        raised = await run_late(runner, thread)
    [run] = await store.query_runs()
    [worker] = await store.query_workers()

    assert raised is not None
    assert {rollout.status for rollout in await store.query_rollouts()} == {"requeuing"}
    assert (run.status, worker.lease_left_seconds) == ("running", None)
    assert [record for record in caplog.records if "lease" in record.getMessage()] == []


SESSION_CALLS: dict[str, Callable[[agl.Session], object]] = {
    "note": lambda session: session.note(late=True),
    "declare_best": lambda session: session.declare_best(agl.ResourcesUpdate("rs-late", 0.0, 0.0, 1, {})),
    "run": lambda session: trio.from_thread.run(session.run, ["inner"]),
    "publish": lambda session: trio.from_thread.run(session.publish, {"a": agl.LLM("http://localhost", "m")}),
    "save_state": lambda session: trio.from_thread.run(session.save_state, "late"),
    "load_state": lambda session: trio.from_thread.run(session.load_state),
}


@pytest.mark.parametrize("call", SESSION_CALLS)
async def test_an_abandoned_thread_changes_nothing_in_a_session(call: str) -> None:
    before_and_after: list[str] = []

    @agl.algo
    async def tune(session: agl.Session, train_dataset: Any) -> None:
        def late() -> None:
            SESSION_CALLS[call](session)

        thread = Thread(late)
        async with agl.Runner(thread) as runner:
            with thread.scope:
                await runner.step("outer")
            before_and_after.append(repr(session))
            raised.append(await thread.finish())
            before_and_after.append(repr(session))

    raised: list[object] = []
    await agl.Runner(len, algorithm=tune).fit(["task"])

    assert isinstance(raised[0], agl.AttemptAbandoned)
    assert before_and_after[0] == before_and_after[1]


async def test_a_rollout_of_an_abandoned_thread_that_waits_for_its_next_attempt_is_cancelled() -> None:
    def fail(task: str) -> None:
        raise ValueError

    async def stop_once_waiting() -> None:
        while not inner.statistics().retrying:
            await trio.sleep(0.001)
        thread.scope.cancel()

    again = agl.RolloutConfig(max_attempts=5, retry_condition=["failed"], backoff_seconds=30)
    async with agl.Runner(fail, config=again) as inner:
        thread = Thread(bool, early=lambda: trio.from_thread.run(inner.step, "inner"))
        async with agl.Runner(thread) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(stop_once_waiting)
            raised = await run_late(runner, thread)
        [rollout] = await inner.store.query_rollouts()

    assert raised is not None
    assert rollout.status == "cancelled"


def test_an_abandoned_thread_gets_the_same_error_from_a_blocking_runner() -> None:
    async def run() -> agl.AttemptAbandoned | None:
        thread = Thread(lambda: inner.step("inner"))
        async with agl.Runner(thread) as runner:
            return await run_late(runner, thread)

    with BlockingRunner(agl.Runner(len)) as inner:
        raised = trio.run(run)

    assert raised is not None
