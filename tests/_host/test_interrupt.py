"""One Ctrl-C: fit stops claiming, keeps finished rollouts, logs what is left, and raises a plain KeyboardInterrupt.

The agents here do not end by themselves, so that the grace period is over before they do; `test_stopping.py` is about
that period.
"""

from __future__ import annotations

import sys

import pytest
from programs import Ended, interrupt_program, run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")

RUN_FIT = """
import asyncio, logging, sys, threading, time, trio
import lightning_trio as agl

logging.basicConfig(format="%(message)s")
store = agl.InMemoryLightningStore()
hooks = []
{agent}

class Ready(agl.Hook):
    async def on_trace_start(self, *, rollout, **_):
        if rollout.input == {ready_at}:
            print("ready", flush=True)

runner = agl.Runner(agent, store=store, hooks=[Ready(), *hooks], max_concurrency=4, grace_seconds=0.5)
try:
    {fit}
except KeyboardInterrupt as exc:
    statuses = [rollout.status for rollout in trio.run(store.query_rollouts)]
    print(type(exc).__name__, sorted(set(statuses)), statuses.count("succeeded"))
    sys.exit(130)
except BaseException as exc:
    print("not plain:", repr(exc))
"""

NATIVE = """
async def agent(task):
    if task >= 8:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
"""

THREADS = """
def agent(task):
    if task >= 8:
        time.sleep(3600)
"""

ASYNCIO = """
@agl.rollout(runs_in="asyncio")
async def agent(task):
    if task >= 8:
        await asyncio.sleep(3600)
"""

BUSY = """
async def agent(task):
    while task >= 8:
        await trio.lowlevel.checkpoint()
"""

SPINNING = """
async def agent(task):
    while task == 8:
        pass
"""

CATCHING = """
async def agent(task):
    while task >= 8:
        try:
            await trio.sleep(3600)
        except Exception:
            pass
"""

SLOW_CLEAN_UP = """
async def agent(task):
    if task >= 8:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")
"""

HANGING_HOOK = """
class Hanging(agl.Hook):
    async def on_trace_end(self, *, rollout, **_):
        if rollout.input >= 8:
            await trio.sleep_forever()

hooks.append(Hanging())
"""


def interrupted_fit(agent: str, *, fit: str = "trio.run(runner.fit, range(20))", ready_at: int = 11) -> Ended:
    return interrupt_program(RUN_FIT.format(agent=agent, fit=fit, ready_at=ready_at))


@pytest.mark.parametrize(
    "agent",
    [NATIVE, THREADS, ASYNCIO, BUSY, CATCHING],
    ids=["native", "threads", "asyncio", "busy", "catching"],
)
def test_a_plain_keyboard_interrupt_leaves_fit_and_the_process_ends_at_once(agent: str) -> None:
    ended = interrupted_fit(agent)

    assert ended.out == "KeyboardInterrupt ['queuing', 'requeuing', 'succeeded'] 8\n", ended.err
    assert ended.code == 130


def test_it_says_what_is_kept_and_what_is_left() -> None:
    ended = interrupted_fit(NATIVE)

    assert "8 rollouts of run-" in ended.err
    assert "are done and kept, 12 are not" in ended.err


def test_an_agent_that_never_yields_is_interrupted_at_its_current_line() -> None:
    """Trio raises the KeyboardInterrupt in the running code, here the agent's."""
    ended = interrupted_fit(SPINNING, ready_at=8)

    assert ended.out.startswith("KeyboardInterrupt ["), ended.err
    assert ended.code == 130


def test_errors_of_agents_that_are_being_stopped_do_not_hide_it() -> None:
    ended = interrupted_fit(SLOW_CLEAN_UP)

    assert ended.out.startswith("KeyboardInterrupt ["), ended.err


@pytest.mark.heavy
def test_a_hanging_hook_does_not_hold_it_up_for_long() -> None:
    ended = interrupted_fit(NATIVE + HANGING_HOOK)

    assert ended.out == "KeyboardInterrupt ['queuing', 'requeuing', 'succeeded'] 8\n", ended.err


@pytest.mark.parametrize(
    "fit",
    [
        "agl.Trainer(store=store, hooks=[Ready(), *hooks], n_runners=4, grace_seconds=0.5).fit(agent, range(20))",
        "asyncio.run(asyncio.to_thread(lambda: None)) or trio.run(runner.fit, range(20))",
    ],
    ids=["trainer", "after_asyncio"],
)
def test_it_leaves_the_synchronous_face_as_well(fit: str) -> None:
    ended = interrupted_fit(NATIVE, fit=fit)

    assert ended.out == "KeyboardInterrupt ['queuing', 'requeuing', 'succeeded'] 8\n", ended.err


def test_a_stream_and_an_open_runner_are_left_by_a_plain_keyboard_interrupt() -> None:
    ended = interrupt_program(
        """
        import sys, trio, lightning_trio as agl

        async def agent(task):
            if task == 3:
                print("ready", flush=True)
            await trio.sleep(3600)

        async def main():
            async with agl.Runner(agent, grace_seconds=0.5) as runner, runner.stream(range(4)) as results:
                async for done in results:
                    pass

        try:
            trio.run(main)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )

    assert ended.code == 130, ended.err


def test_serve_is_left_by_a_plain_keyboard_interrupt() -> None:
    ended = interrupt_program(
        """
        import sys, trio, lightning_trio as agl

        async def agent(task):
            print("ready", flush=True)
            await trio.sleep(3600)

        async def main():
            async with agl.Runner(agent, grace_seconds=0.5) as runner:
                await runner.store.enqueue_rollout(1)
                await runner.serve()

        try:
            trio.run(main)
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )

    assert ended.code == 130, ended.err


def test_without_a_handler_it_ends_as_python_programs_do() -> None:
    ended = interrupt_program(
        """
        import time, trio, lightning_trio as agl

        def agent(task):
            print("ready", flush=True)
            time.sleep(3600)

        trio.run(agl.Runner(agent, grace_seconds=0.5).fit, [1])
        """
    )

    assert ended.code == -2
    assert ended.err.rstrip().endswith("KeyboardInterrupt")
    assert "ExceptionGroup" not in ended.err


@pytest.mark.heavy
def test_it_comes_out_plain_from_agents_that_are_busy_wherever_it_strikes() -> None:
    """A hundred runs, each at a random moment; none hangs and none ends in a group or an error of Trio's own."""
    ended = run_program(
        """
        import random, signal, trio, lightning_trio as agl

        async def agent(task):
            if task == 0:
                # A system timer, since a thread may wait seconds for the interpreter's lock beside a busy loop.
                signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
                signal.setitimer(signal.ITIMER_REAL, 0.001 + random.random() * 0.01)
            while True:
                agl.emit_message("busy")
                await trio.lowlevel.checkpoint()

        for number in range(100):
            try:
                trio.run(agl.Runner(agent, grace_seconds=number % 2 * 0.01).fit, range(20))
            except KeyboardInterrupt:
                pass
        print("plain", flush=True)
        """
    )

    assert ended.out == "plain\n", ended.err
