"""What the pages that stand alone have in common: statuses, tables, values, bars over time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from flowllm.core.types import STATUS_MARKS, Json, NodeStatus
from flowllm.reporting.text import duration, json_text, readable, reason_word
from flowllm.storage.timeline import Activity
from flowllm.ui.report.html import Child, Markup, el
from flowllm.views.timeline import Bar, Timeline

_LIKE = {"interrupted": NodeStatus.CANCELLED, "paused": NodeStatus.WAITING}
"""Statuses of runs, and those of steps that look the same."""
_WAITS = {
    "rate": "rate",
    "tokens": "tokens",
    "slot": "slot",
    "server_pause": "pause",
    "backoff": "backoff",
    "budget": "budget",
    "equal_call": "equal",
}
WIDTH = 1000
"""Units from the beginning of a run to its end."""
_FLAT = 90
"""Characters of JSON that stand on one line."""
_HEIGHT = 16
_THINNEST = 2.0
"""Units that anything takes at least, to be seen."""


def status(word: str, text: str | None = None) -> Markup:
    """A status: a mark and its word, in its colour."""
    sign, tone = _look(word)
    return el("span", el("span", sign, class_="mark", aria_hidden="true"), text or word, class_=f"chip {tone}")


def mark(word: str) -> Markup:
    """A status where there is no room for its word."""
    sign, tone = _look(word)
    return el("span", sign, class_=f"mark {tone}", role="img", aria_label=word)


def _look(word: str) -> tuple[str, str]:
    """Mark and class of a status."""
    like = _LIKE.get(word) or NodeStatus(word)
    return STATUS_MARKS[like][0], f"tone-{NodeStatus.SKIPPED if like is NodeStatus.PENDING else like}"


def facts(pairs: Sequence[tuple[str, Child]]) -> Markup:
    """Names and what they are, side by side; those without a value are left out."""
    return el("dl", [el("div", el("dt", name), el("dd", value)) for name, value in pairs if value], class_="facts")


def table(headers: Sequence[str], rows: Sequence[Sequence[Child]], *, right: Sequence[str] = ()) -> Markup:
    """A table that scrolls where there is no room; columns named in `right` are numbers."""
    sides = ["right" if header in right else None for header in headers]
    head = el("tr", [el("th", name, class_=side, scope="col") for name, side in zip(headers, sides, strict=True)])
    body = [el("tr", [el("td", cell, class_=side) for cell, side in zip(row, sides, strict=True)]) for row in rows]
    return el("div", el("table", el("thead", head), el("tbody", body)), class_="scroll", tabindex="0", role="group")


def value(name: str, shown: Mapping[str, Json] | None) -> Markup | None:
    """A value as `Shown.as_dict` gives it, under its name."""
    if shown is None:
        return None
    text = shown["text"]
    if text is None:
        flat = json_text(shown["value"], indent=None)
        text = flat if len(flat) <= _FLAT else readable(shown["value"])
    cut = el("p", f"cut: {shown['size']:,} characters in all", class_="muted") if shown["cut"] else None
    return el("figure", el("figcaption", name), el("pre", text or " ", tabindex="0"), cut)


def clock(seconds: float | None) -> Markup | None:
    """A wall clock time with its zone, for readers anywhere."""
    if seconds is None:
        return None
    at = time.gmtime(seconds)
    return el("time", time.strftime("%Y-%m-%d %H:%M:%S UTC", at), datetime=time.strftime("%Y-%m-%dT%H:%M:%SZ", at))


def over_time(timeline: Timeline, begin: float, end: float, links: Mapping[str, str]) -> Markup:
    """A bar for each step: waits by their reasons, attempts where they were; of a foreach how many items went on."""
    scale = WIDTH / max(end - begin, 1e-3)
    rows = [_row(bar, begin, end, scale, links) for bar in timeline.bars if bar.started_at is not None]
    kinds: dict[str, list[str]] = {"call": ["in calls"]} if any(bar.attempts for bar in timeline.bars) else {}
    if any(bar.activity for bar in timeline.bars):
        kinds["done"] = ["items that ended"]
    for reason in sorted({one.reason for bar in timeline.bars for one in bar.segments if one.reason}):
        kinds.setdefault(f"wait-{_WAITS.get(reason, 'other')}", []).append(reason_word(reason))
    key = [
        el("li", _svg(el("rect", width=12, height=12, class_=kind), 12, 12), ", ".join(words))
        for kind, words in kinds.items()
    ]
    axis = el("div", el("span", "0"), el("span", duration(end - begin)), class_="axis")
    return el("div", rows, axis, el("ul", key, class_="key"), class_="timeline")


def _row(bar: Bar, begin: float, end: float, scale: float, links: Mapping[str, str]) -> Markup:
    def rect(start: float, stop: float, kind: str, title: str) -> Markup:
        x = (start - begin) * scale
        width = max((stop - start) * scale, _THINNEST)
        return el("rect", el("title", title), x=f"{x:.2f}", width=f"{width:.2f}", height=_HEIGHT, class_=kind)

    started = bar.started_at or begin
    finished = bar.finished_at or end
    took = duration(finished - started)
    drawn: list[Child] = [rect(started, finished, f"span tone-{bar.status}", f"{bar.id}: {bar.status}, {took}")]
    drawn += [
        rect(
            one.started_at,
            one.finished_at,
            f"wait-{_WAITS.get(one.reason, 'other')}",
            _waited(one.reason, one.finished_at - one.started_at),
        )
        for one in bar.segments
    ]
    for one in bar.attempts:
        stop = one.finished_at or end
        kind = "call failed" if one.error_type else "call"
        what = f"attempt {one.number}: {one.error_type or one.status}, {duration(stop - one.started_at)}"
        drawn.append(rect(one.started_at, stop, kind, what))
    drawn += [_items(one, begin, scale) for one in bar.activity]
    name = el("a", bar.id, href=f"#{links[bar.id]}") if bar.id in links else bar.id
    critical = el("abbr", " ◆", title="on the critical path") if bar.critical else None
    chart = _svg(drawn, WIDTH, _HEIGHT)
    return el(
        "div", el("span", mark(bar.status), name, critical), chart, el("span", took, class_="number"), class_="bar"
    )


def _waited(reason: str, seconds: float) -> str:
    return f"waited {duration(seconds)}{f': {reason_word(reason)}' if reason else ''}"


def _items(activity: Activity, begin: float, scale: float) -> Markup:
    """How many items ended in each span of time, as an area."""
    ended = [sum(counts) for counts in zip(activity.succeeded, activity.failed, activity.others, strict=False)]
    most = max(ended, default=0) or 1
    left = (activity.begin - begin) * scale
    width = activity.width * scale
    drawn = []
    for number, (count, failed) in enumerate(zip(ended, activity.failed, strict=False)):
        if count:
            height = max(2.0, _HEIGHT * count / most)
            place = {"x": f"{left + number * width:.2f}", "width": f"{max(width, 0.5):.2f}"}
            drawn.append(el("rect", **place, y=f"{_HEIGHT - height:.2f}", height=f"{height:.2f}", class_="done"))
            if failed:
                share = height * failed / count
                drawn.append(
                    el("rect", **place, y=f"{_HEIGHT - share:.2f}", height=f"{share:.2f}", class_="done failed")
                )
    return el("g", drawn)


def _svg(content: Child, width: int, height: int) -> Markup:
    return el("svg", content, viewBox=f"0 0 {width} {height}", preserveAspectRatio="none", aria_hidden="true")
