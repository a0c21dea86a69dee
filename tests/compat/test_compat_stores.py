"""Stores whose calls are awaited anywhere: on asyncio loops, in Trio, in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider

import lightning_trio
import lightning_trio.compat as agl
from lightning_trio.store import LightningStore


async def fill(store: Any) -> str:
    """Enqueue a rollout and claim it."""
    await store.add_resources({"llm": agl.LLM(endpoint="http://localhost", model="m")})
    queued = await store.enqueue_rollout({"n": 1}, mode="train")
    claimed = await store.dequeue_rollout(worker_id="Worker-1")
    assert claimed is not None
    assert claimed.rollout_id == queued.rollout_id
    return str(claimed.rollout_id)


def test_a_store_is_awaited_on_asyncio() -> None:
    async def main() -> Any:
        store = agl.InMemoryLightningStore()
        rollout_id = await fill(store)
        return await store.get_rollout_by_id(rollout_id)

    assert asyncio.run(main()).status == "preparing"


async def test_a_store_is_awaited_in_trio() -> None:
    store = agl.InMemoryLightningStore()

    rollout_id = await fill(store)

    assert (await store.get_rollout_by_id(rollout_id)).status == "preparing"


def test_loops_and_trio_share_one_store() -> None:
    store = agl.InMemoryLightningStore()

    asyncio.run(fill(store))
    trio.run(fill, store)
    asyncio.run(fill(store))

    assert len(trio.run(store.query_rollouts)) == 3


def test_a_wait_on_one_loop_ends_with_a_change_from_another_thread() -> None:
    store = agl.InMemoryLightningStore()

    async def main() -> Any:
        rollout_id = await fill(store)
        waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=[rollout_id]))
        await asyncio.sleep(0)

        async def finish() -> None:
            await store.update_rollout(rollout_id, status="succeeded")

        thread = threading.Thread(target=trio.run, args=(finish,))
        thread.start()
        found = await waiting
        thread.join()
        return found

    assert [rollout.status for rollout in asyncio.run(main())] == ["succeeded"]


def test_a_cancelled_wait_stops_waiting_in_the_host() -> None:
    store = agl.InMemoryLightningStore()

    async def main() -> Any:
        rollout_id = await fill(store)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.wait_for_rollouts(rollout_ids=[rollout_id]), 0.05)
        return await store.wait_for_rollouts(rollout_ids=[rollout_id], timeout=0.0)

    assert asyncio.run(main()) == []


async def test_a_wait_that_is_cancelled_in_trio_ends() -> None:
    store = agl.InMemoryLightningStore()
    rollout_id = await fill(store)

    with trio.move_on_after(0.05) as scope:
        await store.wait_for_rollouts([rollout_id])

    assert scope.cancelled_caught


def test_an_error_is_raised_to_the_caller() -> None:
    async def main() -> None:
        await agl.InMemoryLightningStore().update_rollout("ro-unknown", status="failed")

    with pytest.raises(lightning_trio.UnknownId, match="ro-unknown"):
        asyncio.run(main())


def test_a_call_awaited_by_hand_says_that_no_loop_runs() -> None:
    call: Awaitable[Any] = agl.InMemoryLightningStore().query_rollouts()

    with pytest.raises(lightning_trio.UsageError, match="neither Trio nor asyncio runs where this is awaited"):
        call.__await__().send(None)


def test_it_is_a_store_of_lightning_trio() -> None:
    assert isinstance(agl.InMemoryLightningStore(), LightningStore)
    assert agl.LightningStore is LightningStore


def test_every_call_of_a_store_is_hosted() -> None:
    import inspect

    calls = [
        name
        for name, method in inspect.getmembers(LightningStore, inspect.iscoroutinefunction)
        if not name.startswith("_")
    ]

    left_out = [name for name in calls if name not in vars(agl.LightningStoreThreaded.__mro__[1])]

    assert left_out == []


def test_a_store_of_lightning_trio_can_be_hosted() -> None:
    store = agl.LightningStoreThreaded(lightning_trio.InMemoryLightningStore())

    assert asyncio.run(fill(store)).startswith("ro-")


def test_statistics_are_a_dict_as_in_0_3() -> None:
    async def main() -> Any:
        store = agl.InMemoryLightningStore()
        await fill(store)
        return await store.statistics()

    numbers = asyncio.run(main())

    assert (numbers["name"], numbers["total_rollouts"], numbers["total_attempts"]) == ("InMemoryLightningStore", 1, 1)
    assert numbers["uptime"] > 0


def test_spans_without_a_number_get_the_rollouts_next_one() -> None:
    provider = TracerProvider()

    async def main() -> Any:
        store = agl.InMemoryLightningStore()
        attempted = await store.start_rollout("task")
        ids = attempted.rollout_id, attempted.attempt.attempt_id
        first = await store.get_next_span_sequence_id(*ids)
        with provider.get_tracer("test").start_as_current_span("step") as span:
            pass
        stored = await store.add_otel_span(*ids, span)
        assert stored is not None
        return first, stored.sequence_id, await store.get_many_span_sequence_ids([ids, ids])

    assert asyncio.run(main()) == (1, 2, [3, 4])


def test_a_span_stored_twice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = agl.InMemoryLightningStore()
        attempted = await store.start_rollout("task")
        with TracerProvider().get_tracer("test").start_as_current_span("step") as span:
            pass
        for _ in range(2):
            await store.add_otel_span(attempted.rollout_id, attempted.attempt.attempt_id, span)

    asyncio.run(main())

    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Duplicated span added, or one that came too late"
    ]


def test_options_that_do_nothing_are_named_in_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="InMemoryLightningStore ignores eviction_memory_threshold: "):
        agl.InMemoryLightningStore(eviction_memory_threshold=0.5)


def test_a_safe_threshold_above_the_other_is_refused() -> None:
    with pytest.raises(ValueError, match="safe_memory_threshold=20 must be smaller than"):
        agl.InMemoryLightningStore(eviction_memory_threshold=10, safe_memory_threshold=20)


def test_a_store_says_what_it_can_do() -> None:
    store = agl.InMemoryLightningStore(thread_safe=False, scan_debounce_seconds=0)

    assert store.capabilities["thread_safe"]
    with pytest.raises(NotImplementedError, match="no OTLP endpoint"):
        store.otlp_traces_endpoint()


@pytest.mark.parametrize(
    ("status", "number", "result"),
    [("running", 1, "running"), ("succeeded", 1, "succeeded"), ("timeout", 1, "requeuing"), ("timeout", 2, "failed")],
)
def test_a_rollout_follows_its_attempt(status: Any, number: int, result: str) -> None:
    from lightning_trio.compat.store.utils import rollout_status_from_attempt

    attempt = agl.Attempt("ro-1", "at-1", number, 0.0, status=status)
    config = agl.RolloutConfig(max_attempts=2, retry_condition=["timeout"])

    assert asyncio.run(rollout_status_from_attempt(attempt, config)) == result


def test_a_record_is_about_as_large_as_what_it_contains() -> None:
    from lightning_trio.compat.store.memory import estimate_model_size

    small = agl.EnqueueRolloutRequest(input=["a"])
    large = agl.EnqueueRolloutRequest(input=["a" * 1000])

    assert estimate_model_size(large) - estimate_model_size(small) == 999


class Logging(agl.InMemoryLightningStore):
    """Overrides methods that 0.3's algorithms and runners called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("enqueue_rollout")
        return await super().enqueue_rollout(*args, **kwargs)

    async def dequeue_rollout(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("dequeue_rollout")
        return await super().dequeue_rollout(*args, **kwargs)

    async def add_span(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError


@agl.rollout
async def length(task: str) -> float:
    """Return the length of the task."""
    await asyncio.sleep(0)
    return float(len(task))


def test_a_warning_names_the_methods_of_a_store_that_a_fit_does_not_call() -> None:
    with pytest.warns(
        UserWarning,
        match="Trainer.fit does not call these methods of Logging: enqueue_rollout, dequeue_rollout, add_span; .*"
        "override enqueue, claim, finish as well",
    ):
        trainer = agl.Trainer(store=Logging())

    assert trainer.fit(length, ["tea"]).counts["succeeded"] == 1


def test_a_runner_warns_about_the_methods_that_it_does_not_call_and_calls_the_others() -> None:
    async def main() -> list[str]:
        store, runner = Logging(), agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=1)
        await store.enqueue_rollout("tea")
        with (
            pytest.warns(UserWarning, match="a runner does not call these methods of Logging: add_span; "),
            runner.run_context(agent=length, store=store),
        ):
            await runner.iter()
        return store.calls

    assert asyncio.run(main()) == ["enqueue_rollout", "dequeue_rollout"]


def test_a_fit_calls_what_a_store_overrides_for_batches() -> None:
    class Batched(agl.InMemoryLightningStore):
        asked = 0

        async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

        async def enqueue(self, *args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            return await super().enqueue(*args, **kwargs)

    store = Batched()
    agl.Trainer(store=store).fit(length, ["tea"])

    assert store.asked == 1


def test_a_store_without_the_methods_for_batches_says_what_to_write() -> None:
    class Abstract(agl.LightningStore):
        async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Any: ...

    made: Any = Abstract

    with pytest.raises(TypeError, match=r"Abstract lacks add_spans, claim, .* derive it from InMemoryLightningStore"):
        made()


def test_a_store_without_an_init_takes_no_arguments() -> None:
    plain: Any = type("Plain", (LightningStore,), {})
    plain.__abstractmethods__ = frozenset()

    with pytest.raises(TypeError, match=r"Plain\(\) takes no arguments"):
        plain(3)
