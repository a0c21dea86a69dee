"""A server that answers like OpenAI's, from a script."""

from ._script import BadJSON as BadJSON
from ._script import CutConnection as CutConnection
from ._script import ErrorStatus as ErrorStatus
from ._script import Fault as Fault
from ._script import Playback as Playback
from ._script import RateLimited as RateLimited
from ._script import RecordedRequest as RecordedRequest
from ._script import Reply as Reply
from ._script import Script as Script
from ._script import ScriptedLLMStatistics as ScriptedLLMStatistics
from ._script import ToolCall as ToolCall
from ._server import ScriptedLLM as ScriptedLLM
from ._server import open_scripted_llm as open_scripted_llm
