"""What the pages of a run and of a step have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping

from flowllm.cli.output import heading, located, page_width, results
from flowllm.cli.record import Record
from flowllm.core.money import price
from flowllm.core.types import Counts, Json, NodeStatus, WaitReason
from flowllm.reporting.screen import Screen, plain
from flowllm.reporting.summary import error_lines
from flowllm.reporting.tables import table, wrapped
from flowllm.reporting.text import (
    at_least,
    clock_time,
    columns,
    dollars,
    duration,
    item_shares,
    one_line,
    readable,
    suspended_text,
    visible,
    waits_text,
)
from flowllm.reporting.tracebacks import traceback_lines
from flowllm.storage.base import NodeRecord
from flowllm.storage.monitoring import SUSPENDED
from flowllm.views.nodes import NODE_UNENDED

WAIT_SHOWN = 1.0
"""Seconds from which the table of steps names the waits of one."""
_NOTE = "NOTE"
_NAMES = 15
"""Columns in which the names of facts stand."""


def print_field(screen: Screen, name: str, value: str) -> None:
    """A fact under its name."""
    text = f"  {visible(name):<12} "
    first, *more = wrapped(text + visible(value), page_width(), indent=" " * _NAMES)
    screen.line((first[: len(text)], "dim"), first[len(text) :])
    for line in more:
        screen.line(line)


def print_times(
    screen: Screen, started_at: float | None, finished_at: float | None, took_s: float | None = None
) -> None:
    """When it began and ended, the zone named once, and how long that took, or has taken: all the time between unless given."""
    print_field(screen, "started", clock_time(started_at, zone=True))
    if started_at is not None and finished_at is not None:
        begun, ended = clock_time(started_at), clock_time(finished_at)
        shown = ended[11:] if ended[:10] == begun[:10] else ended
        print_field(
            screen,
            "finished",
            f"{shown}, after {duration(max(0.0, finished_at - started_at) if took_s is None else took_s)}",
        )
    elif started_at is not None:
        print_field(screen, *(("finished", "-") if took_s is None else ("so far", duration(took_s))))


def print_section(screen: Screen, name: str, value: Json) -> None:
    """A long value under its name."""
    screen.line()
    heading(screen, name)
    for line in wrapped(readable(value).rstrip("\n"), page_width()):
        screen.line(line)


def print_error(screen: Screen, error: Mapping[str, Json], step: str = "") -> None:
    """What happened, what to do, and where in a function of the user's it broke."""
    screen.line()
    first, *hints = error_lines(visible(step), {name: value for name, value in error.items() if name != "traceback"})
    width = page_width()
    head = str(first[0][0])
    whole = f"{head}{first[1] if isinstance(first[1], str) else ''}"
    begin, *more = wrapped(whole, width, indent="  ")
    screen.line((begin[: len(head)], "bold red"), begin[len(head) :])
    for line in [*more, *(part for hint in hints for part in wrapped(located(str(hint[0])), width, indent="  "))]:
        screen.line(line)
    if trace := error.get("traceback"):
        for parts in traceback_lines(str(trace)):
            fits = width is None or columns(plain(parts)) <= width
            for part in [parts] if fits else [(text,) for text in wrapped(plain(parts), width, indent=" " * 8)]:
                screen.line(*part)


def print_steps(record: Record) -> None:
    """The table of the steps of a run, or within a node."""
    rows = []
    for node in record.nodes:
        spend = record.spends.get(node.node_id)
        known = node.usage.at_least if spend is None else spend.known_input + spend.known_output
        tokens = at_least(node.usage.total, known, "{:,}".format) if node.usage.total != 0 else ""
        rows.append(
            {
                "STEP": node.node_id,
                "KIND": node.kind.value,
                "STATUS": node.status.value,
                "ATTEMPTS": f"{node.attempts:,}" if node.attempts else "",
                "CALL": duration(node.call_s) if node.call_s else "",
                "TOKENS": tokens,
                "COST": cost(record, node) if node.attempts or tokens else "",
                _NOTE: note(node),
            }
        )
    numbers, width, screen = ("ATTEMPTS", "CALL", "TOKENS", "COST"), page_width(), results()
    spare = (_NOTE, "ATTEMPTS", "KIND", "CALL", "TOKENS")
    head, *lines = table(rows, right=numbers, width=width, spare=spare)
    beside = _NOTE in plain(head)  # else notes stand below their steps
    screen.line(*head)
    for line, row in zip(lines, rows, strict=True):
        screen.line(*line)
        for part in wrapped(f"  {visible(row[_NOTE])}", width, indent="  ") if row[_NOTE] and not beside else ():
            screen.line((part, "dim"))


def cost(record: Record, node: NodeRecord) -> str:
    """What a node cost, as far as it is known."""
    spend = record.spends.get(node.node_id)
    return dollars(node.cost_usd) if spend is None else price(spend.as_dict())


def note(node: NodeRecord) -> str:
    """`foreach 50,000: 49,997 ok, 3 failed`, an error, since when it runs, or that it was cached; and a wait that can be felt."""
    found = [] if node.counts is None else [f"foreach {counted(node)}"]
    if running_s(node) is not None:
        found.append(f"for {duration(running_s(node))}")
    if suspended := node.parts.get(SUSPENDED):
        found.append(f"waits: {suspended_text(**suspended)}")
    elif node.error:
        found.append(one_line(str(node.error.get("message", "")), 60))
    elif node.cached:
        found.append("cached")
    waits = {reason: seconds for reason, seconds in node.waits.items() if reason != WaitReason.DEPENDENCY}
    if sum(waits.values()) >= WAIT_SHOWN:
        found.append(f"waited {waits_text(waits)}")
    return "; ".join(found)


def running_s(node: NodeRecord) -> float | None:
    """Seconds since it began; None: it does not run."""
    running = node.status is NodeStatus.RUNNING and node.started_at is not None
    return max(0.0, time.time() - (node.started_at or 0.0)) if running else None


def counted(node: NodeRecord) -> str:
    """`50,000: 49,997 ok, 3 failed`; of one that never ended `27: 11 ok, 16 cancelled`."""
    counts = node.counts or Counts()
    shares = [item_shares(counts.as_dict()).replace("succeeded", "ok")]
    open_items = counts.total - counts.succeeded - counts.failed - counts.skipped
    if node.status in NODE_UNENDED and open_items > 0:
        shares.append(f"{open_items:,} {'cancelled' if node.status is NodeStatus.CANCELLED else 'open'}")
    return f"{counts.total:,}: {', '.join(filter(None, shares))}".removesuffix(": ")
