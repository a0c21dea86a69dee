"""Found by a process that `multiprocessing` starts, whose parent has called `lightning_trio.compat.install`."""

import sys

import lightning_trio.compat

del sys.modules[__name__]
lightning_trio.compat.install()
