"""The use of asyncio in agents without ``runs_in``, found before the first rollout, and never where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import runpy
import sys
import threading
import types
from asyncio import gather
from asyncio import sleep as pause
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import agents
import aiohttp
import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio
import trio.lowlevel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

import lightning_trio as agl
from lightning_trio import LitAgent, Runner

GATE = asyncio.Semaphore(2)


async def helper(task: Any) -> float:
    await asyncio.sleep(0)
    return 1.0


async def helper_of_a_helper(task: Any) -> float:
    return await helper(task)


async def trio_free(task: Any) -> None: ...


# Agents that are written for asyncio.


async def sleeps(task: Any) -> None:
    await asyncio.sleep(0)


async def sleeps_by_a_condition(task: Any) -> None:
    await asyncio.sleep(0.1 if task else 0.2)


async def catches_its_errors(task: Any) -> float:
    try:
        await asyncio.gather(*[asyncio.sleep(0) for _ in range(3)])
        return 1.0
    except Exception:  # noqa: BLE001  # as the agents do that this is about
        return 0.0


async def imports_the_function(task: Any) -> None:
    await pause(0)


async def gathers(task: Any) -> None:
    await gather(helper(task), helper(task))


async def imports_inside(task: Any) -> None:
    import asyncio as aio

    await aio.sleep(0)


async def imports_the_function_inside(task: Any) -> None:
    from asyncio import sleep

    await sleep(0)


async def waits_for(task: Any) -> Any:
    return await asyncio.wait_for(helper(task), timeout=3)


async def has_a_timeout(task: Any) -> None:
    async with asyncio.timeout(1):
        await trio_free(task)


async def has_a_task_group(task: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(helper(task))


async def takes_results_as_they_come(task: Any) -> None:
    for each in asyncio.as_completed([helper(task)]):
        await each


async def makes_tasks(task: Any) -> None:
    for each in [asyncio.create_task(helper(number)) for number in range(3)]:
        await each


async def has_a_module_semaphore(task: Any) -> float:
    async with GATE:
        return 1.0


async def has_a_local_semaphore(task: Any) -> float:
    gate = asyncio.Semaphore(2)
    async with gate:
        return 1.0


async def waits_for_a_queue(task: Any) -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue()
    return await queue.get()


async def runs_in_the_executor(task: Any) -> Any:
    loop = asyncio.get_event_loop()
    return await loop.run_in_executor(None, len, task)


async def runs_in_a_thread(task: Any) -> Any:
    return await asyncio.to_thread(len, task)


async def starts_a_program(task: Any) -> None:
    await asyncio.create_subprocess_exec("true")


async def opens_a_session(task: Any) -> Any:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(task) as response:
        return response.status


async def uses_a_library_that_is_not_loaded(task: Any) -> Any:
    import redis.asyncio as redis  # type: ignore[import-not-found, unused-ignore]

    return await redis.Redis().get(task)


async def uses_a_submodule(task: Any) -> Any:
    from sqlalchemy.ext import asyncio as sql  # type: ignore[import-not-found, unused-ignore]

    async with sql.AsyncSession() as session:
        return session


async def iterates(task: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 1

    async for _ in numbers():
        pass


async def awaits_a_nested_function(task: Any) -> Any:
    async def inner() -> float:
        await asyncio.sleep(0)
        return 1.0

    return await inner()


async def awaits_in_a_comprehension(task: Any) -> Any:
    return [await asyncio.wait_for(helper(number), 1) for number in range(3)]


async def awaits_a_helper(task: Any) -> Any:
    return await helper(task)


async def awaits_a_helper_of_a_helper(task: Any) -> Any:
    return await helper_of_a_helper(task)


def wrapped(fn: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


class Searches:
    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(1)

    async def search(self, task: Any) -> float:
        async with self.gate:
            return 1.0

    async def __call__(self, task: Any) -> float:
        return await self.search(task)


SEARCHES = Searches()


async def awaits_a_method_of_a_module_object(task: Any) -> float:
    return await SEARCHES.search(task)


class Sleeper:
    async def solve(self) -> float:
        await asyncio.sleep(0)
        return 1.0


class Solver(Sleeper):
    def __init__(self, task: Any) -> None:
        self.task = task

    async def solve(self) -> float:
        return await super().solve()

    async def __aenter__(self) -> Solver:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    @staticmethod
    async def pause() -> None:
        await asyncio.sleep(0)

    @classmethod
    async def make(cls, task: Any) -> Solver:
        await cls.pause()
        return cls(task)


async def awaits_a_method_of_an_object_of_its_own(task: Any) -> float:
    solver = Solver(task)
    return await solver.solve()


async def awaits_a_method_of_a_new_object(task: Any) -> float:
    return await Solver(task).solve()


async def enters_an_object_of_its_own(task: Any) -> float:
    async with Solver(task):
        return 1.0


async def awaits_a_static_method(task: Any) -> None:
    await Solver.pause()


async def awaits_a_class_method(task: Any) -> None:
    await Solver.make(task)


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[None]:
    await asyncio.sleep(0)
    yield


async def enters_a_decorated_generator(task: Any) -> float:
    async with session():
        return 1.0


CHAIN = ChatPromptTemplate.from_messages([("user", "{question}")])


async def invokes_a_chain(task: Any) -> float:
    try:
        return float(bool(await CHAIN.ainvoke({"question": task})))
    except Exception:  # noqa: BLE001  # as the agents do that this is about
        return 0.0


async def invokes_a_chain_of_its_own(task: Any) -> None:
    chain = RunnableLambda(str)
    await chain.ainvoke(task)


async def opens_a_session_in_a_try(task: Any) -> float:
    session = None
    try:
        session = aiohttp.ClientSession()
        async with session.get("http://127.0.0.1:9"):
            return 1.0
    except Exception:  # noqa: BLE001  # as the agents do that this is about
        return 0.0
    finally:
        if session is not None:
            await session.close()


async def awaits_deeply(task: Any) -> float:
    async def second() -> float:
        async def third() -> float:
            return await helper_of_a_helper(task)

        return await third()

    return await second()


async def runs_an_agent_of_openais_sdk(task: Any) -> None:
    agent = agents.Agent(name="assistant")
    await agents.Runner.run(agent, task)


FOR_ASYNCIO = [
    opens_a_session_in_a_try,
    awaits_deeply,
    awaits_a_method_of_an_object_of_its_own,
    awaits_a_method_of_a_new_object,
    enters_an_object_of_its_own,
    awaits_a_static_method,
    awaits_a_class_method,
    enters_a_decorated_generator,
    invokes_a_chain,
    invokes_a_chain_of_its_own,
    runs_an_agent_of_openais_sdk,
    sleeps,
    sleeps_by_a_condition,
    catches_its_errors,
    imports_the_function,
    gathers,
    imports_inside,
    imports_the_function_inside,
    waits_for,
    has_a_timeout,
    has_a_task_group,
    takes_results_as_they_come,
    makes_tasks,
    has_a_module_semaphore,
    has_a_local_semaphore,
    waits_for_a_queue,
    runs_in_the_executor,
    runs_in_a_thread,
    starts_a_program,
    opens_a_session,
    uses_a_library_that_is_not_loaded,
    uses_a_submodule,
    iterates,
    awaits_a_nested_function,
    awaits_in_a_comprehension,
    awaits_a_helper,
    awaits_a_helper_of_a_helper,
    wrapped(sleeps),
    SEARCHES,
    SEARCHES.search,
    functools.partial(sleeps),
    awaits_a_method_of_a_module_object,
]


def named(agent: object) -> str:
    return str(getattr(agent, "__name__", type(agent).__name__))


@pytest.mark.parametrize("agent", FOR_ASYNCIO, ids=named)
async def test_an_agent_for_asyncio_is_an_error_before_the_first_rollout(agent: Any) -> None:
    store = agl.InMemoryLightningStore()
    async with store:
        with pytest.raises(agl.AsyncioAgentError, match=r'it uses .+:\d+\).*@agl\.rollout\(runs_in="asyncio"\)'):
            await Runner(agent, store=store).fit([1])

        assert len(await store.query_rollouts()) == 0


async def test_the_error_names_the_use_and_its_line() -> None:
    line = sleeps.__code__.co_firstlineno + 1

    with pytest.raises(agl.AsyncioAgentError, match=rf"it uses asyncio\.sleep at {__file__}:{line}\)"):
        await Runner(sleeps).fit([1])


@pytest.mark.parametrize("call", ["step", "stream", "fit"])
async def test_every_call_of_a_runner_finds_it(call: str) -> None:
    async with Runner(catches_its_errors) as runner:
        with pytest.raises(agl.AsyncioAgentError):
            if call == "stream":
                async with runner.stream([1]):
                    pass
            else:
                await getattr(runner, call)([1])


async def test_a_queue_is_not_served() -> None:
    store = agl.InMemoryLightningStore()
    async with Runner(catches_its_errors, store=store) as runner:
        await store.enqueue_rollout(1)
        with pytest.raises(agl.AsyncioAgentError):
            await runner.serve()

        assert runner.statistics().attempts == 0


# Agents that are classes.


class Sleeps(LitAgent[int]):
    async def rollout_async(self, task: int) -> None:
        await asyncio.sleep(0)


class SleepsInAMethod(LitAgent[int]):
    async def rollout_async(self, task: int) -> None:
        await self.search()

    async def search(self) -> None:
        await asyncio.sleep(0)


class Inherits(Sleeps):
    pass


class CallsSuper(SleepsInAMethod):
    async def rollout_async(self, task: int) -> None:
        await super().rollout_async(task)


class HasASemaphore(LitAgent[int]):
    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(1)

    async def rollout_async(self, task: int) -> None:
        async with self.gate:
            pass


@pytest.mark.parametrize("kind", [Sleeps, SleepsInAMethod, Inherits, CallsSuper, HasASemaphore])
async def test_a_class_for_asyncio_is_an_error_before_the_first_rollout(kind: type[LitAgent[int]]) -> None:
    with pytest.raises(agl.AsyncioAgentError, match=r'it uses asyncio\..* Set runs_in = "asyncio" in its class'):
        await Runner(kind()).fit([1])


async def test_only_the_method_for_the_mode_counts() -> None:
    class Validates(LitAgent[int]):
        async def training_rollout_async(self, task: int) -> float:
            return 1.0

        async def validation_rollout_async(self, task: int) -> None:
            await asyncio.sleep(0)

    assert (await Runner(Validates()).fit([1])).mean_reward["train"] == 1.0


# Agents that are not.


async def in_thread(fn: Callable[..., Any], *args: Any) -> Any:
    return await trio.to_thread.run_sync(fn, *args)


async def hands_over_a_lambda(task: Any) -> float:
    return await trio.to_thread.run_sync(lambda: asyncio.run(helper(task)))


async def hands_over_a_function(task: Any) -> float:
    def work() -> float:
        return asyncio.run(helper(task))

    result: float = await in_thread(work)
    return result


async def hands_over_a_coroutine(task: Any) -> float:
    result: float = await in_thread(asyncio.run, helper(task))
    return result


async def hands_over_a_coroutine_of_asyncio(task: Any) -> float:
    waiting = asyncio.wait_for(helper(task), 3)
    result: float = await in_thread(asyncio.run, waiting)
    return result


async def hands_over_an_async_function(task: Any) -> float:
    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            made = group.create_task(helper(task))
        return await made

    result: float = await in_thread(lambda: asyncio.run(main()))
    return result


async def starts_a_thread(task: Any) -> float:
    thread = threading.Thread(target=lambda: asyncio.run(helper(task)))
    thread.start()
    await in_thread(thread.join)
    return 1.0


async def runs_a_loop_of_its_own(task: Any) -> float:
    return asyncio.run(helper(task))


async def runs_a_runner_of_its_own(task: Any) -> float:
    with asyncio.Runner() as runner:
        return runner.run(helper(task))


async def completes_on_a_loop_of_its_own(task: Any) -> float:
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop):
        return loop.run_until_complete(helper(task))


async def catches_its_exceptions(task: Any) -> float:
    try:
        await in_thread(len, task)
    except (TimeoutError, asyncio.CancelledError):
        raise
    except TypeError:
        pass
    return 1.0


async def asks_about_a_function(task: Any) -> float:
    return 1.0 if asyncio.iscoroutinefunction(helper) and not isinstance(task, asyncio.Future) else 0.0


async def is_annotated(task: Any, event: asyncio.Event | None = None) -> float:
    other: asyncio.Queue[int] | None = None
    return float(other is event)


async def uses_anyio(task: Any) -> float:
    await anyio.lowlevel.checkpoint()
    async with anyio.create_task_group():
        return 1.0


async def chooses_by_the_library(task: Any) -> float:
    if sniffio.current_async_library() == "asyncio":
        await asyncio.sleep(0)
    else:
        await trio.lowlevel.checkpoint()
    return 1.0


async def chooses_by_import(task: Any) -> float:
    if task == "never":
        pass
    else:
        pass
    await trio.lowlevel.checkpoint()
    return 1.0


async def asks_for_a_loop(task: Any) -> float:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return 1.0
    return 0.0


async def shadows_the_module(task: Any) -> float:
    class asyncio:
        @staticmethod
        async def sleep(seconds: float) -> None:
            await trio.sleep(seconds)

    await asyncio.sleep(0)
    return 1.0


async def awaits_what_it_is_given(task: Any) -> float:
    async def call(fn: Callable[[], Awaitable[float]]) -> float:
        return await fn()

    async def one() -> float:
        return 1.0

    return await call(one)


async def keeps_a_function_of_asyncio(task: Any) -> float:
    tools = {"sleep": asyncio.sleep, "gather": asyncio.gather}
    return float(len(tools) == 2)


def in_a_thread(fn: Callable[..., Coroutine[Any, Any, float]]) -> Callable[..., Coroutine[Any, Any, float]]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> float:
        result: float = await in_thread(lambda: asyncio.run(fn(*args, **kwargs)))
        return result

    return wrapper


class Native(LitAgent[int]):
    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(1)

    async def rollout_async(self, task: int) -> float:
        result: float = await in_thread(lambda: asyncio.run(self.search()))
        return result

    async def search(self) -> float:
        async with self.gate:
            return 1.0


class Waiter:
    """An object for Trio of a class that has asyncio's method, too."""

    async def search(self) -> float:
        await trio.lowlevel.checkpoint()
        return 1.0

    async def search_in_asyncio(self) -> float:
        await asyncio.sleep(0)
        return 1.0


