"""The interpreter's exit: it waits for no abandoned agent, and for all that belongs to the program."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from programs import Ended, run_program, started

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

PROGRAM = """
import asyncio, concurrent.futures, multiprocessing, subprocess, sys, threading, time, trio
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import lightning_trio as agl

fork = multiprocessing.get_context("fork")
LIMIT = agl.RolloutConfig(timeout_seconds=0.5)
SHARED = ThreadPoolExecutor(8)

def hang(*_):
    time.sleep(600)

{agent}

print(trio.run(agl.Runner(agent, max_concurrency=4).fit, {tasks}).counts["failed"], flush=True)
{end}
"""

AGENTS = {
    "its own executor": """
@agl.rollout(config=LIMIT)
def agent(task):
    with ThreadPoolExecutor(2) as pool:
        pool.submit(hang)
        return pool.submit(hang).result()
""",
    "an executor that is being shut down": """
@agl.rollout(config=LIMIT)
def agent(task):
    with ThreadPoolExecutor(2) as pool:
        pool.submit(hang)
""",
    "map": """
@agl.rollout(config=LIMIT)
def agent(task):
    return list(ThreadPoolExecutor(2).map(hang, range(4)))
""",
    "wait": """
@agl.rollout(config=LIMIT)
def agent(task):
    concurrent.futures.wait([SHARED.submit(hang), SHARED.submit(hang)])
""",
    "the program's executor": """
@agl.rollout(config=LIMIT)
def agent(task):
    return SHARED.submit(hang).result()
""",
    "the program's executor with context": """
@agl.rollout(config=LIMIT)
def agent(task):
    SHARED.submit(agl.carry_context(hang))
    hang()
""",
    "an executor in an executor": """
def middle():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hang).result()

@agl.rollout(config=LIMIT)
def agent(task):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(middle).result()
""",
    "a thread of its own": """
def middle():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hang).result()

@agl.rollout(config=LIMIT)
def agent(task):
    thread = threading.Thread(target=middle)
    thread.start()
    thread.join()
""",
    "asyncio.to_thread": """
@agl.rollout(config=LIMIT)
def agent(task):
    asyncio.run(asyncio.to_thread(hang))
""",
    "run_in_executor": """
@agl.rollout(config=LIMIT)
def agent(task):
    async def main():
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, hang)

    asyncio.run(main())
""",
    "run_in_executor, the default one": """
@agl.rollout(config=LIMIT)
def agent(task):
    async def main():
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(None, hang) for _ in range(2)))

    asyncio.run(main())
""",
    "run_in_executor in an async generator": """
async def parts():
    with ThreadPoolExecutor(1) as pool:
        yield await asyncio.get_running_loop().run_in_executor(pool, hang)

@agl.rollout(config=LIMIT)
def agent(task):
    async def main():
        async for _ in parts():
            pass

    asyncio.run(main())
""",
    "asyncio, blocked": """
@agl.rollout(config=LIMIT, runs_in="asyncio")
async def agent(task):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hang).result()
""",
    "asyncio, in a thread": """
def middle():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hang).result()

@agl.rollout(config=LIMIT, runs_in="asyncio")
async def agent(task):
    await asyncio.to_thread(middle)
""",
    "Trio": """
def middle():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hang).result()

@agl.rollout(config=LIMIT)
async def agent(task):
    await trio.to_thread.run_sync(middle, abandon_on_cancel=True)
""",
    "a process": """
@agl.rollout(config=LIMIT)
def agent(task):
    process = fork.Process(target=hang)
    process.start()
    process.join()
""",
    "processes in turn": """
@agl.rollout(config=LIMIT)
def agent(task):
    for _ in range(9):
        process = fork.Process(target=hang)
        process.start()
        process.join()
""",
    "a process that it does not wait for": """
@agl.rollout(config=LIMIT)
def agent(task):
    queue = fork.Queue()
    process = fork.Process(target=hang)
    process.start()
    queue.get()
""",
    "a pool of processes": """
@agl.rollout(config=LIMIT)
def agent(task):
    with fork.Pool(2) as pool:
        pool.map(hang, range(4))
""",
    "an executor of processes": """
