"""`Runner.describe`, `Runner.running` and SIGUSR1: running attempts, and the lines of their tasks and threads."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from programs import run_program
from trio.testing import MockClock, wait_all_tasks_blocked

import lightning_trio as agl
from lightning_trio import RolloutConfig, Runner, RunnerStatistics, RunningAttempt, RunningTask
from lightning_trio._runner._report import describe

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGUSR1")


async def page(seconds: float) -> None:
    await trio.sleep(seconds)  # waits for the page


async def browse(task: int) -> None:
    with agl.operation(name="search"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page, 60, name="front page")
            nursery.start_soon(page, 60)


async def sleeper(task: float) -> None:
    await trio.sleep(task)


async def test_a_running_attempt_is_shown_with_its_lane_age_deadline_and_last_span(autojump_clock: MockClock) -> None:
    async with Runner(browse, config=RolloutConfig(timeout_seconds=100)) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        await trio.sleep(40)
        [attempt] = runner.running()
        nursery.cancel_scope.cancel()

    assert (attempt.lane, attempt.sequence_id) == ("trio", 1)
    assert attempt.age == pytest.approx(40)
    assert attempt.time_left == pytest.approx(60)
    assert (attempt.last_span, attempt.last_span_open) == ("search", True)
    assert attempt.last_span_age is not None


async def test_the_tasks_below_a_native_agent_are_shown_with_their_current_lines(
    autojump_clock: MockClock,
) -> None:
    async with Runner(browse) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        await wait_all_tasks_blocked()
        [attempt] = runner.running()
        nursery.cancel_scope.cancel()

    task = attempt.task
    assert task is not None
    assert (task.function, task.file) == ("browse", __file__)
    assert [child.name for child in task.children] == ["front page", f"{__name__}.page"]
    assert all(child.code == "await trio.sleep(seconds)  # waits for the page" for child in task.children)


async def test_nurseries_of_the_caller_of_step_are_not_the_agents(autojump_clock: MockClock) -> None:
    seen: list[RunningAttempt] = []

    async with Runner(sleeper, config=RolloutConfig(unresponsive_seconds=50)) as runner, trio.open_nursery() as nursery:

        async def look() -> None:
            await wait_all_tasks_blocked()
            seen.extend(runner.running())

        nursery.start_soon(look)
        await runner.step(5)

    assert seen[0].task is not None
    assert seen[0].task.function == "sleeper"
    assert not seen[0].task.children


async def test_the_agent_that_asks_is_shown_where_it_asks(autojump_clock: MockClock) -> None:
    seen: list[RunningAttempt] = []

    async def agent(task: int) -> None:
        seen.extend(runner.running())

    async with Runner(agent) as runner:
        await runner.step(1)

    assert seen[0].task is not None
    assert seen[0].task.code == "seen.extend(runner.running())"


async def test_a_thread_is_shown_at_its_line() -> None:
    started, end = threading.Event(), threading.Event()

    def agent(task: int) -> None:
        started.set()
        end.wait(10)  # blocks

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        await trio.to_thread.run_sync(started.wait)
        [attempt] = runner.running()
        end.set()

    assert attempt.lane == "thread"
    assert attempt.task is not None
    assert attempt.task.function == "agent"


async def test_a_great_many_children_are_counted_and_not_shown(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(trio.sleep, 5)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        await wait_all_tasks_blocked()
        text = runner.describe()

    assert "└─ … and 492 more tasks" in text
    assert len(text.splitlines()) < 15


async def test_of_a_thousand_the_oldest_are_shown_and_the_age_of_the_youngest(autojump_clock: MockClock) -> None:
    runner = Runner(sleeper, max_concurrency=1000)
    async with runner, trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(runner.step, 1000 - number / 1000)
            await trio.sleep(0.01)
        [oldest, *_] = runner.running()
        lines = runner.describe(limit=20).splitlines()
        nursery.cancel_scope.cancel()

    assert lines[0] == "Runner of sleeper: 1,000 running on 1,000 slots, 0 queued, 0 done"
    assert lines[3].split()[0] == oldest.rollout_id
    assert lines[-1] == "  … and 980 more, the youngest 0.0 s"
    assert sum(line.startswith("  ro-") for line in lines) == 20


async def test_the_numbers_show_what_waits_and_what_is_done(autojump_clock: MockClock) -> None:
    async def agent(task: int) -> None:
        if task == 0:
            raise ValueError
        await trio.sleep(task)

    async with Runner(agent, max_concurrency=2) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.fit, [0, 1, 60, 60, 60])
        await trio.sleep(2)
        first = runner.describe().splitlines()[0]
        nursery.cancel_scope.cancel()

    assert first == "Runner of agent: 2 running on 2 slots, 1 queued, 2 done (1 succeeded, 1 failed)"


async def test_a_closed_runner_says_so() -> None:
    runner = Runner(sleeper)
    before = runner.describe()
    await runner.fit([0, 0])

    assert before == "Runner of sleeper: 0 running on 100 slots, 0 done; it is closed"
    assert runner.describe() == "Runner of sleeper: 0 running on 100 slots, 2 done (2 succeeded); it is closed"
    assert runner.running() == []


async def test_an_attempt_whose_agent_could_not_be_bound_has_no_lane(autojump_clock: MockClock) -> None:
    seen: list[RunningAttempt] = []

    class Look(agl.Hook):
        async def on_trace_start(self, *, runner: Runner, **_: object) -> None:
            seen.extend(runner.running())

    async with Runner(sleeper, hooks=[Look()]) as runner:
        await runner.step(0)

    assert (seen[0].lane, seen[0].time_left, seen[0].task) == ("trio", None, None)


def test_the_text_is_made_of_records_alone() -> None:
    child = RunningTask("front page", "page", "/program/browse.py", 12, "await trio.sleep(60)")
    task = RunningTask("ro-1", "browse", "/program/browse.py", 31, "async with trio.open_nursery():", (child,), 3)
    attempts = [
        RunningAttempt("ro-1", "at-1", 2, "train", "trio", 754.0, 8.8, "search", 30.1, True, task),
        RunningAttempt("ro-2", "at-2", 1, None, "process", 1.0, -0.5, None, None, False, None),
        RunningAttempt("ro-3", "at-3", 1, None, "asyncio", 0.5, None, "chat", 0.1, False, None),
    ]

    text = describe("browse", RunnerStatistics(1003, 1, 7, 2, 1, 0, 15, 1, 1004), 1250, attempts, 0.04)

    assert text.splitlines() == [
        "Runner of browse: 1,003 running on 1,004 slots, 1 waiting for a retry, 1,250 queued, "
        "1 in abandoned threads, 10 done (7 succeeded, 2 failed, 1 timed out)",
        "",
        "  rollout  attempt  lane             age  time left  last span",
        "  ro-1           2  trio     12 min 34 s      8.8 s  search, open for 30.1 s",
        "    browse.py:31 in browse: async with trio.open_nursery():",
        "    ├─ front page: browse.py:12 in page: await trio.sleep(60)",
        "    └─ … and 3 more tasks",
        "  ro-2           1  process        1.0 s       over  -",
        "  ro-3           1  asyncio        0.5 s          -  chat, 0.1 s ago",
        "  … and 1,000 more, the youngest 0.0 s",
    ]


# SIGUSR1.


@posix_only
def test_the_signal_prints_running_attempts_even_while_an_agent_keeps_trio_from_running() -> None:
    ended = run_program(
        """
        import signal, trio, lightning_trio as agl

        asked = False

        def ask(*_):
            global asked
            signal.raise_signal(signal.SIGUSR1)
            asked = True

        async def spin(task):
            signal.signal(signal.SIGALRM, ask)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            while not asked:
                pass

        trio.run(agl.Runner(spin).fit, [0])
        print("ended", flush=True)
        """
    )

    assert ended.out == "ended\n", ended.err
    assert "Runner of spin: 1 running on 100 slots" in ended.err
    assert " in ask" in ended.err


@posix_only
def test_the_signal_prints_all_open_runners_and_has_its_own_effect_when_they_are_closed() -> None:
    ended = run_program(
        """
        import os, signal, trio, lightning_trio as agl

        async def first(task): ...
        async def second(task): ...

        async def main():
            async with agl.Runner(first):
                async with agl.Runner(second):
                    os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGUSR1)

        trio.run(main)
        os.kill(os.getpid(), signal.SIGUSR1)
        """
    )

    printed = [line.split(":")[0] for line in ended.err.splitlines()]
    assert printed == ["Runner of first", "Runner of second", "Runner of first"]
    assert ended.code == -signal.SIGUSR1


@contextmanager
def own_handler(signum: int) -> Iterator[list[int]]:
    """A host's handler that records its calls."""
    called: list[int] = []
    before = signal.signal(signum, lambda number, _: called.append(number))
    try:
        yield called
    finally:
        signal.signal(signum, before)


