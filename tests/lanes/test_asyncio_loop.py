"""The asyncio loop of the process: shared by all runners, kept from one to the next, closed at the exit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import openai
import pytest
import trio
from programs import run_program

import lightning_trio as agl
from lightning_trio import Runner, embed
from lightning_trio.testing import open_scripted_llm

pytestmark = pytest.mark.filterwarnings("error")


@agl.rollout(runs_in="asyncio")
async def which_loop(task: object) -> float:
    """Return the running loop's id."""
    return float(id(asyncio.get_running_loop()))


async def step(agent: Any, task: object = 0) -> float | None:
    async with Runner(agent) as runner:
        return (await runner.step(task)).final_reward


async def wait_for_loops(count: int) -> None:
    """Wait until no more than so many loops run; raise `trio.TooSlowError` if that does not happen."""
    with trio.fail_after(5):
        while sum(thread.name == "lightning_trio-asyncio" for thread in threading.enumerate()) > count:
            await trio.sleep(0.01)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event to block on, set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


# What a module keeps for all its rollouts.


async def test_one_runner_after_the_other_uses_the_same_loop() -> None:
    assert await step(which_loop) == await step(which_loop)


async def test_a_runner_that_is_opened_again_uses_the_same_loop() -> None:
    runner = Runner(which_loop)
    loops: set[float | None] = set()
    for _ in range(2):
        async with runner:
            loops.add((await runner.step(0)).final_reward)

    assert len(loops) == 1


@pytest.mark.parametrize("kind", [asyncio.Lock, asyncio.Semaphore])
async def test_a_lock_that_a_module_keeps_works_in_every_runner(kind: type[asyncio.Lock | asyncio.Semaphore]) -> None:
    kept = kind()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> None:
        # A lock belongs to a loop from the first time that a task has to wait for it.
        async with kept:
            await asyncio.sleep(0.001)

    counts = [(await Runner(agent, max_concurrency=4).fit(range(8))).counts["succeeded"] for _ in range(2)]

    assert counts == [8, 8]


def test_a_client_that_a_module_keeps_works_in_dev_and_in_every_fit() -> None:
    urls: list[str] = []
    ready = threading.Event()
    scope = trio.CancelScope()

    async def serve() -> None:
        with scope:
            async with open_scripted_llm("yes") as server:
                urls.append(server.base_url)
                token.append(trio.lowlevel.current_trio_token())
                ready.set()
                await trio.sleep_forever()

    token: list[trio.lowlevel.TrioToken] = []
    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    ready.wait()
    client = openai.AsyncOpenAI(base_url=urls[0], api_key="any", max_retries=0)

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> float:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": task}])
        return float(answer.choices[0].message.content == "yes")

    @agl.rollout(runs_in="asyncio")
    async def close(task: str) -> None:
        await client.close()

    trainer = agl.Trainer(n_runners=4)
    tasks = [str(number) for number in range(8)]
    try:
        trainer.dev(agent, tasks)
        counts = [trainer.fit(agent, tasks).counts["succeeded"] for _ in range(2)]
        trainer.fit(close, ["now"])
    finally:
        token[0].run_sync_soon(scope.cancel)
        thread.join()

    assert counts == [8, 8]


async def test_an_aiohttp_session_that_a_module_keeps_works_in_every_runner(empty_port: int) -> None:
    sessions: list[aiohttp.ClientSession] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        if not sessions:
            sessions.append(aiohttp.ClientSession())
        async with sessions[0].get(f"http://127.0.0.1:{empty_port}/") as response:
            return float(response.status == 204)

    @agl.rollout(runs_in="asyncio")
    async def close(task: int) -> None:
        await sessions[0].close()

    means = [(await Runner(agent, max_concurrency=2).fit(range(4))).mean_reward["train"] for _ in range(2)]
    await Runner(close).fit([0])

    assert means == [1.0, 1.0]


# Several Trio threads.