async def awaits_an_object_for_trio(task: Any) -> float:
    return await Waiter().search()


async def waits_only_where_it_has_something(task: Any) -> float:
    waits_for = None
    if task == "never":
        waits_for = task
    if waits_for is not None:
        await waits_for
    return 1.0


class Invokes(Runnable[Any, float]):
    """A part of LangChain's that is written for Trio."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> float:
        return 1.0

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> float:
        await trio.lowlevel.checkpoint()
        return 1.0


async def invokes_a_part_for_trio(task: Any) -> float:
    return await Invokes().ainvoke(task)


def plain(task: Any) -> float:
    async def main() -> float:
        await asyncio.sleep(0)
        return 1.0

    return asyncio.run(main())


NATIVE = [
    waits_only_where_it_has_something,
    awaits_an_object_for_trio,
    invokes_a_part_for_trio,
    hands_over_a_lambda,
    hands_over_a_function,
    hands_over_a_coroutine,
    hands_over_a_coroutine_of_asyncio,
    hands_over_an_async_function,
    starts_a_thread,
    runs_a_loop_of_its_own,
    runs_a_runner_of_its_own,
    completes_on_a_loop_of_its_own,
    catches_its_exceptions,
    asks_about_a_function,
    is_annotated,
    uses_anyio,
    chooses_by_the_library,
    chooses_by_import,
    asks_for_a_loop,
    shadows_the_module,
    awaits_what_it_is_given,
    keeps_a_function_of_asyncio,
    in_a_thread(helper),
    Native(),
    plain,
    agl.rollout(runs_in="asyncio")(sleeps_by_a_condition),
]


@pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("agent", NATIVE, ids=named)
async def test_an_agent_that_runs_where_it_should_is_no_error(agent: Any) -> None:
    result = await Runner(agent).fit([1])

    assert result.counts["succeeded"] == 1
    assert result.mean_reward["train"] in (1.0, None)


async def test_an_explicit_lane_skips_the_check() -> None:
    @agl.rollout(runs_in="trio")
    async def agent(task: int) -> float:
        try:
            await asyncio.Event().wait()
        except AttributeError:
            return 0.0
        return 1.0

    assert (await Runner(agent).fit([1])).mean_reward["train"] == 0.0


def test_a_function_without_a_file_is_checked_as_well() -> None:
    namespace: dict[str, Any] = {}
    exec("import asyncio\nasync def agent(task):\n    await asyncio.sleep(0)", namespace)

    with pytest.raises(agl.AsyncioAgentError, match=r"asyncio\.sleep at <string>:3"):
        trio.run(Runner(namespace["agent"]).fit, [1])


def test_functions_of_the_same_folder_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's own module is ``__main__``, of which others are no part."""
    (tmp_path / "search_tools_of_a_script.py").write_text(
        "import asyncio\nasync def search():\n    await asyncio.sleep(0)\n"
    )
    (tmp_path / "main.py").write_text(
        "from search_tools_of_a_script import search\nasync def agent(task):\n    await search()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agent = runpy.run_path(str(tmp_path / "main.py"), run_name="__main__")["agent"]

    with pytest.raises(agl.AsyncioAgentError, match=r"asyncio\.sleep at .*search_tools_of_a_script\.py:3"):
        trio.run(Runner(agent).fit, [1])


def test_a_package_of_the_name_of_openais_sdk_may_be_for_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("agents")
    exec("import trio\nasync def solve(task):\n    await trio.sleep(0)\n    return 1.0", vars(package))
    monkeypatch.setitem(sys.modules, "agents", package)

    async def agent(task: int) -> float:
        result: float = await package.solve(task)
        return result

    assert trio.run(Runner(agent).fit, [1]).mean_reward["train"] == 1.0
