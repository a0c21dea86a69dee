"""The benchmarks' command line and records; CI runs the benchmarks themselves with ``--quick``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks_on_path")


@pytest.fixture
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `benchmarks` importable, because it is not part of the installed package."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


def parse(*argv: str) -> Any:
    from benchmarks.__main__ import parse_arguments

    return parse_arguments(argv)


def test_every_subject_runs_when_none_is_named() -> None:
    from benchmarks.__main__ import SUBJECTS

    arguments = parse()

    assert arguments.only == list(SUBJECTS)
    assert not arguments.quick


def test_an_unknown_subject_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--only", "nop")

    message = capsys.readouterr().err
    assert "nop" in message
    assert "noop" in message


def test_a_plot_of_an_unknown_format_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--plot", "plot.xyz")

    assert "'plot.xyz' ends in neither .png nor .svg" in capsys.readouterr().err


def test_a_plot_without_matplotlib_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.plot import load_pyplot

    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(SystemExit, match="pip install matplotlib"):
        load_pyplot()


@pytest.mark.parametrize(("figure", "verdict"), [(0.9, "ok"), (1.0, "ok"), (1.1, "short")])
def test_a_target_on_the_ratio_is_held_against_the_floor(figure: float, verdict: str) -> None:
    from benchmarks._measurement import Measurement, Target

    row = Measurement("cost", figure * 40, "µs", 40.0, Target(1.0, "ratio"))

    assert row.verdict == verdict


def test_a_target_on_the_figure_needs_no_floor() -> None:
    from benchmarks._measurement import Measurement, Target

    row = Measurement("memory", 12.0, "KB", target=Target(10.0))

    assert row.verdict == "short"
    assert row.ratio is None


def test_a_percentile_is_a_time_that_was_taken() -> None:
    from benchmarks._timing import Times

    times = Times([float(number) for number in range(100, 0, -1)])

    assert [times.percentile(percent) for percent in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]


def test_an_extra_is_distinguished_from_the_core() -> None:
    from benchmarks.importing import core_distributions, foreign_modules

    core = core_distributions()

    assert {"lightning-trio", "trio", "opentelemetry-sdk"} <= core
    assert foreign_modules({"trio._core", "json", "pytest"}, core) == {"pytest"}


def test_falling_short_is_reported_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import __main__ as command
    from benchmarks._measurement import Measurement, Target

    slow = Measurement("slow thing", 2.0, "s", 1.0, Target(1.0, "ratio"))
    monkeypatch.setattr(command, "SUBJECTS", {"latency": lambda quick: [slow]})
    command.main(["--only", "latency", "--json", str(tmp_path / "report.json")])

    [row] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["measurements"]
    assert (row["verdict"], row["ratio"]) == ("short", 2.0)
    assert "short" in capsys.readouterr().out


def test_a_small_measurement_counts_what_it_ran() -> None:
    from benchmarks import latency

    p50, p99 = latency.measure(quick=True)

    assert 0 < p50.figure <= p99.figure
    assert p50.floor is not None
