"""The options of a runner, validated before anything runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import attrs

from .._checks import check_count, checked
from .._errors import UsageError
from .._records import RolloutConfig, missing_name
from .._resources import NamedResources, check_resources
from ..adapters import Adapter, check_adapter
from ..algorithms import Algorithm, Baseline
from ..store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from ..tracing import Tracer
from ._failure_limit import check_max_failures

_Validator = Callable[[object, "attrs.Attribute[Any]", Any], None]


def _of_kind(kind: type[Any]) -> _Validator:
    return lambda instance, attribute, value: checked(attribute.name, value, kind) and None


def _count(*, least: int = 1, unlimited: bool = False) -> _Validator:
    return lambda instance, attribute, value: check_count(attribute.name, value, least=least, unlimited=unlimited)


def _lease(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError.argument("lease_seconds", value, "a positive number of seconds")


def _grace(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UsageError.argument("grace_seconds", value, "a number of seconds, 0 to stop attempts at once")


def _failures(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_max_failures(value)


def _algorithm(value: Algorithm | None) -> Algorithm:
    return Baseline() if value is None else value


def _tracer(value: Tracer | None) -> Tracer:
    return Tracer() if value is None else value


def _adapter(value: object | None) -> Adapter[Any] | None:
    return None if value is None else check_adapter(value)


def _resources(value: NamedResources | None) -> NamedResources:
    return check_resources({} if value is None else value, "Runner(resources=…)")


@attrs.frozen(kw_only=True)
class RunnerOptions:
    """The options of a `Runner`, which documents them; without an algorithm or tracer, the default is used."""

    max_concurrency: int = attrs.field(validator=_count())
    max_rollouts: int | None = attrs.field(validator=_count(least=0, unlimited=True))
    max_processes: int | None = attrs.field(validator=_count(unlimited=True))
    lease_seconds: float = attrs.field(validator=_lease)
    max_failures: float | None = attrs.field(validator=_failures)
    grace_seconds: float = attrs.field(validator=_grace)
    config: RolloutConfig = attrs.field(validator=_of_kind(RolloutConfig))
    run_name: str | None
    store: LightningStore = attrs.field(validator=_of_kind(LightningStore))
    algorithm: Algorithm = attrs.field(converter=_algorithm, validator=_of_kind(Algorithm))
    tracer: Tracer = attrs.field(converter=_tracer, validator=_of_kind(Tracer))
    adapter: Adapter[Any] | None = attrs.field(converter=_adapter)
    resources: NamedResources = attrs.field(converter=_resources, repr=False)


def check_config(name: str, config: RolloutConfig) -> None:
    """Validate the configuration of retries, for `Runner.__init__`: a warning points at the line that calls it.

    Raises:
        ComponentError: it is not a `RolloutConfig`.
        UsageError: an exception to retry does not exist.
    """
    checked(name, config, RolloutConfig)
    if (missing := missing_name(config.retry_exceptions)) is not None:
        raise UsageError.unknown_exception(name, missing)
    causes = config.retry_condition or config.retry_exceptions
    if config.max_attempts > 1 and not causes:
        idle = f"max_attempts={config.max_attempts} has no effect without retry_condition=[…] or retry_exceptions=[…]"
    elif config.max_attempts == 1 and causes:
        given = "retry_condition" if config.retry_condition else "retry_exceptions"
        idle = f"{given}={list(causes)} has no effect with max_attempts=1; set it to 2 or more"
    else:
        return
    warnings.warn(f"{name}: {idle}", stacklevel=3)


def check_run_name(run_name: str | None) -> None:
    """Validate that a name fits in one line of a list.

    Raises:
        ValueError: it does not fit.
    """
    if run_name is not None and not (isinstance(run_name, str) and run_name.isprintable() and len(run_name) <= 100):
        raise ValueError(f"run_name={run_name!r}; pass one line of text, with at most 100 characters")


def default_store(run_name: str | None) -> LightningStore:
    """Return the store of a runner that was given none: a file if its runs have a name, else memory.

    Raises:
        ValueError: the name cannot be the name of a file.
    """
    return InMemoryLightningStore() if run_name is None else SqliteLightningStore.of_run(run_name)
