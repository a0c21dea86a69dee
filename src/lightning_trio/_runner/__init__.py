"""The runner, which turns tasks into attempts."""

from ._hooks import Hook as Hook
from ._hooks import check_hooks as check_hooks
from ._inspection import RunningAttempt as RunningAttempt
from ._options import RunnerOptions as RunnerOptions
from ._runner import Runner as Runner
from ._stream import RolloutStream as RolloutStream
from ._stream import Tasks as Tasks
