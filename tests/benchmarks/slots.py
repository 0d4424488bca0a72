"""How many requests at once, where nobody says it, and requests that hang."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import (
    Figure,
    RemoteServer,
    Scale,
    alternately,
    provider_of,
    ratio,
    seconds,
    serving,
    timed_run,
)
from tests.benchmarks.server import Behaviour

SLOTS = 64
ITEMS = SLOTS * 5
CALLS = 1_000
HANGS = 5
IN_FLIGHT = 25
_ITEMS = """
{limits}
steps:
  ask: {{foreach: "{{{{ range({items}) | list }}}}", prompt: "What is number {{{{ item }}}}? {salt}"{retry}}}
"""

Side = Callable[[int], tuple[float, dict[str, Any]]]


def _side(
    server: RemoteServer, database: Path, behaviour: Callable[[int], Behaviour], *, anew: bool = True, **text: Any
) -> Side:
    """A run, and what the server counted. `anew`: on a database that knows nothing of the server."""

    def side(number: int) -> tuple[float, dict[str, Any]]:
        server.begin_anew(behaviour(number))
        whole = provider_of(server) + _ITEMS.format(**{"limits": "", "retry": "", **text, "salt": number})
        path = database.with_stem(f"{database.stem}-{number}") if anew else database
        return timed_run(path, whole), server.counters()

    return side


def slots(scale: Scale) -> list[Figure]:
    """A server that works on 64 requests at once and lets all others queue."""
    behaviour = Behaviour(latency=1.0 / scale.of(1, 4), slots=SLOTS)
    with serving(behaviour) as server:

        def side(name: str, **how: Any) -> Side:
            return _side(server, scale.folder / f"{name}.db", lambda _: behaviour, items=ITEMS, **how)

        known = side("known", anew=False)
        known(-1)
        written, unwritten, again = alternately(
            scale.runs, side("written", limits=f"limits: {{max_concurrent: {SLOTS}}}"), side("unwritten"), known
        )
    figures = []
    for name, sides, bar in (("nothing written", unwritten, 1.2), ("nothing written, once known", again, None)):
        took, slow = [one[0] for one in sides], [one[1]["p99_s"] for one in sides]
        best, usual = [one[0] for one in written], [one[1]["p99_s"] for one in written]
        peak = statistics.median(one[1]["peak"] for one in sides)
        figures += [
            Figure(what=f"{name}: time, of 64 written", value=ratio(took, best), bar=bar, note=seconds(took, best)),
            Figure(
                what=f"{name}: latency p99, of 64 written",
                value=ratio(slow, usual),
                bar=bar and 1.3,
                note=f"{seconds(slow, usual)}, at most {peak:g} at once",
            ),
        ]
    return figures


def hangs(scale: Scale) -> list[Figure]:
    """One request in two hundred that takes five minutes; the others take 50 to 200 ms."""
    calls = scale.of(CALLS, CALLS // 2)

    def behaviour(number: int, hanging: int) -> Behaviour:
        drawn = random.Random(number).sample(range(1, calls + 1), hanging)
        return Behaviour(latency=0.05, latency_to=0.2, hangs=tuple(drawn))

    limits = f"limits: {{max_concurrent: {IN_FLIGHT}}}"
    with serving(behaviour(0, 0)) as server:

        def side(name: str, hanging: int) -> Side:
            return _side(
                server,
                scale.folder / f"{name}.db",
                lambda number: behaviour(number, hanging),
                items=calls,
                limits=limits,
                retry=", retry: {hedge: auto}",
            )

        side("first", 0)(0)
        without, with_some = alternately(scale.runs, side("without", 0), side("with", HANGS * calls // CALLS))
    took, usual = [one[0] for one in with_some], [one[0] for one in without]
    more = statistics.median(one[1]["requests"] for one in with_some) / calls * 100 - 100
    needless = statistics.median(one[1]["requests"] for one in without) / calls * 100 - 100
    return [
        Figure(what="time, of the same without hangs", value=ratio(took, usual), bar=1.2, note=seconds(took, usual)),
        Figure(what="more requests", value=more, unit="%", bar=2, note=f"{needless:.1f} % without hangs"),
    ]
