"""Agent-lightning 0.3's runner: `step`, `iter`, hooks and its life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from lightning_trio.compat.execution import ThreadingEvent

import lightning_trio.compat as agl
from lightning_trio.compat._runners import Runner


@agl.rollout
async def length(task: str) -> float:
    """Return the length of the task."""
    await asyncio.sleep(0)
    return float(len(task))


def run(main: Callable[[Any, Any], Coroutine[Any, Any, Any]], agent: Any = length, **options: Any) -> Any:
    """Run `main` on asyncio with an open runner and its store."""

    async def with_runner() -> Any:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer(), poll_interval=0.01, **options)
        store = agl.InMemoryLightningStore()
        with runner.run_context(agent=agent, store=store):
            return await main(runner, store)

    return asyncio.run(with_runner())


def test_a_step_returns_its_rollout_from_the_store() -> None:
    async def main(runner: Any, store: Any) -> Any:
        rollout = await runner.step("tea", mode="train")
        return rollout, agl.find_final_reward(await store.query_spans(rollout.rollout_id, "latest"))

    rollout, reward = run(main)

    assert isinstance(rollout, agl.AttemptedRollout)
    assert (rollout.input, rollout.mode, rollout.status, reward) == ("tea", "train", "succeeded", 3.0)


def test_a_step_raises_what_the_agent_raised_and_records_it() -> None:
    @agl.rollout
    def failing(task: str) -> None:
        raise KeyError("boom")

    async def main(runner: Any, store: Any) -> Any:
        with pytest.raises(KeyError, match="boom"):
            await runner.step("tea")
        return await store.query_rollouts()

    assert [rollout.status for rollout in run(main, failing)] == ["failed"]


def test_a_step_uses_the_resources_passed_and_stores_them() -> None:
    @agl.rollout
    def answer(task: str, prompt_template: agl.PromptTemplate) -> float:
        return float(len(prompt_template.format(task=task)))

    async def main(runner: Any, store: Any) -> Any:
        prompt = agl.PromptTemplate(template="{task}?", engine="f-string")
        rollout = await runner.step("tea", resources={"main": prompt})
        found = await store.get_resources_by_id(rollout.resources_id)
        return found.resources["main"].template, rollout.attempt.final_reward

    assert run(main, answer) == ("{task}?", 4.0)


def test_an_attempt_is_of_the_worker_of_that_number() -> None:
    async def main(runner: Any, store: Any) -> Any:
        rollout = await runner.step("tea")
        return runner.get_worker_id(), rollout.attempt.worker_id, await store.get_worker_by_id("Worker-0")

    mine, of_attempt, worker = run(main)

    assert mine == of_attempt == worker.worker_id == "Worker-0"


def test_a_runner_is_one_worker() -> None:
    async def main(runner: Any, store: Any) -> Any:
        await runner.step("tea")
        return await store.query_workers()

    assert [worker.worker_id for worker in run(main)] == ["Worker-0"]


def test_iter_runs_as_many_rollouts_as_it_may() -> None:
    async def main(runner: Any, store: Any) -> Any:
        for task in ("a", "b", "c"):
            await store.enqueue_rollout(task)
        await asyncio.wait_for(runner.iter(), 5)
        return [rollout.status for rollout in await store.query_rollouts()]

    assert run(main, max_rollouts=2) == ["succeeded", "succeeded", "queuing"]


def test_iter_runs_rollouts_that_are_enqueued_later() -> None:
    async def main(runner: Any, store: Any) -> Any:
        running = asyncio.create_task(runner.iter())
        await asyncio.sleep(0.05)
        queued = await store.enqueue_rollout("tea")
        finished = await store.wait_for_rollouts(rollout_ids=[queued.rollout_id])
        await asyncio.wait_for(running, 5)
        return [rollout.status for rollout in finished]

    assert run(main, max_rollouts=1) == ["succeeded"]


def test_iter_finishes_what_runs_when_its_event_is_set() -> None:
    stop = ThreadingEvent()

    @agl.rollout
    async def stopping(task: str) -> None:
        stop.set()
        await asyncio.sleep(0.05)

    async def main(runner: Any, store: Any) -> Any:
        for task in ("a", "b"):
            await store.enqueue_rollout(task)
        await asyncio.wait_for(runner.iter(event=stop), 5)
        return [rollout.status for rollout in await store.query_rollouts()]

    assert run(main, stopping) == ["succeeded", "queuing"]


def test_iter_can_be_cancelled_and_called_again() -> None:
    async def main(runner: Any, store: Any) -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runner.iter(), 0.05)
        return (await runner.step("tea")).status

    assert run(main) == "succeeded"


def test_iter_goes_on_after_a_failed_rollout() -> None:
    @agl.rollout
    def fails_once(task: str) -> float:
        if task == "a":
            raise ValueError
        return 1.0

    async def main(runner: Any, store: Any) -> Any:
        for task in ("a", "b"):
            await store.enqueue_rollout(task)
        await asyncio.wait_for(runner.iter(), 5)
        return [rollout.status for rollout in await store.query_rollouts()]

    assert run(main, fails_once, max_rollouts=2) == ["failed", "succeeded"]


def test_several_runners_work_off_one_store() -> None:
    stop = ThreadingEvent()

    async def work(number: int, store: Any) -> None:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer(), poll_interval=0.1)
        with runner.run_context(agent=slow_length, store=store, worker_id=number):
            await runner.iter(event=stop)

    @agl.rollout
    async def slow_length(task: str) -> float:
        await asyncio.sleep(0.05)
        return float(len(task))

    async def main() -> Any:
        store = agl.InMemoryLightningStore()
        queued = [await store.enqueue_rollout(task) for task in ("a", "bb", "ccc", "dddd")]
        workers = [asyncio.create_task(work(number, store)) for number in range(2)]
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in queued])
        stop.set()
        await asyncio.gather(*workers)
        return [rollout.attempt for rollout in await store.query_rollouts()]

    attempts = asyncio.run(main())

    assert [attempt.final_reward for attempt in attempts] == [1.0, 2.0, 3.0, 4.0]
    assert {attempt.worker_id for attempt in attempts} == {"Worker-0", "Worker-1"}


def test_a_store_that_has_lost_the_rollout_is_an_error() -> None:
    class Forgetful(agl.InMemoryLightningStore):
        async def get_rollout_by_id(self, rollout_id: str) -> None:
            return None

    async def main() -> None:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer())
        with runner.run_context(agent=length, store=Forgetful()):
            await runner.step("tea")

    with pytest.raises(RuntimeError, match="Failed to fetch completed rollout by id after step: ro-"):
        asyncio.run(main())


def test_the_agent_reaches_its_runner_and_the_store() -> None:
    class Asking(agl.LitAgent[str]):
        async def rollout_async(self, task: str, resources: Any, rollout: Any) -> float:
            runner: Any = self.runner
            return float(len(await runner.get_store().query_rollouts()))

    async def main(runner: Any, store: Any) -> Any:
        return (await runner.step("tea")).attempt.final_reward

    assert run(main, Asking()) == 1.0


def test_hooks_run_on_asyncio_in_order_and_see_the_trace() -> None:
    calls: list[Any] = []

    class Recording(agl.Hook):
        async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
            await asyncio.sleep(0)
            calls.append(("start", rollout.input, runner.get_worker_id()))

        async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
            calls.append(("trace", [span.name for span in tracer.get_last_trace()]))

        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
            await asyncio.sleep(0)
            calls.append(("end", agl.find_final_reward(spans)))

    async def main() -> None:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer())
        with runner.run_context(agent=length, store=agl.InMemoryLightningStore(), hooks=[Recording()]):
            await runner.step("tea")

    asyncio.run(main())

    assert calls == [("start", "tea", "Worker-0"), ("trace", ["agentlightning.annotation"]), ("end", 3.0)]


def test_hooks_share_locks_and_clients_with_agents(caplog: pytest.LogCaptureFixture) -> None:
    lock = asyncio.Lock()

    class Locking(agl.Hook):
        async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
            async with lock:
                await asyncio.sleep(0.001)

        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
            async with lock:
                await asyncio.sleep(0.001)

    @agl.rollout
    async def locking(task: int) -> float:
        async with lock:
            await asyncio.sleep(0.001)
        return 1.0

    for _ in range(2):
        result = agl.Trainer(n_runners=4, hooks=[Locking()]).fit(locking, range(8))
        assert result.mean_reward["train"] == 1.0

    assert caplog.messages == []


def test_a_hook_that_fails_is_logged_under_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(agl.Hook):
        async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
            raise KeyError("boom")

    agl.Trainer(hooks=Failing()).fit(length, ["tea"])

    assert caplog.messages == ["the hook Failing.on_rollout_start failed; the rollout continues"]


def test_the_context_prepares_and_cleans_up_the_tracer() -> None:
    calls: list[str] = []

    class Watched(agl.OtelTracer):
        def init(self, *args: Any, **kwargs: Any) -> None:
            calls.append("init")

        def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
            calls.append(f"init worker {worker_id}")

        def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
            calls.append(f"teardown worker {worker_id}")

        def teardown(self, *args: Any, **kwargs: Any) -> None:
            calls.append("teardown")

    runner: Any = agl.LitAgentRunner(Watched())
    with runner.run_context(agent=length, store=agl.InMemoryLightningStore(), worker_id=2):
        assert runner.worker_id == 2

    assert calls == ["init", "init worker 2", "teardown worker 2", "teardown"]
    assert runner.worker_id is None


def test_an_error_in_cleaning_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(agl.OtelTracer):
        def teardown(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("still in use")

    runner: Any = agl.LitAgentRunner(Failing())
    with runner.run_context(agent=length, store=agl.InMemoryLightningStore()):
        pass

    assert [record.message for record in caplog.records] == ["Error during runner teardown"]


@pytest.mark.parametrize(("call", "message"), [("get_agent", "Agent not init"), ("get_store", "Store not init")])
def test_a_runner_that_was_not_prepared_says_so(call: str, message: str) -> None:
    runner: Any = agl.LitAgentRunner(agl.OtelTracer())

    with pytest.raises(ValueError, match=message):
        getattr(runner, call)()
    assert runner.get_worker_id() == "Worker-Unknown"


def test_run_says_what_to_call_instead() -> None:
    with pytest.raises(RuntimeError, match="LitAgentRunner has no run"):
        agl.LitAgentRunner(agl.OtelTracer()).run()


def test_the_base_says_what_is_missing() -> None:
    runner = Runner[str]()

    with pytest.raises(NotImplementedError, match="has no `step`"):
        asyncio.run(runner.step("tea"))
    with pytest.raises(NotImplementedError, match="has no `iter`"):
        asyncio.run(runner.iter())


def test_an_agent_that_cannot_be_supplied_is_refused_at_the_first_step() -> None:
    @agl.rollout
    def asking(task: str, llm: agl.LLM) -> None: ...

    async def main(runner: Any, store: Any) -> Any:
        with pytest.raises(TypeError, match="llm"):
            await runner.step("tea")
        return await store.query_rollouts()

    assert list(run(main, asking)) == []


def test_an_error_of_the_store_leaves_iter_as_it_is() -> None:
    class Down(agl.InMemoryLightningStore):
        async def dequeue_rollout(self, *args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("store down")

    async def main() -> None:
        runner: Any = agl.LitAgentRunner(agl.OtelTracer(), poll_interval=0.01)
        with runner.run_context(agent=length, store=Down()):
            await runner.iter()

    with pytest.raises(ConnectionError, match="store down"):
        asyncio.run(main())
