"""What a failure means for its account: nothing, trouble, or that the provider is given up for now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowllm.errors import (
    AttemptTimedOut,
    BadAnswer,
    ConnectionFailed,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
    Unauthorized,
)
from flowllm.limits.breaker import FIRST_COOLDOWN, BreakerState
from flowllm.types import DEFAULT_PATIENCE

if TYPE_CHECKING:
    from flowllm.errors import StepError
    from flowllm.limits.account import Account, Departure

NOBODY_THERE = frozenset({"refused", "unknown_host", "unreachable"})
SHORT_PATIENCE = FIRST_COOLDOWN
"""Seconds for which a server that was never reached is tried: until the breaker's first probe, not its second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What follows for the call that failed."""

    free: bool = False
    """It uses up none of its attempts: the provider is in trouble as a whole."""
    down: ProviderDown | None = None
    """The provider is given up."""
    notice: str | None = None
    """What people should hear of the provider."""


def judge(account: Account, error: StepError, departure: Departure) -> Report:
    """Tell the account of a failure; everyone who waits hears of it if the provider is given up."""
    before = account.breaker.state
    if isinstance(error, RateLimited):
        account.limited(error.retry_after, departure)
    elif isinstance(error, ServerFailed | ConnectionFailed | AttemptTimedOut | BadAnswer):
        account.failed()
    elif not isinstance(error, Unauthorized | QuotaExhausted):
        account.answered({}, departure)
    reason = _hopeless(account, error)
    if reason is None:
        known = before in {BreakerState.OPEN, BreakerState.PROBING}
        opened = not known and account.breaker.state is BreakerState.OPEN
        notice = None
        if opened:
            notice = f"is in trouble ({error.message}): requests wait, and one is sent now and then to try it"
        return Report(free=account.breaker.troubled or _never_reached(account, error), notice=notice)
    down = ProviderDown(
        f"{reason}: {error.message}", hint=error.hint or "see what the provider says, then resume"
    )
    account.give_up(down)
    return Report(free=True, down=down)


def _hopeless(account: Account, error: StepError) -> str | None:
    """Why to go on makes no sense for now; None: it does."""
    if isinstance(error, QuotaExhausted):
        return "the account has nothing left to spend"
    if isinstance(error, Unauthorized) and not account.answered_once:
        return "the provider does not let us in"
    if _never_reached(account, error) and account.troubled_for() >= SHORT_PATIENCE:
        return "the provider cannot be reached"
    patience = account.gates.limits.give_up_after or DEFAULT_PATIENCE
    if account.troubled_for() >= patience:
        return f"not one success in {patience:g} s"
    return None


def _never_reached(account: Account, error: StepError) -> bool:
    """There was nobody to connect to, from the beginning: attempts do not count, patience does."""
    nobody = isinstance(error, ConnectionFailed) and error.reason in NOBODY_THERE
    return nobody and not account.answered_once
