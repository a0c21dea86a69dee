"""The test kit: a scripted LLM server, and suites that check one's own implementations.

The pytest fixture ``runner`` comes with the plugin `lightning_trio.testing.pytest_plugin`, which pytest finds by
itself.
"""

from ._check_store import check_store as check_store
from ._check_store import store_checks as store_checks
from ._scripted_llm import BadJSON as BadJSON
from ._scripted_llm import CutConnection as CutConnection
from ._scripted_llm import ErrorStatus as ErrorStatus
from ._scripted_llm import RateLimited as RateLimited
from ._scripted_llm import RecordedRequest as RecordedRequest
from ._scripted_llm import Reply as Reply
from ._scripted_llm import Script as Script
from ._scripted_llm import ScriptedLLM as ScriptedLLM
from ._scripted_llm import ScriptedLLMStatistics as ScriptedLLMStatistics
from ._scripted_llm import ToolCall as ToolCall
from ._scripted_llm import Usage as Usage
from ._scripted_llm import open_scripted_llm as open_scripted_llm
