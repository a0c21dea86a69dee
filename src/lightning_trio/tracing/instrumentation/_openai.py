"""Calls of the OpenAI SDK as spans, by OpenTelemetry's own instrumentation of it.

The instrumentation (``opentelemetry-instrumentation-genai-openai``) patches the SDK's classes, so there is one
per process; the first block that needs it switches it on, the last one switches it off. It records prompts and
completions only if an environment variable is set or it has a completion hook. The environment belongs to the host
program, so we pass a hook that writes them on the span.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from opentelemetry.trace import Span, TracerProvider

from ..._log import Log

_SDK: Final = "openai"
_INSTRUMENTATION: Final = "opentelemetry.instrumentation.genai.openai"

_log: Final = Log("lightning_trio.tracing")


class _Instrumentor(Protocol):
    """The part of ``opentelemetry.instrumentation.genai.openai.OpenAIInstrumentor`` used here."""

    @property
    def is_instrumented_by_opentelemetry(self) -> bool: ...

    def instrument(self, **options: object) -> None: ...

    def uninstrument(self) -> None: ...


class OpenAIInstrumentation:
    """The process's one instrumentation of the SDK, and the number of open blocks that need it.

    `_lock` is never held while ``openai`` or the instrumentation is imported: the import hook runs inside an
    ``import openai``, that is under Python's own import lock, and acquires `_lock` there.
    """

    sdk = _SDK

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._provider: TracerProvider | None = None
        self._instrumentor: _Instrumentor | None = None
        self._hook_lock = threading.Lock()
        self._has_hook = False

    def is_installed(self) -> bool:
        """Whether the extra ``openai`` is installed."""
        return _is_installed(_SDK) and _is_installed(_INSTRUMENTATION)

    @contextmanager
    def open(self, provider: TracerProvider) -> Generator[None]:
        """Record calls of the OpenAI SDK as spans of `provider` until the block ends.

        Every chat completion, response and embedding requested in the process, through ``OpenAI`` or
        ``AsyncOpenAI``, becomes a span ``chat {model}`` or ``embeddings {model}`` with the model, its parameters,
        the token counts, the prompt and the answer. A failed or cancelled call ends its span with status ERROR
        and an ``error.type``. A stream's span ends when the stream has been read or closed; it has token counts
        if the call asked for them (``stream_options={"include_usage": True}``).

        Cheap if the SDK is not used: neither it nor the instrumentation is imported before the program itself
        imports ``openai``, possibly in the middle of the block. It needs the extra ``openai``.

        Blocks may overlap, in one thread or several. The SDK is patched once, for the provider of the block that
        opened first, and restored when the last one closes; so pass a provider that serves them all. If the
        program has already instrumented the SDK, that is left as it is, and a warning is logged.

        Args:
            provider: starts the spans. A prompt is one attribute however long it is, images included, so a limit
                on the number of attributes does no harm and one on their length does.

        Attributes follow https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.

        Example::

            with OPENAI.open(provider):
                await AsyncOpenAI().chat.completions.create(model="gpt-4o-mini", messages=messages)
        """
        self._open(provider)
        try:
            yield
        finally:
            self._close()

    def _open(self, provider: TracerProvider) -> None:
        with self._lock:
            self._blocks += 1
            if self._provider is None:
                self._provider = provider
        self._watch_imports()
        if _SDK in sys.modules:
            self._instrument()

    def _watch_imports(self) -> None:
        # A second block waits for the hook, because it may import `openai` as soon as it is open.
        with self._hook_lock:
            if not self._has_hook:
                import wrapt  # an optional dependency: comes with the instrumentation

                wrapt.register_post_import_hook(self._instrument, _SDK)
                self._has_hook = True  # forever: a hook cannot be removed

    def _close(self) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                self._provider = None
                if self._instrumentor is not None:
                    self._instrumentor.uninstrument()
                    self._instrumentor = None

    def _instrument(self, _sdk: object = None) -> None:
        if self._blocks == 0:
            return  # `openai` was imported after the last block closed
        try:
            # `sys.modules` has a module before it is complete; this waits for a thread that still imports it.
            importlib.import_module(_SDK)
            instrumentor: _Instrumentor = importlib.import_module(_INSTRUMENTATION).OpenAIInstrumentor()
            with self._lock:
                if self._provider is not None and self._instrumentor is None:
                    self._instrumentor = _instrumented(instrumentor, self._provider)
        except (ImportError, AttributeError):
            # The versions of SDK and instrumentation do not match. Raising would fail the `import openai` of an
            # agent that works.
            _log.warning("Calls of openai are not traced: its instrumentation failed to load.", exc_info=True)


def _instrumented(instrumentor: _Instrumentor, provider: TracerProvider) -> _Instrumentor | None:
    """Switch the instrumentation on; return None if the program has done so or it rejects the installed SDK."""
    if instrumentor.is_instrumented_by_opentelemetry:
        _log.warning(
            "Calls of openai are not traced by lightning_trio, because this program has already called "
            "OpenAIInstrumentor().instrument(). Remove that call to record them in the rollouts."
        )
        return None
    # Only where the SDK is used: it takes 4 ms to import.
    from opentelemetry.metrics import NoOpMeterProvider

    # Only spans are wanted; without a meter provider here, the host's would be used.
    instrumentor.instrument(
        tracer_provider=provider, meter_provider=NoOpMeterProvider(), completion_hook=_ContentOnSpan()
    )
    return instrumentor if instrumentor.is_instrumented_by_opentelemetry else None


class _ContentOnSpan:
    """A ``opentelemetry.util.genai.completion_hook.CompletionHook`` that writes messages on the span.

    Called before each span ends. The messages are dataclasses in the shape of the semantic conventions and need only
    be encoded; msgspec takes a quarter of the time of the instrumentation's encoder.
    """

    def on_completion(
        self,
        *,
        inputs: Sequence[object],
        outputs: Sequence[object],
        system_instruction: Sequence[object],
        tool_definitions: Sequence[object] | None = None,
        span: Span | None = None,
        **_later: object,
    ) -> None:
        if span is None or not span.is_recording():
            return
        # See `to_json` for why msgspec, which this imports, is imported late.
        from ..._chat_format import encode_span_messages

        contents = {
            "gen_ai.input.messages": inputs,
            "gen_ai.output.messages": outputs,
            "gen_ai.system_instructions": system_instruction,
            "gen_ai.tool.definitions": tool_definitions,
        }
        span.set_attributes({key: encode_span_messages(content) for key, content in contents.items() if content})


def _is_installed(module: str) -> bool:
    if sys.modules.get(module):
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


OPENAI: Final = OpenAIInstrumentation()
