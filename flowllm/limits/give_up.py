"""What a failure means for its account: nothing, trouble, or that the provider is given up for now."""

from __future__ import annotations

from flowllm.core.errors import (
    AttemptTimedOut,
    BadAnswer,
    ConnectionFailed,
    EmptyAnswer,
    PathNotFound,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
    StepError,
    Unauthorized,
    WrongVectors,
)
from flowllm.core.records import dataclass
from flowllm.core.types import DEFAULT_PATIENCE
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.adaptive import Departure
from flowllm.limits.breaker import FIRST_COOLDOWN, BreakerState

NOBODY_THERE = frozenset({"refused", "unknown_host", "unreachable", "tls", "proxy"})
SHORT_PATIENCE = FIRST_COOLDOWN
"""Seconds for which a server that was never reached is tried: until the breaker's first probe, not its second."""

MOST_REFUSED = {True: 2, False: 5}
"""Refusals of access in a row, after answers: so many of 401, which is the key, or of 403, which may be one request."""
_BAD_KEY = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """What follows for the call that failed."""

    free: bool = False
    """It uses up none of its attempts: the provider is in trouble as a whole."""
    doubted: bool = False
    """It is to be seen twice before it is believed: the same is sent once more."""
    down: ProviderDown | None = None
    """The provider is given up."""
    notice: str | None = None
    """What people should hear of the provider."""


def judge_failure(account: AccountLimiter, error: StepError, departure: Departure) -> FailureReport:
    """Tell the account of a failure; everyone who waits hears of it if the provider is given up."""
    before = account.breaker.state
    if isinstance(error, RateLimited):
        account.limited(error.retry_after, departure)
    elif isinstance(error, ServerFailed | ConnectionFailed | AttemptTimedOut | BadAnswer) and not isinstance(
        error, EmptyAnswer | WrongVectors
    ):
        account.failed(departure, timed_out=isinstance(error, AttemptTimedOut))
    elif isinstance(error, Unauthorized):
        account.refused_in_a_row += 1
    elif not isinstance(error, QuotaExhausted | PathNotFound):
        account.answered({}, departure)
    reason = _hopeless(account, error)
    if reason is None:
        known = before in {BreakerState.OPEN, BreakerState.PROBING}
        opened = not known and account.breaker.state is BreakerState.OPEN
        notice = None
        if opened:
            notice = f"is in trouble ({error.message}): requests wait, and one is sent now and then to try it"
        return FailureReport(
            free=account.breaker.troubled or _never_reached(account, error),
            doubted=isinstance(error, Unauthorized) and error.status == _BAD_KEY,
            notice=notice,
        )
    down = ProviderDown(f"{reason}: {error.message}", hint=error.hint or "see what the provider says, then resume")
    account.give_up(down)
    return FailureReport(free=True, down=down)


def _hopeless(account: AccountLimiter, error: StepError) -> str | None:
    """Why to go on makes no sense for now; None: it does."""
    if isinstance(error, QuotaExhausted):
        return "the account has nothing left to spend"
    if isinstance(error, Unauthorized) and account.refused_in_a_row >= _most_refused(account, error):
        return "the provider does not let us in"
    if isinstance(error, PathNotFound) and not account.answered_once:
        return "the provider's address is not that of its API"
    if _never_reached(account, error) and account.troubled_for() >= SHORT_PATIENCE:
        return "the provider cannot be reached"
    return _too_long(account, error)


def _most_refused(account: AccountLimiter, error: Unauthorized) -> int:
    return MOST_REFUSED[error.status == _BAD_KEY] if account.answered_once else 1


def _too_long(account: AccountLimiter, error: StepError) -> str | None:
    patience = account.scope.limits.give_up_after or DEFAULT_PATIENCE
    wait = error.retry_after if isinstance(error, RateLimited | ServerFailed) else None
    if wait is not None and wait > patience:
        return f"the provider asks to be left alone {account.until(wait)}"
    if account.troubled_for() >= patience:
        return f"not one success in {patience:g} s"
    return None


def _never_reached(account: AccountLimiter, error: StepError) -> bool:
    """There was nobody to connect to, from the beginning: attempts do not count, patience does."""
    nobody = isinstance(error, ConnectionFailed) and error.reason in NOBODY_THERE
    return nobody and not account.answered_once
