"""Runners inside programs that do not run in Trio: asyncio services, plain scripts, notebooks.

A Trio service needs none of this: ``async with runner: await runner.step(task)``.
"""

from ._asyncio import AsyncioRunner as AsyncioRunner
from ._asyncio import open_asyncio as open_asyncio
from ._blocking import BlockingRunner as BlockingRunner
from ._blocking import open_blocking as open_blocking
from ._shared_host import HostedManager as HostedManager
from ._shared_host import block_in_host as block_in_host
from ._shared_host import call_in_host as call_in_host

# The other names are for this package's own use.
__all__ = ["AsyncioRunner", "BlockingRunner", "open_asyncio", "open_blocking"]
