"""Types of Agent-lightning 0.3 that lightning_trio has no use for: aliases, small records, names of attributes."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar

import attrs

from .._plain_record import PlainRecord
from .._public import public_in
from .._resources import LLM, PromptTemplate, ProxyLLM, Resource
from .._spans import LinkAttributes as LinkPydanticModel
from .._spans import RewardDimension as RewardPydanticModel
from .._spans import Span, SpanCoreFields

T = TypeVar("T")
Source = TypeVar("Source")
Result = TypeVar("Result")

__all__ = ["LinkPydanticModel", "RewardPydanticModel"]

TaskInput: TypeAlias = Any
"""An agent's input."""
RolloutRawResult: TypeAlias = Any
"""What an agent returns."""
ResourceUnion: TypeAlias = LLM | ProxyLLM | PromptTemplate | Resource
AttributeValue: TypeAlias = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes: TypeAlias = dict[str, AttributeValue]
TraceState: TypeAlias = dict[str, str]
StatusCode: TypeAlias = Literal["UNSET", "OK", "ERROR"]
SpanLike: TypeAlias = Any
"""A `Span`, or one of the OpenTelemetry SDK."""


@public_in("lightning_trio.compat")
@attrs.define(kw_only=True)
class Triplet(PlainRecord):
    """One turn of an agent, to train with: a prompt, a response and their reward."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = attrs.Factory(dict[str, Any])


class FilterField(TypedDict, total=False):
    """The conditions on one field of a query."""

    exact: Any
    within: Sequence[Any]
    contains: str


FilterOptions: TypeAlias = Mapping[str, Any]
"""The conditions of a query, by field."""


class SortOptions(TypedDict):
    """The order of a query's results."""

    name: str
    order: Literal["asc", "desc"]


class SpanNames(enum.StrEnum):
    """Names of spans, in versions before 0.3."""

    REWARD = "agentlightning.reward"
    MESSAGE = "agentlightning.message"
    OBJECT = "agentlightning.object"
    EXCEPTION = "agentlightning.exception"
    VIRTUAL = "agentlightning.virtual"


class RewardMatchPolicy(enum.StrEnum):
    """How the adapters for training, which do not exist here, found the model call that a reward is for."""

    FIRST_SIBLING = "first_sibling"
    FIRST_OCCURRENCE = "first_occurrence"


class SpanAttributeNames(enum.StrEnum):
    """Keys of spans, in versions before 0.3."""

    MESSAGE = "message"
    OBJECT = "object"


class SpanRecordingContext(Protocol):
    """A span while its operation runs."""

    def record_exception(self, exception: BaseException) -> None:
        """Add an exception, and set the status."""
        ...

    def record_attributes(self, attributes: Attributes) -> None:
        """Add attributes."""
        ...

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Set the status."""
        ...

    def get_recorded_span(self) -> SpanCoreFields:
        """Return the span."""
        ...


class ParallelWorkerBase:
    """The life of a component that has workers: init, init_worker, run, teardown_worker, teardown."""

    worker_id: int | None = None

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Prepare what all workers share."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Prepare one worker."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Clean up after one worker."""
        self.worker_id = None

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Clean up what all workers shared."""


class Adapter(Generic[Source, Result]):
    """The base of adapters: override `adapt`."""

    def __call__(self, source: Source, /) -> Result:
        """Return the data made from `source`."""
        return self.adapt(source)

    def adapt(self, source: Source, /) -> Result:
        """Return the data made from `source`."""
        raise NotImplementedError(f"{type(self).__name__} has no `adapt`; write: def adapt(self, source): …")


class TraceAdapter(Adapter[Sequence[Span], Result], Generic[Result]):
    """The base of adapters that read the spans of an attempt."""


class OtelTraceAdapter(Adapter[Sequence[Any], Result], Generic[Result]):
    """The base of adapters that read spans of the OpenTelemetry SDK."""
