"""What is said while nothing happens: which step waits, since when, and for whom."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

from flowllm.core.cancel import StopSignal
from flowllm.core.events import Event
from flowllm.core.types import StepKind, WaitReason
from flowllm.reporting.base import AccountState
from flowllm.reporting.progress import Progress
from flowllm.reporting.screen import Screen
from tests.support.events import (
    fan_out_started,
    item_ended,
    node_ended,
    node_started,
    node_waiting,
    request_ended,
    request_sent,
    run_started,
)
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened

PLACES = {"openai": AccountState(address="api.openai.com")}
SLOW = """
name: slow
providers: {hangs: {type: simulated, hang_rate: 100%}}
defaults: {provider: hangs, model: m}
steps: {headline: {prompt: hi}}
"""


class Watched:
    """A progress that is looked at every second, as by a run."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.progress = Progress(Screen(self.stream, colour=False))

    def said(self, until: int, *events: Event, after: int = 0) -> list[str]:
        """What is written of the events, and in the seconds behind them."""
        self.stream.seek(0)
        self.stream.truncate()
        for event in events:
            self.progress.handle(event)
        for second in range(after, until):
            self.progress.look(float(second), PLACES)
        return self.stream.getvalue().splitlines()


def test_a_request_without_an_answer_is_told_of_every_half_minute() -> None:
    watched = Watched()
    lines = watched.said(95, run_started(), request_sent("headline", at=0.0, model="gpt-4o"))
    assert lines[2:] == [
        "0 of 4  ...       headline: no answer for 30s from gpt-4o at openai (api.openai.com)",
        "0 of 4  ...       headline: no answer for 1m 00s from gpt-4o at openai (api.openai.com)",
        "0 of 4  ...       headline: no answer for 1m 30s from gpt-4o at openai (api.openai.com)",
    ]
    again = (request_ended("headline", at=95.0), node_waiting("headline", WaitReason.BACKOFF, at=95.0, until=300.0))
    assert watched.said(130, *again, after=95)[1:] == ["0 of 4  ...       headline: waits for 30s: backoff"]
    sent = request_sent("headline", at=130.0, attempt=2, provider="other")
    assert watched.said(170, sent, after=130) == [
        "0 of 4  ...       headline: no answer for 25s from m at other, attempt 2"
    ]
    ended = (request_ended("headline", at=170.0, attempt=2), node_ended("headline", done=1))
    assert len(watched.said(400, *ended, after=170)) == 1, "nothing is waited for"


def test_steps_items_and_waits_beside_each_other_are_told_the_oldest_first() -> None:
    lines = Watched().said(
        41,
        run_started(),
        node_started("fetch", kind=StepKind.SHELL, at=1.0),
        node_waiting("intro", WaitReason.SLOT, at=2.0),
        fan_out_started("posts", 50),
        item_ended("posts", 0),
        *(request_sent(f"posts[{n}]", at=3.0 + n) for n in range(1, 6)),
        node_waiting("posts[6]", WaitReason.SLOT, at=4.0),
    )
    assert [line.partition("...       ")[2] for line in lines[-5:]] == [
        "posts: 1 of 50 (2%), 1 wait: slot",
        "fetch: has run for 29s",
        "intro: waits for 28s: slot",
        "posts[1]: no answer for 26s from m at openai (api.openai.com)",
        "5 requests in flight",
    ]


def test_a_clock_that_is_set_back_does_not_silence_it() -> None:
    watched = Watched()
    watched.said(1, run_started(), request_sent("headline", at=5_000.0), after=0)
    watched.progress.look(5_000.0, PLACES)
    assert watched.said(40)[0].endswith("headline: no answer for 0s from m at openai (api.openai.com)")


def test_a_run_whose_server_does_not_answer_says_so_by_its_own_clock(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text(SLOW)
    stream, stop = io.StringIO(), StopSignal()
    broken, reader = Broken(), Reader(stream, stop)

    async def main() -> None:
        async with opened(LoopClock()) as app:
            observers = [broken, Progress(Screen(stream, colour=False)), reader]
            await app.run(tmp_path / "slow.yaml", observers=observers, stop=stop)

    run_virtual(main())
    assert [after - before for before, after in pairwise(reader.seen)] == [30.0, 30.0]
    for line in reader.lines():
        assert re.fullmatch(r"0 of 1  \.\.\.       headline: no answer for [0-9ms ]+ from m at hangs", line)
    assert broken.looks == 1, "one that fails is left out"


class Reader:
    """Notes when a line came, and stops the run after three."""

    def __init__(self, stream: io.StringIO, stop: StopSignal) -> None:
        self.stream, self.stop = stream, stop
        self.seen: list[float] = []

    def lines(self) -> list[str]:
        return [line for line in self.stream.getvalue().splitlines() if "no answer" in line]

    def handle(self, event: Event) -> None:
        """Nothing to do."""

    def look(self, now: float, addresses: object) -> None:
        if len(self.lines()) > len(self.seen):
            self.seen.append(now)
        if len(self.seen) == 3:
            self.stop.cancel()


class Broken:
    """An observer that fails when it is looked at."""

    looks = 0

    def handle(self, event: Event) -> None:
        """Nothing to do."""

    def look(self, now: float, addresses: object) -> None:
        self.looks += 1
        raise RuntimeError("broken")
