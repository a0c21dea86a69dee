"""Names of spans and attributes on the wire.

The ``AGL_*`` names and the ``agentlightning.*`` keys are those of Agent-lightning 0.3, so that its adapters
and tools can read our spans. The ``GEN_AI_*`` keys are OpenTelemetry's semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/).
"""

from enum import StrEnum
from typing import Final

__all__ = [
    "AGL_ANNOTATION",
    "AGL_EXCEPTION",
    "AGL_MESSAGE",
    "AGL_OBJECT",
    "AGL_OPERATION",
    "AGL_REWARD",
    "AGL_VIRTUAL",
    "ERROR_TYPE",
    "EXCEPTION_ESCAPED",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_STACKTRACE",
    "EXCEPTION_TYPE",
    "GEN_AI_AGENT_NAME",
    "GEN_AI_INPUT_MESSAGES",
    "GEN_AI_OPERATION_NAME",
    "GEN_AI_OUTPUT_MESSAGES",
    "GEN_AI_SYSTEM_INSTRUCTIONS",
    "GEN_AI_TOOL_DEFINITIONS",
    "GEN_AI_USAGE_COST",
    "GEN_AI_USAGE_INPUT_TOKENS",
    "GEN_AI_USAGE_OUTPUT_TOKENS",
    "INVOKE_AGENT",
    "PRIMARY_REWARD",
    "PRIMARY_REWARD_NAME",
    "PRIMARY_REWARD_VALUE",
    "LightningResourceAttributes",
    "LightningSpanAttributes",
    "LinkAttributes",
    "RewardAttributes",
]

# Span names of Agent-lightning.
AGL_ANNOTATION: Final = "agentlightning.annotation"
AGL_MESSAGE: Final = "agentlightning.message"
AGL_OBJECT: Final = "agentlightning.object"
AGL_EXCEPTION: Final = "agentlightning.exception"
AGL_OPERATION: Final = "agentlightning.operation"
AGL_REWARD: Final = "agentlightning.reward"
AGL_VIRTUAL: Final = "agentlightning.virtual"


class LightningResourceAttributes(StrEnum):
    """Keys that identify the attempt of a span; each is a string, and has it as its ``value``, too."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    TRACER_NAME = "agentlightning.tracer.name"


class LightningSpanAttributes(StrEnum):
    """Keys on the spans of emitters; ``REWARD``, ``LINK`` and ``TAG`` are prefixes.

    >>> LightningSpanAttributes.TAG.value, f"{LightningSpanAttributes.TAG}.0"
    ('agentlightning.tag', 'agentlightning.tag.0')
    """

    REWARD = "agentlightning.reward"
    LINK = "agentlightning.link"
    TAG = "agentlightning.tag"
    MESSAGE_BODY = "agentlightning.message.body"
    OBJECT_TYPE = "agentlightning.object.type"
    OBJECT_LITERAL = "agentlightning.object.literal"
    OBJECT_JSON = "agentlightning.object.json"
    OPERATION_NAME = "agentlightning.operation.name"
    OPERATION_INPUT = "agentlightning.operation.input"
    OPERATION_OUTPUT = "agentlightning.operation.output"
    ORIGINAL_TRACE_ID = "agentlightning.original.trace_id"
    """The trace id that a span had before it was moved into its attempt's trace."""
    ORIGINAL_PARENT_ID = "agentlightning.original.parent_id"
    """The id of a span's parent that is not a span of its attempt."""


class RewardAttributes(StrEnum):
    """Ends of the keys of one dimension of a reward, ``agentlightning.reward.0.name`` and ``.value``."""

    REWARD_NAME = "name"
    REWARD_VALUE = "value"


class LinkAttributes(StrEnum):
    """Ends of the keys of one link, ``agentlightning.link.0.key_match`` and ``.value_match``."""

    KEY_MATCH = "key_match"
    VALUE_MATCH = "value_match"


PRIMARY_REWARD: Final = "primary"
"""The dimension of a reward that is a plain number."""

PRIMARY_REWARD_VALUE: Final = "agentlightning.reward.0.value"
PRIMARY_REWARD_NAME: Final = "agentlightning.reward.0.name"

# OpenTelemetry: exceptions (https://opentelemetry.io/docs/specs/semconv/exceptions/).
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_ESCAPED: Final = "exception.escaped"
ERROR_TYPE: Final = "error.type"

# OpenTelemetry: generative AI.
INVOKE_AGENT: Final = "invoke_agent"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
GEN_AI_TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_COST: Final = "gen_ai.usage.cost"
"""The cost of a call. Not in the conventions yet; gateways that know prices use this name."""
