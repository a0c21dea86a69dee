"""Agent-lightning 0.3's names and modules, so that its programs run unchanged.

Three ways in: ``import lightning_trio.compat as agl``; `install`, after which ``import agentlightning`` finds this
package; and ``python -m lightning_trio.compat script.py``, which runs an unmodified program.
"""

from __future__ import annotations

import sys

from .._version import __version__ as __version__
from . import _pydantic_calls
from ._modules import TOP_NAMES, build, find
from ._modules import install as install
from ._tree import GONE

__all__ = [name for name, target in TOP_NAMES.items() if target not in GONE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    return find(sys.modules[__name__], TOP_NAMES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *TOP_NAMES})


build()
_pydantic_calls.add()
