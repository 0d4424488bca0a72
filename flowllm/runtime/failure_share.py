"""The share of a run's nodes that failed, after all their retries: told when it passes a mark, once."""

from __future__ import annotations

ALERT_SHARE = 0.05
LEAST = 20
"""Nodes below which a share means nothing."""


class FailureShare:
    """Counts nodes as they end. Pure."""

    def __init__(self, *, stop_at: float | None = None) -> None:
        """`stop_at` is the share at which the run ends, 0 to 1; None: never."""
        self._stop_at = stop_at
        self.ended = 0
        self.failed = 0
        self.items = 0
        """Of those that ended, items of a foreach."""
        self._alerted = False
        self._stopped = False

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.failed / self.ended if self.ended else 0.0

    def count(self, *, failed: bool, item: bool = False) -> None:
        """One more node was carried out."""
        self.ended += 1
        self.items += item
        self.failed += failed

    def alert(self) -> bool:
        """The share has just passed the mark; true once."""
        if self._alerted or self.ended < LEAST or self.share <= ALERT_SHARE:
            return False
        self._alerted = True
        return True

    def stop(self) -> bool:
        """The share has just passed what the run allows; true once."""
        if self._stop_at is None or self._stopped or self.ended < LEAST or self.share <= self._stop_at:
            return False
        self._stopped = True
        return True
