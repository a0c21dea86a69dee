"""Lanes: where an agent's code runs."""

from ._abandoned import AbandonedCall as AbandonedCall
from ._asyncio import AsyncioLane as AsyncioLane
from ._asyncio import open_asyncio_lane as open_asyncio_lane
from ._thread import WorkerThread as WorkerThread
from ._thread import run_in_thread as run_in_thread
from ._trio import run_natively as run_natively
