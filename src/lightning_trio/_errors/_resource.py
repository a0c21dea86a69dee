"""Resources that are missing or invalid, and templates that cannot be filled in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ._base import compose, public, with_article
from ._usage import UsageError


@public
class MissingPlaceholder(UsageError, KeyError):
    """A prompt template was formatted without a value it needs."""

    placeholder: str | None = None
    """The name that has no value."""

    given: tuple[str, ...] = ()
    """The names that have a value."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; ours is a sentence.
        return str(self.args[0])

    @classmethod
    def missing(cls, placeholder: str, given: Iterable[str]) -> Self:
        """Return the error for a placeholder without a value."""
        names = tuple(given)
        message = (
            f"the prompt template needs {placeholder!r}, and the values given are: "
            f"{', '.join(map(repr, names)) or 'none'}"
        )
        return compose(cls, message, placeholder=placeholder, given=names)


@public
class ResourceError(UsageError, ValueError):
    """A resource is missing, of an unknown type, or invalid."""

    name: str | None = None
    """The resource's name."""

    path: Path | None = None
    """The model file."""

    # Resources by name.

    @classmethod
    def not_a_mapping(cls, parameter: str, value: object) -> Self:
        """Return the error for resources that are not a mapping."""
        message = (
            f"{parameter} takes a mapping of names to resources, not {type(value).__name__}; "
            'for example {"prompt_template": PromptTemplate("…", engine="f-string")}'
        )
        return compose(cls, message, parameter=parameter)

    @classmethod
    def name_not_a_string(cls, parameter: str, name: object) -> Self:
        """Return the error for a resource whose name is not a string."""
        message = f"{parameter} has the key {name!r}; the names of resources are strings"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def not_a_resource(cls, parameter: str, name: str, value: object) -> Self:
        """Return the error for an object of a class that is not derived from `Resource`."""
        message = (
            f"{parameter}[{name!r}] is of type {type(value).__name__}, which is not a resource; "
            "use LLM, PromptTemplate or a subclass of Resource"
        )
        return compose(cls, message, parameter=parameter, name=name)

    @classmethod
    def type_taken(cls, resource_type: str, kind: type, known: type) -> Self:
        """Return the error for a resource class with the type name of another."""
        message = (
            f"resource_type {resource_type!r} of {kind.__qualname__} is already used by {known.__qualname__}; "
            f'choose another one: class {kind.__name__}(Resource, resource_type="…")'
        )
        return compose(cls, message, parameter="resource_type")

    @classmethod
    def type_as_field(cls, kind: type) -> Self:
        """Return the error for a resource class whose type name is a field, of which each object has its own."""
        message = (
            f"resource_type is a field of {kind.__qualname__}, and the type name is the same for all its objects; "
            f'write: class {kind.__name__}({kind.__bases__[0].__name__}, resource_type="…")'
        )
        return compose(cls, message, parameter="resource_type")

    @classmethod
    def other_type(cls, kind: str, own: str, given: object) -> Self:
        """Return the error for a resource that is made with the type name of another class."""
        message = (
            f"{kind}(resource_type={given!r}): the type of {with_article(kind)} is {own!r}; "
            "leave resource_type out, or use the class of that type"
        )
        return compose(cls, message, parameter="resource_type")

    # Models.

    @classmethod
    def not_a_string(cls, kind: str, parameter: str, value: object) -> Self:
        """Return the error for a field of a resource that must be a string."""
        return compose(cls, f"{kind} {parameter}={value!r} is not a string", parameter=parameter)

    @classmethod
    def sampling_parameters(cls, value: object) -> Self:
        """Return the error for sampling parameters that are not a mapping."""
        message = f'LLM sampling_parameters={value!r} is not a mapping; write for example {{"temperature": 0.7}}'
        return compose(cls, message, parameter="sampling_parameters")

    @classmethod
    def two_keys(cls, model: str) -> Self:
        """Return the error for an API key given both as a value and by its environment variable."""
        message = f"LLM {model!r} has both api_key and api_key_env; pass only one of them"
        return compose(cls, message, parameter="api_key_env")

    @classmethod
    def ids_in_endpoint(cls, rollout_id: object, attempt_id: object) -> Self:
        """Return the error for only one of an attempt's two ids, or for ids that are not strings."""
        message = f"rollout_id and attempt_id must be strings or all be empty, not {rollout_id!r} and {attempt_id!r}"
        return compose(cls, message, parameter="attempt_id" if isinstance(rollout_id, str) else "rollout_id")

    @classmethod
    def local_llm_size(cls, parameter: str, value: int) -> Self:
        """Return the error for a local model with fewer than one slot, thread or token."""
        return compose(cls, f"open_local_llm({parameter}={value}): {parameter} must be at least 1", parameter=parameter)

    @classmethod
    def no_model_file(cls, path: Path) -> Self:
        """Return the error for a model file that does not exist."""
        message = (
            f"there is no model file at {str(path)!r}; pass the path of a GGUF file, "
            "or leave model_path out for the model that comes with the package"
        )
        return compose(cls, message, parameter="model_path", path=path)

    @classmethod
    def model_not_loaded(cls, path: Path, status: int, log: str) -> Self:
        """Return the error for a model that llama.cpp cannot load, with the end of its output."""
        message = (
            f"llama.cpp could not load {str(path)!r} (exit status {status}); is it a complete GGUF model, "
            f"and is there enough memory for it? It printed:\n{log[-2000:]}"
        )
        return compose(cls, message, parameter="model_path", path=path)

    # Prompt templates.

    @classmethod
    def unknown_engine(cls, engine: object) -> Self:
        """Return the error for an unknown template engine."""
        message = f"PromptTemplate engine={engine!r}; the engines are 'f-string' and 'jinja'"
        return compose(cls, message, parameter="engine")

    @classmethod
    def private_attribute(cls, field: str) -> Self:
        """Return the error for a placeholder that reads a private attribute."""
        message = f"the prompt template reads the private attribute {field!r}; use a public one"
        return compose(cls, message, parameter="template")

    @classmethod
    def placeholder(cls, placeholder: str, error: BaseException) -> Self:
        """Return the error for a placeholder that its value does not fit."""
        message = (
            f"the placeholder {placeholder!r} of the prompt template cannot be filled in: {type(error).__name__}: "
            f"{error}"
        )
        return compose(cls, message, parameter="template")

    @classmethod
    def template(cls, error: BaseException) -> Self:
        """Return the error for a template that cannot be filled in as a whole."""
        message = f"the prompt template cannot be filled in: {type(error).__name__}: {error}"
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_syntax(cls, line: int, said: str | None) -> Self:
        """Return the error for a jinja template with a syntax error."""
        message = f"the jinja prompt template has a syntax error in line {line}: {said}"
        return compose(cls, message, parameter="template")

    @classmethod
    def too_wide(cls, width: int, most: int) -> Self:
        """Return the error for widths and precisions in placeholders that would make a huge text."""
        message = (
            f"the placeholders of the prompt template are {width:,} characters wide; up to {most:,} are possible, "
            "write a smaller width, such as {price:>10}"
        )
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_too_deep(cls, error: BaseException) -> Self:
        """Return the error for a jinja template that Python cannot compile."""
        message = (
            f"the jinja prompt template is nested too deeply, or has a number that is too long: "
            f"{type(error).__name__}: {error}; nest fewer loops and brackets"
        )
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_stopped(cls, bound: str) -> Self:
        """Return the error for a rendering that went beyond a bound."""
        message = (
            f"the jinja prompt template was stopped: {bound}; write smaller loops and texts, or make the text in the "
            "agent and pass it as a value: {{ text }}"
        )
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_failed(cls, error: BaseException) -> Self:
        """Return the error for a jinja template that could not be rendered."""
        message = f"the jinja prompt template failed: {type(error).__name__}: {error}"
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_forbidden(cls, error: BaseException) -> Self:
        """Return the error for a jinja template that tries to escape its sandbox."""
        message = f"the jinja prompt template does what its sandbox forbids: {error}"
        return compose(cls, message, parameter="template")
