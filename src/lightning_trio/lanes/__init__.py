"""Lanes: where an agent's code runs."""

from ._asyncio import AsyncioLane as AsyncioLane
from ._thread import WorkerThread as WorkerThread
from ._thread import run_in_thread as run_in_thread
from ._trio import run_natively as run_natively
