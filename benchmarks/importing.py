"""What importing and installing lightning_trio brings along.

Measured: seconds of ``import lightning_trio`` inside a new interpreter, against ``import trio`` alone; modules this
loads from distributions that are no core dependency; and how many distributions the core dependencies install.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

from ._measurement import Measurement, Target
from ._timing import Times

_PROJECT = "lightning-trio"
_CHILD = """
import json, sys, time
before = set(sys.modules)
started = time.perf_counter()
import {module}
seconds = time.perf_counter() - started
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def import_afresh(module: str) -> tuple[float, set[str]]:
    """Give the seconds that importing `module` takes, and the names of all modules it loads."""
    code = _CHILD.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


def core_distributions() -> set[str]:
    """Give what a plain installation consists of: the project and all that its requirements need here."""
    # Optional: it comes with pytest and with matplotlib, and the core does not need it.
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
    """Name the loaded top-level packages that belong to distributions outside `core`."""
    owners = metadata.packages_distributions()
    return {
        name
        for name in {module.partition(".")[0] for module in loaded}
        if name in owners and not core & {owner.lower().replace("_", "-") for owner in owners[name]}
    }


def measure(quick: bool) -> list[Measurement]:
    """Time imports in turn, each in an interpreter of its own."""
    rounds = 3 if quick else 7
    # The first import writes the byte code.
    _, loaded = import_afresh("lightning_trio")
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        ours.append(import_afresh("lightning_trio")[0])
        floor.append(import_afresh("trio")[0])
    seconds = Measurement(
        "import lightning_trio",
        Times(ours).median,
        "s",
        Times(floor).median,
        Target(0.35),
        f"median of {rounds} new interpreters; floor: import trio",
    )
    return [seconds, *_measure_distributions(loaded)]


def _measure_distributions(loaded: set[str]) -> list[Measurement]:
    try:
        core = core_distributions()
    except metadata.PackageNotFoundError:
        # Run from the sources without an installation: there is nothing to count.
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
