"""Graders that start processes, in each lane; worker processes and spawned children import this module again."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio
import trio.lowlevel

import lightning_trio as agl

THRESHOLD = gc.get_threshold()
"""The collector's, as it was before any runner was opened."""

ENDLESS = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\nwhile True: pass"


def square(number: float) -> float:
    return number * number


def send(connection: Connection, value: float) -> None:
    connection.send(value)


def send_state(connection: Connection) -> None:
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    connection.send((handlers, mask, signal.set_wakeup_fd(-1), gc.get_threshold() == THRESHOLD))


def send_from_trio(connection: Connection) -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        connection.send(1.0)

    trio.run(main)


def _context(kind: str) -> Any:
    return multiprocessing.get_context(kind)


def _result_of(kind: str, fn: Callable[..., None], *args: object) -> Any:
    context = _context(kind)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=fn, args=(sender, *args))
    child.start()
    assert receiver.poll(30), "the child sent nothing"
    result = receiver.recv()
    child.join(30)
    assert child.exitcode == 0
    return result


def _terminated(kind: str) -> int | None:
    child = _context(kind).Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(30)
    code: int | None = child.exitcode
    child.kill()
    return code


def grade(task: str) -> float:
    """Return 1.0 if processes of one kind work as they do in any program."""
    what, _, kind = task.partition(" ")
    if what == "result":
        return float(_result_of(kind, send, 1.0))
    if what == "terminate":
        return float(_terminated(kind) == -signal.SIGTERM)
    if what == "state":
        handlers = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
        return float(_result_of(kind, send_state) == (handlers, set(), -1, True))
    if what == "trio":
        return float(_result_of(kind, send_from_trio))
    if what == "pool":
        with _context(kind).Pool(2) as pool:
            return float(pool.map(square, [1.0, 2.0]) == [1.0, 4.0])
    if what == "executor":
        with ProcessPoolExecutor(2, mp_context=_context(kind)) as executor:
            return float(list(executor.map(square, [1.0, 2.0])) == [1.0, 4.0])
    command = [sys.executable, "-S", "-c", "print('ready', flush=True); import time; time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        signum = signal.Signals[kind]
        process.send_signal(signum)
        return float(process.wait(30) == -signum)


GRADINGS = [
    *(f"result {kind}" for kind in ("fork", "spawn", "forkserver")),
    *(f"terminate {kind}" for kind in ("fork", "spawn", "forkserver")),
    *(f"{what} fork" for what in ("state", "trio", "pool", "executor")),
    *(f"{what} spawn" for what in ("pool", "executor")),
    *(f"subprocess {name}" for name in ("SIGTERM", "SIGINT")),
]


@agl.rollout
def in_thread(task: str) -> float:
    return grade(task)


@agl.rollout
async def in_trio(task: str) -> float:
    return await trio.to_thread.run_sync(grade, task)


@agl.rollout
async def in_trios_thread(task: str) -> float:
    return grade(task)


@agl.rollout(runs_in="asyncio")
async def in_asyncio(task: str) -> float:
    return await asyncio.to_thread(grade, task)


@agl.rollout(runs_in="process")
def in_process(task: str) -> float:
    return grade(task)


@agl.rollout(runs_in="process")
async def in_process_and_trio(task: str) -> float:
    return grade(task)


def emit_twice() -> None:
    agl.emit_message("first")
    agl.emit_message("second")


def emit_in_child() -> float:
    child = _context("fork").Process(target=emit_twice)
    child.start()
    child.join()
    agl.emit_message("after")
    return 1.0


@agl.rollout
def emits_in_thread(task: str) -> float:
    return emit_in_child()


@agl.rollout(runs_in="process")
def emits_in_process(task: str) -> float:
    return emit_in_child()


# Families that do not end by themselves.


def be_parent(directory: str) -> None:
    Path(directory, "child").write_text(str(os.getpid()), encoding="utf-8")
    subprocess.run([sys.executable, "-S", "-c", ENDLESS, str(Path(directory, "grandchild"))], check=False)


def start_family(task: tuple[str, str]) -> None:
    """Start a child that starts a grandchild, which uses the processor for ever."""
    directory, kind = task
    if kind == "session":
        code = f"import child_agents; child_agents.be_parent({directory!r})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=environment)
    else:
        _context(kind).Process(target=be_parent, args=(directory,)).start()
    grandchild = Path(directory, "grandchild")
    # The file is there before its text.
    while not (grandchild.exists() and grandchild.read_text(encoding="utf-8")):
        time.sleep(0.01)


@agl.rollout(runs_in="process")
def with_family(task: tuple[str, str]) -> float:
    start_family(task)
    Path(task[0], "worker").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(3600)
    return 1.0


@agl.rollout(runs_in="process")
def leaves_family(task: tuple[str, str]) -> float:
    start_family(task)
    return 1.0


@agl.rollout(runs_in="process")
def dies_before_family(task: tuple[str, str]) -> float:
    start_family(task)
    os._exit(7)
