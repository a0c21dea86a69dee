"""The operating-system process that runners are guests in: signals, interrupts, identity, garbage collector."""

from ._gc import relaxed_gc as relaxed_gc
from ._identity import is_dead as is_dead
from ._identity import own_process as own_process
from ._interrupts import STOPPING as STOPPING
from ._interrupts import Stop as Stop
from ._signals import DESCRIBING as DESCRIBING
