"""A rollout as a store in memory keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ..._containers import copy_containers
from ..._errors import NotStorable, UnknownId
from ..._records import (
    DEFAULT_CONFIG,
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
)
from ..._spans import Span, with_number
from .._rules import span_number
from ._queue import Place


@attrs.define(eq=False)
class _Arrivals:
    """The ids and numbers of spans that an attempt reports one by one."""

    attempt_id: str
    span_ids: set[str]
    last_sequence_id: int


@attrs.define(eq=False)
class Entry:
    """A rollout as the store keeps it; `Rollout` records are made from it.

    Args:
        number: its place in the order of arrival.
        rollout_id: its id.
        input: the store's own copy of the task.
        mode: ``"train"``, ``"val"`` or ``"test"``.
        resources_id: the snapshot of resources that it runs with.
        config: its own configuration; the default of whoever claims it first if it has none.
        metadata: the caller's.
        run_id: its run.
        key: the key of the task within its run.
        status: its status.
        start_time: when it arrived.
    """

    number: int
    rollout_id: str
    input: Any
    mode: RolloutMode | None
    resources_id: str | None
    config: RolloutConfig | None
    metadata: Mapping[str, Any] | None
    run_id: str | None
    key: str | None
    status: RolloutStatus
    start_time: float
    end_time: float | None = None
    attempts: list[Attempt] = attrs.field(factory=list[Attempt], init=False)
    not_counted: int = 0
    """Attempts that were given back to the queue or lost; they do not count towards `max_attempts`."""
    lost: int = 0
    """Attempts that were lost with their worker."""
    spans: Sequence[Span] = ()
    """The spans of all attempts; a list while they are reported one by one."""
    place: Place | None = None
    """Its place in the queue, None outside it."""
    large: bool = False
    """Whether its task is so large that it is copied in slices."""
    _arrivals: _Arrivals | None = None

    # These properties make it a `Position` of the state machine.

    @property
    def queued(self) -> bool:
        """Whether it has a place in the queue."""
        return self.place is not None

    @property
    def attempt_id(self) -> str | None:
        """The id of the latest attempt."""
        return self.attempts[-1].attempt_id if self.attempts else None

    @property
    def attempt_status(self) -> AttemptStatus | None:
        """The status of the latest attempt."""
        return self.attempts[-1].status if self.attempts else None

    @property
    def counted(self) -> int:
        """The number of attempts that count towards `max_attempts`."""
        return len(self.attempts) - self.not_counted

    def rollout(self) -> Rollout:
        """Return the record, with the latest attempt if there is one."""
        return self._record(self.input, self.metadata)

    def _record(self, task: Any, metadata: Mapping[str, Any] | None) -> Rollout:
        fields = (
            self.rollout_id,
            task,
            self.start_time,
            self.end_time,
            self.mode,
            self.resources_id,
            self.status,
            self.config or DEFAULT_CONFIG,
            metadata,
            self.run_id,
            self.key,
        )
        return AttemptedRollout(*fields, attempt=self.attempts[-1]) if self.attempts else Rollout(*fields)

    def attempted(self) -> AttemptedRollout:
        """Return the record for a new attempt, with copies of task and metadata, which the agent may change.

        A large task is still the store's own.
        """
        metadata = None if self.metadata is None else copy_containers(self.metadata)
        rollout = self._record(self.input if self.large else copy_containers(self.input), metadata)
        assert isinstance(rollout, AttemptedRollout)
        return rollout

    def attempt(self, attempt_id: str) -> Attempt:
        """Return an attempt.

        Raises:
            UnknownId: the rollout has no attempt with that id.
        """
        attempts = self.attempts
        if attempts and attempts[-1].attempt_id == attempt_id:
            return attempts[-1]
        for attempt in attempts:
            if attempt.attempt_id == attempt_id:
                return attempt
        raise UnknownId.attempt(self.rollout_id, attempt_id)

    def add_spans(self, attempt_id: str, spans: Iterable[Span]) -> list[Span]:
        """Add an attempt's spans and return those that are new, numbered."""
        if not self.spans:
            self._arrivals = None
        arrivals = self._arrivals
        if arrivals is None or arrivals.attempt_id != attempt_id:
            arrivals = self._arrivals = _Arrivals(attempt_id, set(), 0)
            for span in self.spans:
                if span.attempt_id == attempt_id:
                    arrivals.span_ids.add(span.span_id)
                    arrivals.last_sequence_id = max(arrivals.last_sequence_id, span.sequence_id)
        if not isinstance(self.spans, list):
            self.spans = list(self.spans)
        added: list[Span] = []
        for span in spans:
            if span.span_id in arrivals.span_ids:
                continue
            arrivals.span_ids.add(span.span_id)
            number = span_number(span.sequence_id, arrivals.last_sequence_id)
            if number != span.sequence_id:
                span = with_number(span, number)
            arrivals.last_sequence_id = max(arrivals.last_sequence_id, number)
            added.append(span)
        self.spans += added
        return added

    def close_spans(self) -> None:
        """Drop the state that is needed only while spans are reported one by one."""
        self._arrivals = None
        self.spans = tuple(self.spans)


def check_spans(spans: Iterable[Span]) -> None:
    """Validate that spans can be told apart and numbered.

    Raises:
        NotStorable: they cannot.
    """
    for span in spans:
        if not isinstance(span.span_id, str):
            raise NotStorable.not_text("span_id", span.span_id)
        if not isinstance(span.sequence_id, int):
            raise NotStorable.not_integer("sequence_id", span.sequence_id)
