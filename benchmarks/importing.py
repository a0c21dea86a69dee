"""The cost of importing and installing lightning_trio.

Measured: seconds inside a new interpreter of ``import lightning_trio``, which loads nothing yet, and of the names that
a program with one agent and a runner uses, against ``import trio`` alone; modules that these names load from
distributions that are not core dependencies; and the number of distributions that the core dependencies install.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata

from ._measurement import Measurement, Target
from ._timing import Times

_PROJECT = "lightning-trio"
_CHILD = """
import json, sys, time
before = set(sys.modules)
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


TRIO = "import trio"
PACKAGE = "import lightning_trio"
RUNNER = "import lightning_trio; lightning_trio.Runner, lightning_trio.rollout"


def run_afresh(code: str, byte_code: str) -> tuple[float, set[str]]:
    """Return the seconds that a line of code takes in a new interpreter, and the names of all modules it loads.

    Byte code is kept in the folder `byte_code`, also where the environment keeps Python from writing any.
    """
    program = _CHILD.format(code=code)
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": byte_code}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=env)
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


def core_distributions() -> set[str]:
    """Return the distributions of a plain installation: the project and all its requirements on this platform."""
    # Optional: it comes with pytest and matplotlib, and the core does not need it.
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[tuple[str, str]] = set()
    todo: list[tuple[str, str]] = [(_PROJECT, "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                todo += [(needed, each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}


def foreign_modules(loaded: set[str], core: set[str]) -> set[str]:
    """Return the names of loaded top-level packages that belong to distributions outside `core`."""
    owners = metadata.packages_distributions()
    return {
        name
        for name in {module.partition(".")[0] for module in loaded}
        if name in owners and not core & {owner.lower().replace("_", "-") for owner in owners[name]}
    }


def measure(quick: bool) -> list[Measurement]:
    """Time imports in turn, each in an interpreter of its own."""
    rounds = 3 if quick else 7
    taken: dict[str, list[float]] = {TRIO: [], PACKAGE: [], RUNNER: []}
    with tempfile.TemporaryDirectory() as byte_code:
        # The first import writes the byte code.
        _, loaded = run_afresh(RUNNER, byte_code)
        for _ in range(rounds):
            for code, seconds in taken.items():
                seconds.append(run_afresh(code, byte_code)[0])
    floor = Times(taken[TRIO]).median
    note = f"median of {rounds} new interpreters; floor: {TRIO}"
    return [
        Measurement(PACKAGE, Times(taken[PACKAGE]).median, "s", floor, Target(1.6, "ratio"), note),
        Measurement(f"{PACKAGE}; Runner, rollout", Times(taken[RUNNER]).median, "s", floor, Target(0.35), note),
        *_measure_distributions(loaded),
    ]


def _measure_distributions(loaded: set[str]) -> list[Measurement]:
    try:
        core = core_distributions()
    except metadata.PackageNotFoundError:
        # Run from the sources without an installation, which has nothing to count.
        return []
    foreign = foreign_modules(loaded, core)
    lazy = sorted({"httpx", "jinja2", "msgspec", "rich", "opentelemetry.sdk"} - loaded)
    return [
        Measurement(
            "packages outside the core imported",
            len(foreign),
            "",
            target=Target(0),
            note=(", ".join(sorted(foreign)) or "none") + f"; of the core not yet: {', '.join(lazy) or 'nothing'}",
        ),
        Measurement(
            "distributions installed",
            len(core),
            "",
            target=Target(30),
            note="lightning-trio and what its core dependencies need, pip and extras left out",
        ),
    ]
