"""The view of a run on a terminal: tells the model of events, and draws it now and then, below what others print."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from flowllm.core.events import Event, RunEnded, RunStarted
from flowllm.reporting.base import AccountState
from flowllm.reporting.live_model import LiveModel
from flowllm.reporting.screen import Screen

Later: TypeAlias = Callable[[float, Callable[[], None]], object]
OFTEN: Final = 0.2
"""Seconds between two drawings."""
SHARE: Final = 0.03
"""Of a processor's time that drawing may take: large graphs are drawn less often."""
MOST: Final = 50
"""Lines that stay at the end, where the terminal has fewer."""
_LONGEST: Final = 10_000
"""Characters of a line without an end that is held back."""


class LiveView:
    """An observer that draws the run at the bottom of the terminal; see `owning_terminal`."""

    def __init__(self, screen: Screen, *, later: Later, now: Callable[[], float], timer: Callable[[], float]) -> None:
        """`later` has something called on the loop after so many seconds, from any thread, and raises RuntimeError where that is
        closed; `now` is the wall clock, `timer` measures how long drawing takes (seconds)."""
        self.model = LiveModel()
        self._screen = screen
        self._later, self._now, self._timer = later, now, timer
        self._shown: list[tuple[Any, ...]] = []
        self._scheduled = False
        self._pause = OFTEN
        self._above: list[str] = []
        """Lines of others that wait for the next drawing."""
        self._lock = threading.Lock()
        self._over = False

    def handle(self, event: Event) -> None:
        """Take note of one event, and draw soon."""
        self.model.handle(event)
        if isinstance(event, RunStarted):
            self._over = False
        if isinstance(event, RunEnded):
            self._end()
        elif not self._scheduled and self.model.started is not None:
            self._scheduled = True
            self._later(self._pause, self._due)

    def look(self, now: float, accounts: Mapping[str, AccountState]) -> None:  # noqa: ARG002 - see `Watching`
        """A second has passed; see `reporting.base.Watching`."""
        self.model.look(accounts)
        if not self._scheduled:
            self._draw()

    def forget(self) -> None:
        """Something else has had the terminal: draw below what it wrote."""
        self._shown = []
        self._screen.forget_block()

    def close(self) -> None:
        """The run is over, maybe before its end could be told: nothing of it stays that looks as if it went on."""
        if not self._over:
            self._over = True
            text = self._taken()
            if self._shown:
                self._screen.block([], above=text)
            elif text:
                self._screen.above(text)

    def print(self, text: str) -> None:
        """Whole lines of others, from any thread: they go above the view, at once or with the next drawing."""
        with self._lock:
            self._above.append(text)
            at_once = self._over or not self._scheduled
            self._scheduled = True
        if at_once:
            self._screen.above(self._taken())
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._later(self._pause, self._due)

    def _due(self) -> None:
        self._scheduled = False
        if not self._over:
            self._draw()

    def _end(self) -> None:
        """How it stands at its end stays."""
        if not self._over:
            self._draw(whole=True)
            self._over = True

    def _draw(self, *, whole: bool = False) -> None:
        """Whatever fails here fails once: the run goes on without the view."""
        if self._over or self.model.started is None:
            return
        try:
            self._drawn(whole=whole)
        except Exception:
            self.close()
            raise

    def _drawn(self, *, whole: bool) -> None:
        from flowllm.reporting.live_screen import live_lines  # noqa: PLC0415 - needs rich, which a plain run does not

        began = self._timer()
        if not (whole or self._screen.in_front()):  # `bg`: the shell's line is there
            self.forget()
            if text := self._taken():
                self._screen.above(text)
            return
        columns, rows = self._screen.size()
        height = max(rows, MOST) if whole else max(2, rows - 1)
        lines = live_lines(self.model.snapshot(self._now()), columns - 1, height, unicode=self._screen.unicode)
        above = self._taken()
        if lines != self._shown or above or whole:
            self._shown = lines
            self._screen.block(lines, above=above, stays=whole)
        self._pause = max(OFTEN, (self._timer() - began) / SHARE)

    def _taken(self) -> str:
        with self._lock:
            text, self._above = "".join(self._above), []
        return text


class AboveView:
    """Stands for a stream of the terminal while a view is drawn on it: whole lines go above the view."""

    def __init__(self, stream: Any, view: LiveView) -> None:
        self._stream, self._view = stream, view
        self._open = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Up to its last line break now, the rest when its line ends."""
        with self._lock:
            whole, end, rest = (self._open + text).rpartition("\n")
            if not end and len(rest) > _LONGEST:
                whole, end, rest = rest, "\n", ""
            self._open = rest
        if end:
            self._view.print(f"{whole}\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """All of them."""
        self.write("".join(lines))

    def flush(self) -> None:
        """What has no end yet is not shown."""

    def finish(self) -> None:
        """The view is gone: what has no end is shown too."""
        with self._lock:
            rest, self._open = self._open, ""
        if rest:
            self._view.print(f"{rest}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def owning_terminal(view: LiveView) -> Iterator[None]:
    """What this process prints meanwhile on standard error goes above the view."""
    before = sys.stderr
    stands_in = AboveView(before, view)
    sys.stderr = stands_in
    try:
        yield
    finally:
        sys.stderr = before
        view.close()
        stands_in.finish()
