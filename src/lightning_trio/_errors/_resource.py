"""Resources that are missing or badly made, and templates that cannot be filled in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ._base import compose, public
from ._usage import UsageError


@public
class MissingPlaceholder(UsageError, KeyError):
    """A prompt template was formatted without a value it needs."""

    placeholder: str | None = None
    """The name that has no value."""

    given: tuple[str, ...] = ()
    """The names that have one."""

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
    """A resource is missing, of an unknown type, or badly made."""

    name: str | None = None
    """What the resource is called among the others."""

    path: Path | None = None
    """The file of a model."""

    # Resources by name.

    @classmethod
    def not_a_mapping(cls, parameter: str, value: object) -> Self:
        """Return the error for resources that have no names."""
        message = (
            f"{parameter} takes a mapping of names to resources, not {type(value).__name__}; "
            'for example {"prompt_template": PromptTemplate("…", engine="f-string")}'
        )
        return compose(cls, message, parameter=parameter)

    @classmethod
    def name_not_a_string(cls, parameter: str, name: object) -> Self:
        """Return the error for a resource whose name is something else than a string."""
        message = f"{parameter} has the key {name!r}; the names of resources are strings"
        return compose(cls, message, parameter=parameter)

    @classmethod
    def not_a_resource(cls, parameter: str, name: str, value: object) -> Self:
        """Return the error for an object of a class that is not derived from `Resource`."""
        message = (
            f"{parameter}[{name!r}] is of type {type(value).__name__}, which is no resource; "
            "use LLM, PromptTemplate or a subclass of Resource"
        )
        return compose(cls, message, parameter=parameter, name=name)

    @classmethod
    def type_taken(cls, resource_type: str, kind: type, known: type) -> Self:
        """Return the error for a class of resources under the name of another."""
        message = (
            f"resource_type {resource_type!r} of {kind.__qualname__} is taken by {known.__qualname__}; "
            f'give another: class {kind.__name__}(Resource, resource_type="…")'
        )
        return compose(cls, message, parameter="resource_type")

    # Models.

    @classmethod
    def not_a_string(cls, kind: str, parameter: str, value: object) -> Self:
        """Return the error for a field of a resource that takes a string."""
        return compose(cls, f"{kind} {parameter}={value!r} is no string", parameter=parameter)

    @classmethod
    def sampling_parameters(cls, value: object) -> Self:
        """Return the error for sampling parameters that have no names."""
        message = f'LLM sampling_parameters={value!r} is no mapping; write for example {{"temperature": 0.7}}'
        return compose(cls, message, parameter="sampling_parameters")

    @classmethod
    def two_keys(cls, model: str) -> Self:
        """Return the error for an api key that is given as such and by its environment variable."""
        message = f"LLM {model!r} has both api_key and api_key_env; give one of them"
        return compose(cls, message, parameter="api_key_env")

    @classmethod
    def ids_in_endpoint(cls, rollout_id: object, attempt_id: object) -> Self:
        """Return the error for one half of an attempt's ids, or ids that are not strings."""
        message = f"rollout_id and attempt_id must be strings or all be empty, not {rollout_id!r} and {attempt_id!r}"
        return compose(cls, message, parameter="attempt_id" if isinstance(rollout_id, str) else "rollout_id")

    @classmethod
    def local_llm_size(cls, parameter: str, value: int) -> Self:
        """Return the error for a local model without slots, threads or tokens."""
        return compose(cls, f"open_local_llm({parameter}={value}): it must be at least 1", parameter=parameter)

    @classmethod
    def no_model_file(cls, path: Path) -> Self:
        """Return the error for a model that is not there."""
        message = (
            f"there is no model file at {str(path)!r}; give the path of a GGUF file, "
            "or leave model_path out for the model that comes with the package"
        )
        return compose(cls, message, parameter="model_path", path=path)

    @classmethod
    def model_not_loaded(cls, path: Path, status: int, log: str) -> Self:
        """Return the error for a model that llama.cpp cannot load, with the end of what it printed."""
        message = (
            f"llama.cpp could not load {str(path)!r} (exit status {status}); is it a whole GGUF model, and is "
            f"there memory for it? It said:\n{log[-2000:]}"
        )
        return compose(cls, message, parameter="model_path", path=path)

    # Prompt templates.

    @classmethod
    def unknown_engine(cls, engine: object) -> Self:
        """Return the error for a template language that is not spoken here."""
        message = f"PromptTemplate engine={engine!r}; there are 'f-string' and 'jinja'"
        return compose(cls, message, parameter="engine")

    @classmethod
    def private_attribute(cls, field: str) -> Self:
        """Return the error for a placeholder that reads what a value keeps to itself."""
        message = f"the prompt template reads the private attribute {field!r}; use a public one"
        return compose(cls, message, parameter="template")

    @classmethod
    def placeholder(cls, placeholder: str, error: BaseException) -> Self:
        """Return the error for a placeholder whose value does not do what it asks."""
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
        """Return the error for a jinja template that cannot be read."""
        message = f"the jinja prompt template is wrong at line {line}: {said}"
        return compose(cls, message, parameter="template")

    @classmethod
    def jinja_failed(cls, error: BaseException) -> Self:
        """Return the error for a jinja template that failed while it was rendered."""
        return compose(cls, f"the jinja prompt template failed: {error}", parameter="template")

    @classmethod
    def jinja_forbidden(cls, error: BaseException) -> Self:
        """Return the error for a jinja template that tries to leave its sandbox."""
        message = f"the jinja prompt template does what its sandbox forbids: {error}"
        return compose(cls, message, parameter="template")
