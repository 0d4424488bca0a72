"""The scopes that this process shares with others: what it reports of each, and what it does with what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

from flowllm.core.clock import Clock
from flowllm.core.shares import Decide, Grant, LearnedRate, Report
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.adaptive import ModelLimits
from flowllm.limits.limiter import Limiter
from flowllm.limits.rates import HeldShare
from flowllm.limits.shares import GIVING, HUNGRY, LONGEST_TOLD, balances, pause

A = TypeVar("A", bound=Hashable)
LASTING: Final = 2.0
"""Seconds for which a need is told that was there."""
MORE: Final = 1.5
"""Of what was lately used is needed."""
CAREFUL: Final = 0.5
"""Seconds before its end from which a share is not used any more."""
PROMPT: Final = 0.5
"""Seconds within which a transaction says what the database's clock is."""


class SharedScope:
    """An account, or one model of it."""

    def __init__(self, account: AccountLimiter, model: ModelLimits | None, now: float) -> None:
        self._account = account
        self._model = model
        self._scope = account.scope if model is None else model.scope
        self._scope.share_out(HeldShare(), now)
        self._back = 0.0, 0.0
        """Levels that were given back and are not on record yet."""
        self._was_back = self._back
        self._number = 0
        self._version = -1
        self._edition = 0
        """Of what was learned, as others know it."""
        self._reported: tuple[int, LearnedRate | None] = -1, None
        self._used = self._scope.granted, self._scope.charged, now
        self._pace = 0.0
        """Fraction that was used since it was reported last."""
        self._busy = now
        """When there was more to do than there was room."""
        self._slots = 0
        self.told = False
        """It was given something, or nothing."""
        self._limits = self._scope.limits
        """By which that was reckoned."""
        self.soon = 0.0
        """Seconds from one balance to the next, if that is sooner than usual."""
        self._drains = False
        """It has more requests in flight than it is to have."""

    @property
    def outdated(self) -> bool:
        """It was told of other limits than there are now."""
        return self._limits != self._scope.limits

    def report(self, now: float, ahead: float, *, leaving: bool = False) -> Report:
        """What it holds and needs, for the database's clock, which is so many seconds ahead."""
        scope, model = self._scope, self._model
        need, slots = self._needs(now)
        requests, tokens = scope.refills()
        back = self._back
        if leaving or (model is not None and self._account.scope.unshared(now)):
            rest = scope.share_out(HeldShare(), now)
            back = self._back = back[0] + rest[0], back[1] + rest[1]
        adaptive = None if model is None else model.adaptive
        paused = -math.inf if model is None else model.paused_until
        share, self._limits = scope.share or HeldShare(), scope.limits
        learned = None if adaptive is None else adaptive.told(ahead)
        self._reported = (-1 if adaptive is None else adaptive.edition), learned
        self._was_back = back
        self._number += 1
        return Report(
            number=self._number,
            fraction=share.fraction,
            slots=share.slots,
            windows=share.windows,
            in_flight=scope.in_flight,
            sent=scope.counts(now),
            requests=back[0],
            tokens=back[1],
            need=need,
            need_slots=slots,
            minimum=scope.minimum(0.0 if model is None else model.largest),
            pace=0.0 if adaptive is None else adaptive.lately(now),
            most_slots=scope.limits.max_concurrent,
            most=scope.windows,
            requests_refill=requests,
            tokens_refill=tokens,
            learned=learned,
            changed=adaptive is not None and adaptive.edition != self._edition,
            version=self._version,
            paused_until=paused + ahead if 0 < paused - now <= LONGEST_TOLD else 0.0,
            leaving=leaving,
        )

    def _needs(self, now: float) -> tuple[float, int]:
        """The fraction and the slots that it could use."""
        scope = self._scope
        waiting = (
            self._account.waiting + self._account.departing.total() if self._model is None else self._model.waiting
        )
        granted, charged, at = self._used
        self._used = scope.granted, scope.charged, now
        rates = (scope.rate, scope.granted - granted), (scope.whole_tokens, scope.charged - charged)
        elapsed = max(now - at, HUNGRY)
        used = max((taken / (rate * elapsed) for rate, taken in rates if rate), default=0.0)
        self._pace = max(used, self._pace / 2 if elapsed >= 2 * HUNGRY else self._pace)
        self._slots = max(scope.in_flight + waiting, self._slots // 2)
        if waiting or not self.told or (scope.granted > granted and all(rate is None for rate, _ in rates)):
            self._busy = now
        busy = now - self._busy < LASTING
        if not self.told:
            return 1.0, scope.limits.max_concurrent or 1
        return (1.0 if busy else min(1.0, MORE * self._pace)), self._slots

    def drained(self) -> bool:
        """A slot was given back; whether others wait for that."""
        if not self._drains:
            return False
        self.soon = min(self.soon, GIVING)
        return True

    def take(self, grant: Grant, asked: float, now: float, ahead: float) -> None:
        """Go on with what was given; it was asked for at that time. `ahead`: see `report`."""
        scope, model = self._scope, self._model
        until = asked + (grant.until - grant.now) - CAREFUL
        share = HeldShare(fraction=grant.fraction, slots=grant.slots, windows=grant.windows, until=until)
        back = scope.share_out(share, now, requests=grant.requests, tokens=grant.tokens)
        requests, tokens = self._back[0] - self._was_back[0], self._back[1] - self._was_back[1]
        self._back = requests + back[0], tokens + back[1]
        self.told, self.soon = True, GIVING if grant.excess else HUNGRY if grant.hungry else math.inf
        self._drains = scope.limits.max_concurrent is not None and scope.in_flight > grant.slots
        if model is None:
            return
        model.adaptive.others = grant.others_pace
        model.concurrency.open_with(grant.processes)
        if grant.paused_until > grant.now:
            model.paused_until = max(model.paused_until, min(grant.paused_until - ahead, now + LONGEST_TOLD))
        edition, learned = self._reported
        if model.adaptive.edition == edition:  # else it learned more meanwhile
            if grant.version != self._version and grant.learned != learned:
                model.adopt(grant.learned, ahead, self._account.scope.limits, now)
            self._edition = edition
        self._version = grant.version


class SharedLimits(Generic[A]):
    """All scopes of this process that others may use too."""

    def __init__(self, limiter: Limiter, clock: Clock, *, hurry: Callable[[], None]) -> None:
        """`hurry` is called when they are to be balanced sooner than it was thought."""
        self._limiter = limiter
        self._clock = clock
        self._hurry = hurry
        self._scopes: dict[A, dict[str, SharedScope]] = {}
        self._ahead: float | None = None
        """Seconds by which the database's clock is ahead of ours."""
        self._asked = 0.0
        self.processes = 1
        """That use these accounts, as was told last."""

    def join(self, account: A, models: Iterable[str]) -> bool:
        """Share that account from now on; whether there is anything to be told before it is used. These models are
        asked."""
        limiter = self._limiter.account(account)
        scopes = self._scopes.setdefault(account, {})
        if str(account) not in scopes:
            scopes[str(account)] = SharedScope(limiter, None, self._clock.monotonic())

        def found(model: ModelLimits) -> None:
            self._add(account, limiter, model)
            self._hurry()

        def released(name: str) -> None:
            of_model = f"{account} model={name}"
            if scopes[str(account)].drained() or (of_model in scopes and scopes[of_model].drained()):
                self._hurry()

        limiter.found, limiter.released = found, released
        for name in models:
            limiter.model(name)
        for model in limiter.models.values():
            self._add(account, limiter, model)
        return any(not scope.told or scope.outdated for scope in scopes.values())

    def _add(self, account: A, limiter: AccountLimiter, model: ModelLimits) -> None:
        name = f"{account} model={model.departed.model}"
        if name not in self._scopes[account]:
            self._scopes[account][name] = SharedScope(limiter, model, self._clock.monotonic())

    @property
    def accounts(self) -> set[A]:
        """Those that are shared."""
        return set(self._scopes)

    @property
    def soon(self) -> float:
        """Seconds from one balance to the next."""
        found = (scope.soon for scopes in self._scopes.values() for scope in scopes.values())
        return min([pause(self.processes), *found])

    def decisions(self, leaving: Iterable[A] = ()) -> dict[str, Decide]:
        """What is to become of the rows of each of its scopes, by name."""
        now, left = self._clock.monotonic(), set(leaving)
        self._asked = now
        ahead = self._clock.now() - now if self._ahead is None else self._ahead
        found: dict[str, Decide] = {}
        for account, scopes in self._scopes.items():
            (first, report), *models = [
                (name, scope.report(now, ahead, leaving=account in left)) for name, scope in scopes.items()
            ]
            found |= balances(report, dict(models), first)
        return found

    def take(self, grants: Mapping[str, Grant], leaving: Iterable[A] = ()) -> None:
        """Go on with what was given upon the last reports."""
        now = self._clock.monotonic()
        for grant in grants.values():
            if self._ahead is None or now - self._asked < PROMPT:
                self._ahead = grant.now - self._asked
        for account in leaving:
            del self._scopes[account]
            limiter = self._limiter.account(account)
            limiter.found = limiter.released = None
        for account, scopes in self._scopes.items():
            for name, scope in scopes.items():
                if (told := grants.get(name)) is not None and self._ahead is not None:
                    scope.take(told, self._asked, now, self._ahead)
            self._limiter.account(account).admit()
        self.processes = max((grant.processes for grant in grants.values()), default=1)
