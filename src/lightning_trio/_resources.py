"""Resources: the tunable assets an agent is given."""

from __future__ import annotations

import os
import re
import string
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import attrs

from ._containers import copy_containers
from ._errors import MissingPlaceholder, ResourceError
from ._keys import register_key
from ._records import AttemptedRollout

PromptEngine: TypeAlias = Literal["f-string", "jinja"]

_resource_types: dict[str, type[Resource]] = {}


@attrs.frozen
class Resource:
    """Derive your own kinds of resource from this.

    A subclass is a frozen attrs class with a name, under which stores and wire formats keep it; without one
    the name is the class name in snake case.

    >>> @attrs.frozen
    ... class Rubric(Resource, resource_type="rubric"):
    ...     criteria: tuple[str, ...]
    >>> Rubric(("short", "polite")).resource_type
    'rubric'
    """

    resource_type: ClassVar[str] = "resource"

    def __init_subclass__(cls, *, resource_type: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # attrs builds a slotted class anew and so comes here twice; a name given at first must stay.
        name: str = resource_type or cls.__dict__.get("resource_type") or _snake_case(cls.__name__)
        known = _resource_types.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ResourceError(
                f"resource_type {name!r} of {cls.__qualname__} is taken by {known.__qualname__}; "
                f'give another: class {cls.__name__}(Resource, resource_type="…")'
            )
        cls.resource_type = name
        _resource_types[name] = cls


NamedResources: TypeAlias = Mapping[str, Resource]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def resource_class(resource_type: str) -> type[Resource]:
    """Give the class registered under `resource_type`, `UnknownResource` if there is none."""
    return _resource_types.get(resource_type, UnknownResource)


@attrs.frozen
class UnknownResource(Resource, resource_type="unknown"):
    """Stand for a stored resource whose class this process has not defined."""

    stored_type: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)


@attrs.frozen
class LostKey:
    """Stand for an api key that was given as a value in another process; `token` is what was stored in its place."""

    token: str


def _own_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ResourceError(
            f'LLM sampling_parameters={value!r} is no mapping; write for example {{"temperature": 0.7}}'
        )
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

    endpoint: str
    model: str
    _api_key: str | LostKey | None = attrs.field(default=None, repr=False, alias="api_key")
    sampling_parameters: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_own_mapping)
    api_key_env: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        for name in ("endpoint", "model"):
            if not isinstance(getattr(self, name), str):
                raise ResourceError(f"LLM {name}={getattr(self, name)!r} is no string")
        if self._api_key is not None and self.api_key_env is not None:
            raise ResourceError(f"LLM {self.model!r} has both api_key and api_key_env; give one of them")
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
            raise ResourceError(
                f"rollout_id and attempt_id must be strings or all be empty, not {rollout_id!r} and {attempt_id!r}"
            )
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


@attrs.frozen
class PromptTemplate(Resource, resource_type="prompt_template"):
    """A prompt with placeholders.

    Args:
        template: the text.
        engine: ``"f-string"``: ``{name}`` with the attribute, index, conversion and format parts of
            `str.format`; ``"jinja"``: Jinja2, rendered in its sandbox.

    Braces in an f-string template: double them (``{{"label": 1}}``), as in `str.format`. A template that
    is not a valid format string, such as a prompt that shows JSON as it is, stands as well: then only
    ``{name}`` with a plain name is replaced and every other brace is text. What looks like a placeholder with an
    attribute, index or format there, such as ``{price:.2f}``, stays as it is, with a warning.

    >>> PromptTemplate("Answer {question} as {\\"a\\": 1}", engine="f-string").format(question="why?")
    'Answer why? as {"a": 1}'
    """

    template: str
    engine: PromptEngine

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise ResourceError(f"PromptTemplate template={self.template!r} is no string")
        if self.engine not in get_args(PromptEngine):
            raise ResourceError(f"PromptTemplate engine={self.engine!r}; there are 'f-string' and 'jinja'")
        if self.engine == "jinja":
            _compile_jinja(self.template)
        elif not _is_format_string(self.template) and (lost := _PARTS.search(self.template)) is not None:
            warnings.warn(
                f"the prompt template has braces that are no placeholders, so only plain ones are filled in and "
                f"{lost[0]!r} stays as it is; double the braces that are text, or pass a finished value for "
                f"{{{lost[1]}}}",
                stacklevel=3,
            )

    @property
    def placeholders(self) -> frozenset[str]:
        """The names `format` needs (for jinja: those it may need)."""
        return self._compiled().names

    def format(self, /, **values: object) -> str:
        """Fill in the placeholders; values the template does not use are ignored.

        Raises:
            MissingPlaceholder: a placeholder has no value; the message names it and the values given.
        """
        return self._compiled().render(values)

    def _compiled(self) -> _Compiled:
        compile_ = _compile_jinja if self.engine == "jinja" else _compile_format
        return compile_(self.template)


@attrs.frozen
class _Compiled:
    names: frozenset[str]
    render: Callable[[Mapping[str, object]], str]


