"""Lanes: where an agent's code runs."""

from ._abandoned import AbandonedCall as AbandonedCall
from ._bound_agent import BoundAgent as BoundAgent
from ._bound_agent import LiveArgument as LiveArgument
from ._explanations import explain as explain
from ._function import is_async_function as is_async_function
from ._lane import Call as Call
from ._lane import Lane as Lane
from ._lane import LaneOptions as LaneOptions
from ._lane import OpenLane as OpenLane
from ._place import RunningTask as RunningTask
from ._place import line_of as line_of
from ._place import running_place as running_place
from ._registry import DEFAULT_LANES as DEFAULT_LANES
from ._registry import lane_named as lane_named
from ._registry import open_lanes as open_lanes
from ._registry import register_lane as register_lane
from ._registry import registered_lane as registered_lane
from ._registry import resolve_lane as resolve_lane
from ._returns import record_return as record_return
from ._trio import calling_task as calling_task
from ._trio import may_end as may_end
from ._trio import run_natively as run_natively
from ._trio import runs_now as runs_now
from ._trio import waits_for_tasks as waits_for_tasks
from ._wrong_loop import WRONG_LOOP_ERRORS as WRONG_LOOP_ERRORS
from ._wrong_loop import find_asyncio_sign as find_asyncio_sign

# The other names are for this package's own use.
__all__ = [
    "AbandonedCall",
    "BoundAgent",
    "Call",
    "Lane",
    "LaneOptions",
    "LiveArgument",
    "OpenLane",
    "RunningTask",
    "register_lane",
    "registered_lane",
]
