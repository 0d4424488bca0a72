"""How the processes of one run divide its budget: each spends out of a portion, and takes another when that is used up. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from flowllm.core.money import Spend
from flowllm.core.records import dataclass
from flowllm.core.types import Budget

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A part of a budget that one process may spend. What the budget does not bound is not counted."""

    tokens: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Portion) -> Portion:
        return Portion(tokens=self.tokens + other.tokens, usd=self.usd + other.usd)

    def covers(self, other: Portion) -> bool:
        """It is as large as that one."""
        return other.tokens <= self.tokens + _ROUNDING and other.usd <= self.usd + _ROUNDING

    def of(self, budget: Budget) -> Portion:
        """Of what that budget bounds."""
        tokens = 0.0 if budget.tokens is None else self.tokens
        return Portion(tokens=tokens, usd=0.0 if budget.usd is None else self.usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortionGrant:
    """What a process may spend now besides what it holds, and how the run stands."""

    portion: Portion | None
    """None: as much as it wants is not there."""
    spend: Spend
    """Of all processes and attempts, with what is set aside for requests on their way."""
    others: bool
    """Other processes hold something that may come back."""


def divide(budget: Budget, spend: Spend, held: Portion, others: Iterable[Portion], want: Portion) -> Portion | None:
    """What a process gets that holds so much and wants at least so much more; None: that is not there.

    Half of its even part of what is left goes along, so that a large budget is asked about seldom and the last of it stands
    where it is needed. All that was recorded counts as spent, and what processes hold counts besides, with what their requests on
    their way set aside: of that some is counted twice, until these are over, and nothing is ever left out.
    """
    others = list(others)
    out = sum(others, start=held)
    left = Portion(
        tokens=0.0 if budget.tokens is None else budget.tokens - spend.tokens - out.tokens,
        usd=0.0 if budget.usd is None else budget.usd - spend.usd - out.usd,
    )
    want = want.of(budget)
    if not left.covers(want):
        return None
    part = 2 * (len(others) + 1)
    return Portion(
        tokens=max(want.tokens, left.tokens / part) if budget.tokens is not None else 0.0,
        usd=max(want.usd, left.usd / part) if budget.usd is not None else 0.0,
    )