def _missing(name: str, values: Mapping[str, object]) -> MissingPlaceholder:
    given = ", ".join(map(repr, values)) or "none"
    return MissingPlaceholder(f"the prompt template needs {name!r}, and the values given are: {given}")


_PLAIN_NAME = re.compile(r"\{([A-Za-z_]\w*)\}")
_PARTS = re.compile(
    # No brace before or behind it: doubled ones are text.
    r"(?<!\{)\{([A-Za-z_]\w*)(?=[.\[!:])(?:\.[A-Za-z_]\w*|\[\w+\])*(?:![rsa])?"
    r"(?::(?=[^}])[<>=^]?[+\-]?#?\d*[,_]?(?:\.\d+)?[bcdeEfFgGnosxX%]?)?\}(?!\})"
)
"""What `str.format` would fill in, besides a plain name."""
_CONVERSIONS = (None, "r", "s", "a")
_FIELD_NAME = re.compile(r"([A-Za-z_]\w*)((?:\.\w+|\[[^\]]*\])*)")


def _is_format_string(template: str) -> bool:
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError:
        return False
    return all(
        _FIELD_NAME.fullmatch(name or "") and conversion in _CONVERSIONS and (not spec or _is_format_string(spec))
        for _, name, spec, conversion in fields
    )


@lru_cache(maxsize=1024)
def _compile_format(template: str) -> _Compiled:
    if not _is_format_string(template):
        names = frozenset(_PLAIN_NAME.findall(template))

        def render_plain(values: Mapping[str, object]) -> str:
            _check_given(names, values)
            return _PLAIN_NAME.sub(lambda match: str(values[match[1]]), template)

        return _Compiled(names, render_plain)

    names, paths = _format_fields(template)
    if private := [path for path in paths if "._" in path]:
        raise ResourceError(f"the prompt template reads the private attribute {private[0]!r}; use a public one")

    def render_format(values: Mapping[str, object]) -> str:
        _check_given(names, values)
        try:
            return template.format_map(values)
        except (AttributeError, LookupError, TypeError, ValueError) as exc:
            raise ResourceError(_failed_field(template, values, exc)) from exc

    return _Compiled(names, render_format)


def _failed_field(template: str, values: Mapping[str, object], exc: Exception) -> str:
    """Say which placeholder could not be filled in."""
    for _, field, spec, conversion in string.Formatter().parse(template):
        if field is None:
            continue
        placeholder = "{" + field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        try:
            placeholder.format_map(values)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return (
                f"the placeholder {placeholder!r} of the prompt template cannot be filled in: {type(error).__name__}: "
                f"{error}"
            )
    return f"the prompt template cannot be filled in: {type(exc).__name__}: {exc}"


def _check_given(names: frozenset[str], values: Mapping[str, object]) -> None:
    for name in sorted(names):
        if name not in values:
            raise _missing(name, values)


def _format_fields(template: str) -> tuple[frozenset[str], list[str]]:
    """List the names and the whole field paths of a format string, format specs included."""
    names: set[str] = set()
    paths: list[str] = []
    for _, field, spec, _ in string.Formatter().parse(template):
        if field is None:
            continue
        match = _FIELD_NAME.fullmatch(field)
        assert match is not None
        names.add(match[1])
        paths.append(field)
        if spec:
            inner_names, inner_paths = _format_fields(spec)
            names |= inner_names
            paths += inner_paths
    return frozenset(names), paths


@lru_cache(maxsize=1024)
def _compile_jinja(template: str) -> _Compiled:
    # Jinja2 takes 90 ms to import and most programs never use it.
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        names = frozenset(meta.find_undeclared_variables(environment.parse(template)))
        compiled = environment.from_string(template)
    except TemplateSyntaxError as exc:
        raise ResourceError(f"the jinja prompt template is wrong at line {exc.lineno}: {exc.message}") from exc

    def render(values: Mapping[str, object]) -> str:
        try:
            return compiled.render(values)
        except UndefinedError as exc:
            missing = next((name for name in sorted(names) if name not in values), None)
            if missing is None:
                raise ResourceError(f"the jinja prompt template failed: {exc}") from exc
            raise _missing(missing, values) from exc
        except SecurityError as exc:
            raise ResourceError(f"the jinja prompt template does what its sandbox forbids: {exc}") from exc
        except TemplateError as exc:
            raise ResourceError(f"the jinja prompt template failed: {exc}") from exc

    return _Compiled(names, render)


def check_resources(resources: object, where: str) -> NamedResources:
    """Return `resources` as a mapping of its own, or say what is wrong with it."""
    if not isinstance(resources, Mapping):
        raise ResourceError(
            f"{where} takes a mapping of names to resources, not {type(resources).__name__}; "
            'for example {"prompt_template": PromptTemplate("…", engine="f-string")}'
        )
    for name, resource in resources.items():
        if not isinstance(name, str):
            raise ResourceError(f"{where} has the key {name!r}; the names of resources are strings")
        if not isinstance(resource, Resource):
            raise ResourceError(
                f"{where}[{name!r}] is of type {type(resource).__name__}, which is no resource; "
                "use LLM, PromptTemplate or a subclass of Resource"
            )
    return dict(resources)
