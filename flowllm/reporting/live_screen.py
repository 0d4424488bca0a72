"""Draws a run at one moment: its steps, what it waits for, how fast it goes, on lines that fit a terminal.

The only file that needs rich, which knows how many columns a character takes; imported once something is drawn on a terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

from flowllm.core.money import dollars
from flowllm.core.types import NODE_TERMINAL, ROW, STATUS_MARKS, NodeStatus, RunStatus
from flowllm.reporting.foreach_progress import percent, waiting_text
from flowllm.reporting.live_snapshot import REUSED, LiveSnapshot, StepSnapshot, Throughput
from flowllm.reporting.screen import Part, status_part
from flowllm.reporting.text import duration, one_line, plural, rate, time_left

Line = tuple[Part, ...]
NARROWEST: Final = 20
"""Columns below which nothing fits; the terminal cuts it."""
_WIDEST: Final = 120
"""Columns that the first line takes at most: its end would be too far to see."""
_GAP: Final = 2
_BAR: Final = (8, 40)
"""Columns of a bar, at least and at most."""
_NAME: Final = (8, 32)
_ERRORS = "red"
_STYLES: Final = {
    NodeStatus.RUNNING: "blue",
    NodeStatus.WAITING: "yellow",
    NodeStatus.SUCCEEDED: "green",
    NodeStatus.FAILED: "bold red",
    NodeStatus.BLOCKED: "red",
    NodeStatus.SKIPPED: "yellow",
    NodeStatus.CANCELLED: "yellow",
    NodeStatus.PENDING: "dim",
}
_AGAIN, _FULL, _EMPTY, _CUT = "↻━─…"
_TO_ASCII: Final = str.maketrans({**dict(STATUS_MARKS.values()), _AGAIN: "~", _FULL: "#", _EMPTY: ".", _CUT: "~"})
_WORK: Final = (NodeStatus.RUNNING, NodeStatus.WAITING)


def live_lines(run: LiveSnapshot, width: int, height: int, *, unicode: bool = True) -> list[Line]:
    """At most `height` lines of at most `width` columns, for a terminal that shows ASCII alone where it is not `unicode`. A run
    that has ended has its steps alone: figures and errors are in the summary."""
    width = max(NARROWEST, width)
    live = run.status is RunStatus.RUNNING
    foot = [fitted(line, width) for line in _foot(run, width)] if live else []
    foot = foot[: max(0, (height - 1) // 2)]
    steps = _steps(run.steps, width, max(1, height - 1 - len(foot)), live=live)
    found = [_head(run, min(width, _WIDEST)), *steps, *foot][: max(1, height)]
    return found if unicode else [tuple(map(_ascii, line)) for line in found]


def _head(run: LiveSnapshot, width: int) -> Line:
    name = one_line(run.workflow)
    right = _right(run)
    while len(right) > 1 and width - _width(right) - _GAP < min(cell_len(name), width // 2):
        right = right[1:]
    room = max(0, width - _width(right) - _GAP)
    left: list[Part] = [(name, "bold"), f"  {run.run_id}", f"  {one_line(run.provider)}"]
    while len(left) > 1 and _width(left) > room:
        left.pop()
    left = [*fitted(left[:1], room), *((str(part), "dim") for part in left[1:])]
    return fitted((*left, " " * max(_GAP, width - _width(left) - _width(right)), *right), width)


def _right(run: LiveSnapshot) -> list[Part]:
    """What may be left out first stands first."""
    if run.status is not RunStatus.RUNNING:
        return [
            f"{run.done:,} of {plural(run.count, 'step')}  ",
            status_part(run.status),
            f" in {duration(run.elapsed_s)}",
        ]
    found: list[Part] = [] if run.count == 1 else [f"{run.done:,} of {plural(run.count, 'step')}  "]
    found += [("stopping  ", "yellow")] if run.stopping else []
    found.append((f"{time_left(run.elapsed_s)}", "bold"))
    if run.left_s is not None:
        found.append((f", ETA {'> ' if run.more_follows else ''}{time_left(run.left_s)}", ""))
    return found


def _steps(steps: Sequence[StepSnapshot], width: int, room: int, *, live: bool) -> list[Line]:
    chosen, others = choose(steps, room, live=live)
    table = _Table(chosen, width)
    return [table.line(step) for step in chosen] + [_others(status, number, width) for status, number in others]


def _others(status: NodeStatus, number: int, width: int) -> Line:
    return fitted(
        ((f"{STATUS_MARKS[status][0]} ", _STYLES[status]), (f"and {number:,} more {status.value}", "dim")), width
    )


def _foot(run: LiveSnapshot, width: int) -> Iterator[Line]:
    yield ()
    flow: list[Part] = [f"{run.in_flight:,} in flight"]
    if run.pause_s > 0:
        flow += ["  ", (f"the server wants a pause of {time_left(run.pause_s)}", "yellow")]
    if run.waits:
        flow += ["  ", (waiting_text(run.waits), "yellow")]
    flows = ((run.requests, "requests/min"), (run.tokens, "tokens/min"))
    speed = [_throughput(one, unit) for one, unit in flows if one.per_minute]
    rates: list[list[Part]] = [["  ".join(speed)]] if len("  ".join(speed)) <= width else [[one] for one in speed]
    spent = "  ".join(one for one in (_money(run), _tokens(run)) if one)
    every: tuple[list[Part], ...] = (flow, *rates, [spent])
    lines = [line for line in every if _width(line)]
    if sum(_width(line) + 3 for line in lines) <= width:  # all on one
        lines = [[part for line in lines for part in ("   ", *line)][1:]]
    yield from map(tuple, lines)
    if run.quiet:
        yield ((run.quiet, "dim"),)
    if run.last_error is not None:
        again = run.last_error.retried
        mark, style = (_AGAIN, "yellow") if again else (STATUS_MARKS[NodeStatus.FAILED][0], _ERRORS)
        yield ((f"{mark} ", style), (one_line(run.last_error.text), style))


class _Table:
    """The lines of steps, in columns as wide as what stands in them."""

    def __init__(self, steps: Sequence[StepSnapshot], width: int) -> None:
        self._width = width
        many = [step for step in steps if step.many and step.status is not NodeStatus.PENDING]
        longest = max((_GAP * step.depth + cell_len(_name(step)) for step in steps), default=0)
        self._name = min(max(longest, _NAME[0]), _NAME[1], max(_NAME[0], width // 3))
        room = width - 2 - self._name
        self._columns: dict[str, int] = {}
        texts = [_numbers(step) for step in many]
        for column in ("count", "share", "left", "rate"):
            wide = max((len(text[column]) for text in texts), default=0)
            if wide and wide + _GAP <= room:
                self._columns[column] = wide
                room -= wide + _GAP
        spare = min(_BAR[1], room - _GAP - (24 if width > 90 else 0), width // 5)  # noqa: PLR2004 - room for what goes wrong
        self._bar = spare if spare >= _BAR[0] and "share" in self._columns else 0

    def line(self, step: StepSnapshot) -> Line:
        style = _STYLES[step.status]
        mark = STATUS_MARKS[step.status][0]
        indent = " " * (_GAP * step.depth)
        name = set_cell_size(_cut(f"{indent}{_name(step)}", self._name), self._name)
        quiet = step.status is NodeStatus.PENDING
        parts: list[Part] = [(f"{mark} ", style), (name, "dim" if quiet else "")]
        if step.many and not quiet:
            parts += self._counted(step)
        else:
            parts += _said(step)
        return fitted(parts, self._width)

    def _counted(self, step: StepSnapshot) -> Iterator[Part]:
        numbers = _numbers(step)
        if self._bar:
            yield "  "
            yield from self._drawn(step)
        for column in ("count", "share", "rate", "left"):
            if column in self._columns:
                yield f"  {numbers[column]:>{self._columns[column]}}"
        room = self._width - 2 - self._name - self._bar - _GAP * bool(self._bar)
        room -= sum(wide + _GAP for wide in self._columns.values())
        for text, style in _extras(step):
            if len(text) + _GAP <= room:
                room -= len(text) + _GAP
                yield "  "
                yield text, style

    def _drawn(self, step: StepSnapshot) -> Iterator[Part]:
        if step.total is None:
            yield " " * self._bar
            return
        good = self._bar * (step.ended - step.failed) // step.total if step.total else self._bar
        bad = -(-self._bar * step.failed // step.total) if step.total else 0
        good = min(good, self._bar - bad)
        yield _FULL * good, "green" if step.status in NODE_TERMINAL else "blue"
        yield _FULL * bad, "red"
        yield _EMPTY * (self._bar - good - bad), "dim"


def choose(
    steps: Sequence[StepSnapshot], room: int, *, live: bool = True
) -> tuple[list[StepSnapshot], list[tuple[NodeStatus, int]]]:
    """The steps that have lines of their own, in their order, and how many others there are of each status.

    Steps within one show while that is at work. Where there are too many: those at work, those that failed and the next
    ones come first.
    """
    around = {step.name: step for step in steps}
    shown = [step for step in steps if not step.depth or _opened(step, around, live=live)]
    if len(shown) <= room:
        return shown, []
    shown = [step for step in shown if not step.depth or step.status in _WORK or step.in_flight]
    if len(shown) <= room:
        return shown, []
    ranked = sorted(enumerate(shown), key=lambda one: (_rank(one[1]), one[0]))
    kinds = len({step.status for step in shown})
    kept = {at for at, _ in ranked[: max(1, room - kinds)]}
    rest = Counter(step.status for at, step in enumerate(shown) if at not in kept)
    return [step for at, step in enumerate(shown) if at in kept], [
        (one, rest[one]) for one in STATUS_MARKS if rest[one]
    ][: room - len(kept)]


def _opened(step: StepSnapshot, around: Mapping[str, StepSnapshot], *, live: bool) -> bool:
    outer = around.get(step.name.rpartition(".")[0])
    inner = outer is None or not outer.depth or _opened(outer, around, live=live)
    return inner and outer is not None and ((live and outer.status in _WORK) or outer.name == ROW)


def _rank(step: StepSnapshot) -> int:
    if step.status in _WORK:
        return 0
    if step.status is NodeStatus.FAILED:
        return 1
    return 2 if step.status is NodeStatus.PENDING and not step.needs else 3 if step.status is NodeStatus.PENDING else 4


def _name(step: StepSnapshot) -> str:
    name = step.name.rpartition(".")[2] if step.depth else step.name
    return "rows" if step.name == ROW else one_line(name)


def _numbers(step: StepSnapshot) -> dict[str, str]:
    known = step.total is not None
    over = step.status in NODE_TERMINAL
    left = f"ETA {time_left(step.left_s)}" if step.left_s is not None and not over else ""
    return {
        "count": f"{step.ended:,} of {step.total:,}" if known else f"{step.ended:,}",
        "share": percent(step.ended, step.total) if step.total is not None else "",
        "rate": rate(step.per_second) if step.per_second else "",
        "left": left or (duration(step.elapsed_s) if over and step.elapsed_s is not None else ""),
    }


def _extras(step: StepSnapshot) -> Iterator[tuple[str, str]]:
    if step.failed:
        yield f"{step.failed:,} failed", _ERRORS
    if step.source:
        yield step.source, "cyan"
    if step.skipped:
        yield f"{step.skipped:,} skipped", "yellow"
    if step.in_flight:
        yield f"{step.in_flight:,} in flight", ""
    if step.waits:
        yield waiting_text(step.waits), "yellow"
    if step.retried:
        yield f"{step.retried:,} retried", "dim"
    if step.usd:
        yield dollars(step.usd), "dim"


def _said(step: StepSnapshot) -> Iterator[Part]:
    """Of a step that is one node."""
    yield "  "
    match step.status:
        case NodeStatus.PENDING:
            yield (f"after {', '.join(step.needs)}" if step.needs else "next", "dim")
        case NodeStatus.FAILED | NodeStatus.BLOCKED | NodeStatus.SKIPPED:
            yield f"{step.status.value}{f': {one_line(step.note)}' if step.note else ''}", _STYLES[step.status]
        case NodeStatus.WAITING:
            yield f"waits for {one_line(step.note)}", "yellow"
        case NodeStatus.SUCCEEDED if step.source:
            yield ("failed before" if step.source == REUSED and step.failed else step.source, "cyan")
        case NodeStatus.SUCCEEDED:
            yield "  ".join(
                one
                for one in (
                    duration(step.elapsed_s) if step.elapsed_s else "",
                    plural(step.tokens, "token") if step.tokens else "",
                    dollars(step.usd) if step.usd else "",
                )
                if one
            )
        case _:
            since = "" if step.elapsed_s is None else time_left(step.elapsed_s)
            yield since
            for text, style in _extras(step):
                yield "  "
                yield (text.replace("1 wait: ", "waits: ") if step.waits else text), style


def _throughput(flow: Throughput, unit: str) -> str:
    return f"{flow.per_minute:,.0f}{f' of {flow.limit:,.0f}' if flow.limit is not None else ''} {unit}"


def _money(run: LiveSnapshot) -> str:
    known = dollars(run.usd)
    cost = known if run.usd_exact else f"at least {known}"
    if run.budget_usd is None:
        return cost if run.usd else ""
    return f"{cost} of {dollars(run.budget_usd)} ({percent(round(run.usd * 1e6), max(1, round(run.budget_usd * 1e6)))})"


def _tokens(run: LiveSnapshot) -> str:
    if run.budget_tokens is None:
        return plural(run.tokens_used, "token") if run.tokens_used else ""
    share = percent(run.tokens_used, max(1, run.budget_tokens))
    return f"{run.tokens_used:,} of {plural(run.budget_tokens, 'token')} ({share})"


# columns


def _width(parts: Sequence[Part]) -> int:
    return sum(cell_len(part if isinstance(part, str) else part[0]) for part in parts)


def _ascii(part: Part) -> Part:
    """As many columns of it."""
    text, style = part if isinstance(part, tuple) else (part, "")
    return "".join(one if one.isascii() else "?" * cell_len(one) for one in text.translate(_TO_ASCII)), style


def _cut(text: str, width: int) -> str:
    """So many columns of it at most, with a mark where something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + _CUT if width else ""


def fitted(parts: Sequence[Part], width: int) -> Line:
    """The parts as far as there is room."""
    found: list[Part] = []
    for part in parts:
        text, style = part if isinstance(part, tuple) else (part, "")
        cut = _cut(text, width)
        if cut:
            found.append((cut, style))
        width -= cell_len(cut)
        if cut != text:
            break
    return tuple(found)
