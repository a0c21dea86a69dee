"""The agents that run the table, one for each lane; worker processes import this module again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hostile_callbacks
import hostile_emits
import hostile_exceptions
import hostile_resources
import hostile_returns
import hostile_tasks
import trio
from hostile_rows import ROWS, Row
from hostile_specs import ExceptionSpec

import lightning_trio as agl

__all__ = [
    "AGENTS",
    "ROWS",
    "hostile_callbacks",
    "hostile_emits",
    "hostile_exceptions",
    "hostile_resources",
    "hostile_returns",
    "hostile_tasks",
]

HOSTILE = "hostile: "
MEET = "meet: "
MARK = "good task"
GENERATED = "generated: "


def find_row(task: object) -> Row | None:
    """Return the row that the task asks for; tasks that are hostile themselves ask for none."""
    if type(task) is not str or not task.startswith(HOSTILE):
        return None
    name = task.removeprefix(HOSTILE)
    if name.startswith(GENERATED) and name not in ROWS:
        # In a worker process.
        return Row(name, "exceptions", partial(_raise, name.removeprefix(GENERATED)), "fails", None, (), None, False)
    return ROWS[name]


def _raise(spec: str) -> NoReturn:
    raise ExceptionSpec.load(spec).make()


def do_well(task: object) -> float:
    """Do what a good agent does: record its task, and return a reward."""
    if type(task) is int:
        agl.emit_annotation({MARK: task})
    return 1.0


def waits_for(task: object) -> Path | None:
    """Return the file that a task of a meeting waits for."""
    return Path(task.removeprefix(MEET)) if type(task) is str and task.startswith(MEET) else None


@agl.rollout(runs_in="trio")
async def in_trio(task: Any) -> Any:
    if (path := waits_for(task)) is not None:
        while not path.exists():
            await trio.sleep(0.005)
    if (row := find_row(task)) is None:
        return do_well(task)
    return await row.act() if row.is_async else row.act()


@agl.rollout(runs_in="asyncio")
async def in_asyncio(task: Any) -> Any:
    if (path := waits_for(task)) is not None:
        while not path.exists():
            await asyncio.sleep(0.005)
    if (row := find_row(task)) is None:
        return do_well(task)
    return await row.act() if row.is_async else row.act()


def run_blocking(task: Any) -> Any:
    if (path := waits_for(task)) is not None:
        while not path.exists():
            time.sleep(0.005)
    if (row := find_row(task)) is None:
        return do_well(task)
    return row.act()


@agl.rollout(runs_in="thread")
def in_thread(task: Any) -> Any:
    return run_blocking(task)


@agl.rollout(runs_in="process")
def in_process(task: Any) -> Any:
    return run_blocking(task)


AGENTS: Mapping[str, Callable[..., Any]] = {
    "trio": in_trio,
    "thread": in_thread,
    "asyncio": in_asyncio,
    "process": in_process,
}
