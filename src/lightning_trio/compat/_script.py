"""Running a program as Python does, with ``agentlightning`` installed."""

from __future__ import annotations

import io
import os
import runpy
import sys
from types import CodeType, TracebackType
from typing import Any, NoReturn

from ._modules import install

_USAGE = """\
usage: python -m lightning_trio.compat script.py [argument …]
       python -m lightning_trio.compat -m module [argument …]

Run a program that was written for Agent-lightning 0.3, with lightning_trio in its place."""

_WRONG_USAGE = 2
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the program that the command line names, and exit with its status."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0)
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "-m") or arguments == ["-m"]:
        print(_USAGE, file=sys.stderr)
        sys.exit(_WRONG_USAGE)
    install()
    if arguments[0] == "-m":
        _run_module(arguments[1], arguments[1:])
    else:
        _run_script(arguments[0], arguments)
    sys.exit(0)


def _run_script(path: str, argv: list[str]) -> None:
    code = _compiled(path)
    sys.argv[:] = argv
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    # In the real `__main__`, where pickle and `multiprocessing` look for a program's functions.
    names = sys.modules["__main__"].__dict__
    names.clear()
    names.update(
        __name__="__main__", __file__=path, __builtins__=__builtins__, __spec__=None, __package__=None, __doc__=None
    )
    _call(lambda: exec(code, names))


def _compiled(path: str) -> CodeType:
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as exc:
        print(f"python -m lightning_trio.compat: cannot read {path!r}: {exc.strerror}", file=sys.stderr)
        sys.exit(_WRONG_USAGE)
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as exc:
        sys.excepthook(type(exc), exc.with_traceback(None), None)
        sys.exit(1)


def _run_module(name: str, argv: list[str]) -> None:
    sys.argv[:] = argv
    _call(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _call(program: Any) -> None:
    """Run the program; show its errors as Python does, without the frames of this module."""
    try:
        program()
    except SystemExit:
        raise
    except BaseException as exc:
        exc.__traceback__ = _own_frames_left_out(exc.__traceback__)
        sys.excepthook(type(exc), exc, exc.__traceback__)
        sys.exit(_INTERRUPTED if isinstance(exc, KeyboardInterrupt) else 1)


def _own_frames_left_out(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        trace = trace.tb_next
    return trace
