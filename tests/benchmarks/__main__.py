"""Every bar of docs/performance.md: python -m tests.benchmarks [--runs 5] [--quick] [--json FILE] [NAME…]

What is compared is measured alternately, and the medians of the runs count. Each workload is measured in a process of
its own. A full run takes half an hour and 5 GB of disk; `--quick` measures a little of everything and ends with exit
code 1 only where a ratio is over twice its bar. `--from` takes figures that were written by `--json`, without measuring.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks import answers, calls, disk, graphs, items, page, prefixes, processes, seen, slots
from tests.benchmarks.harness import Figure, Scale, played
from tests.benchmarks.table import as_json, lines, of_json, write

WORKLOADS: dict[str, tuple[str, Callable[[Scale], list[Figure]]]] = {
    "start": ("Commands as whole processes", processes.start),
    "blog": ("The blog graph, 500 ms a call", processes.blog),
    "slow-calls": ("1,000 calls of 200 ms, 100 in flight", calls.slow_calls),
    "quick-calls": ("10,000 calls of 0 ms, 100 in flight", calls.quick_calls),
    "matrix": ("30 documents of 4,000 tokens × 10 questions, 20 in flight", prefixes.matrix),
    "system": ("200 items with one system prompt of 4,000 tokens", prefixes.system),
    "slots": ("A server with 64 slots of 1 s and no 429s, 320 items", slots.slots),
    "hangs": ("1,000 calls, 0.5 % of which hang for 300 s", slots.hangs),
    "graphs": ("`value` steps, loading included", graphs.graphs),
    "items": ("Long fan-outs", items.items),
    "answers": ("Calls of 0 ms, 20 in flight, by the size of the answer", answers.answers),
    "page": ("The page, in Chromium", page.page),
    "seen": ("A run of 10,000 calls of 0 ms that somebody looks at", seen.seen),
    "disk": ("50,000 rows of 1 kB through 2 steps, answers of 1 kB", disk.disk),
}


def measured(name: str, scale: Scale) -> list[Figure]:
    """The figures of one workload, in a process and a folder of its own."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=scale.folder) as folder, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        found = pool.submit(played, WORKLOADS[name][1], replace(scale, folder=Path(folder))).result()
    return [replace(figure, rounds=figure.rounds or scale.runs) for figure in found]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, and what --from has beside it. Everything so far is written after each workload."""
    told = json.loads(options.given.read_text()) if options.given else {"workloads": {}}
    found, runs = of_json(told), options.runs or (1 if options.quick else 5)
    scale = Scale(runs=runs, quick=options.quick, folder=options.folder)
    for name in options.names or ([] if options.given else WORKLOADS):
        began = time.monotonic()
        found[name] = measured(name, scale)
        title = f"{WORKLOADS[name][0]} [{name}, {time.monotonic() - began:.0f} s]"
        print(*lines(title, found[name]), sep="\n", flush=True)
        told = as_json({name: found[name] for name in WORKLOADS if name in found}, runs=runs, quick=options.quick)
        if options.json is not None:
            options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(WORKLOADS)}")
    parser.add_argument("--runs", type=int, help="rounds, whose median counts (5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--from", type=Path, dest="given", metavar="FILE", help="take those that are not named from there"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table on docs/performance.md")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    options = parser.parse_args()
    if unknown := set(options.names) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    told = measure(options)
    if options.write is not None:
        write(options.write, {name: title for name, (title, _) in WORKLOADS.items()}, told)
    figures = [figure for found in of_json(told).values() for figure in found]
    if told["quick"]:
        return 0 if all(figure.met(2.0) for figure in figures if figure.is_ratio) else 1
    return 0 if all(figure.met() for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