@agl.rollout(config=LIMIT)
def agent(task):
    with ProcessPoolExecutor(2, mp_context=fork) as pool:
        list(pool.map(hang, range(4)))
""",
    "a subprocess": """
@agl.rollout(config=LIMIT)
def agent(task):
    subprocess.run([sys.executable, "-c", "while True: pass"])
""",
}


def run(agent: str, *, tasks: str = '["x"]', end: str = "") -> Ended:
    """Run a program that must end long before what its agents wait for."""
    return run_program(PROGRAM.format(agent=agent, tasks=tasks, end=end))


QUICK = {
    "its own executor",
    "asyncio.to_thread",
    "asyncio, in a thread",
    "processes in turn",
    "an executor of processes",
}


@pytest.mark.parametrize(
    "waits_for", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.heavy]) for name in AGENTS]
)
def test_it_does_not_wait_for_what_an_abandoned_agent_waits_for(waits_for: str) -> None:
    ended = run(AGENTS[waits_for])

    assert (ended.code, ended.out) == (0, "1\n"), ended.err


SOME = pytest.mark.parametrize(
    "waits_for",
    [
        "its own executor",
        pytest.param("asyncio.to_thread", marks=pytest.mark.heavy),
        pytest.param("an executor of processes", marks=pytest.mark.heavy),
    ],
)


@SOME
def test_nor_for_several_and_the_exit_status_is_the_programs(waits_for: str) -> None:
    ended = run(AGENTS[waits_for], tasks="range(4)", end="sys.exit(3)")

    assert (ended.code, ended.out) == (3, "4\n"), ended.err


@SOME
def test_after_ctrl_c_it_does_not_wait_either(waits_for: str) -> None:
    agent = AGENTS[waits_for].replace("(config=LIMIT)", "")
    agent = agent.replace("(task):\n", "(task):\n    print('ready', flush=True)\n", 1)
    program = PROGRAM.format(agent=agent, tasks="['x']", end="")
    program = program.replace("agl.Runner(agent, ", "agl.Runner(agent, grace_seconds=0.2, ")
    with started(program) as running:
        running.wait_ready()
        time.sleep(0.3)
        running.send(signal.SIGINT)
        ended = running.ended()

    assert ended.code == -signal.SIGINT, ended.err
    assert ended.err.rstrip().endswith("KeyboardInterrupt")


def test_a_trainers_program_ends_at_once_as_well() -> None:
    agent = AGENTS["its own executor"] + "agl.Trainer(n_runners=1).fit(agent, ['x'])\n"
    ended = run(agent)

    assert (ended.code, ended.out) == (0, "1\n"), ended.err


PROGRAMS_OWN = """
def save(name):
    time.sleep(1.5)
    print("saved", name, flush=True)

handed_over = []

@agl.rollout(config=LIMIT)
def agent(task):
    if task == "saves":
        {save}
        return 1.0
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(hang).result()
"""


@pytest.mark.parametrize(
    ("save", "end"),
    [
        pytest.param("pass", "ThreadPoolExecutor(1).submit(save, 'it')", id="an executor", marks=pytest.mark.heavy),
        pytest.param("SHARED.submit(save, 'it')", "", id="a shared one", marks=pytest.mark.heavy),
        pytest.param("SHARED.submit(agl.carry_context(save), 'it')", "", id="a shared one with context"),
        pytest.param("pass", "fork.Process(target=save, args=['it']).start()", id="a process", marks=pytest.mark.heavy),
        pytest.param(
            "pass", "threading.Thread(target=save, args=['it']).start()", id="a thread", marks=pytest.mark.heavy
        ),
    ],
)
def test_it_waits_for_what_belongs_to_the_program(save: str, end: str) -> None:
    ended = run(PROGRAMS_OWN.format(save=save), tasks='["saves", "hangs"]', end=end)

    assert (ended.code, ended.out) == (0, "1\nsaved it\n"), ended.err


@pytest.mark.heavy
def test_it_waits_for_a_thread_that_an_abandoned_agent_has_made_no_daemon() -> None:
    ended = run(
        """
def save():
    time.sleep(1.5)
    print("saved", flush=True)

@agl.rollout(config=LIMIT)
def agent(task):
    thread = threading.Thread(target=save, daemon=False)
    thread.start()
    thread.join()