@posix_only
async def test_a_handler_of_the_hosts_own_is_left_alone() -> None:
    with own_handler(signal.SIGUSR1) as called:
        handler = signal.getsignal(signal.SIGUSR1)
        async with Runner(sleeper):
            signal.raise_signal(signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) is handler

        assert signal.getsignal(signal.SIGUSR1) is handler
        assert called == [signal.SIGUSR1]


@posix_only
async def test_a_handler_that_the_host_put_in_meanwhile_stays_when_the_runner_closes() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        async with Runner(sleeper):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


@posix_only
async def test_the_handler_is_taken_out_after_an_error_as_well() -> None:
    with pytest.raises(ValueError, match="inside"):
        async with Runner(sleeper):
            raise ValueError("inside")

    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@posix_only
async def test_an_error_in_describing_is_printed_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(self: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Runner, "describe", broken)
    async with Runner(sleeper):
        signal.raise_signal(signal.SIGUSR1)

    assert capfd.readouterr().err == "describing the open runners failed with ZeroDivisionError()\n"


class BrokenFile:
    """A standard error that an agent has put in the place of Python's."""

    def write(self, text: str) -> int:
        raise SystemExit


@posix_only
async def test_a_broken_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runner(sleeper):
        monkeypatch.setattr(sys, "stderr", BrokenFile())
        signal.raise_signal(signal.SIGUSR1)


