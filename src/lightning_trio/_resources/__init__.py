"""Resources: the tunable assets of agents, such as models and prompts."""

from ._api_keys import key_for_token as key_for_token
from ._api_keys import knows_keys as knows_keys
from ._api_keys import token_for_key as token_for_key
from ._api_keys import without_keys as without_keys
from ._llm import LLM as LLM
from ._llm import LostKey as LostKey
from ._llm import ProxyLLM as ProxyLLM
from ._llm import register_keys as register_keys
from ._prompt_template import PromptTemplate as PromptTemplate
from ._redaction import mapping_without_keys as mapping_without_keys
from ._redaction import span_without_keys as span_without_keys
from ._redaction import spans_without_keys as spans_without_keys
from ._redaction import value_without_keys as value_without_keys
from ._resource import NamedResources as NamedResources
from ._resource import Resource as Resource
from ._resource import UnknownResource as UnknownResource
from ._resource import check_resources as check_resources
from ._resource import resource_class as resource_class
