"""The modules of Agent-lightning 0.3's tree, made from the tables of `_tree`, and the finder for its old name."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from .._errors import UsageError
from .._names import is_importing
from ._tree import GONE, IMPLEMENTED, MISSING_MODULES, OLD_PACKAGE, PACKAGE, PATCH_POINTS, STUBS, TOP, TREE

_SIMILARITY = 0.8
"""How alike a misspelt name and a suggested one are at least."""

_FOR_OTHER_PROCESSES = Path(__file__).parent / "_other_processes"
"""A folder with a module called ``agentlightning``, which installs this package in a process that finds it there."""


def implementation(name: str) -> object:
    """Return what implements a name of Agent-lightning 0.3, or the stub of one that does not exist here."""
    if name in STUBS:
        return _stub(name)
    if name not in _HOMES:
        # A module, see `PATCH_POINTS`.
        return importlib.import_module(name)
    return getattr(importlib.import_module(_HOMES[name]), name)


_HOMES: Mapping[str, str] = {name: module for module, names in IMPLEMENTED.items() for name in names.split()}


class _Stub:
    """The base of classes that programs import and that do not exist here."""

    def __class_getitem__(cls, item: object) -> type[_Stub]:
        return cls

    def __init__(self, *args: object, **options: object) -> None:
        kind = next(each for each in type(self).__mro__ if each.__name__ in STUBS)
        raise UsageError.not_in_compat(kind.__name__, STUBS[kind.__name__])


_stubs: dict[str, type[_Stub]] = {}


def _stub(name: str) -> type[_Stub]:
    if name not in _stubs:
        _stubs[name] = type(name, (_Stub,), {"__module__": PACKAGE, "__doc__": f"Not here: {STUBS[name]}."})
    return _stubs[name]


def names_of(entry: str) -> dict[str, str]:
    """Return the names that an entry of `TREE` stands for, each with the name of what implements it."""
    found: dict[str, str] = {}
    for each in entry.split():
        if each.startswith("@"):
            found.update(names_of(TREE[each[1:]]))
        else:
            name, _, renamed = each.partition("=")
            found[name] = renamed or name
    return found


def find(module: ModuleType, names: Mapping[str, str], name: str) -> object:
    """Return the object of a name of a module, and make it the module's attribute.

    Raises:
        AttributeError: the module has no such name; the message says what to write.
        ImportError: the same, in ``from module import name``.
    """
    target = names.get(name)
    if target is not None and target not in GONE:
        found = implementation(target)
        setattr(module, name, found)
        return found
    # The frame of the module's `__getattr__` is in between.
    advice = _advice(module, names, name)
    if is_importing(sys._getframe(2)):  # pyright: ignore[reportPrivateUsage]
        raise ImportError(f"cannot import name {name!r} from {module.__name__!r}{advice}", name=name)
    raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}{advice}", name=name)


def _advice(module: ModuleType, names: Mapping[str, str], name: str) -> str:
    if name in GONE:
        return f"; {GONE[name]}"
    path = f"{module.__name__}.{name}".removeprefix(f"{PACKAGE}.")
    if path in MISSING_MODULES:
        return f"; {MISSING_MODULES[path]}"
    if name.startswith("_"):
        return ""
    elsewhere = [module for module, entry in TREE.items() if name in names_of(entry)]
    if elsewhere:
        return f"; it is in {elsewhere[0]}"
    close = difflib.get_close_matches(name, names, n=1, cutoff=_SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


class TreeModule(ModuleType):
    """A module of the tree; its names are looked up on first use."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{PACKAGE}.{path}", f"The module {OLD_PACKAGE}.{path} of Agent-lightning 0.3.")
        exported = names_of(TREE[path])
        self._names = {**exported, **names_of(PATCH_POINTS.get(path, ""))}
        self.__all__ = [name for name, target in exported.items() if target not in GONE]
        # A path, so that importing a module below one that does not have it says so.
        self.__path__ = []
        self.__spec__ = ModuleSpec(self.__name__, None, is_package=True)

    def __getattr__(self, name: str) -> object:
        return find(self, self._names, name)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self._names})


TOP_NAMES: Mapping[str, str] = names_of(TOP)
"""The names of the package itself."""


def build() -> None:
    """Make the modules below this package, once, and enter them into `sys.modules`."""
    for path in sorted(TREE):
        name = f"{PACKAGE}.{path}"
        module = sys.modules[name] = TreeModule(path)
        parent = sys.modules[name.rpartition(".")[0]]
        names = TOP_NAMES if parent.__name__ == PACKAGE else names_of(TREE[parent.__name__.removeprefix(f"{PACKAGE}.")])
        own = path.rpartition(".")[2]
        if own not in names:
            # As in 0.3, where a name that a package exports hides its module of the same name.
            setattr(parent, own, module)

    # After those that find this package's own modules.
    sys.meta_path.append(_MissingModules(PACKAGE))


def module(path: str) -> ModuleType:
    """Return a module of the tree, such as ``emitter.message``."""
    return sys.modules[f"{PACKAGE}.{path}"]


def install() -> None:
    """Make ``import agentlightning`` find this package, and every module below it the one here; once or several times.

    Processes that this one starts with `multiprocessing` find it, too.

    Raises:
        UsageError: Agent-lightning itself has been imported already.
    """
    before = sys.modules.get(OLD_PACKAGE)
    if before is sys.modules[PACKAGE]:
        return
    if before is not None:
        raise UsageError.imported_already(OLD_PACKAGE, getattr(before, "__file__", None))
    for name, each in _tree():
        sys.modules[name] = each
    # Before a package of that name that is installed.
    sys.meta_path.insert(0, _MissingModules(OLD_PACKAGE))
    # `multiprocessing` passes `sys.path` on. After the script's own folder, which Python expects at the front.
    sys.path.insert(1, str(_FOR_OTHER_PROCESSES))


def _tree() -> Iterator[tuple[str, ModuleType]]:
    yield OLD_PACKAGE, sys.modules[PACKAGE]
    for path in TREE:
        yield f"{OLD_PACKAGE}.{path}", module(path)


class _MissingModules:
    """A finder that says what to write in place of a module that does not exist.

    Args:
        package: the package that the modules are asked of.
    """

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, missing = fullname.partition(f"{self._package}.")
        if package or not missing:
            return None
        instead = [advice for name, advice in MISSING_MODULES.items() if f"{missing}.".startswith(f"{name}.")]
        raise ModuleNotFoundError(
            f"No module named {fullname!r}{''.join(f'; {advice}' for advice in instead)}", name=fullname
        )
