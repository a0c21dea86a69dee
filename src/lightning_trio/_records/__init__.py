"""The records that packages exchange: frozen, and without behaviour apart from derived properties.

Times are Unix times in seconds, as from `time.time`; durations are in seconds.
"""

from ._changes import AttemptChange as AttemptChange
from ._changes import Change as Change
from ._changes import RolloutChange as RolloutChange
from ._changes import RolloutRemoval as RolloutRemoval
from ._changes import RolloutReopening as RolloutReopening
from ._config import DEFAULT_CONFIG as DEFAULT_CONFIG
from ._config import RolloutConfig as RolloutConfig
from ._error_record import ErrorRecord as ErrorRecord
from ._exception_names import bare_names as bare_names
from ._exception_names import exception_names as exception_names
from ._exception_names import is_named as is_named
from ._exception_names import missing_name as missing_name
from ._exception_names import names_of_members as names_of_members
from ._outcome import FINAL as FINAL
from ._outcome import GIVE_BACK as GIVE_BACK
from ._outcome import REPORTER_RETRIES as REPORTER_RETRIES
from ._outcome import RETRY_NOW as RETRY_NOW
from ._outcome import AttemptOutcome as AttemptOutcome
from ._outcome import Final as Final
from ._outcome import GiveBack as GiveBack
from ._outcome import Next as Next
from ._outcome import ReporterRetries as ReporterRetries
from ._outcome import RetryIn as RetryIn
from ._page import PaginatedResult as PaginatedResult
from ._rollout import Attempt as Attempt
from ._rollout import AttemptedRollout as AttemptedRollout
from ._rollout import CompletedRollout as CompletedRollout
from ._rollout import EnqueueRolloutRequest as EnqueueRolloutRequest
from ._rollout import Rollout as Rollout
from ._run import DatasetFingerprint as DatasetFingerprint
from ._run import FitResult as FitResult
from ._run import Run as Run
from ._run import RunSummary as RunSummary
from ._snapshot import ResourcesUpdate as ResourcesUpdate
from ._statistics import RunnerStatistics as RunnerStatistics
from ._statistics import StoreStatistics as StoreStatistics
from ._statuses import AttemptStatus as AttemptStatus
from ._statuses import LaneName as LaneName
from ._statuses import RolloutMode as RolloutMode
from ._statuses import RolloutStatus as RolloutStatus
from ._statuses import RunStatus as RunStatus
from ._statuses import WorkerStatus as WorkerStatus
from ._unset import UNSET as UNSET
from ._unset import Unset as Unset
from ._worker import Expiry as Expiry
from ._worker import Worker as Worker