def test_runners_in_several_threads_share_the_loop_at_the_same_time() -> None:
    arrived = asyncio.Event()
    here: set[int] = set()
    loops: set[int] = set()

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        loops.add(id(asyncio.get_running_loop()))
        here.add(task)
        if len(here) == 3:
            arrived.set()
        await arrived.wait()
        return float(task)

    rewards: list[float | None] = []

    def run(task: int) -> None:
        async def main() -> None:
            with trio.fail_after(20):
                rewards.append(await step(agent, task))

        trio.run(main)

    threads = [threading.Thread(target=run, args=(task,)) for task in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(reward for reward in rewards if reward is not None) == [0.0, 1.0, 2.0]
    assert len(loops) == 1


async def test_an_embedded_runner_shares_the_loop() -> None:
    def blocking() -> float | None:
        with embed.open_blocking(Runner(which_loop)) as runner:
            return runner.step(0).final_reward

    async def service() -> float | None:
        async with embed.open_asyncio(Runner(which_loop)) as runner:
            return (await runner.step(0)).final_reward

    loops = {
        await step(which_loop),
        await trio.to_thread.run_sync(blocking),
        await trio.to_thread.run_sync(asyncio.run, service()),
    }

    assert len(loops) == 1


def test_a_trainer_in_a_notebook_uses_the_same_loop_in_every_cell() -> None:
    async def cells() -> set[float | None]:
        # A notebook's cells run in an asyncio loop, which waits while a trainer runs.
        trainer = agl.Trainer()
        return {trainer.fit(which_loop, [0]).mean_reward["train"] for _ in range(2)}

    assert len(asyncio.run(cells())) == 1


async def test_a_runner_that_an_agent_runs_on_the_loop_itself_has_a_loop_of_its_own() -> None:
    """It blocks the loop that it would have to wait for."""

    @agl.rollout(runs_in="asyncio")
    async def grader(task: int) -> float | None:
        if task:
            return agl.Trainer().fit(grader, [task - 1]).mean_reward["train"]
        return 1.0

    with trio.fail_after(5):
        assert await step(grader, 2) == 1.0

    await wait_for_loops(1)


async def test_leaving_a_runner_leaves_the_calls_of_others_alone() -> None:
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    may_end: list[asyncio.Event] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> float:
        if task == "ends it":
            may_end[0].set()
        elif task == "long":
            may_end.append(asyncio.Event())
            token.run_sync_soon(begun.set)
            await may_end[0].wait()
        return 1.0

    rewards: list[float | None] = []

    async def run_long() -> None:
        rewards.append(await step(agent, "long"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_long)
            await begun.wait()
            await step(agent, "short")
            await step(agent, "ends it")

    assert rewards == [1.0]


# A blocked or dead loop.


async def test_a_blocked_loop_is_replaced_for_all_runners(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightning_trio.lanes._asyncio._lane._REPLACE_SECONDS", 0.3)
    rewards: dict[str, float | None] = {}

    @agl.rollout(runs_in="asyncio")
    async def agent(task: str) -> float:
        if task == "blocks":
            gate.wait(20)
        await asyncio.sleep(0)
        return float(id(asyncio.get_running_loop()))

    async def run(task: str) -> None:
        rewards[task] = await step(agent, task)

    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "blocks")
            await trio.sleep(0.1)
            await run("behind it")
            await run("later")
            gate.set()

    assert rewards["behind it"] == rewards["later"] == await step(which_loop)
    assert rewards["blocks"] != rewards["later"]
    assert "later calls of all runners go to a new one" in caplog.text


async def test_a_loop_that_is_left_blocked_is_not_the_next_runners_loop(gate: threading.Event) -> None:
    @agl.rollout(runs_in="asyncio", config=agl.RolloutConfig(timeout_seconds=0.05))
    async def blocks(task: int) -> None:
        gate.wait(20)

    with trio.fail_after(10):
        await Runner(blocks).fit([1])
        with trio.fail_after(1):
            await step(which_loop)


async def test_a_loop_that_dies_fails_the_calls_of_all_runners_on_it() -> None:
    running: list[int] = []

    @agl.rollout(runs_in="asyncio")
    async def agent(task: int) -> float:
        running.append(task)
        if task == 1:
            # An error in the loop itself, such as from a closed selector or a patched loop.
            asyncio.get_running_loop()._process_events = None  # type: ignore[attr-defined]
        if task < 2:
            await asyncio.sleep(60)
        return 1.0

    errors: list[agl.AgentError] = []

    async def run(task: int) -> None:
        with pytest.raises(agl.AgentError) as caught:
            await step(agent, task)
        errors.append(caught.value)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 0)
            while not running:
                await trio.sleep(0.001)
            nursery.start_soon(run, 1)
        assert await step(agent, 2) == 1.0

    assert all("the asyncio loop that the agent ran on died" in str(error) for error in errors)
    assert len(errors) == 2


# Forked children.

FORKING = """
import asyncio, os, sys, trio, warnings, lightning_trio as agl

# From Python 3.12 on, os.fork() warns of threads.
warnings.simplefilter("ignore", DeprecationWarning)

@agl.rollout(runs_in="asyncio")
async def agent(task):
    await asyncio.sleep(0.001)
    return 1.0

def mean():
    return trio.run(agl.Runner(agent).fit, range(4)).mean_reward["train"]
"""


def test_a_forked_child_has_a_loop_of_its_own_and_its_parent_keeps_its_loop() -> None:
    ended = run_program(
        FORKING
        + """
print(mean())
child = os.fork()
if not child:
    print("child", mean(), flush=True)
    sys.exit()
print("ended with", os.waitpid(child, 0)[1])
print(mean())
"""
    )

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["1.0", "child 1.0", "ended with 0", "1.0"]


def test_a_child_that_an_agent_on_the_loop_forks_has_a_loop_of_its_own() -> None:
    ended = run_program(
        FORKING
        + """
import multiprocessing

def grade(queue):
    queue.put(mean())

@agl.rollout(runs_in="asyncio")
async def grader(task):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=grade, args=(queue,))
    child.start()
    reward = await asyncio.to_thread(queue.get)
    child.join()
    return reward

print(trio.run(agl.Runner(grader).fit, range(2)).mean_reward["train"])
"""
    )

    assert (ended.code, ended.out) == (0, "1.0\n"), ended.err


# The exit.

AT_EXIT = """
import asyncio, atexit, time, trio, lightning_trio as agl

# Registered first, so called last.
atexit.register(lambda: print("closed", "at once" if time.monotonic() - begin < 1.8 else "late", flush=True))

def run(agent, *tasks, **options):
    global begin
    trio.run(agl.Runner(agent, **options).fit, tasks)
    begin = time.monotonic()
"""


def test_background_tasks_drain_before_the_exit_which_does_not_wait_for_idle_ones() -> None:
    ended = run_program(
        AT_EXIT
        + """
queue = asyncio.Queue()
workers = []

async def write():
    while True:
        entry = await queue.get()
        await asyncio.sleep(0.02)
        print(entry, flush=True)

@agl.rollout(runs_in="asyncio")
async def agent(task):
    if not workers:
        workers.append(asyncio.create_task(write()))
    queue.put_nowait(task)

run(agent, *range(20))
"""
    )

    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()[:-1], key=int) == [*map(str, range(20))]
    assert ended.out.splitlines()[-1] == "closed at once"


