"""Language models: one that runs on this machine."""

from ._local import open_local_llm as open_local_llm
