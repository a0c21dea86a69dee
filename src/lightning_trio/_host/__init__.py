"""The operating-system process that runners share with a host program: signals, identity, garbage collector."""

from ._descriptors import lacks_descriptors as lacks_descriptors
from ._exit import exit_without_abandoned as exit_without_abandoned
from ._exit import exit_without_interrupted as exit_without_interrupted
from ._family import found_family as found_family
from ._family import kill_descendants as kill_descendants
from ._family import kill_family as kill_family
from ._family import kill_group as kill_group
from ._family import kill_own_family as kill_own_family
from ._fork import leave_trio as leave_trio
from ._gc import relaxed_gc as relaxed_gc
from ._identity import boot_id as boot_id
from ._identity import is_before_boot as is_before_boot
from ._identity import is_dead as is_dead
from ._identity import is_stopped as is_stopped
from ._identity import own_process as own_process
from ._identity import process_here as process_here
from ._interrupts import STOP_SIGNALS as STOP_SIGNALS
from ._interrupts import GracefulShutdown as GracefulShutdown
from ._interrupts import Interruptions as Interruptions
from ._signals import STATUS_SIGNAL as STATUS_SIGNAL
from ._wall_clock import WALL_CLOCK as WALL_CLOCK
