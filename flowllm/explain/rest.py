"""The items of a data set that nobody looked into: only their sizes are known, and what others like them take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, linear_regression
from typing import Final

from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Json, StepKind
from flowllm.explain.estimate import EARLIER, Estimate
from flowllm.explain.span import NONE, Span, Takes, all_of

_ABSENT: Final = Estimate(kind=StepKind.PROMPT, state="skipped")
"""Of a step that an item does not come to."""


@dataclass(slots=True, kw_only=True)
class Sizes:
    """Of items, in bytes of their JSON."""

    looked_at: list[int] = field(default_factory=list)
    """Of those that are looked into, each."""
    count: int = 0
    """How many others there are,"""
    total: int = 0
    """their bytes,"""
    stretched: float = 0.0
    """how often the largest of those would hold each of them, once at least, all added up,"""
    distinct: set[int] = field(default_factory=set)
    """and the hashes of their values."""
    seen: set[int] = field(default_factory=set)
    """Those of the values that are looked into."""
    likely_most: Estimate | None = None
    """What the largest of those takes if it is not stored, where some are."""

    @property
    def largest_at(self) -> int:
        """The place of the largest that is looked into."""
        return max(range(len(self.looked_at)), key=self.looked_at.__getitem__)

    def look(self, values: Iterable[Json]) -> None:
        """These are looked into."""
        texts = [canonical(value) for value in values]
        self.looked_at += map(len, texts)
        self.seen.update(map(hash, texts))

    def add(self, values: Iterable[Json]) -> None:
        """These are not."""
        largest = max(self.looked_at, default=1)
        for value in values:
            text = canonical(value)
            self.count += 1
            self.total += len(text)
            self.stretched += max(1.0, len(text) / largest)
            self.distinct.add(hash(text))

    def leave(self, values: Sequence[Json]) -> None:
        """The last ones that were to be looked into are not."""
        largest = max(self.looked_at, default=1)
        del self.looked_at[len(self.looked_at) - len(values) :]
        self.stretched *= largest / max(self.looked_at, default=1)
        self.add(values)

    def like(self, count: int) -> None:
        """So many more, which were not even read, are like the others that were not looked into."""
        if self.count:
            share = 1 + count / self.count
            self.total, self.stretched = int(self.total * share), self.stretched * share
        self.count += count


def with_rest(total: Estimate, looked: Sequence[Estimate], sizes: Sizes) -> Estimate:
    """The sums of some items, with those of the others."""
    if not sizes.count or not looked:
        return total
    asked_before = total.cached or any(what.startswith(EARLIER) for what in total.evidence)
    # texts may be embedded for other steps too
    least = 0 if asked_before or total.kind is StepKind.EMBED else len(sizes.distinct - sizes.seen)
    most = looked if sizes.likely_most is None else [*looked, sizes.likely_most]
    return _extended(total, looked, most, sizes, least)


def _extended(
    total: Estimate, looked: Sequence[Estimate], most: Sequence[Estimate], sizes: Sizes, least: int
) -> Estimate:
    """`most` are those by which the most is told, at least so many of the others are sent."""
    rest = _rest([one.takes for one in looked], [one.takes for one in most], sizes, least)
    within = {
        name: _extended(one, _steps(name, looked), _steps(name, most), sizes, least)
        for name, one in total.within.items()
    }
    scaled = total.times(Span.of(1 + sizes.count / len(looked)))
    return replace(scaled, takes=all_of([total.takes, rest]), within=within)


def _steps(name: str, items: Sequence[Estimate]) -> list[Estimate]:
    return [item.within.get(name, _ABSENT) for item in items]


def _rest(looked: Sequence[Takes], most: Sequence[Takes], sizes: Sizes, least: int) -> Takes:
    def span(get: Callable[[Takes], Span | None]) -> Span | None:
        found, highest = [get(one) for one in looked], [get(one) or NONE for one in most]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        expected = [one.expected for one in known if one.expected is not None]
        return Span(
            low=min(one.low for one in known) * least,
            expected=_projected(sizes, expected) if len(expected) == len(found) else None,
            high_once=_most({one.high_once for one in highest}, sizes),
            high=_most({one.high for one in highest}, sizes),
        )

    return Takes.made(span)


def at_least(takes: Takes, some: Sequence[Takes], count: int) -> Takes:
    """As much as so many of some take, whichever these are."""

    def span(get: Callable[[Takes], Span | None]) -> Span | None:
        whole, least = get(takes), min((get(one) or NONE).low for one in some)
        return None if whole is None else replace(whole, low=count * least)

    return Takes.made(span)


def _projected(sizes: Sizes, figures: Sequence[float]) -> float:
    """Along the line that fits best those which were looked into and take something (least squares)."""
    known = [(size, figure) for size, figure in zip(sizes.looked_at, figures, strict=True) if figure]
    if not known:
        return 0.0
    share = len(known) / len(figures)
    if len({size for size, _ in known}) == 1 or len({figure for _, figure in known}) == 1:
        return fmean(figures) * sizes.count
    slope, start = linear_regression(*zip(*known, strict=True))
    return max(0.0, start * sizes.count + slope * sizes.total) * share


def _most(figures: set[float | None], sizes: Sizes) -> float | None:
    """What does not differ between items does not depend on their sizes."""
    times = sizes.count if len(figures - {0.0}) == 1 else sizes.stretched
    return None if None in figures else max(one or 0.0 for one in figures) * times
