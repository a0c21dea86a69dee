"""Models behind an endpoint."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .._containers import copy_containers
from .._errors import ResourceError
from .._public import public
from ._api_keys import register_key
from ._resource import Resource

if TYPE_CHECKING:
    from .._records import AttemptedRollout


@attrs.frozen
class LostKey:
    """Stand for an api key that was given as a value in another process; `token` is what was stored in its place."""

    token: str


def _own_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ResourceError.sampling_parameters(value)
    mapping: Mapping[str, Any] = copy_containers(dict(value))
    return mapping


class _CopiedSlot:
    """Wrap the slot of a field, so that who reads it may change what it gets."""

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else copy_containers(self._slot.__get__(instance, owner))

    def __set__(self, instance: object, value: object) -> None:
        self._slot.__set__(instance, value)


def _without_password(endpoint: object) -> str:
    return re.sub(r"//[^/@]*@", "//***@", repr(endpoint))


@public
@attrs.frozen
class LLM(Resource, resource_type="llm"):
    """Name a model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: base URL, as an OpenAI client takes it, for example ``https://api.openai.com/v1``.
        model: the model's name there.
        api_key: the key itself. It is shown in no repr, span, log or export, and no store keeps it: where an agent's
            error or span has it as a part of a text, ``[api key]`` is put in its place (from 8 characters on).
        sampling_parameters: keyword arguments for the call, such as ``{"temperature": 0.7}``. Copied, and read as a
            copy each time, since many rollouts share the resource; for other ones write
            ``attrs.evolve(llm, sampling_parameters={…})``.
        api_key_env: the environment variable to read the key from where the agent runs, so that the key
            needs no keeping at all.

    >>> LLM(endpoint="http://127.0.0.1:8000/v1", model="qwen", api_key="secret")
    LLM(endpoint='http://127.0.0.1:8000/v1', model='qwen', sampling_parameters={}, api_key_env=None)
    """

    endpoint: str = attrs.field(repr=_without_password)
    model: str
    _api_key: str | LostKey | None = attrs.field(default=None, repr=False, alias="api_key")
    sampling_parameters: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_own_mapping)
    api_key_env: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        for name in ("endpoint", "model"):
            if not isinstance(getattr(self, name), str):
                raise ResourceError.not_a_string("LLM", name, getattr(self, name))
        if self._api_key is not None and self.api_key_env is not None:
            raise ResourceError.two_keys(self.model)
        key = self._api_key if self.api_key_env is None else os.environ.get(self.api_key_env)
        if isinstance(key, str):
            register_key(key)

    @property
    def api_key(self) -> str | None:
        """The key: as given, else read from `api_key_env`, else None with a warning if one was meant."""
        if isinstance(self._api_key, LostKey):
            warnings.warn(
                f"LLM {self.model!r} was given its api_key as a value in another process, and no store keeps one, so "
                'its api_key is None here; write LLM(…, api_key_env="…") to have it read where the agent runs',
                stacklevel=2,
            )
            return None
        if self._api_key is not None or self.api_key_env is None:
            key = self._api_key
        else:
            key = os.environ.get(self.api_key_env)
        if key is not None:
            # Again, for it may have been forgotten, set only now, or come here with a pickle.
            register_key(key)
        elif self.api_key_env is not None:
            warnings.warn(
                f"LLM {self.model!r}: the environment variable {self.api_key_env} is not set in this "
                "process, so its api_key is None",
                stacklevel=2,
            )
        return key

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """Give the endpoint; a `ProxyLLM` puts the ids into it."""
        return self.endpoint


# Not a private field with a property: its name is that of the stored form, the repr, and of users' subclasses.
LLM.sampling_parameters = _CopiedSlot(LLM.sampling_parameters)  # type: ignore[assignment]


@public
@attrs.frozen
class ProxyLLM(LLM, resource_type="proxy_llm"):
    """An `LLM` behind a proxy that tells the calls of attempts apart by their path."""

    def get_base_url(self, rollout_id: str | None = None, attempt_id: str | None = None) -> str:
        """Give the endpoint for one attempt, or the bare one when both ids are None.

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
        """Give a plain `LLM` whose endpoint carries the ids of `rollout`."""
        return LLM(
            endpoint=self.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            model=self.model,
            api_key=self._api_key,
            sampling_parameters=self.sampling_parameters,
            api_key_env=self.api_key_env,
        )