"""
    )

    assert (ended.code, ended.out) == (0, "1\nsaved\n"), ended.err


# Agents that are not abandoned, but cannot end either.


def test_it_does_not_wait_for_a_child_that_an_interrupted_native_agent_waits_for() -> None:
    """The Ctrl-C in the terminal ends the first agent's child; the second starts its own after it."""
    agent = """
def child():
    print("ready", flush=True)
    hang()

@agl.rollout
async def agent(task):
    process = fork.Process(target=child)
    process.start()
    process.join()
"""
    with started(PROGRAM.format(agent=agent, tasks="['a', 'b']", end="")) as running:
        running.wait_ready()
        os.killpg(running.process.pid, signal.SIGINT)
        ended = running.ended()

    assert ended.code == -signal.SIGINT, ended.err


IN_DAEMON_THREAD = """
threading.Thread(target=agl.Trainer(n_runners=2).fit, args=(agent, [1, 2]), daemon=True).start()
while len(begun) < 2:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(3)
"""


@pytest.mark.parametrize(
    "waits_for",
    [
        pytest.param("its own executor", marks=pytest.mark.heavy),
        pytest.param("asyncio.to_thread", marks=pytest.mark.heavy),
        "a process",
        pytest.param("a pool of processes", marks=pytest.mark.heavy),
    ],
)
def test_it_does_not_wait_for_the_agents_of_a_runner_in_a_daemon_thread(waits_for: str) -> None:
    agent = AGENTS[waits_for].replace("(config=LIMIT)", "")
    agent = "begun = []\n" + agent.replace("(task):\n", "(task):\n    begun.append(task)\n", 1)
    ended = run(agent + IN_DAEMON_THREAD)

    assert ended.code == 3, ended.err


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="starts no thread once the main thread has ended")
def test_it_waits_for_a_runner_in_a_thread_that_is_no_daemon() -> None:
    """The main thread ends before the first call in the asyncio lane, and before an agent asks for an executor."""
    ended = run_program(
        """
        import threading, time, lightning_trio as agl

        def main():
            threading.main_thread().join()

            @agl.rollout(runs_in="asyncio")
            async def agent(task):
                import asyncio

                return float(await asyncio.to_thread(lambda: task))

            print(agl.Trainer(n_runners=1).fit(agent, [1, 2]).counts["succeeded"], flush=True)

        agl.Trainer
        threading.Thread(target=main).start()
        """
    )

    assert (ended.code, ended.out) == (0, "2\n"), ended.err


def test_looking_at_the_threads_of_queues_of_processes_leaves_nothing_that_crashes_the_exit() -> None:
    """In Python 3.12.1 a memoryview held by a thread's frame crashed the last collection."""
    ended = run_program(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        import lightning_trio as agl

        fork = multiprocessing.get_context("fork")

        @agl.rollout
        def agent(task):
            return float(pool.submit(abs, task).result())

        for _ in range(2):
            pool = ProcessPoolExecutor(2, mp_context=fork)
            print(agl.Trainer(n_runners=4).fit(agent, range(8)).counts["succeeded"])
        """
    )

    assert (ended.code, ended.out) == (0, "8\n8\n"), ended.err


def test_a_tracer_as_of_a_debugger_does_not_hold_it_up() -> None:
    ended = run("def trace(*_): return trace\nsys.settrace(trace)\n" + AGENTS["processes in turn"])

    assert (ended.code, ended.out) == (0, "1\n"), ended.err


def test_nor_does_a_tracer_that_stops_in_an_agents_thread_print_anything() -> None:
    """So does coverage, which tells Python in C, where an exception cannot be raised but only printed."""
    agent = """
import atexit, ctypes

stop_tracing = ctypes.pythonapi.PyEval_SetTrace

@agl.rollout(config=LIMIT)
def agent(task):
    process = fork.Process(target=hang)
    process.start()
    process.join()
    stop_tracing(None, None)
    print("stopped")
    open("never", "w")
    print("wrong")
"""
    ended = run(agent, end="atexit.register(time.sleep, 0.5)")

    assert (ended.code, ended.out) == (0, "1\nstopped\n"), ended.err
    assert "SystemExit" not in ended.err
