"""Serialization: users' values, spans and records as JSON text and back."""

from ._records import decode_config as decode_config
from ._records import decode_error as decode_error
from ._records import decode_resources as decode_resources
from ._records import decode_run as decode_run
from ._records import encode_config as encode_config
from ._records import encode_error as encode_error
from ._records import encode_resources as encode_resources
from ._records import encode_run as encode_run
from ._spans import decode_parts as decode_parts
from ._spans import decode_spans as decode_spans
from ._spans import encode_parts as encode_parts
from ._spans import encode_spans as encode_spans
from ._tag_reader import UnknownObject as UnknownObject
from ._unreadable import Unreadable as Unreadable
from ._values import NO_LIMIT as NO_LIMIT
from ._values import UNREADABLE as UNREADABLE
from ._values import canonical as canonical
from ._values import decode as decode
from ._values import encode as encode
from ._values import encode_mapping as encode_mapping
from ._values import reason_of as reason_of
from ._values import unreadable as unreadable
