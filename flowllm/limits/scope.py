"""What holds requests back in one scope, an account or one model of it: slots, rates, strict windows, tokens; and of all
that the part that this process has, where others use it too.

Rates are kept twice. At admission, so that nobody takes a slot to wait for a rate. And once more on the wire, at the
moment in which a request really goes out: recording an attempt takes a varying while, and a server counts arrivals,
not admissions. Everything here is pure: methods are told the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowllm.core.types import Limits, WaitReason
from flowllm.limits.quota_headers import LONGEST_WINDOW, Quota
from flowllm.limits.rates import BUNCHING, LOOK_AGAIN, MINUTE, STEADY, Bucket, HeldShare, Hold, Rates, span_of

ALIKE = 0.1
"""Share by which a limit that headers tell may differ from the one that is written, to be the same."""


class LimitScope:
    """All limits of one scope. Pure; times are monotonic seconds."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.in_flight = 0
        self.reserved = 0.0
        """Tokens that requests in flight have reserved."""
        self.charged = 0.0
        """Tokens that were taken so far."""
        self.granted = 0
        self.wire = Rates()
        self.tokens: Bucket | None = None
        self.share: HeldShare | None = None
        """None: this process alone may use it."""
        self._admission = Rates()
        self._tuned: tuple[float | None, float | None] = None, None

    def tune(self, limits: Limits, rate: float | None, now: float, *, burst: float | None = None) -> None:
        """Take these limits; `rate` (requests a second) may be lower than what they say. `burst`: see Rates."""
        self.limits, self._tuned = limits, (rate, burst)
        self._admission.tune(limits, rate, now, burst=burst, share=self.share)
        self.wire.tune(limits, rate, now, burst=burst, share=self.share)
        whole = self._whole_tokens
        if whole is None:
            self.tokens = None
            return
        fraction = self.fraction
        rate, capacity = whole[0] * fraction, whole[1] * fraction
        if self.tokens is None:
            self.tokens = Bucket(rate=rate, capacity=capacity, now=now)
        else:
            self.tokens.retune(rate=rate, capacity=capacity, now=now)

    @property
    def _whole_tokens(self) -> tuple[float, float] | None:
        """Tokens a second, and the bucket of all processes together."""
        per_minute = self.limits.tokens_per_minute
        if per_minute is None:
            return None
        per_second = per_minute / MINUTE
        return per_second * STEADY, per_minute - per_second * BUNCHING

    @property
    def fraction(self) -> float:
        """Of the rates, for this process."""
        return 1.0 if self.share is None else self.share.fraction

    def share_out(
        self, share: HeldShare, now: float, *, requests: float = 0.0, tokens: float = 0.0
    ) -> tuple[float, float]:
        """Go on with that share, and with so much more in the buckets, as parts of the whole. Gives what the buckets give
        back as the share has become smaller: the same part of what they have saved."""
        before, self.share = self.fraction, share
        less = 0.0 if not before else max(0.0, 1 - share.fraction / before)
        back = less * max(0.0, min(self._admission.saved(now), self.wire.saved(now)))
        for rates in (self._admission, self.wire):
            rates.resize(share.fraction, requests - back, now)
        tokens_back, whole = 0.0, self._whole_tokens
        if self.tokens is not None and whole is not None:
            level = self.tokens.level(now)
            tokens_back = less * max(0.0, level) / whole[1]
            self.tokens.resize(
                rate=whole[0] * share.fraction,
                capacity=whole[1] * share.fraction,
                level=level + (tokens - tokens_back) * whole[1],
                now=now,
            )
        self.tune(self.limits, self._tuned[0], now, burst=self._tuned[1])
        return back, tokens_back

    def refills(self) -> tuple[float | None, float | None]:
        """Whole buckets of requests and of tokens that come back in a second; None: not limited."""
        whole = self._whole_tokens
        return self._admission.refill, None if whole is None else whole[0] / whole[1]

    def minimum(self, largest: float) -> float:
        """The fraction without which no request could go, the largest of which takes so many tokens."""
        most, whole = self._admission.capacity, self._whole_tokens
        if most is not None and self.limits.requests_per_minute is None:  # a guess, for one process
            most = max(most, self._admission.whole or 0.0)
        one = 0.0 if most is None else 1 / most
        return max(one, 0.0 if whole is None else min(1.0, largest / whole[1]))

    @property
    def windows(self) -> dict[str, int]:
        """Limits of strict windows, of all processes."""
        return {span_of(window.per + BUNCHING): window.requests for window in self.limits.windows}

    @property
    def whole_tokens(self) -> float | None:
        """Tokens a second, of all processes together."""
        return None if (whole := self._whole_tokens) is None else whole[0]

    def counts(self, now: float) -> dict[str, int]:
        """What went within each strict window."""
        one, other = self._admission.counts(now), self.wire.counts(now)
        return {span: max(count, other.get(span, 0)) for span, count in one.items()}

    def unshared(self, now: float) -> bool:
        """It is limited, and this process has no part of it now."""
        share = self.share
        if share is None or (now < share.until and share.fraction > 0):
            return False
        if now >= share.until:
            return self.wire.bound or self.tokens is not None
        return self.wire.refill is not None or self.tokens is not None

    def too_large(self, tokens: float) -> bool:
        """A request that reserves so much could never go."""
        return self.limits.tokens_per_minute is not None and tokens > self.limits.tokens_per_minute

    def full(self, most: int | None, now: float) -> bool:
        """All slots are taken; `most` of them, None: any number."""
        if most is None:
            return False
        share = self.share
        if share is not None and self.limits.max_concurrent is not None:
            most = min(most, share.slots if now < share.until else 0)
        return self.in_flight >= most

    def wire_hold(self, now: float) -> Hold | None:
        """What keeps a request that was admitted from going out."""
        if self.share is not None and self.unshared(now):
            return Hold(WaitReason.RATE, LOOK_AGAIN)
        return self.wire.hold(now)

    def hold(self, tokens: float, now: float) -> Hold | None:
        """What keeps a request that reserves so many tokens from being admitted, slots left aside."""
        if self.share is not None and self.unshared(now):
            return Hold(WaitReason.RATE, LOOK_AGAIN)
        wait = self._admission.wait(now)
        if self.tokens is not None:
            for_tokens = self.tokens.wait(min(tokens, self.tokens.capacity), now)
            if for_tokens > wait:
                return Hold(WaitReason.TOKENS, for_tokens)
        return Hold(WaitReason.RATE, wait) if wait > 0 else None

    def take(self, tokens: float, now: float) -> None:
        """One is admitted."""
        self.in_flight += 1
        self.granted += 1
        self.reserved += tokens
        self.charged += tokens
        self._admission.take(now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def give_back(self, reserved: float, used: float, now: float, *, sent: bool) -> None:
        """One is over: its slot returns, and the tokens that it did not use."""
        self.in_flight -= 1
        self.reserved -= reserved
        self.charged -= reserved - used
        if self.tokens is not None:
            self.tokens.give(reserved - used, now)
        if not sent:
            self._admission.give(now)

    def lower_requests(self, left: float, now: float) -> None:
        """The server says that no more requests than that are left."""
        self._admission.lower(left * self.fraction, now)
        self.wire.lower(left * self.fraction, now)

    @property
    def rate(self) -> float | None:
        """Requests a second, of all processes together."""
        return self._admission.whole

    @property
    def own_rate(self) -> float | None:
        """Requests a second, of this process."""
        return self._admission.rate

    def level(self, now: float) -> float | None:
        """Requests that could be admitted at once."""
        return self._admission.level(now)

    def told_tokens(self, quotas: Iterable[Quota], *, later: float, since: float, only: bool, now: float) -> None:
        """Correct the level of tokens by what a server says, if it speaks of the limit that is written: it spoke of the time
        `since` seconds ago, before `later` tokens went. `only`: for no other model."""
        bucket, written, whole = self.tokens, self.limits.tokens_per_minute, self._whole_tokens
        if bucket is None or written is None or whole is None:
            return
        for quota in quotas:
            same = quota.limit is None or abs(quota.limit - written) <= ALIKE * written
            if quota.remaining is None or not same or (quota.window or MINUTE) > LONGEST_WINDOW:
                continue
            left = (max(0.0, quota.remaining - later) + since * whole[0]) * self.fraction
            if quota.limit is None or not only:
                bucket.lower(left, now)
            else:
                bucket.set(left, now)
