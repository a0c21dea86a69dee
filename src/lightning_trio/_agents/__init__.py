"""Agents: functions and classes, and the injection of their parameters."""

from ._agent import FunctionalLitAgent as FunctionalLitAgent
from ._agent import LitAgent as LitAgent
from ._agent import as_agent as as_agent
from ._binding import bind_agent as bind_agent
from ._binding import check_written_for_trio as check_written_for_trio
from ._copies import AgentCopies as AgentCopies
from ._copies import AgentCopy as AgentCopy
from ._copies import needs_copies as needs_copies
from ._decorators import llm_rollout as llm_rollout
from ._decorators import prompt_rollout as prompt_rollout
from ._decorators import rollout as rollout
