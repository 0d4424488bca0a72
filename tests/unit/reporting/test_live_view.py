"""What a terminal shows of a run while it goes on, and what stays of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.cells import cell_len

from flowllm.core.events import Event
from flowllm.core.types import NodeStatus, RunStatus, StepKind, WaitReason
from flowllm.reporting.base import AccountState
from flowllm.reporting.live_model import LiveModel
from flowllm.reporting.live_screen import choose, live_lines
from flowllm.reporting.live_view import LiveView, owning_terminal
from flowllm.reporting.screen import plain
from tests.support.events import (
    ERROR,
    fan_out_counted,
    fan_out_started,
    item_ended,
    node_ended,
    node_retrying,
    node_started,
    node_waiting,
    request_ended,
    request_sent,
    run_ended,
    run_started,
    stop_requested,
)
from tests.support.terminal import Terminal, TerminalScreen
from tests.support.virtual import LoopClock, run_virtual

BAD = {"status": NodeStatus.FAILED, "error": ERROR}
STEPS = {"headline": [], "keywords": [], "posts": ["headline"], "posts.title": [], "intro": ["headline", "posts"]}
ACCOUNTS = {"openai": AccountState(address="api.openai.com", requests_per_minute=500.0, pause_s=4.0)}
BEGIN = [
    run_started(steps=STEPS, nodes=4, budget_usd=5.0),
    node_started("headline"),
    request_sent("headline"),
    request_ended("headline", at=1.0, cost_usd=0.25),
    node_ended("headline", at=1.5),
    node_ended("keywords", at=0.1, done=2, cached=True),
    node_started("posts", at=1.5, kind=StepKind.WORKFLOW),
    fan_out_started("posts", None, at=1.5),
]
ITEMS = [item_ended("posts", n, at=2 + n / 10, kind=StepKind.WORKFLOW, **(BAD if n == 7 else {})) for n in range(100)]
OPEN = [
    fan_out_counted("posts", 400),
    node_started("posts[0].title", at=1.5),
    *(node_ended(f"posts[{n}].title", parent=f"posts[{n}]", at=2 + n / 10) for n in range(99)),
    *(node_waiting(f"posts[{n}].title", WaitReason.RATE, at=11.0) for n in range(120, 160)),
    *(request_sent(f"posts[{n}].title", at=11.0) for n in range(100, 120)),
    node_retrying("posts[101].title", error={"type": "RateLimited", "message": "slow \x1b[31mdown\n[/x]"}),
]


def model(*events: Event) -> LiveModel:
    found = LiveModel()
    for event in events:
        found.handle(event)
    return found


def drawn(found: LiveModel, now: float, width: int = 80, height: int = 24, *, unicode: bool = True) -> list[str]:
    lines = live_lines(found.snapshot(now), width, height, unicode=unicode)
    assert len(lines) <= height
    texts = [plain(line) for line in lines]
    assert max(map(cell_len, texts)) <= width
    return [text.rstrip() for text in texts]


def test_a_run_at_work_on_an_ordinary_terminal() -> None:
    found = model(*BEGIN, *ITEMS, *OPEN)
    found.look(ACCOUNTS)
    assert drawn(found, 12.0) == [
        "blog  20261121-abc  openai                          2 of 4 steps  12s, ETA > 32s",
        "✓ headline  1.5s  80 tokens  $0.25",
        "✓ keywords  cached",
        "▸ posts     ━━━━────────────  100 of 400  25%  9.5/s  ETA 32s  1 failed",
        "▸   title   ━━━━────────────  100 of 400  25%  9.4/s  ETA 32s  20 in flight",
        "· intro     after posts",
        "",
        "20 in flight  the server wants a pause of 4s  40 wait: rate",
        "109 of 500 requests/min",
        "$0.25 of $5.00 (5%)  80 tokens",
        r"↻ posts[101].title: RateLimited: slow \x1b[31mdown [/x]",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 100, 132, 200])
@pytest.mark.parametrize("height", [2, 6, 50])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    wide = {"写作" * 9: [], "🧪 e\u0301mo\u202eji": [], "posts": []}
    steps = [fan_out_started("写作" * 9, 7), item_ended("写作" * 9, 0, **BAD | {"error": {"message": "错误" * 80}})]
    for found in (model(*BEGIN, *ITEMS, *OPEN), model(run_started(steps=wide, workflow="名" * 50), *steps)):
        found.look(ACCOUNTS)
        for unicode in (True, False):
            lines = drawn(found, 50.0, width, height, unicode=unicode)
            assert unicode or all(line.isascii() for line in lines)
        found.handle(run_ended(at=60.0))
        drawn(found, 60.0, width, height)


def test_what_was_not_carried_out_is_no_part_of_the_eta_and_a_file_that_is_not_counted_has_none() -> None:
    cached = [item_ended("row", n, at=1.0, cached=True) for n in range(500)]
    rows = {"row": [], "row.title": []}
    found = model(run_started(steps=rows, over="x.csv"), fan_out_started("row", None), *cached)
    assert drawn(found, 5.0)[1:3] == ["▸ rows      500", "·   title   next"]
    found.handle(fan_out_counted("row", 1000))
    for n in range(100):
        found.handle(node_ended(f"row[{500 + n}].title", parent=f"row[{500 + n}]", at=5 + n / 10))
        found.handle(item_ended("row", 500 + n, at=5 + n / 10))
    assert drawn(found, 15.0)[:2] == [
        "blog  20261121-abc  openai                                       15s, ETA 1m 00s",
        "▸ rows      ━━━━━━━━━───────  600 of 1,000  60%  6.7/s  ETA 1m 00s",
    ]
    assert found.snapshot(50.0).left_s is None, "nothing has ended in the last half minute"
    counts = {"total": 600, "succeeded": 600, "failed": 0, "skipped": 0}
    for event in (node_ended("row", at=60.0, counts=counts), run_ended(at=60.0)):
        found.handle(event)
    assert [line[:9] for line in drawn(found, 60.0)[1:]] == ["✓ rows   ", "✓   title"]


def test_a_foreach_within_items_has_all_their_items_once_that_can_be_told() -> None:
    steps = {"posts": [], "posts.parts": [], "posts.parts.part": []}
    found = model(run_started(steps=steps, nodes=1), fan_out_started("posts", 10))
    for n in range(4):
        found.handle(fan_out_started(f"posts[{n}].parts", 3))
        found.handle(item_ended(f"posts[{n}].parts", 0))
        found.handle(node_ended(f"posts[{n}].parts[0].part", parent=f"posts[{n}].parts[0]"))
    assert [(step.ended, step.total) for step in found.snapshot(1.0).steps] == [(0, 10), (4, 30), (4, 30)]
    found.handle(fan_out_started("posts[4].parts", None))
    found.handle(fan_out_counted("posts[4].parts", 50))
    assert [(step.ended, step.total) for step in found.snapshot(1.0).steps] == [(0, 10), (4, None), (4, None)]
    for n in range(10):
        found.handle(item_ended("posts", n, kind=StepKind.WORKFLOW))
    assert found.snapshot(1.0).steps[1].total == 62, "nothing is to come"


def test_of_many_steps_those_at_work_those_that_failed_and_the_next_are_shown() -> None:
    steps = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(300)}
    done = [node_ended(f"s{n}", **(BAD if n == 50 else {})) for n in range(100)]
    found = model(run_started(steps=steps), *done, node_started("s100"), node_waiting("s100", WaitReason.SLOT))
    lines = drawn(found, 3.0, 80, 14)
    assert lines[1:9] == [
        "✗ s50       failed: RateLimited: too many requests",
        "▸ s100      3s  waits: slot",
        "· s101      after s100",
        "· s102      after s101",
        "· s103      after s102",
        "· s104      after s103",
        "✓ and 99 more succeeded",
        "· and 195 more pending",
    ]
    shown, others = choose(found.snapshot(3.0).steps, 400)
    assert (len(shown), others) == (300, [])
    shown, others = choose(found.snapshot(3.0).steps, 2)
    assert ([step.name for step in shown], others) == (["s100"], [(NodeStatus.SUCCEEDED, 99)]), "however few rows"


class Shown:
    """A view on a terminal, in virtual time."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.terminal = Terminal(columns, rows)
        self.screen = TerminalScreen(self.terminal)
        loop, clock = asyncio.get_running_loop(), LoopClock(epoch=0.0)
        self.view = LiveView(self.screen, later=loop.call_later, now=clock.now, timer=lambda: 0.0)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.view.handle(event)


