"""The observers of a run: none of them can harm it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence

from flowllm.core.errors import text_of
from flowllm.core.events import Event
from flowllm.reporting.base import AccountState, Closable, Observer, Watching


class ObserverHub:
    """Hands each event to every observer; one that fails is heard of once, and then left out."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)

    def __call__(self, event: Event) -> None:
        """Something happened."""
        for observer in list(self._observers):
            try:
                observer.handle(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a reader of events must not harm the run
                self._leave_out(observer, error)

    @property
    def watched(self) -> bool:
        """Somebody looks at how the run stands."""
        return any(isinstance(observer, Watching) for observer in self._observers)

    def look(self, now: float, accounts: Mapping[str, AccountState]) -> None:
        """A second has passed; see `reporting.base.Watching`."""
        for observer in list(self._observers):
            if isinstance(observer, Watching):
                try:
                    observer.look(now, accounts)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 - as above
                    self._leave_out(observer, error)

    def _leave_out(self, observer: Observer, error: BaseException) -> None:
        self._observers.remove(observer)
        complain(f"{type(observer).__name__} failed and is left out: {text_of(error)}")

    def close(self) -> None:
        """The run is over."""
        observers, self._observers = self._observers, []
        for observer in observers:
            try:
                if isinstance(observer, Closable):
                    observer.close()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                complain(f"{type(observer).__name__} could not be closed: {text_of(error)}")


def complain(words: str) -> None:
    """On standard error, if that can be written; a run does not need it."""
    with contextlib.suppress(Exception):
        print(f"flowllm: {words}", file=sys.stderr)  # noqa: T201
