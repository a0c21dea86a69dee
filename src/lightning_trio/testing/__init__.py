"""The test kit: a scripted LLM server, and a suite of checks for custom stores.

The pytest fixture ``runner`` comes with the plugin `lightning_trio.testing.pytest_plugin`, which pytest loads
automatically.
"""

from ._check_store import check_store as check_store
from ._check_store import store_checks as store_checks
from .scripted_llm import BadJSON as BadJSON
from .scripted_llm import CutConnection as CutConnection
from .scripted_llm import ErrorStatus as ErrorStatus
from .scripted_llm import Fault as Fault
from .scripted_llm import Playback as Playback
from .scripted_llm import RateLimited as RateLimited
from .scripted_llm import RecordedRequest as RecordedRequest
from .scripted_llm import Reply as Reply
from .scripted_llm import Script as Script
from .scripted_llm import ScriptedLLM as ScriptedLLM
from .scripted_llm import ScriptedLLMStatistics as ScriptedLLMStatistics
from .scripted_llm import ToolCall as ToolCall
from .scripted_llm import open_scripted_llm as open_scripted_llm
