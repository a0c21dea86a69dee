"""What holds for all tests."""

from __future__ import annotations

import asyncio
import sys

if sys.version_info < (3, 14):
    # asyncio would otherwise make a loop for agents that wrongly call it from Trio, and nobody would close it.
    asyncio.set_event_loop(None)
