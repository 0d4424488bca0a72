"""How accounts stand and stood: what is in flight, what waits and for what; and whether that means being throttled."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from flowllm.core.records import dataclass, field, replace
from flowllm.core.types import Json, WaitReason
from flowllm.reporting.base import AccountState
from flowllm.reporting.text import duration, one_line, plural, reason_word
from flowllm.storage.monitoring import Gauge

FRESH = 5.0
"""Seconds after which a gauge no longer says how things stand: one is noted every second while a run goes on."""
MOST_POINTS = 600
"""Points of a series."""
THINNED = 30
"""Seconds between the gauges that are left of what is older."""
CARRIED = 3
"""So many points long a gauge stands in for those that are missing, where processes do not note theirs at the same time."""
OF_A_LIMIT = (WaitReason.SERVER_PAUSE, WaitReason.BREAKER, WaitReason.RATE, WaitReason.TOKENS, WaitReason.SLOT)
"""What a limit is the cause of, ours or the server's; of equals the first is named."""
MINUTE = 60.0
FELT = 0.1
"""Seconds below which nobody was held up."""
_KEY = re.compile(r" [0-9a-f]{4,64}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To "Am I throttled?"."""

    throttled: bool
    text: str
    """A sentence or two."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"throttled": self.throttled, "text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSeries:
    """One account over time, of all processes together; a list each, with a value for each of `at`. None: not limited."""

    account: str
    name: str
    """As people call it: the host that is asked."""
    at: tuple[float, ...]
    """Wall clock seconds, whole."""
    in_flight: tuple[int, ...]
    waiting: tuple[int, ...]
    max_concurrent: tuple[int, ...]
    requests: tuple[int, ...]
    """In the minute before,"""
    requests_limit: tuple[float | None, ...]
    """and how many may be."""
    tokens: tuple[int, ...]
    tokens_limit: tuple[float | None, ...]
    refused: tuple[int, ...]
    """429s in the minute before."""
    pause_s: tuple[float, ...]
    """Seconds that are left of what the server asked for."""
    waits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """How many wait, by reason."""
    queue: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many wait at the last point, by reason and priority."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        series = {
            name: list(getattr(self, name))
            for name in self.__slots__
            if name not in {"account", "name", "waits", "queue"}
        }
        waits = {reason: list(counts) for reason, counts in self.waits.items()}
        queue: Json = {reason: dict(counts) for reason, counts in self.queue.items()}
        return {"account": self.account, "name": self.name, "series": {**series, "waits": waits}, "queue": queue}


def account_name(account: str) -> str:
    """The host of an account such as `openai https://api.openai.com/v1 1f2e`, or what is left of it without its key."""
    for word in account.split():
        if "://" in word and (host := urlsplit(word).netloc):
            return host
    return one_line(_KEY.sub("", account).partition(" simulated:")[0], 60)


def spacing(seconds: float) -> int:
    """Seconds between the points of a series over so many seconds."""
    return 1 if seconds <= MOST_POINTS else max(THINNED, math.ceil(seconds / MOST_POINTS))


def merged(gauges: Iterable[Gauge], every: int = 1) -> dict[str, list[Gauge]]:
    """By account, one gauge for each `every` seconds in which there are any: the sum over the processes, each as it stood last
    there or a little before.

    Limits are those of the account, which each process keeps for itself, so that the largest one holds."""
    newest: dict[str, dict[int, dict[str, Gauge]]] = {}
    for gauge in sorted(gauges, key=lambda one: one.at):
        newest.setdefault(gauge.account, {}).setdefault(math.floor(gauge.at / every), {})[gauge.process] = gauge
    found: dict[str, list[Gauge]] = {}
    for account, points in newest.items():
        standing: dict[str, Gauge] = {}
        for processes in points.values():
            at = math.floor(max(one.at for one in processes.values()))
            standing = {name: one for name, one in standing.items() if at - one.at <= CARRIED * every} | processes
            found.setdefault(account, []).append(_sum([*standing.values()], at=float(at)))
    return found


def _sum(gauges: Sequence[Gauge], *, at: float) -> Gauge:
    first = gauges[0]
    rates = [gauge.rate for gauge in gauges]
    limits = [gauge.tokens_per_minute for gauge in gauges]
    waits: dict[str, Counter[str]] = {}
    for gauge in gauges:
        for reason, counts in gauge.waits.items():
            waits.setdefault(reason, Counter()).update(counts)
    return Gauge(
        process=first.process,
        account=first.account,
        at=at,
        in_flight=sum(gauge.in_flight for gauge in gauges),
        waiting=sum(gauge.waiting for gauge in gauges),
        max_concurrent=sum(gauge.max_concurrent for gauge in gauges),
        rate=_largest(rates),
        requests_sent=sum(gauge.requests_sent for gauge in gauges),
        tokens_per_minute=_largest(limits),
        tokens_used=sum(gauge.tokens_used for gauge in gauges),
        refused=sum(gauge.refused for gauge in gauges),
        pause_s=max(gauge.pause_s for gauge in gauges),
        waits=waits,
    )


def _largest(limits: Sequence[float | None]) -> float | None:
    """Of all; one that has none makes it unlimited."""
    return None if None in limits else max((limit for limit in limits if limit is not None), default=None)


def series_of(gauges: Iterable[Gauge], every: int = 1) -> list[AccountSeries]:
    """How each account stood over time, a point each `every` seconds, by its name."""
    found = []
    for account, points in merged(gauges, every).items():
        reasons = dict.fromkeys(reason for point in points for reason in point.waits)
        found.append(
            AccountSeries(
                account=account,
                name=account_name(account),
                at=tuple(point.at for point in points),
                in_flight=tuple(point.in_flight for point in points),
                waiting=tuple(point.waiting for point in points),
                max_concurrent=tuple(point.max_concurrent for point in points),
                requests=tuple(point.requests_sent for point in points),
                requests_limit=tuple(None if point.rate is None else point.rate * MINUTE for point in points),
                tokens=tuple(point.tokens_used for point in points),
                tokens_limit=tuple(point.tokens_per_minute for point in points),
                refused=tuple(point.refused for point in points),
                pause_s=tuple(point.pause_s for point in points),
                waits={reason: tuple(point.reasons.get(reason, 0) for point in points) for reason in reasons},
                queue=points[-1].waits,
            )
        )
    return sorted(found, key=lambda one: (one.name, one.account))


def throttled(gauges: Iterable[Gauge], *, now: float) -> Answer:
    """Whether requests wait for a limit, ours or a server's, at `now` (wall clock seconds), and for which."""
    newest = {(one.account, one.process): one for one in gauges if now - one.at <= FRESH}
    fresh = [*newest.values()]
    if not fresh:
        return Answer(throttled=False, text="No: nothing asks a provider now.")
    worst = max(fresh, key=lambda one: (_held(one), one.pause_s))
    if _held(worst) or worst.pause_s > 0:
        others = len({one.account for one in fresh if _held(one)} - {worst.account})
        more = f" Requests to {plural(others, 'other account')} wait too." if others else ""
        return Answer(throttled=True, text=f"Yes: {_why(worst)}.{_refused(fresh)}{more}")
    in_flight, waits = sum(one.in_flight for one in fresh), Counter[str]()
    for one in fresh:
        waits.update(one.reasons)
    known = ", ".join(
        f"{count:,} for {_WORDS.get(reason, reason_word(reason))}" for reason, count in waits.most_common()
    )
    waiting = f"no limit holds anything back (waiting: {known})" if known else "nothing waits"
    return Answer(throttled=False, text=f"No: {waiting}; {plural(in_flight, 'request')} in flight.{_refused(fresh)}")


def was_throttled(models: Iterable[Mapping[str, Json]]) -> Answer:
    """The same of a run that is over, from its table by model (`models_of`): gauges are kept for minutes alone."""
    rows = sorted(models, key=lambda one: -one["throttled_s"])
    waited, refused = sum(one["throttled_s"] for one in rows), sum(one["rate_limited"] for one in rows)
    limited = f" {plural(refused, 'request')} got a 429." if refused else ""
    if waited < FELT:
        return Answer(
            throttled=bool(refused), text=f"{'Yes' if refused else 'No'}: no request waited for a limit.{limited}"
        )
    first = rows[0]
    share = f", {first['throttled_s'] / waited:.0%} of that for {one_line(first['model'])}" if len(rows) > 1 else ""
    each = duration(waited / max(1, sum(one["requests"] for one in rows)))
    return Answer(throttled=True, text=f"Yes: requests waited {each} each for limits{share}.{limited}")


def _held(gauge: Gauge) -> int:
    """How many wait for a limit."""
    return sum(gauge.reasons.get(reason, 0) for reason in OF_A_LIMIT)


def _why(gauge: Gauge) -> str:
    name = account_name(gauge.account)
    waits = gauge.reasons
    reason = max(OF_A_LIMIT, key=lambda one: (waits.get(one, 0), -OF_A_LIMIT.index(one)))
    if gauge.pause_s > 0 and not waits.get(reason):
        return f"{name} asked for a pause, of which {duration(gauge.pause_s)} are left"
    count = waits[reason]
    total = max(count, gauge.in_flight + gauge.waiting)
    return f"{count:,} of {total:,} wait {_cause(reason, gauge, name)}"


def _cause(reason: WaitReason, gauge: Gauge, name: str) -> str:
    match reason:
        case WaitReason.RATE:
            rate = "" if gauge.rate is None else f" of {gauge.rate * MINUTE:,.0f} requests/min"
            return f"for the rate{rate} on {name}"
        case WaitReason.TOKENS:
            limit = "" if gauge.tokens_per_minute is None else f" of {gauge.tokens_per_minute:,.0f} tokens/min"
            return f"for the rate{limit} on {name}"
        case WaitReason.SLOT:
            most = max(gauge.max_concurrent, gauge.in_flight)
            return f"for a slot: {most:,} requests in flight are as many as may be on {name}"
        case WaitReason.SERVER_PAUSE:
            left = f", of which {duration(gauge.pause_s)} are left" if gauge.pause_s > 0 else ""
            return f"as {name} asked for a pause{left}"
        case _:
            return f"as {name} failed too often in a row, until it is tried again"


def _refused(gauges: Iterable[Gauge]) -> str:
    count = sum(gauge.refused for gauge in gauges)
    return f" In the last minute {plural(count, 'request')} got a 429." if count else ""


_WORDS: Mapping[str, str] = {
    WaitReason.PREFIX: "a prompt that begins the same",
    WaitReason.EQUAL_CALL: "an equal call",
    WaitReason.BUDGET: "the budget",
    WaitReason.BATCH: "others of their batch",
}


def together(state: AccountState, gauges: Iterable[Gauge], *, account: str, but: str = "") -> AccountState:
    """How an account stands with what all processes of these gauges do, each by its newest; in flight and waiting without those of
    the process `but`."""
    newest = {gauge.process: gauge for gauge in gauges if gauge.account == account}
    others, waits = [gauge for gauge in newest.values() if gauge.process != but], Counter[str]()
    for gauge in others:
        waits.update(gauge.reasons)
    return replace(
        state,
        in_flight=sum(gauge.in_flight for gauge in others),
        waits=waits,
        requests_sent=sum(gauge.requests_sent for gauge in newest.values()),
        tokens_used=sum(gauge.tokens_used for gauge in newest.values()),
    )
