"""Quantiles of a stream in bounded memory.

A DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", PVLDB 12(12), 2019): values are counted in buckets whose bounds grow by a constant factor.
"""

from __future__ import annotations

import math

ACCURACY = 0.005
"""A quantile is off by at most this share of itself."""
SMALLEST = 1e-4
LARGEST = 1e6
"""Values are clamped to these bounds, which caps the buckets at 2,304."""


class Sketch:
    """Counts values from SMALLEST to LARGEST."""

    def __init__(self) -> None:
        self._growth = (1 + ACCURACY) / (1 - ACCURACY)
        self._counts: dict[int, int] = {}
        self._total = 0
        self._least = math.inf
        self._most = -math.inf

    def add(self, value: float) -> None:
        """Count one value."""
        clamped = min(max(value, SMALLEST), LARGEST)
        bucket = math.ceil(math.log(clamped, self._growth))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1
        self._least = min(self._least, value)
        self._most = max(self._most, value)

    def quantile(self, share: float) -> float | None:
        """The value that the given share (0 to 1) of all values does not exceed; None without values."""
        if not self._total:
            return None
        rank = max(1, math.ceil(share * self._total))
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                middle = 2 * self._growth**bucket / (self._growth + 1)
                return min(max(middle, self._least), self._most)
        return self._most
