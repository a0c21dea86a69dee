"""Ctrl-C and SIGTERM: attempts get time to finish, the second signal is immediate, a host's handlers are left alone."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio
from programs import UNTIL_IT_MAY_END, Ended, interrupt_program, started
from trio.testing import MockClock, wait_all_tasks_blocked

from lightning_trio import Runner, UsageError
from lightning_trio._concurrency import FlatNursery
from lightning_trio._errors import Terminated
from lightning_trio._runner._engine import Engine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

PROGRAM = (
    UNTIL_IT_MAY_END
    + """
import asyncio, logging, os, signal, sys, time, trio
import lightning_trio as agl

logging.basicConfig(format="%(message)s")
store = agl.InMemoryLightningStore()
{agent}

class Ready(agl.Hook):
    begun = 0

    async def on_trace_start(self, **_):
        self.begun += 1
        if self.begun == {ready_at}:
            print("ready", flush=True)

runner = agl.Runner(agent, store=store, hooks=[Ready()], max_concurrency=4, grace_seconds={grace})
try:
    trio.run(runner.fit, range(8))
finally:
    for rollout in trio.run(store.query_rollouts):
        print(rollout.status, end=" ")
    print(flush=True)
"""
)

NATIVE = """
async def agent(task):
    await wait_until_it_may_end(trio.sleep)
    return 1.0
"""

THREAD = """
def agent(task):
    may_end.wait()
    return 1.0
"""

ASYNCIO = """
@agl.rollout(runs_in="asyncio")
async def agent(task):
    await wait_until_it_may_end(asyncio.sleep)
    return 1.0
"""

BUSY_ASYNCIO = """
@agl.rollout(runs_in="asyncio")
async def agent(task):
    while not may_end.is_set():
        pass
    return 1.0
"""

ENDLESS = """
async def agent(task):
    await trio.sleep_forever()
"""

ENDLESS_THREAD = """
def agent(task):
    time.sleep(3600)
"""

ENDLESS_ASYNCIO = """
@agl.rollout(runs_in="asyncio")
async def agent(task):
    await asyncio.sleep(3600)
"""

SPINNING = """
async def agent(task):
    print("ready", flush=True)
    while True:
        pass
"""

BLOCKING = """
async def agent(task):
    print("ready", flush=True)
    time.sleep(3600)
"""

STUBBORN = """
from lightning_trio._host import _interrupts

# So that only the second signal interrupts it.
_interrupts._UNNOTICED_SECONDS = 3600

async def agent(task):
    if task != 0:
        return
    print("ready", flush=True)
    signal.raise_signal(signal.SIGINT)
    for _ in range(2):
        try:
            print("runs", flush=True)
            while True:
                pass
        except BaseException as exc:
            print(type(exc).__name__, flush=True)
    await trio.sleep_forever()
