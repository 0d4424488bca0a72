"""Whether a server's 429s come of the rate at which it is asked, or come anyway. Pure.

Some servers refuse a few requests a hundred whatever one does, as other tenants fill them: to send less does not help
against that, and a test decides it. It is the cumulative sum of E. Page, "Continuous Inspection Schemes", Biometrika 41,
1954: each 429 speaks for a share of them that has grown, by the logarithm of how much more likely it is then, and each
request that was not refused against it. Where the sum passes the logarithm of a number of requests, there is about one
false alarm in so many (G. Lorden, "Procedures for Reacting to a Change in Distribution", Annals of Mathematical
Statistics 42, 1971): here, one in SPAN seconds.

The share that comes anyway is counted while the rate cannot be the reason: before the first cut, and while a rate that
was cut stands clearly below where it was. It is believed to be 2 % at first, the loss that BBRv2 bears (N. Cardwell et
al., "BBRv2: A Model-based Congestion Control", IETF 104, 2019); where a hundred went without one, a single 429 says enough.
"""

from __future__ import annotations

import math

SUPPOSED = 0.2, 10.0
"""429s of requests, supposed before any was seen."""
MOST = 0.1
"""A larger share is always believed to be ours."""
MORE = 0.05, 0.3
"""By so much has the share grown, if it has: a rate that creeps past what is allowed, or one that is far above it."""
SPAN = 8.0
"""Seconds of requests for one false alarm: in these a rate that was cut comes back."""
VAIN = 2
UNSURE = 5.0
"""Sum for an alarm at least, where nothing tells what the rate may be."""
MEMORY = 1000.0
"""Requests that the share is counted over, about."""


class Refusals:
    """Of one model. Requests are told by their numbers, in the order in which they left."""

    def __init__(self) -> None:
        self._refused, self._counted = SUPPOSED
        self._strays, self._calm = 0, 0
        """429s, and requests, since the rate was cut, while it could be no reason."""
        self._doubtful, self._open = 0, 0
        """Of these, such as do not count yet, as they may be those of an alarm."""
        self._sums = [0.0] * len(MORE)
        self._latest = 0
        """The number of the latest 429."""

    @property
    def share(self) -> float:
        """Of the requests, those that are refused whatever one does."""
        return min(MOST, self._refused / self._counted)

    @property
    def vain(self) -> bool:
        """The rate was cut, and some are refused as before."""
        return VAIN <= self._strays + self._doubtful <= MOST * (self._calm + self._open)

    def counted(self) -> None:
        """One was answered or refused, while the rate could have been no reason to refuse it."""
        self._open += 1

    def refused(self, number: int, *, calm: bool, rate: float | None, lately: float) -> bool:
        """One was; whether there are too many of them. `calm`: the rate can be no reason. `rate`: requests a second that
        the server was found or said to allow, if any; `lately`: those that it accepted."""
        between = max(0, number - self._latest - 1)
        self._latest = max(self._latest, number)
        usual = self.share
        self._sums = [
            one - between * math.log((1 - usual) / (1 - usual - more))
            for one, more in zip(self._sums, MORE, strict=True)
        ]
        if max(self._sums) <= 0:
            self._count()
            usual = self.share
        self._sums = [max(0.0, one) + math.log(1 + more / usual) for one, more in zip(self._sums, MORE, strict=True)]
        if calm:
            self._open += 1
            self._doubtful += 1
        pace = max(1.0, lately)
        enough = math.log(max(1.0, SPAN * (pace if rate is None else min(rate, pace))))
        return max(self._sums) >= (max(UNSURE, enough) if rate is None else enough)

    def begin_anew(self, number: int) -> None:
        """The rate was cut when so many had left."""
        if self._doubtful <= MOST * self._open:
            self._count()
        self._sums, self._latest = [0.0] * len(MORE), number
        self._strays = self._calm = self._doubtful = self._open = 0

    def _count(self) -> None:
        self._refused += self._doubtful
        self._counted += self._open
        self._strays += self._doubtful
        self._calm += self._open
        self._doubtful = self._open = 0
        if self._counted > MEMORY:
            self._refused, self._counted = self._refused / 2, self._counted / 2
