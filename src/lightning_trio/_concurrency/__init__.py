"""Exception groups and nurseries for Trio."""

from ._announced_waits import announced_wait as announced_wait
from ._announced_waits import listening_for_waits as listening_for_waits
from ._await_stack import await_stack as await_stack
from ._exception_groups import find_interruption as find_interruption
from ._exception_groups import is_kind as is_kind
from ._exception_groups import leaves as leaves
from ._exception_groups import note as note
from ._exception_groups import sole_exception as sole_exception
from ._exception_groups import split as split
from ._exception_groups import split_stop as split_stop
from ._exception_groups import without_strays as without_strays
from ._flat_nursery import FlatNursery as FlatNursery
from ._in_thread import compute_in_thread as compute_in_thread
from ._leavable_nursery import LeavableNursery as LeavableNursery
from ._leavable_nursery import leave_behind as leave_behind
from ._leavable_nursery import open_leavable_nursery as open_leavable_nursery
