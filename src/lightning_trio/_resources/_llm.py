"""Resources for models behind an endpoint."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from .._containers import copy_containers
from .._errors import ResourceError
from .._public import public
from ._api_keys import register_key, without_keys
from ._resource import NamedResources, Resource

if TYPE_CHECKING:
    from .._records import AttemptedRollout


@attrs.frozen
class LostKey:
    """The placeholder of an API key that was a value in another process; `token` was stored in its place."""

    token: str


def _own_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ResourceError.sampling_parameters(value)
    mapping: Mapping[str, Any] = copy_containers(dict(value))
    return mapping


class _CopiedSlot:
    """The slot of a field that returns a copy of its value, which the reader may change."""

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else copy_containers(self._slot.__get__(instance, owner))

    def __set__(self, instance: object, value: object) -> None:
        self._slot.__set__(instance, value)


_MASK: Final = "***"

_GROUP_OF_SECRETS: Final = re.compile(r"headers$|query$|cookies$", re.IGNORECASE)
"""Names of mappings whose values are all masked, such as ``extra_headers``."""

_SECRET: Final = re.compile(
    r"(key|token|secret|password|passwd|credentials?|authorization|auth|cookie|signature)$", re.IGNORECASE
)
"""Names of values that look like credentials. ``max_tokens`` is not one of them."""


def _show_endpoint(endpoint: str) -> str:
    address, mark, query = re.sub(r"//[^/]*@", f"//{_MASK}@", endpoint, count=1).partition("?")
    names = [part.partition("=")[:2] for part in query.split("&") if part]
    return without_keys(
        repr(address + mark + "&".join((name + equals if equals else "") + _MASK for name, equals in names))
    )


def _show_parameters(parameters: Mapping[str, Any]) -> str:
    return without_keys(repr(_mask_secrets(parameters, ())))


def _mask_secrets(value: object, outer: tuple[int, ...]) -> object:
    """Return a copy of nested containers in which what looks like a credential is masked."""
    if id(value) in outer:
        return ...
    outer = (*outer, id(value))
    if isinstance(value, Mapping):
        return {name: _mask_named(name, each, outer) for name, each in value.items()}
    if isinstance(value, list | tuple):
        masked = [_mask_secrets(each, outer) for each in value]
        return masked if isinstance(value, list) else tuple(masked)
    return value


def _mask_named(name: object, value: object, outer: tuple[int, ...]) -> object:
    if isinstance(name, str) and value is not None:
        if _SECRET.search(name):
            return _MASK
        if _GROUP_OF_SECRETS.search(name):
            return dict.fromkeys(value, _MASK) if isinstance(value, Mapping) else _MASK
    return _mask_secrets(value, outer)


@public
@attrs.frozen(init=False)
class LLM(Resource, resource_type="llm"):
    """A model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: the base URL, as an OpenAI client takes it, for example ``https://api.openai.com/v1``.
        model: the model's name there.
        api_key: the key. No repr, span, log or export shows it, and no store keeps it: where a text of an agent's
            error or span contains it, also escaped, quoted or in base64, ``[api key]`` replaces it (if it has at
            least 8 characters).
        sampling_parameters: keyword arguments for the call, such as ``{"temperature": 0.7}``. The resource
            stores a copy and returns a copy at each read, because many rollouts share it; to change them, write
            ``attrs.evolve(llm, sampling_parameters={…})``.
        api_key_env: the environment variable to read the key from in the process of the agent, so that the key is
            never stored.
        resource_type: the class's own type name, which Agent-lightning 0.3 wrote out; may be left out.

    >>> LLM(endpoint="http://127.0.0.1:8000/v1", model="qwen", api_key="secret")
    LLM(endpoint='http://127.0.0.1:8000/v1', model='qwen', sampling_parameters={}, api_key_env=None)
    """

    endpoint: str = attrs.field(repr=_show_endpoint)
    model: str
    _api_key: str | LostKey | None = attrs.field(default=None, repr=False, alias="api_key")
    sampling_parameters: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], converter=_own_mapping, repr=_show_parameters
    )
    api_key_env: str | None = attrs.field(default=None, kw_only=True)

    def __init__(
        self,
        endpoint: str,
        model: str,
        api_key: str | LostKey | None = None,
        sampling_parameters: Mapping[str, Any] = MappingProxyType({}),
        *,
        api_key_env: str | None = None,
        resource_type: str | None = None,
    ) -> None:
        self._check_type_name(resource_type)
        init: Any = getattr(self, "__attrs_init__")  # noqa: B009  # pyright does not know it
        init(endpoint, model, api_key, sampling_parameters, api_key_env=api_key_env)

    def __attrs_post_init__(self) -> None:
        for name in ("endpoint", "model"):
            if not isinstance(getattr(self, name), str):
                raise ResourceError.not_a_string("LLM", name, getattr(self, name))
        if self._api_key is not None and self.api_key_env is not None:
            raise ResourceError.two_keys(self.model)
        self._register_key()

    def _register_key(self) -> None:
        key = self._api_key if self.api_key_env is None else os.environ.get(self.api_key_env)
        if isinstance(key, str):
            register_key(key)

    @property
    def api_key(self) -> str | None:
        """The key, as a value or from `api_key_env`; None with a warning if it is not available in this process."""
        if isinstance(self._api_key, LostKey):
            warnings.warn(
                f"LLM {self.model!r} was given its api_key as a value in another process, and no store keeps keys, so "
                'its api_key is None here; write LLM(…, api_key_env="…") to read it in the process of the agent',
                stacklevel=2,
            )
            return None
        if self._api_key is not None or self.api_key_env is None:
            key = self._api_key
        else:
            key = os.environ.get(self.api_key_env)
        if key is not None:
            # Again, because it may have been evicted, set only now, or unpickled.
            register_key(key)
        elif self.api_key_env is not None:
            warnings.warn(
                f"LLM {self.model!r}: the environment variable {self.api_key_env} is not set in this "
                "process, so its api_key is None",
                stacklevel=2,
            )
        return key

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """Return the endpoint; that of a `ProxyLLM` contains the ids."""
        return self.endpoint


# Not a private field with a property, because stores, reprs and users' subclasses know the field by this name.
LLM.sampling_parameters = _CopiedSlot(LLM.sampling_parameters)  # type: ignore[assignment]


@public
@attrs.frozen(init=False)
class ProxyLLM(LLM, resource_type="proxy_llm"):
    """An `LLM` behind a proxy that identifies the attempt of a call by its path."""

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """Return the endpoint for one attempt, or the bare endpoint if both ids are None.

        >>> ProxyLLM(endpoint="http://h:1/v1", model="m").get_base_url("r", "a")
        'http://h:1/rollout/r/attempt/a/v1'
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if not isinstance(rollout_id, str) or not isinstance(attempt_id, str):
            raise ResourceError.ids_in_endpoint(rollout_id, attempt_id)
        base = self.endpoint.removesuffix("/")
        bare = base.removesuffix("/v1")
        return f"{bare}/rollout/{rollout_id}/attempt/{attempt_id}{base[len(bare) :]}"

    def with_attempted_rollout(self, rollout: AttemptedRollout) -> LLM:
        """Return a plain `LLM` whose endpoint contains the ids of `rollout` and its attempt."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self._api_key,
            sampling_parameters=self.sampling_parameters,
            api_key_env=self.api_key_env,
        )


def register_keys(resources: NamedResources) -> None:
    """Register the keys of all models in resources, also of those that are fields of another one.

    A worker process unpickles them, which registers nothing, and an environment variable may have been set since.
    """
    for resource in resources.values():
        fields = [getattr(resource, field.name, None) for field in attrs.fields(type(resource))]
        for each in (resource, *fields):
            if isinstance(each, LLM):
                each._register_key()  # pyright: ignore[reportPrivateUsage]
