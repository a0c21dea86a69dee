"""The tables of Agent-lightning 0.3's module tree: the names of each module, what implements each, and what is missing.

To find a name of 0.3, look for it in `IMPLEMENTED`: it is in the file that the name is listed under.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PACKAGE: Final = "lightning_trio.compat"

OLD_PACKAGE: Final = "agentlightning"
"""The package of Agent-lightning 0.3, whose name `install` gives to this one."""

IMPLEMENTED: Final[Mapping[str, str]] = {
    "lightning_trio": """
        Attempt AttemptStatus AttemptedRollout Dataset EnqueueRolloutRequest Event LLM Link NamedResources OtelResource
        PaginatedResult PromptTemplate ProxyLLM Resource ResourcesUpdate RewardDimension Rollout RolloutConfig
        RolloutMode RolloutStatus Span SpanContext SpanCoreFields TraceStatus UNSET Worker WorkerStatus
        extract_links_from_attributes filter_attributes
        find_final_reward find_reward_spans get_message_value get_object_value get_reward_value get_rewards_from_span
        is_reward_span make_tag_attributes query_linked_spans
    """,
    "lightning_trio.semconv": """
        AGL_ANNOTATION AGL_EXCEPTION AGL_MESSAGE AGL_OBJECT AGL_OPERATION AGL_REWARD AGL_VIRTUAL
        LightningResourceAttributes LightningSpanAttributes LinkAttributes RewardAttributes
    """,
    "lightning_trio.store": "LightningStore",
    "lightning_trio.compat._adapters": "OpenAIMessages TraceToMessages",
    "lightning_trio.compat._agents": """
        FunctionalLitAgent LitAgent check_llm_function check_prompt_function llm_rollout prompt_rollout rollout
    """,
    "lightning_trio.compat._algorithms": """
        Algorithm Baseline FastAlgorithm FunctionalAlgorithm algo batch_iter_over_dataset with_llm_proxy with_store
    """,
    "lightning_trio.compat._asyncio_calls": "Hook",
    "lightning_trio.compat._attributes": """
        check_attributes_sanity extract_tags_from_attributes filter_and_unflatten_attributes flatten_attributes
        format_exception_attributes full_qualified_name generate_id get_tracer get_tracer_provider make_link_attributes
        otel_get_tracer_provider otel_logger sanitize_attribute_value sanitize_attributes
        sanitize_list_attribute_sanity unflatten_attributes
    """,
    "lightning_trio.compat._components": """
        ExecutionStrategyRegistry build_component instantiate_component instantiate_from_spec load_class
    """,
    "lightning_trio.compat._emitters": """
        OperationContext emit_annotation emit_exception emit_message emit_object emit_reward encode_object operation
        reward
    """,
    "lightning_trio.compat._environment": """
        LightningEnvVar resolve_bool_env_var resolve_int_env_var resolve_str_env_var
    """,
    "lightning_trio.compat._execution": """
        ClientServerExecutionStrategy ExecutionEvent ExecutionStrategy MultiprocessingEvent
        SharedMemoryExecutionStrategy ThreadingEvent
    """,
    "lightning_trio.compat._logging": "configure_logger setup_logging setup_module_logging",
    "lightning_trio.compat._runners": "LitAgentRunner Runner",
    "lightning_trio.compat._shapes": """
        Adapter AttributeValue Attributes FilterField FilterOptions LinkPydanticModel OtelTraceAdapter
        ParallelWorkerBase ResourceUnion RewardMatchPolicy RewardPydanticModel RolloutRawResult SortOptions
        SpanAttributeNames SpanLike SpanNames SpanRecordingContext StatusCode TaskInput TraceAdapter TraceState Triplet
    """,
    "lightning_trio.compat._stores": """
        InMemoryLightningStore LightningStoreCapabilities LightningStoreStatistics LightningStoreThreaded Unset
        estimate_model_size is_finished is_queuing is_running rollout_status_from_attempt scan_unhealthy_rollouts
    """,
    "lightning_trio.compat._tracers": """
        AgentOpsTracer DummySpanRecordingContext DummyTracer OtelTracer Tracer clear_active_tracer get_active_tracer
        set_active_tracer
    """,
    "lightning_trio.compat._trainers": "Trainer",
}
"""The names of Agent-lightning 0.3 that exist, by the module that implements them."""

_MACHINES: Final = (
    "runners of several machines share a store with lightning_trio.PostgresLightningStore, and of several processes "
    'of one machine with lightning_trio.SqliteLightningStore("runs.db")'
)
_PROXY: Final = (
    'start the proxy yourself and name it as a resource: {"llm": agl.ProxyLLM(endpoint="http://…/v1", model="…")}'
)
_DATA: Final = "write a class with a method adapt(self, spans), which returns the data of one attempt"
_TRAINING: Final = (
    "export the spans that you need from the store (await store.query_spans(rollout_id)) and train outside"
)
_ALGORITHM: Final = "write an algorithm of your own: @agl.algo async def search(*, store, train_dataset): …"
_V01: Final = "the classes of versions 0.1 are gone; write @agl.rollout and agl.Trainer(…).fit(agent, dataset)"
_INSTRUMENTED: Final = (
    "a runner records calls of the OpenAI SDK by itself; for other libraries give their instrumentation tracer.provider"
)
_SERVER: Final = "start the server with the library that it is made for, such as hypercorn or uvicorn"
_INTERNAL: Final = "it was a part of the store's inside; to store elsewhere derive from lightning_trio.LightningStore"

STUBS: Final[Mapping[str, str]] = {
    "APO": _ALGORITHM,
    "AddLogprobs": _PROXY,
    "AddReturnTokenIds": _PROXY,
    "AgentLightningClient": _V01,
    "AgentLightningServer": _V01,
    "AtomicLabels": _INTERNAL,
    "AtomicMode": _INTERNAL,
    "CollectionBasedLightningStore": _INTERNAL,
    "Collection": _INTERNAL,
    "DequeBasedQueue": _INTERNAL,
    "DevTaskLoader": _V01,
    "DictBasedKeyValue": _INTERNAL,
    "InMemoryLightningCollections": _INTERNAL,
    "InterProcessExecutionStrategy": "leave strategy=… out: rollouts run in this process, n_runners of them at a time",
    "KeyValue": _INTERNAL,
    "LLMProxy": _PROXY,
    "LaunchMode": _SERVER,
    "LegacyAgentRunner": _V01,
    "LightningCollections": _INTERNAL,
    "LightningOpenTelemetry": _PROXY,
    "LightningSpanExporter": _PROXY,
    "LightningSpanProcessor": "a tracer routes the spans of libraries itself; to send spans elsewhere write "
    "agl.OtelTracer().add_exporter(…)",
    "LightningStoreClient": _MACHINES,
    "LightningStoreServer": _MACHINES,
    "ListBasedCollection": _INTERNAL,
    "LlmProxyTraceToTriplet": _DATA,
    "MessageInspectionMiddleware": _PROXY,
    "ModelConfig": _PROXY,
    "MongoLightningStore": _MACHINES,
    "PythonServerLauncher": _SERVER,
    "PythonServerLauncherArgs": _SERVER,
    "Queue": _INTERNAL,
    "RolloutAttemptMiddleware": _PROXY,
    "StreamConversionMiddleware": _PROXY,
    "TraceToTripletBase": _DATA,
    "TraceTree": "for the tree of a trace as text write lightning_trio.format_trace(spans)",
    "TracerTraceToTriplet": _DATA,
    "Transition": _DATA,
    "VERL": _TRAINING,
    "WeaveTracer": "write agl.OtelTracer(), and agl.OtelTracer().add_exporter(…) to send spans elsewhere",
}
"""Classes that programs import and perhaps never use: what to write instead, which making one raises."""

GONE: Final[Mapping[str, str]] = {
    "GenericResponse": _V01,
    "RolloutLegacy": _V01,
    "RolloutRawResultLegacy": _V01,
    "Task": _V01,
    "TaskIfAny": _V01,
    "TrainerLegacy": _V01,
    "get_active_llm_proxy": _PROXY,
    "initialize_llm_callbacks": _PROXY,
    "instrument_all": _INSTRUMENTED,
    "lightning_cli": "write the program's arguments with argparse, or with cyclopts",
    "set_active_llm_proxy": _PROXY,
    "system_snapshot": "read the numbers that you need with psutil",
    "uninstrument_all": _INSTRUMENTED,
    "with_active_tracer_context": "a tracer is the active one in its trace_context by itself",
}
"""Names that raise as soon as they are imported, with what to write instead."""

MISSING_MODULES: Final[Mapping[str, str]] = {
    "cli": "start programs with python; there is no command line yet",
    "dashboard": "lightning_trio.format_trace(spans) shows a trace, and runner.describe() what runs",
    "instrumentation": _INSTRUMENTED,
    "store.collection.mongo": _MACHINES,
    "store.sqlite": _MACHINES,
    "utils.metrics": "runner.statistics() and store.statistics() have the numbers of a run",
    "utils.otlp": "tracer.add_exporter(exporter) sends spans to any OpenTelemetry exporter",
    "verl": _TRAINING,
}
"""Modules of 0.3 that do not exist, with those below them, and what to write instead."""

TREE: Final[Mapping[str, str]] = {
    "adapter": "@adapter.base LlmProxyTraceToTriplet TraceToMessages TraceToTripletBase TracerTraceToTriplet",
    "adapter.base": "Adapter OtelTraceAdapter TraceAdapter",
    "adapter.messages": "OpenAIMessages TraceToMessages",
    "adapter.triplet": "LlmProxyTraceToTriplet RewardMatchPolicy TraceToTripletBase TraceTree TracerTraceToTriplet "
    "Transition",
    "algorithm": "APO Algorithm Baseline FastAlgorithm VERL algo",
    "algorithm.apo": "APO",
    "algorithm.apo.apo": "APO",
    "algorithm.base": "Algorithm",
    "algorithm.decorator": "FunctionalAlgorithm algo",
    "algorithm.fast": "Baseline FastAlgorithm",
    "algorithm.utils": "batch_iter_over_dataset with_llm_proxy with_store",
    "algorithm.verl": "VERL",
    "algorithm.verl.interface": "VERL",
    "client": "AgentLightningClient DevTaskLoader",
    "config": "lightning_cli",
    "emitter": "@emitter.exception @emitter.message @emitter.reward emit_annotation emit_object get_object_value "
    "operation",
    "emitter.annotation": "OperationContext emit_annotation operation",
    "emitter.exception": "emit_exception",
    "emitter.message": "emit_message get_message_value",
    "emitter.object": "emit_object encode_object get_object_value",
    "emitter.reward": "RewardDimension emit_reward find_final_reward find_reward_spans get_reward_value "
    "get_rewards_from_span is_reward_span reward",
    "env_var": "LightningEnvVar resolve_bool_env_var resolve_int_env_var resolve_str_env_var",
    "execution": "@execution.base @execution.client_server @execution.events @execution.shared_memory",
    "execution.base": "ExecutionStrategy",
    "execution.client_server": "ClientServerExecutionStrategy",
    "execution.events": "ExecutionEvent MultiprocessingEvent ThreadingEvent",
    "execution.inter_process": "InterProcessExecutionStrategy",
    "execution.shared_memory": "SharedMemoryExecutionStrategy",
    "instrumentation": "instrument_all uninstrument_all",
    "litagent": "LitAgent llm_rollout prompt_rollout rollout",
    "litagent.decorator": "FunctionalLitAgent llm_rollout prompt_rollout rollout",
    "litagent.litagent": "LitAgent",
    "llm_proxy": "AddLogprobs AddReturnTokenIds LLMProxy LightningOpenTelemetry LightningSpanExporter "
    "MessageInspectionMiddleware ModelConfig RolloutAttemptMiddleware StreamConversionMiddleware get_active_llm_proxy "
    "initialize_llm_callbacks set_active_llm_proxy",
    "logging": "configure_logger setup=setup_logging setup_module=setup_module_logging",
    "reward": "@emitter.reward",
    "runner": "LegacyAgentRunner LitAgentRunner Runner",
    "runner.agent": "LitAgentRunner",
    "runner.base": "Runner",
    "runner.legacy": "LegacyAgentRunner",
    "semconv": "AGL_ANNOTATION AGL_EXCEPTION AGL_MESSAGE AGL_OBJECT AGL_OPERATION AGL_REWARD AGL_VIRTUAL "
    "LightningResourceAttributes LightningSpanAttributes LinkAttributes LinkPydanticModel RewardAttributes "
    "RewardPydanticModel",
    "server": "AgentLightningServer",
    "store": "CollectionBasedLightningStore InMemoryLightningStore LightningStore LightningStoreCapabilities "
    "LightningStoreClient LightningStoreServer LightningStoreStatistics LightningStoreThreaded",
    "store.base": "LightningStore LightningStoreCapabilities LightningStoreStatistics UNSET Unset is_finished "
    "is_queuing is_running",
    "store.client_server": "LightningStoreClient LightningStoreServer",
    "store.collection": "@store.collection.base @store.collection.memory",
    "store.collection.base": "AtomicLabels AtomicMode Collection KeyValue LightningCollections Queue",
    "store.collection.memory": "DequeBasedQueue DictBasedKeyValue InMemoryLightningCollections ListBasedCollection",
    "store.collection_based": "CollectionBasedLightningStore",
    "store.memory": "InMemoryLightningStore estimate_model_size",
    "store.mongo": "MongoLightningStore",
    "store.threading": "LightningStoreThreaded",
    "store.utils": "rollout_status_from_attempt scan_unhealthy_rollouts",
    "tracer": "AgentOpsTracer DummyTracer OtelTracer Tracer clear_active_tracer get_active_tracer set_active_tracer",
    "tracer.agentops": "AgentOpsTracer",
    "tracer.base": "Tracer clear_active_tracer get_active_tracer set_active_tracer with_active_tracer_context",
    "tracer.dummy": "DummySpanRecordingContext DummyTracer",
    "tracer.otel": "LightningSpanProcessor OtelTracer",
    "tracer.weave": "WeaveTracer",
    "trainer": "Trainer build_component",
    "trainer.init_utils": "build_component instantiate_component instantiate_from_spec load_class",
    "trainer.legacy": "TrainerLegacy",
    "trainer.registry": "ExecutionStrategyRegistry",
    "trainer.trainer": "Trainer",
    "types": "@types.core @types.resources @types.tracer",
    "types.core": "Attempt AttemptStatus AttemptedRollout Dataset EnqueueRolloutRequest FilterField FilterOptions "
    "GenericResponse Hook PaginatedResult ParallelWorkerBase Rollout RolloutConfig RolloutLegacy RolloutMode "
    "RolloutRawResult RolloutRawResultLegacy RolloutStatus SortOptions Task TaskIfAny TaskInput Triplet Worker "
    "WorkerStatus",
    "types.resources": "LLM NamedResources PromptTemplate ProxyLLM Resource ResourceUnion ResourcesUpdate",
    "types.tracer": "AttributeValue Attributes Event Link OtelResource Span SpanAttributeNames SpanContext "
    "SpanCoreFields SpanLike SpanNames SpanRecordingContext StatusCode TraceState TraceStatus",
    "utils": "",
    "utils.id": "generate_id",
    "utils.otel": "check_attributes_sanity extract_links_from_attributes extract_tags_from_attributes "
    "filter_and_unflatten_attributes filter_attributes flatten_attributes format_exception_attributes "
    "full_qualified_name get_tracer get_tracer_provider make_link_attributes make_tag_attributes query_linked_spans "
    "sanitize_attribute_value sanitize_attributes sanitize_list_attribute_sanity unflatten_attributes",
    "utils.server_launcher": "LaunchMode PythonServerLauncher PythonServerLauncherArgs",
    "utils.system_snapshot": "system_snapshot",
}
"""The names in each module of Agent-lightning 0.3; ``@module`` stands for all of a module's, ``a=b`` for b named a."""

TOP: Final = """
    @adapter @algorithm @client @config @emitter @env_var @execution @litagent @runner @server @store @tracer
    @trainer @types LLMProxy configure_logger setup_logging setup_module_logging
"""
"""The names of the package itself."""

PATCH_POINTS: Final[Mapping[str, str]] = {
    "emitter.annotation": "get_active_tracer",
    "emitter.exception": "get_active_tracer",
    "emitter.message": "get_active_tracer",
    "emitter.object": "get_active_tracer",
    "emitter.reward": "emit_annotation",
    "litagent.decorator": "_validate_llm_rollout_func=check_llm_function "
    "_validate_prompt_rollout_func=check_prompt_function",
    "store.collection_based": "time",
    "store.utils": "time",
    "utils.otel": "logger=otel_logger otel_get_tracer_provider",
}
"""Names that only programs' tests use: most replace one in a module, which then applies to that module's functions."""