"""


def program_of(agent: str, grace: float) -> str:
    """Return a program that prints "ready" when four attempts have begun, or when its agent does so."""
    ready_at = 0 if "ready" in agent else 4
    return PROGRAM.format(agent=agent, grace=grace, ready_at=ready_at)


def stop(agent: str, *signals: int, grace: float) -> Ended:
    return interrupt_program(program_of(agent, grace), *signals)


def stop_and_let_end(source: str, signum: int) -> Ended:
    """Send a signal, and let the attempts end once the program has logged that they still run."""
    with started(source) as program:
        program.wait_ready()
        program.send(signum)
        program.wait_for("still run")
        program.let_end()
        return program.ended()


EXITS = pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)], ids=["int", "term"])


@EXITS
@pytest.mark.parametrize("agent", [NATIVE, THREAD, ASYNCIO, BUSY_ASYNCIO], ids=["native", "thread", "asyncio", "busy"])
def test_attempts_that_run_finish_and_are_recorded_and_the_rest_stays_in_the_queue(
    agent: str, signum: int, code: int
) -> None:
    ended = stop_and_let_end(program_of(agent, grace=3600), signum)

    assert ended.code == code, ended.err
    statuses = ended.out.split()
    assert statuses[:4] == ["succeeded"] * 4
    assert set(statuses[4:]) <= {"queuing"}, ended.out


def test_it_says_what_still_runs_and_how_long_it_waits() -> None:
    ended = stop_and_let_end(program_of(NATIVE, grace=3600.5), signal.SIGINT)

    lines = ended.err.splitlines()
    assert lines[0] == "interrupted: 4 attempts still run; waiting up to 3600.5 s for them, Ctrl-C again stops at once"
    assert lines[1].startswith("interrupted: 4 rollouts of run-")
    assert lines[1].endswith("are done and kept, 4 are not")


def test_sigterm_ends_without_a_traceback() -> None:
    ended = stop_and_let_end(program_of(NATIVE, grace=3600), signal.SIGTERM)

    lines = ended.err.splitlines()
    assert lines[0] == "terminated: 4 attempts still run; waiting up to 3600 s for them, SIGTERM again stops at once"
    assert len(lines) == 2, ended.err


@EXITS
@pytest.mark.parametrize("agent", [ENDLESS, ENDLESS_THREAD, ENDLESS_ASYNCIO], ids=["native", "thread", "asyncio"])
def test_what_has_not_finished_when_the_time_is_over_goes_back_to_the_queue(agent: str, signum: int, code: int) -> None:
    ended = stop(agent, signum, grace=0.5)

    assert ended.code == code, ended.err
    assert ended.out.split() == ["requeuing"] * 4 + ["queuing"] * 4
    assert "0 rollouts of run-" in ended.err


@EXITS
@pytest.mark.parametrize("agent", [ENDLESS, ENDLESS_THREAD, ENDLESS_ASYNCIO], ids=["native", "thread", "asyncio"])
def test_the_second_signal_is_immediate(agent: str, signum: int, code: int) -> None:
    ended = stop(agent, signum, signum, grace=3600)

    assert ended.code == code, ended.err
    assert ended.out.split() == ["requeuing"] * 4 + ["queuing"] * 4
    assert "ExceptionGroup" not in ended.err


@EXITS
@pytest.mark.parametrize("agent", [SPINNING, BLOCKING], ids=["spinning", "blocking"])
def test_an_agent_that_keeps_trio_from_running_is_interrupted_at_its_current_line(
    agent: str, signum: int, code: int
) -> None:
    """The first signal does so as well, after the time in which the loop could have acted on it."""
    ended = stop(agent, signum, grace=3600)

    assert ended.code == code, ended.err
    assert set(ended.out.split()) == {"requeuing", "queuing"}


def test_the_second_signal_is_raised_in_code_that_never_yields_at_once() -> None:
    with started(program_of(STUBBORN, grace=3600)) as program:
        program.wait_ready()
        for times in (1, 2):
            program.wait_for("runs\n", times)
            program.send(signal.SIGINT)
        program.wait_for("KeyboardInterrupt", 2)
        program.wait_for("still run")
        program.send(signal.SIGINT)
        ended = program.ended()

    assert ended.out.split()[:4] == ["runs", "KeyboardInterrupt"] * 2, ended.err
    assert ended.code == -2


@pytest.mark.heavy
def test_an_impatient_user_gets_out_whenever_it_strikes() -> None:
    """Three presses at once, or nearly, and one more: the program ends with a plain KeyboardInterrupt."""
    for between in (0.0, 0.001, 0.05):
        with started(program_of(ENDLESS, grace=3600)) as program:
            program.wait_ready()
            for _ in range(3):
                program.send(signal.SIGINT)
                time.sleep(between)
            # The last one is sent separately: simultaneous signals may reach the process as one.
            if (ended := program.ended(1.0)).code is None:
                program.send(signal.SIGINT)
                ended = program.ended()

        assert ended.code == -2, ended.err
        assert "Exception Group" not in ended.err, ended.err


STREAM = (
    UNTIL_IT_MAY_END
    + """
import trio, lightning_trio as agl


async def agent(task):
    if task == 3:
        print("ready", flush=True)
    await wait_until_it_may_end(trio.sleep)

async def main():
    async with agl.Runner(agent, max_concurrency=4, grace_seconds=3600) as runner:
        async with runner.stream(range(1000)) as results:
            async for done in results:
                print(done.status, flush=True)

trio.run(main)
"""
)


def test_the_attempts_of_a_stream_finish_and_their_results_are_read() -> None:
    ended = stop_and_let_end(STREAM, signal.SIGTERM)

    assert ended.code == 143, ended.err
    assert ended.out.split() == ["succeeded"] * 4


SERVE = (
    UNTIL_IT_MAY_END
    + """
import trio, lightning_trio as agl

store = agl.InMemoryLightningStore()

async def agent(task):
    if task == 3:
        print("ready", flush=True)
    await wait_until_it_may_end(trio.sleep)

async def main():
    async with agl.Runner(agent, max_concurrency=4, grace_seconds=3600, store=store) as runner:
        for task in range(6):
            await store.enqueue_rollout(task)
        await runner.serve()

try:
    trio.run(main)
finally:
    print(*[rollout.status for rollout in trio.run(store.query_rollouts)])
