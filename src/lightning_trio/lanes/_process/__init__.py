"""The process lane: agents run in worker processes."""

from ._lane import ProcessLane as ProcessLane
