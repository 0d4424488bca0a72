"""Sums of money as people read them, and what requests took: the one module that adds costs up and formats them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from flowllm.core.records import dataclass
from flowllm.core.types import NO_USAGE, Json, Usage, add

_FIGURES = 4
_CENTS = 2
_DECIMALS = 10


def dollars(usd: float) -> str:
    """To four significant digits, and to the cent at least: $0, $0.00001234, $0.20, $1.234, $1,234.56."""
    usd = round(usd, _DECIMALS)  # else the same costs, added up in another order, may be written otherwise
    if usd == 0:
        return "$0"
    digits = max(_CENTS, _FIGURES - 1 - math.floor(math.log10(abs(usd))))
    whole, _, rest = f"{usd:,.{digits}f}".partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(_CENTS, '0')}"


def rounded(value: float | None, digits: int = _DECIMALS) -> float | None:
    """A figure without what floating point leaves behind."""
    return None if value is None else round(value, digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What requests took: what is known of it, and apart from that what was reserved for those whose usage is unknown."""

    requests: int = 0
    usage: Usage = NO_USAGE
    """A count is None as soon as that of one request is unknown."""
    known_input: int = 0
    known_output: int = 0
    """Tokens that are known."""
    known_usd: float = 0.0
    """US dollars that are known."""
    unpriced: int = 0
    """Requests whose tokens are known, and whose price is not."""
    unknown: int = 0
    """Requests whose tokens are unknown: the provider did not say, or no answer was seen."""
    reserved_tokens: float = 0.0
    """What was set aside for those, beyond the tokens that are known."""
    reserved_usd: float | None = 0.0
    """The same in US dollars, of those whose cost is unknown; None as soon as one's price is unknown too."""

    @classmethod
    def of(cls, usage: Usage, cost_usd: float | None, *, reserved_tokens: float, reserved_usd: float | None) -> Spend:
        """What one request took."""
        counted = usage.total is not None
        return cls(
            requests=1,
            usage=usage,
            known_input=usage.input_tokens or 0,
            known_output=usage.output_tokens or 0,
            known_usd=cost_usd or 0.0,
            unpriced=int(counted and cost_usd is None),
            unknown=int(not counted),
            reserved_tokens=0.0 if counted else max(0.0, reserved_tokens - usage.at_least),
            reserved_usd=0.0 if counted or cost_usd is not None else reserved_usd,
        )

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            requests=self.requests + other.requests,
            usage=self.usage + other.usage,
            known_input=self.known_input + other.known_input,
            known_output=self.known_output + other.known_output,
            known_usd=self.known_usd + other.known_usd,
            unpriced=self.unpriced + other.unpriced,
            unknown=self.unknown + other.unknown,
            reserved_tokens=self.reserved_tokens + other.reserved_tokens,
            reserved_usd=add(self.reserved_usd, other.reserved_usd),
        )

    @property
    def cost_usd(self) -> float | None:
        """US dollars; None as soon as the cost of one request is unknown."""
        return None if self.unpriced or self.reserved_usd != 0 else self.known_usd

    @property
    def tokens(self) -> float:
        """Input and output, with what was set aside: what counts against a budget."""
        return self.known_input + self.known_output + self.reserved_tokens

    @property
    def usd(self) -> float:
        """The same in US dollars, as far as prices are known."""
        return self.known_usd + (self.reserved_usd or 0.0)

    def as_dict(self) -> dict[str, Json]:
        """As it stands in the record of a run, in JSON output and in events."""
        cost, reserved = self.cost_usd, self.reserved_usd
        return {
            "usage": self.usage.as_dict(),
            "cost_usd": rounded(cost),
            "at_least": {
                "input_tokens": self.known_input,
                "output_tokens": self.known_output,
                "cost_usd": round(self.known_usd, _DECIMALS),
            },
            "unknown": {
                "requests": self.unknown,
                "reserved_tokens": math.ceil(self.reserved_tokens),
                "reserved_usd": rounded(reserved),
                "unpriced": self.unpriced,
            },
        }


def price(figures: Mapping[str, Json], unpriced: Collection[str] = ()) -> str:
    """What `Spend.as_dict` says of dollars: `$0.25`; `$0.015, and up to $0.222 for 3 requests of unknown cost`; `at least
    $0.015` where a price is not known, such as that of the models `unpriced`."""
    cost = figures.get("cost_usd")
    if cost is not None:
        return dollars(cost)
    known, unknown = figures.get("at_least", {}).get("cost_usd", 0.0), figures.get("unknown", {})
    reserved = unknown.get("reserved_usd", 0.0)
    count = unknown.get("requests", 0)
    doubts = (
        [f"up to {dollars(reserved)} for {count:,} request{'s' * (count != 1)} of unknown cost"] if reserved else []
    )
    if not unknown.get("unpriced"):
        unpriced = ()
        if doubts:
            return f"{dollars(known)}, and {doubts[0]}"
    if unpriced:
        doubts.insert(0, f"no price for {', '.join(sorted(unpriced))}")
    return (f"at least {dollars(known)}" if known else "unknown") + (f" ({'; '.join(doubts)})" if doubts else "")