@contextmanager
def standard_error(terminal: Terminal) -> Iterator[None]:
    before, sys.stderr = sys.stderr, terminal
    try:
        yield
    finally:
        sys.stderr = before


def test_it_is_drawn_a_few_times_a_second_and_stands_still_while_nothing_changes() -> None:
    async def main() -> None:
        shown = Shown()
        shown.tell(*BEGIN)
        for event in ITEMS:
            shown.tell(event)
            await asyncio.sleep(0.01)
        assert 4 <= shown.terminal.writes <= 10, "a second has passed"
        await asyncio.sleep(1.0)
        before = shown.terminal.writes
        for _ in range(2):
            shown.view.look(12.0, {})
        assert shown.terminal.writes <= before + 1
        await asyncio.sleep(2.0)
        shown.view.look(14.0, {})
        assert shown.terminal.writes <= before + 2
        assert sum("▸ posts" in line for line in shown.terminal.shown) == 1, "drawn over, not below"

    run_virtual(main())


def test_what_others_print_goes_above_it_and_its_end_stays() -> None:
    async def main() -> None:
        shown = Shown()
        with standard_error(shown.terminal):
            with owning_terminal(shown.view):
                shown.tell(*BEGIN)
                await asyncio.sleep(1.0)
                print("first", file=sys.stderr)
                print("second", file=sys.stderr)
                assert shown.terminal.shown[0] == "first", "at once"
                assert shown.terminal.shown[1].startswith("blog")
                assert shown.terminal.cursor == (len(shown.terminal.shown), 0), "below it"
                await asyncio.sleep(1.0)
                shown.screen.line(("notice: ", "yellow"), "careful")
                sys.stderr.writelines(["third ", "half"])
                await asyncio.sleep(1.0)
                assert not any("third" in line for line in shown.terminal.shown)
                shown.tell(stop_requested())
                await asyncio.sleep(1.0)
                assert "stopping" in shown.terminal.shown[3]
                shown.tell(run_ended(at=4.0, status=RunStatus.INTERRUPTED))
                sys.stderr.write("last\n")
            print("after", file=sys.stderr)
        assert shown.terminal.shown == [
            "first",
            "second",
            "notice: careful",
            "blog  20261121-abc  openai                    2 of 4 steps  interrupted in 3.4s",
            "✓ headline  1.5s  80 tokens  $0.25",
            "✓ keywords  cached",
            "− posts     0  2.5s",
            "· intro     after posts",
            "third halflast",
            "after",
        ]

    run_virtual(main())


