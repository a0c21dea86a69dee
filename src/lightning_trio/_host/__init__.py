"""The operating-system process that runners share with a host program: signals, identity, garbage collector."""

from . import _fork as _fork
from ._gc import relaxed_gc as relaxed_gc
from ._identity import is_dead as is_dead
from ._identity import own_process as own_process
from ._interrupts import STOP_SIGNALS as STOP_SIGNALS
from ._interrupts import GracefulShutdown as GracefulShutdown
from ._signals import STATUS_SIGNAL as STATUS_SIGNAL
