"""How a person, or a program, tells a run to stop."""

from __future__ import annotations

from collections.abc import Callable


class StopSignal:
    """Asked once, a run stops gracefully; asked to cancel, it stops at once. Call it on the run's loop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.cancelled = False
        self.grace: float | None = None
        """Seconds that calls in flight get once it is asked; None before a run has begun."""
        self.on_own_code: Callable[[float], None] | None = None
        """Called with the grace when a run begins that has functions of the user's."""
        self._on_request: list[Callable[[str], None]] = []
        self._on_cancel: list[Callable[[], None]] = []

    def begun(self, grace: float, *, own_code: bool) -> None:
        """A run has begun that hears of it."""
        self.grace = grace
        if own_code and self.on_own_code is not None:
            self.on_own_code(grace)

    def request(self, reason: str) -> None:
        """Send nothing new, let calls in flight finish, keep all of it."""
        if self.reason is None:
            self.reason = reason
            for callback in list(self._on_request):
                callback(reason)

    def cancel(self) -> None:
        """Cancel calls in flight too; what did finish is kept."""
        self.request("cancelled")
        self.cancelled = True
        for callback in list(self._on_cancel):
            callback()

    def listen(self, on_request: Callable[[str], None], on_cancel: Callable[[], None]) -> Callable[[], None]:
        """Be told, also of what was asked before; until what comes back is called."""
        self._on_request.append(on_request)
        self._on_cancel.append(on_cancel)
        if self.reason is not None:
            on_request(self.reason)
        if self.cancelled:
            on_cancel()

        def forget() -> None:
            self._on_request.remove(on_request)
            self._on_cancel.remove(on_cancel)

        return forget
