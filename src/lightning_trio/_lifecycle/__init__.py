"""Decisions about rollouts and runs: pure functions of records."""

from ._deadlines import Allowance as Allowance
from ._deadlines import allowance as allowance
from ._resume import choose_run as choose_run
from ._retries import is_final as is_final
from ._retries import retry_delay as retry_delay
from ._statuses import QUEUED as QUEUED
from ._statuses import TERMINAL_ATTEMPT as TERMINAL_ATTEMPT
from ._statuses import TERMINAL_ROLLOUT as TERMINAL_ROLLOUT
from ._statuses import UNFINISHED_ROLLOUT as UNFINISHED_ROLLOUT
from ._transitions import may_replace as may_replace
from ._transitions import rollout_status_after as rollout_status_after
from ._transitions import rollout_status_after_loss as rollout_status_after_loss
