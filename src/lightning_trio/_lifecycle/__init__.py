"""Decisions about rollouts and runs: pure functions of records."""

from ._deadlines import Allowance as Allowance
from ._deadlines import allowance as allowance
from ._resume import RunComparison as RunComparison
from ._resume import check_run as check_run
from ._resume import rank_runs as rank_runs
from ._retries import is_final as is_final
from ._retries import retry_delay as retry_delay
from ._statuses import QUEUED as QUEUED
from ._statuses import TERMINAL_ATTEMPT as TERMINAL_ATTEMPT
from ._statuses import TERMINAL_ROLLOUT as TERMINAL_ROLLOUT
from ._statuses import UNFINISHED_ROLLOUT as UNFINISHED_ROLLOUT
from ._transitions import Move as Move
from ._transitions import Position as Position
from ._transitions import RolloutPosition as RolloutPosition
from ._transitions import begin_attempt as begin_attempt
from ._transitions import change_attempt as change_attempt
from ._transitions import change_rollout as change_rollout
from ._transitions import check_removal as check_removal
from ._transitions import end_attempt as end_attempt
from ._transitions import lose_attempt as lose_attempt
from ._transitions import note_heartbeat as note_heartbeat
from ._transitions import reopen_rollout as reopen_rollout
from ._transitions import worker_status as worker_status
