"""Figures as a table on a terminal, as JSON, and on a page."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Figure

_MEASURED = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)


def number(value: float, unit: str) -> str:
    """With three digits: `0.87 MiB`, `143 µs`."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 20 else 2
    return f"{value:,.{digits}f} {unit}"


def _cells(figure: Figure) -> tuple[str, str, str]:
    """The value, the bar, and whether it is met."""
    value = "-" if figure.value is None else number(figure.value, figure.unit)
    if figure.bar is None:
        return value, "", ""
    bar = f"{'≥' if figure.least else '≤'} {figure.bar:g} {figure.unit}"
    return value, bar, "met" if figure.met() else "MISSED"


def lines(name: str, figures: Iterable[Figure]) -> Iterator[str]:
    """One line for each figure, under the workload's name."""
    yield name
    for figure in figures:
        value, bar, met = _cells(figure)
        yield f"  {figure.what:<54} {value:>11}   {bar:<10} {met:<6} {figure.note}".rstrip()


def as_json(found: Mapping[str, list[Figure]], *, runs: int, quick: bool) -> dict[str, Any]:
    """With what one has to know of the machine."""
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
    }
    workloads = {
        name: [{**asdict(figure), "met": figure.met()} for figure in figures] for name, figures in found.items()
    }
    return {"machine": machine, "runs": runs, "quick": quick, "workloads": workloads}


def of_json(told: Mapping[str, Any]) -> dict[str, list[Figure]]:
    """What `as_json` gave."""
    return {
        name: [Figure(**{key: value for key, value in one.items() if key != "met"}) for one in figures]
        for name, figures in told["workloads"].items()
    }


def write(page: Path, titles: Mapping[str, str], told: Mapping[str, Any]) -> None:
    """Put the table between the marks of the page."""
    machine = told["machine"]
    where = f"{machine['cores']} cores, Python {machine['python']}, SQLite {machine['sqlite']}, {machine['system']}"
    rows = [f"Medians of so many rounds, on {where}.", "", "| workload | figure | bar | | |", "|---|---|---|---|---|"]
    for name, figures in of_json(told).items():
        rounds = max(figure.rounds for figure in figures)
        rows.append(f"| **{titles[name]}** | {rounds} round{'s' if rounds != 1 else ''} | | | |")
        for figure in figures:
            value, bar, met = _cells(figure)
            rows.append(f"| {figure.what} | {value} | {bar} | {met} | {figure.note} |")
    text = page.read_text(encoding="utf-8")
    renewed, places = _MEASURED.subn(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], text)
    if places != 1:
        raise SystemExit(f"{page} needs one place for the table: <!-- measured --> and <!-- end -->")
    page.write_text(renewed, encoding="utf-8")