"""
)


def test_what_serve_runs_finishes_and_the_rest_waits() -> None:
    ended = stop_and_let_end(SERVE, signal.SIGTERM)

    assert ended.code == 143, ended.err
    assert ended.out.split() == ["succeeded"] * 4 + ["queuing"] * 2


TWO_RUNNERS = (
    UNTIL_IT_MAY_END
    + """
import trio, lightning_trio as agl

store = agl.InMemoryLightningStore()
begun = ended = 0

async def agent(task):
    global begun, ended
    turn, begun = begun, begun + 1
    if begun == 4:
        print("ready", flush=True)
    await wait_until_it_may_end(trio.sleep)
    # One after the other, so that one runner has finished while the other still works.
    while ended < turn:
        await trio.sleep(0.01)
    ended += 1

async def main():
    async with agl.Runner(agent, store=store, max_concurrency=2) as first:
        async with agl.Runner(agent, store=store, max_concurrency=2) as second:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.fit, range(4))
                nursery.start_soon(second.fit, range(4))
                await trio.sleep_forever()

try:
    trio.run(main)
except KeyboardInterrupt:
    pass
print(sorted(rollout.status for rollout in trio.run(store.query_rollouts)))
"""
)


def test_in_a_bigger_program_two_runners_finish_what_they_run() -> None:
    ended = stop_and_let_end(TWO_RUNNERS, signal.SIGINT)

    assert ended.code == 0, ended.err
    assert ended.out == f"{['queuing'] * 4 + ['succeeded'] * 4}\n"


def test_a_signal_while_nothing_is_worked_on_has_its_usual_effect() -> None:
    idle = """
        import trio, lightning_trio as agl

        async def agent(task): ...

        async def main():
            async with agl.Runner(agent) as runner:
                await runner.step(1)
                print("ready", flush=True)
                await trio.sleep_forever()

        trio.run(main)
        """
    interrupted = interrupt_program(idle)
    terminated = interrupt_program(idle, signal.SIGTERM)

    assert (interrupted.code, terminated.code) == (-2, -signal.SIGTERM)
    assert interrupted.err.rstrip().endswith("KeyboardInterrupt")


def test_after_an_interruption_that_the_program_takes_the_next_signal_is_a_first_one_again() -> None:
    source = """
        import os, trio, lightning_trio as agl

        async def agent(task):
            print("ready", flush=True)
            await trio.to_thread.run_sync(os.read, 0, 1)

        async def main():
            async with agl.Runner(agent, max_concurrency=1, grace_seconds=3600) as runner:
                for _ in range(2):
                    try:
                        await runner.fit(range(3))
                    except KeyboardInterrupt:
                        print(runner.statistics().succeeded, flush=True)

        trio.run(main)
        """
    with started(source) as program:
        program.wait_ready()
        for times in (1, 2):
            program.send(signal.SIGINT)
            program.wait_for("still run", times)
            program.let_end()
            program.wait_for("ready")
        ended = program.ended()

    assert ended.code == 0, ended.err
    assert ended.out.split() == ["1", "ready", "2"]


@pytest.mark.parametrize("name", ["label_reviews", "room_selector"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
@pytest.mark.heavy
def test_the_examples_end_with_the_usual_status_and_without_a_traceback(name: str, signum: int, code: int) -> None:
    ended = interrupt_program(
        f"""
        import runpy, sys, threading, time
        import lightning_trio as agl

        class Ready(agl.Hook):
            async def on_trace_start(self, **_):
                print("ready", flush=True)

        made = agl.Runner.__init__
        def making(self, *args, **kwargs):
            made(self, *args, **kwargs)
            self.hooks += (Ready(),)
            self.grace_seconds = 0.5
        agl.Runner.__init__ = making
        # This address neither answers nor refuses connections.
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        sys.argv = ["example", "--base-url", f"http://127.0.0.1:{{port}}/v1", "--concurrency", "1"]
        runpy.run_path("examples/{name}.py", run_name="__main__")
        """,
        signum,
    )

    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err


# Handlers.


async def sleeper(task: float) -> None:
    await trio.sleep(task)


STOPPING = (signal.SIGINT, signal.SIGTERM)


async def test_handlers_are_there_while_a_runner_is_open_and_put_back_afterwards() -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    async with Runner(sleeper):
        async with Runner(sleeper):
            inside = [signal.getsignal(signum) for signum in STOPPING]
        still = [signal.getsignal(signum) for signum in STOPPING]

    assert not set(inside) & set(before)
    assert still == inside
    assert [signal.getsignal(signum) for signum in STOPPING] == before


async def test_handlers_are_put_back_after_an_error_and_after_a_cancellation() -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    with pytest.raises(ValueError, match="inside"):
        async with Runner(sleeper):
            raise ValueError("inside")
    with trio.move_on_after(0.01):
        await Runner(sleeper).fit([60])

    assert [signal.getsignal(signum) for signum in STOPPING] == before


async def test_handlers_are_put_back_in_whatever_order_runners_close() -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    first, second = Runner(sleeper), Runner(sleeper)
    await first.__aenter__()
    await second.__aenter__()
    await second.__aexit__(None, None, None)
    await first.__aexit__(None, None, None)

    assert [signal.getsignal(signum) for signum in STOPPING] == before


@pytest.mark.parametrize("signum", STOPPING)
async def test_a_handler_of_the_hosts_own_is_left_alone_and_called(signum: int) -> None:
    called: list[int] = []
    before = signal.signal(signum, lambda number, _: called.append(number))
    try:
        own = signal.getsignal(signum)
        async with Runner(sleeper) as runner, trio.open_nursery() as nursery:
            nursery.start_soon(runner.fit, [60])
            await wait_all_tasks_blocked()
            signal.raise_signal(signum)
            inside = signal.getsignal(signum)
            nursery.cancel_scope.cancel()
    finally:
        signal.signal(signum, before)

    assert inside is own
    assert called == [signum]


def test_a_runner_in_another_thread_leaves_signals_alone_and_is_stopped_by_cancellation() -> None:
    seen: list[Any] = []

    async def main() -> None:
        with trio.CancelScope() as scope:

            async def cancelled(task: int) -> None:
                scope.cancel()
                await trio.sleep_forever()

            async with Runner(cancelled) as runner:
                seen.extend(signal.getsignal(signum) for signum in STOPPING)
                await runner.fit([1])
        [rollout] = await runner.store.query_rollouts()
        seen.append(rollout.status)

    before = [signal.getsignal(signum) for signum in STOPPING]
    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()

    assert seen == [*before, "requeuing"]


async def raised_in(call: Callable[[Runner], Any], signum: int, grace_seconds: float) -> BaseException | None:
    """Send a signal to a call that runs in this process, and return what it raises."""
    raised: list[BaseException] = []

    async def run(runner: Runner) -> None:
        try:
            await call(runner)
        except (KeyboardInterrupt, SystemExit) as exc:
            raised.append(exc)

    async with Runner(sleeper, grace_seconds=grace_seconds) as runner, FlatNursery() as nursery:
        nursery.start_soon(run, runner)
        await wait_all_tasks_blocked()
        signal.raise_signal(signum)
    return raised[0] if raised else None


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
async def test_it_waits_as_long_as_it_says_and_not_longer(
    autojump_clock: MockClock, signum: int, kind: type[BaseException]
) -> None:
    # Only the call runs in this loop, whose clock is the only one that matters here.
    async def fit(runner: Runner) -> None:
        await runner.fit([5, 20, 1000])

    raised = await raised_in(fit, signum, grace_seconds=30)

    assert type(raised) is kind
    assert trio.current_time() == pytest.approx(30)


async def test_it_waits_no_longer_than_attempts_run(autojump_clock: MockClock) -> None:
    async def fit(runner: Runner) -> None:
        await runner.fit([5, 20])

    raised = await raised_in(fit, signal.SIGINT, grace_seconds=30)

    assert isinstance(raised, KeyboardInterrupt)
    assert trio.current_time() == pytest.approx(20)


async def test_without_a_grace_period_it_is_immediate(autojump_clock: MockClock) -> None:
    async def fit(runner: Runner) -> None:
        await runner.fit([5, 20])

    raised = await raised_in(fit, signal.SIGINT, grace_seconds=0)

    assert isinstance(raised, KeyboardInterrupt)
    assert trio.current_time() == 0


async def test_a_fit_ends_with_the_grace_period_whatever_it_waits_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(engine: Engine, run_id: str | None) -> None:
        await trio.sleep(1000)

    async def fit(runner: Runner) -> None:
        await runner.fit([5])

    monkeypatch.setattr(Engine, "work", wait)
    raised = await raised_in(fit, signal.SIGINT, grace_seconds=30)

    assert isinstance(raised, KeyboardInterrupt)
    assert trio.current_time() == pytest.approx(30)


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan"), "5", None])
def test_the_grace_period_is_a_number_of_seconds(value: Any) -> None:
    with pytest.raises(UsageError, match=r"grace_seconds=.*; pass a number of seconds, 0 to stop attempts at once"):
        Runner(sleeper, grace_seconds=value)


async def test_a_termination_leaves_nurseries_plain_whatever_else_is_raised() -> None:
    async def fail() -> None:
        raise ValueError

    with pytest.raises(Terminated) as raised:
        async with FlatNursery() as nursery:
            nursery.start_soon(fail)
            raise Terminated

    assert raised.value.code == 143
