"""How long a run would take: its expected requests, one after the other as the graph has it, under the limits. Pure.

Small graphs are simulated many times: what a run takes is what the slowest of each wave takes, and differs from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Final

from flowllm.core.records import dataclass, field
from flowllm.explain.load import Calls, Lanes, Load, Many, Parts
from flowllm.explain.simulation import simulated

MOST_SIMULATED: Final = 20_000
"""Requests in all; where a run has more, each that is simulated stands for several."""
_MOST_RUNS: Final = 100
_UNLIKELY: Final = 0.05
"""Of the simulated runs, those that are quicker than the range, and as many that are slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When the steps at the top would begin and end on average, in seconds from the beginning of the run."""

    seconds: float | None
    """None: of a request nobody knows how long it takes."""
    quickest: float = 0.0
    slowest: float = 0.0
    """Nine of ten runs are between both."""
    begins: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)

    def critical_path(self, graph: Parts) -> tuple[str, ...]:
        """Backwards from the step that ends last, each time the needed step that ended last; of several the later one."""
        places = {name: place for place, name in enumerate(self.ends)}

        def last(names: Iterable[str]) -> str | None:
            return max(names, key=lambda name: (self.ends.get(name, 0.0), places.get(name, -1)), default=None)

        path: list[str] = []
        at = last(self.ends)
        while at is not None:
            path.append(at)
            at = last(graph.needs.get(at, ()))
        return tuple(reversed(path))


def timetable(graph: Parts, lanes: Lanes) -> Timetable:
    """When everything would be over."""
    wanted, known = _sums(graph)
    if not known:
        return Timetable(seconds=None)
    runs = min(_MOST_RUNS, max(1, int(MOST_SIMULATED / max(1.0, wanted))))
    done = [simulated(graph, lanes, scale=max(1.0, wanted / MOST_SIMULATED), draw=Random(n)) for n in range(runs)]  # noqa: S311
    lasted = sorted(max(one.ends.values(), default=0.0) for one in done)
    beyond = int(runs * _UNLIKELY)
    return Timetable(
        seconds=fmean(lasted),
        quickest=lasted[beyond],
        slowest=lasted[-1 - beyond],
        begins=_averages([one.begins for one in done]),
        ends=_averages([one.ends for one in done]),
    )


def _averages(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(one[name] for one in runs) for name in runs[0]}


def _sums(load: Load) -> tuple[float, bool]:
    """How many requests there are, and whether it is known of all how long they take."""
    if isinstance(load, Calls):
        return load.count, load.count == 0 or bool(load.seconds)
    inner = [_sums(one) for one in (load.parts.values() if isinstance(load, Parts) else load.items)]
    number, known = sum(one for one, _ in inner), all(is_known for _, is_known in inner)
    return (number * load.count / len(load.items) if isinstance(load, Many) and load.items else number), known
