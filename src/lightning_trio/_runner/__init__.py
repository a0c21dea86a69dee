"""The runner, which turns tasks into attempts."""

from ._failure_limit import check_max_failures as check_max_failures
from ._hooks import Hook as Hook
from ._hooks import check_hooks as check_hooks
from ._inspection import RunningAttempt as RunningAttempt
from ._options import check_run_name as check_run_name
from ._options import default_store as default_store
from ._runner import Runner as Runner
from ._stream import RolloutStream as RolloutStream
from ._stream import Tasks as Tasks
