"""Agents: functions and classes, what their parameters are supplied with, what their return values mean."""

from ._agent import FunctionalLitAgent as FunctionalLitAgent
from ._agent import LitAgent as LitAgent
from ._agent import as_agent as as_agent
from ._binding import bind_agent as bind_agent
from ._decorators import llm_rollout as llm_rollout
from ._decorators import prompt_rollout as prompt_rollout
from ._decorators import rollout as rollout
from ._injection import BoundAgent as BoundAgent
from ._pickling import PackedAgent as PackedAgent
from ._pickling import unpack_agent as unpack_agent
from ._returns import record_return as record_return
from ._signature import is_async_function as is_async_function
from ._wrong_loop import SIGNALLING as SIGNALLING
from ._wrong_loop import find_asyncio_sign as find_asyncio_sign
from ._wrong_loop import find_trio_sign as find_trio_sign