def test_a_run_that_breaks_off_leaves_nothing_that_looks_alive() -> None:
    async def main() -> None:
        shown = Shown(40, 10)
        with standard_error(shown.terminal), owning_terminal(shown.view):
            shown.tell(*BEGIN, *ITEMS)
            await asyncio.sleep(1.0)
            assert len(shown.terminal.shown) > 6
        assert shown.terminal.shown == []

    run_virtual(main())


def test_a_view_that_fails_is_gone_and_what_is_printed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shown, failed = Shown(), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
        with standard_error(shown.terminal), owning_terminal(shown.view):
            shown.tell(*BEGIN)
            await asyncio.sleep(1.0)
            print("before", file=sys.stderr)
            monkeypatch.setattr(LiveModel, "snapshot", lambda *_: 1 / 0)
            for event in ITEMS:
                shown.tell(event)
                await asyncio.sleep(0.1)
            print("after", file=sys.stderr)
        assert shown.terminal.shown == ["before", "after"]
        assert [type(error) for error in failed] == [ZeroDivisionError]

    run_virtual(main())


def test_a_run_that_never_began_leaves_only_what_was_printed() -> None:
    async def main() -> None:
        shown = Shown()
        with standard_error(shown.terminal), owning_terminal(shown.view):
            for line in ("one\n", "two\n", "three"):
                sys.stderr.write(line)
        assert shown.terminal.shown == ["one", "two", "three"]
        assert shown.terminal.writes == 3, "and no codes"

    run_virtual(main())


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (25, 24), (80, 14), (120, 30)])
def test_a_resize_leaves_nothing_of_what_was_drawn_before(columns: int, rows: int) -> None:
    async def main() -> None:
        shown = Shown(80, 24)
        shown.screen.line("before")
        shown.tell(*BEGIN)
        await asyncio.sleep(1.0)
        shown.terminal.resize(columns, rows)
        shown.tell(*ITEMS)
        await asyncio.sleep(1.0)
        lines = shown.terminal.shown
        assert [sum(word in line for line in lines) for word in ("blog", "▸ posts")] == [1, 1]
        assert lines[0] == "before"

    run_virtual(main())


def test_below_what_had_the_terminal_meanwhile_it_is_drawn_anew() -> None:
    async def main() -> None:
        shown = Shown()
        shown.tell(*BEGIN)
        await asyncio.sleep(1.0)
        shown.terminal.write("^Z\n[1]+  Stopped\n$ fg\n")
        shown.view.forget()
        shown.tell(*ITEMS)
        await asyncio.sleep(1.0)
        lines = shown.terminal.shown
        assert "[1]+  Stopped" in lines
        assert lines[lines.index("$ fg") + 1].startswith("blog")
        shown.terminal.in_front = False
        before = shown.terminal.writes
        shown.tell(*OPEN)
        await asyncio.sleep(1.0)
        assert shown.terminal.writes == before, "in the background"
        for line in ("one\n", "two\n"):
            shown.view.print(line)
        await asyncio.sleep(1.0)
        assert shown.terminal.shown[-2:] == ["one", "two"]

    run_virtual(main())


def test_what_a_foreach_of_graphs_took_is_not_told_twice_once_it_has_ended() -> None:
    steps = {"posts": [], "posts.title": []}
    begun = [
        run_started(steps=steps, nodes=1),
        node_started("posts", kind=StepKind.WORKFLOW),
        fan_out_started("posts", 1),
    ]
    asked = [request_sent("posts[0].title"), request_ended("posts[0].title", at=1.0, cost_usd=0.25)]
    over = node_ended("posts", at=2.0, kind=StepKind.WORKFLOW, cost_usd=0.25, counts={"total": 1})
    for found in (model(*begun, *asked), model(*begun, *asked, over)):
        assert [step.usd for step in found.snapshot(2.0).steps] == [0.25, 0.25]