def test_a_background_task_that_never_ends_is_cancelled_at_the_exit() -> None:
    ended = run_program(
        AT_EXIT
        + """
async def beat():
    try:
        while True:
            await asyncio.sleep(0.01)
    finally:
        print("cleaned", flush=True)

@agl.rollout(runs_in="asyncio")
async def agent(task):
    asyncio.create_task(beat())
    await asyncio.sleep(0)

run(agent, 1)
""",
        timeout=20,
    )

    assert (ended.code, ended.out.split("\n")[0]) == (0, "cleaned")
    assert "was destroyed" not in ended.err


@pytest.mark.heavy
def test_a_background_task_that_ignores_its_cancellation_is_named_and_does_not_hold_up_the_exit() -> None:
    ended = run_program(
        AT_EXIT
        + """
async def mule():
    while True:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass

@agl.rollout(runs_in="asyncio")
async def agent(task):
    asyncio.create_task(mule(), name="grey")
    await asyncio.sleep(0)

run(agent, 1)
""",
        timeout=20,
    )

    assert ended.code == 0
    assert "closed although some tasks ignore their cancellation: grey (mule)" in ended.err
    assert "was destroyed" not in ended.err


def test_a_loop_that_an_abandoned_agent_blocks_does_not_hold_up_the_exit() -> None:
    ended = run_program(
        AT_EXIT
        + """
@agl.rollout(runs_in="asyncio", config=agl.RolloutConfig(timeout_seconds=0.1))
async def agent(task):
    asyncio.create_task(asyncio.sleep(60))
    if task:
        time.sleep(3600)
    await asyncio.sleep(60)

run(agent, 0, 1)
""",
        timeout=20,
    )

    assert (ended.code, ended.out) == (0, "closed at once\n")
    assert "was destroyed" not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.heavy
def test_an_abandoned_agent_that_swallows_its_cancellation_does_not_hold_up_the_exit() -> None:
    ended = run_program(
        """
        import lightning_trio.lanes._asyncio._lane as lane
        lane._CLEAN_UP_SECONDS = 0.3
        """.replace("        ", "")
        + AT_EXIT
        + """
@agl.rollout(runs_in="asyncio", config=agl.RolloutConfig(timeout_seconds=0.1))
async def agent(task):
    while True:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass

run(agent, 0)
""",
        timeout=20,
    )

    assert ended.code == 0
    assert "was destroyed" not in ended.err
    assert "Traceback" not in ended.err


def test_a_program_that_ends_with_an_error_ends_with_it() -> None:
    ended = run_program(
        AT_EXIT
        + """
@agl.rollout(runs_in="asyncio")
async def agent(task):
    asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)

run(agent, 0)
raise SystemExit(3)
"""
    )

    assert (ended.code, ended.err, ended.out) == (3, "", "closed at once\n")


def test_the_exit_ends_calls_of_a_runner_in_a_daemon_thread_at_once_and_lets_their_cleanup_run() -> None:
    ended = run_program(
        """
        import asyncio, threading, time, lightning_trio as agl

        begun = threading.Event()

        @agl.rollout(runs_in="asyncio")
        async def agent(task):
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)
                print("cleaned", round(time.monotonic() - start), flush=True)

        threading.Thread(target=agl.Trainer(n_runners=1).fit, args=(agent, [1]), daemon=True).start()
        begun.wait()
        start = time.monotonic()
        """
    )

    assert (ended.code, ended.out, ended.err) == (0, "cleaned 0\n", "")