def test_a_runner_in_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    async def main() -> None:
        async with Runner(sleeper) as runner:
            seen.append(signal.getsignal(getattr(signal, "SIGUSR1", signal.SIGTERM)))
            await runner.step(0)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()

    assert seen == [signal.SIG_DFL]


async def test_a_task_in_trios_own_code_only_is_shown_by_what_was_called() -> None:
    async def agent(task: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 60)

    async with Runner(agent) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.step, 1)
        await wait_all_tasks_blocked()
        [attempt] = runner.running()
        nursery.cancel_scope.cancel()

    assert attempt.task is not None
    assert [child.function for child in attempt.task.children] == ["sleep"]


@pytest.mark.parametrize("limit", [-1, "3", 1.5])
async def test_a_limit_that_is_no_number_of_attempts_is_refused(limit: int) -> None:
    runner = Runner(sleeper)

    with pytest.raises(agl.UsageError, match="pass the number of attempts to look at, 0 or more"):
        runner.describe(limit=limit)
    with pytest.raises(agl.UsageError, match="pass the number of attempts to look at, 0 or more"):
        runner.running(limit)


class Rude(str):
    def __lt__(self, other: object) -> bool:
        raise SystemExit(3)


async def test_tasks_with_names_of_any_kind_are_shown(autojump_clock: MockClock) -> None:
    described: list[str] = []

    async def agent(task: int) -> None:
        async with trio.open_nursery() as nursery:
            for name in (Rude("a"), Rude("b"), None, 3):
                nursery.start_soon(trio.sleep, 2, name=name)
            await trio.sleep(1)
            described.append(runner.describe())

    async with Runner(agent) as runner:
        await runner.step(1)

    assert described[0].count("sleep") >= 4
