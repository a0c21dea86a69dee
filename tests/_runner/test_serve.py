"""`Runner.serve`: running the rollouts of a queue that others fill."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

import lightning_trio as agl
from lightning_trio import EnqueueRolloutRequest, InMemoryLightningStore, RolloutConfig, Runner


async def double(task: float) -> float:
    return task * 2


async def sleeper(task: float) -> float:
    await trio.sleep(task)
    return 1.0


async def test_runs_what_is_in_the_queue_and_what_comes_later(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    early = await store.enqueue_rollout(1)
    async with Runner(double, store=store) as runner, trio.open_nursery() as nursery:
        await nursery.start(runner.serve)
        await trio.sleep(5)
        late = await store.enqueue_rollout(2)
        done = await store.wait_for_rollouts([early.rollout_id, late.rollout_id])
        nursery.cancel_scope.cancel()

    assert [rollout.status for rollout in done] == ["succeeded", "succeeded"]


async def test_starts_in_the_order_of_arrival() -> None:
    store = InMemoryLightningStore()
    order: list[int] = []

    async def agent(task: int) -> None:
        order.append(task)

    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(number) for number in range(20)])
    async with Runner(agent, store=store, max_concurrency=1) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts])
        nursery.cancel_scope.cancel()

    assert order == list(range(20))


async def test_serves_rollouts_of_any_run() -> None:
    store = InMemoryLightningStore()
    ids = await store.enqueue([EnqueueRolloutRequest(1)], run_id="run-1")
    ids += await store.enqueue([EnqueueRolloutRequest(2)], run_id="run-2")
    async with Runner(double, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        done = await store.wait_for_rollouts(ids)
        nursery.cancel_scope.cancel()

    assert [rollout.status for rollout in done] == ["succeeded", "succeeded"]


async def test_cancelling_puts_running_rollouts_back(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    rollout = await store.enqueue_rollout(100)
    async with Runner(sleeper, store=store) as runner:
        with trio.move_on_after(1):
            await runner.serve()

    found = await store.get_rollout_by_id(rollout.rollout_id)
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert found is not None
    assert attempt is not None
    assert (found.status, attempt.status) == ("requeuing", "cancelled")


async def test_cancelled_while_idle_it_loses_no_slot(autojump_clock: MockClock) -> None:
    async with Runner(double, max_concurrency=1) as runner:
        for _ in range(3):
            with trio.move_on_after(1):
                await runner.serve()

        assert (await runner.step(1)).status == "succeeded"


async def test_two_runners_share_one_queue_and_run_everything_once(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    ran: list[int] = []

    async def agent(task: int) -> None:
        await trio.sleep(1)
        ran.append(task)

    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(number) for number in range(30)])
    make = partial(Runner, agent, store=store, max_concurrency=3)
    async with make() as left, make() as right, trio.open_nursery() as nursery:
        nursery.start_soon(left.serve)
        nursery.start_soon(right.serve)
        await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts])
        nursery.cancel_scope.cancel()

    assert sorted(ran) == list(range(30))
    assert trio.current_time() == pytest.approx(5)


async def test_serve_and_step_share_the_slots(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(1)] * 10)
    async with Runner(sleeper, store=store, max_concurrency=2) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        await trio.sleep(0.5)
        await runner.step(1)
        nursery.cancel_scope.cancel()

        assert trio.current_time() <= 3


async def test_a_failure_stays_in_its_rollout() -> None:
    store = InMemoryLightningStore()

    async def agent(task: int) -> float:
        if task == 0:
            raise ValueError
        return 1.0

    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(number) for number in range(3)])
    async with Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        done = await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts])
        nursery.cancel_scope.cancel()

    assert [rollout.status for rollout in done] == ["failed", "succeeded", "succeeded"]


async def test_a_deadline_stays_in_its_rollout(autojump_clock: MockClock) -> None:
    store = InMemoryLightningStore()
    requests = [EnqueueRolloutRequest(seconds, config=RolloutConfig(timeout_seconds=2)) for seconds in (1, 5)]
    rollouts = await store.enqueue_many_rollouts(requests)
    async with Runner(sleeper, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        done = await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts])
        nursery.cancel_scope.cancel()

    assert [rollout.status for rollout in done] == ["succeeded", "failed"]


async def test_the_rollouts_own_configuration_wins_over_the_agents() -> None:
    store = InMemoryLightningStore()

    @agl.rollout(config=RolloutConfig(max_attempts=2, retry_condition=["timeout"]))
    async def agent(task: int) -> None: ...

    own = await store.enqueue_rollout(1, config=RolloutConfig(max_attempts=7))
    none = await store.enqueue_rollout(1)
    async with Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        done = await store.wait_for_rollouts([own.rollout_id, none.rollout_id])
        nursery.cancel_scope.cancel()

    assert [rollout.config.max_attempts for rollout in done] == [7, 2]


async def test_a_rollout_whose_resources_do_not_fit_fails_as_data_and_names_the_parameter() -> None:
    store = InMemoryLightningStore()

    async def agent(task: int, llm: agl.LLM) -> None: ...

    rollout = await store.enqueue_rollout(1)
    async with Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        await store.wait_for_rollouts([rollout.rollout_id])
        nursery.cancel_scope.cancel()

    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.error is not None
    assert attempt.error.type == "AgentSignatureError"
    assert "'llm'" in attempt.error.message


async def test_each_rollout_runs_with_the_resources_it_names() -> None:
    store = InMemoryLightningStore()

    async def agent(task: int, prompt_template: agl.PromptTemplate) -> float:
        return float(prompt_template.template)

    snapshots = [
        await store.add_resources({"prompt_template": agl.PromptTemplate(text, engine="f-string")})
        for text in ("1", "2")
    ]
    rollouts = [await store.enqueue_rollout(0, resources_id=snapshot.resources_id) for snapshot in snapshots]
    async with Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts])
        nursery.cancel_scope.cancel()

    attempts = [await store.get_latest_attempt(rollout.rollout_id) for rollout in rollouts]
    assert [attempt and attempt.final_reward for attempt in attempts] == [1.0, 2.0]


async def test_serve_on_a_closed_runner_shows_what_to_write() -> None:
    with pytest.raises(agl.RunnerClosed, match=r"async with runner: await runner\.serve\(\)"):
        await Runner(double).serve()


async def test_a_terminal_status_never_changes() -> None:
    store = InMemoryLightningStore()
    rollout = await store.enqueue_rollout(1)
    async with Runner(double, store=store) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.serve)
        await store.wait_for_rollouts([rollout.rollout_id])
        nursery.cancel_scope.cancel()

    with pytest.raises(agl.StaleAttempt, match="is succeeded, which is final"):
        await store.update_rollout(rollout.rollout_id, status="running")
    with pytest.raises(agl.StaleAttempt):
        await store.update_attempt(rollout.rollout_id, "latest", status="failed")


async def test_the_store_knows_whether_a_runner_is_busy(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        await trio.sleep(task)

    store = agl.InMemoryLightningStore()
    await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest(task) for task in (1, 2)])
    seen: list[str] = []
    async with Runner(agent, store=store) as runner, trio.open_nursery() as nursery:
        await nursery.start(runner.serve)
        for _ in range(2):
            await trio.sleep(1.5)
            [worker] = await store.query_workers()
            seen.append(worker.status)
        nursery.cancel_scope.cancel()

    assert seen == ["busy", "idle"]


# Resources.

HALF = agl.PromptTemplate("0.5")
WHOLE = agl.PromptTemplate("1.0")


@agl.rollout
async def as_the_prompt_says(task: int, prompt_template: agl.PromptTemplate) -> float:
    return float(prompt_template.template)


class AsTheResourcesSay(agl.LitAgent[int]):
    async def rollout_async(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        prompt = resources["prompt"]
        assert isinstance(prompt, agl.PromptTemplate)
        return float(prompt.template)


@pytest.mark.parametrize("agent", [as_the_prompt_says, AsTheResourcesSay()], ids=["function", "class"])
@pytest.mark.parametrize(("own", "reward"), [({}, 0.5), ({"prompt": WHOLE}, 1.0)], ids=["latest", "the runner's own"])
async def test_what_was_enqueued_before_there_were_resources_runs_with_the_latest(
    agent: agl.LitAgent[int], own: agl.NamedResources, reward: float, autojump_clock: MockClock
) -> None:
    async with InMemoryLightningStore() as store:
        await store.enqueue_rollout(1)
        await store.add_resources({"prompt": WHOLE})
        await store.add_resources({"prompt": HALF})
        async with Runner(agent, store=store, resources=own) as runner:
            with trio.move_on_after(1):
                await runner.serve()
        [attempt] = await store.query_attempts((await store.query_rollouts())[0].rollout_id)

    assert attempt.final_reward == reward
