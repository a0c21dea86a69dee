"""The process lane."""

from ._lane import ProcessLane as ProcessLane
from ._lane import Worker as Worker
from ._lane import open_process_lane as open_process_lane
