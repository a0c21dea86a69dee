"""The names of the package: the module of each, and what to write in place of names that it does not have.

Each is imported on first use, so that ``import lightning_trio`` is quick however many names a program uses.
`__init__` repeats the names for type checkers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Final

PACKAGE: Final = "lightning_trio"

MODULES: Final = (
    "adapters",
    "algorithms",
    "embed",
    "emitter",
    "lanes",
    "llm",
    "semconv",
    "store",
    "tracing",
)
"""The submodules that are attributes of the package without an explicit import."""

_NAMES_BY_MODULE: Final[Mapping[str, tuple[str, ...]]] = {
    "_agents": (
        "FunctionalLitAgent",
        "LitAgent",
        "llm_rollout",
        "prompt_rollout",
        "rollout",
    ),
    "_errors": (
        "AgentError",
        "AgentSignatureError",
        "AsyncioAgentError",
        "AttemptAbandoned",
        "AttemptTimedOut",
        "ComponentError",
        "DatasetError",
        "Evicted",
        "InvalidReturn",
        "InvalidReward",
        "LightningTrioError",
        "MissingPlaceholder",
        "NestedTrioRun",
        "NoActiveRollout",
        "NotInTrio",
        "NotStorable",
        "PayloadTooLarge",
        "RemoteAgentError",
        "ResourceError",
        "ResumeError",
        "RolloutCancelled",
        "RunnerClosed",
        "StaleAttempt",
        "StaleRun",
        "StoreClosed",
        "StoreError",
        "StoreFormatError",
        "StoreFull",
        "StoreLocked",
        "StoreUnavailable",
        "UnknownId",
        "UnsupportedLane",
        "UsageError",
        "WorkerDied",
    ),
    "_records": (
        "UNSET",
        "Attempt",
        "AttemptedRollout",
        "AttemptStatus",
        "CompletedRollout",
        "DatasetFingerprint",
        "EnqueueRolloutRequest",
        "ErrorRecord",
        "Expiry",
        "FitResult",
        "LaneName",
        "PaginatedResult",
        "ResourcesUpdate",
        "Rollout",
        "RolloutConfig",
        "RolloutMode",
        "RolloutRemoval",
        "RolloutReopening",
        "RolloutStatus",
        "Run",
        "RunnerStatistics",
        "RunSummary",
        "StoreStatistics",
        "Worker",
        "WorkerStatus",
    ),
    "_resources": (
        "LLM",
        "NamedResources",
        "PromptTemplate",
        "ProxyLLM",
        "Resource",
        "UnknownResource",
    ),
    "_runner": (
        "Hook",
        "RolloutStream",
        "Runner",
        "RunningAttempt",
    ),
    "_spans": (
        "Event",
        "Link",
        "LinkAttributes",
        "OtelResource",
        "RewardDimension",
        "Span",
        "SpanContext",
        "SpanCoreFields",
        "TraceStatus",
        "Usage",
        "extract_links_from_attributes",
        "extract_tags_from_attributes",
        "filter_and_unflatten_attributes",
        "filter_attributes",
        "find_final_reward",
        "find_reward_spans",
        "flatten_attributes",
        "format_trace",
        "get_message_value",
        "get_object_value",
        "get_reward_value",
        "get_rewards_from_span",
        "is_reward_span",
        "make_link_attributes",
        "make_tag_attributes",
        "query_linked_spans",
        "unflatten_attributes",
    ),
    "_trainer": ("Trainer",),
    "adapters": ("Adapter",),
    "algorithms": (
        "Algorithm",
        "Baseline",
        "Dataset",
        "FastAlgorithm",
        "FunctionalAlgorithm",
        "Session",
        "algo",
    ),
    "emitter": (
        "Emitter",
        "Operation",
        "current_emitter",
        "emit_annotation",
        "emit_exception",
        "emit_message",
        "emit_object",
        "emit_reward",
        "operation",
        "reward",
    ),
    "lanes": ("RunningTask",),
    "llm": ("open_local_llm",),
    "store": (
        "Audit",
        "InMemoryLightningStore",
        "LightningStore",
        "PostgresLightningStore",
        "SqliteLightningStore",
        "audit",
    ),
    "tracing": (
        "ExporterStatistics",
        "Tracer",
        "TracerStatistics",
        "carry_context",
        "current_resources",
        "current_rollout",
    ),
}

NAMES: Final[Mapping[str, str]] = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}
"""The module of each public name."""

ALL: Final = [*NAMES, *MODULES]
"""The names that ``from lightning_trio import *`` imports."""

_IN_COMPAT: Final = (
    "programs of Agent-lightning 0.3 find it in lightning_trio.compat, and run unchanged with "
    "python -m lightning_trio.compat script.py"
)
_LATER: Final = "Agent-lightning 0.3 has it, and this package does not have it yet; see docs/migrating.md"
_OLDER: Final = "it was of versions before 0.3; write: @agl.rollout, and Trainer(…).fit(agent, train_dataset)"
_MACHINES: Final = f"{_LATER}. For runners on many machines write: PostgresLightningStore"

_INSTEAD_BY_ADVICE: Final[Mapping[str, str]] = {
    # Names that this package had.
    "for the Literal of lane names write: LaneName; for the protocol of lanes write: lightning_trio.lanes.Lane": "Lane",
    # Names of Agent-lightning 0.3 that do not exist here.
    _LATER: "APO VERL TracerTraceToTriplet LlmProxyTraceToTriplet TraceToTripletBase",
    _MACHINES: "LightningStoreClient LightningStoreServer",
    _OLDER: "AgentLightningClient AgentLightningServer DevTaskLoader LegacyAgentRunner GenericResponse RolloutLegacy "
    "RolloutRawResultLegacy Task TaskIfAny",
    'name the proxy you run as a resource: {"llm": ProxyLLM(endpoint="http://…/v1", model="…")}': "LLMProxy",
    "for a trace as text write: format_trace(spans)": "TraceTree",
    "read options with argparse or another library, and pass them to Runner or Trainer": "lightning_cli",
    "a store of your own derives from LightningStore": "CollectionBasedLightningStore",
    # Names that `lightning_trio.compat` has.
    f"write: Tracer; {_IN_COMPAT}": "AgentOpsTracer OtelTracer",
    f"write: async with Runner(agent, store=…) as runner: …; {_IN_COMPAT}": "LitAgentRunner",
    f"any object with a method adapt(spans) is an Adapter; {_IN_COMPAT}": (
        "OtelTraceAdapter TraceAdapter TraceToMessages Triplet"
    ),
    f"emitters find the rollout of the calling context, and propagate=False records nowhere; {_IN_COMPAT}": (
        "DummyTracer clear_active_tracer get_active_tracer set_active_tracer SpanRecordingContext"
    ),
    f"rollouts run side by side in this process: Runner(agent, max_concurrency=100); {_IN_COMPAT}": (
        "ExecutionStrategy ClientServerExecutionStrategy SharedMemoryExecutionStrategy ParallelWorkerBase"
    ),
    f"work is cancelled by Trio's cancel scopes; {_IN_COMPAT}": "ExecutionEvent MultiprocessingEvent ThreadingEvent",
    f"all stores may be used by many tasks at once; {_IN_COMPAT}": (
        "LightningStoreCapabilities LightningStoreThreaded"
    ),
    f"write: StoreStatistics; {_IN_COMPAT}": "LightningStoreStatistics",
    f"filters are keyword arguments: await store.query_rollouts(status_in=…, sort_by=…); {_IN_COMPAT}": (
        "FilterField FilterOptions SortOptions"
    ),
    f"pass the component itself: Runner(agent, store=…, tracer=…); {_IN_COMPAT}": "build_component",
    f"read the environment with os.environ; {_IN_COMPAT}": (
        "LightningEnvVar resolve_bool_env_var resolve_int_env_var resolve_str_env_var"
    ),
    f"write: logging.basicConfig(level=logging.INFO); {_IN_COMPAT}": (
        "configure_logger setup_logging setup_module_logging"
    ),
    f"annotate with the type itself, such as Resource or dict[str, object]; {_IN_COMPAT}": (
        "AttributeValue Attributes ResourceUnion RolloutRawResult SpanLike StatusCode TaskInput TraceState"
    ),
    f"names of spans and keys of attributes are in lightning_trio.semconv; {_IN_COMPAT}": (
        "SpanAttributeNames SpanNames"
    ),
    # Modules of Agent-lightning 0.3.
    f"write: lightning_trio.adapters; {_IN_COMPAT}": "adapter",
    f"write: lightning_trio.algorithms; {_IN_COMPAT}": "algorithm",
    f"write: lightning_trio.tracing; {_IN_COMPAT}": "tracer",
    f"its names are those of the package itself, lightning_trio; {_IN_COMPAT}": (
        "client config env_var execution instrumentation litagent llm_proxy logging runner server trainer types utils"
    ),
}

INSTEAD: Final[Mapping[str, str]] = {
    name: advice for advice, names in _INSTEAD_BY_ADVICE.items() for name in names.split()
}
"""What to write instead of each name that this package had, or that Agent-lightning 0.3 has."""

_SIMILARITY: Final = 0.82
"""How alike a misspelt name and a suggested one are at least; less would suggest Tracer for TraceTree."""


def find(name: str) -> object:
    """Return the object of a public name, and make it an attribute of the package, where Python finds it from then on.

    Raises:
        AttributeError: there is no such name; the message says what to write.
        ImportError: the same, in ``from lightning_trio import name``, where Python would drop the message of the other.
    """
    if name in MODULES:
        return importlib.import_module(f"{PACKAGE}.{name}")
    if name in NAMES:
        return _import_name(PACKAGE, NAMES[name], name)
    if is_importing(sys._getframe(1)):  # pyright: ignore[reportPrivateUsage]
        raise ImportError(f"cannot import name {name!r} from {PACKAGE!r}{_advice(name)}", name=PACKAGE)
    # Without the module as `obj`, because Python would then suggest a name of its own.
    raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}{_advice(name)}", name=name)


def directory() -> list[str]:
    """Return the names that ``dir(lightning_trio)`` lists, used so far or not."""
    return sorted({*vars(sys.modules[PACKAGE]), *ALL})


def is_importing(frame: FrameType) -> bool:
    """Whether the frame is at ``from module import name``."""
    # Needed only for a name that does not exist, as `difflib` below.
    import opcode

    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == opcode.opmap["IMPORT_FROM"]


def _advice(name: str) -> str:
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    if name.startswith("_"):
        return ""
    import difflib

    close = difflib.get_close_matches(name, ALL, n=1, cutoff=_SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


def _import_name(package: str, module: str, name: str) -> object:
    found: object = getattr(importlib.import_module(f"{package}.{module}"), name)
    setattr(sys.modules[package], name, found)
    return found
