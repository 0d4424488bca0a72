"""What a node took, for its line."""

from __future__ import annotations

from flowllm.core.events import NodeEnded, RequestEnded
from flowllm.core.types import StepKind
from flowllm.reporting.text import dollars, duration, plural


class Taken:
    """What the requests of a node, and of all within it, took so far."""

    __slots__ = ("reserved_usd", "sent", "tokens", "unknown", "usd")

    def __init__(self) -> None:
        self.sent = 0
        self.tokens = 0
        self.unknown = 0
        """Requests whose tokens nobody knows."""
        self.usd = 0.0
        self.reserved_usd: float | None = 0.0
        """What was set aside for requests of unknown cost; None: a price is unknown."""

    def ended(self, event: RequestEnded) -> None:
        """One of them is over."""
        self.tokens += event.usage.at_least
        self.unknown += event.usage.total is None
        self.usd += event.cost_usd or 0.0
        if event.cost_usd is None and self.reserved_usd is not None:
            known = event.usage.total is not None or event.reserved_usd is None
            self.reserved_usd = None if known else self.reserved_usd + (event.reserved_usd or 0.0)

    def figures(self) -> list[str]:
        """What is known where not all is: `1,234 tokens and 1 request of unknown use`, `$0.02 (at most $0.05)`."""
        if not self.tokens:
            return ["tokens unknown"]
        tokens, known, reserved = plural(self.tokens, "token"), dollars(self.usd), self.reserved_usd
        found = [
            f"{tokens} and {plural(self.unknown, 'request')} of unknown use" if self.unknown else f"at least {tokens}"
        ]
        if reserved:
            found.append(f"{known} (at most {dollars(self.usd + reserved)})")
        elif self.usd:
            found.append(known if reserved == 0 else f"at least {known}")
        return found


def figures(event: NodeEnded, taken: Taken) -> str:
    """What a step took: `[1.2s, 180 tokens, $0.0004, 2 attempts, truncated]`; `taken` by those within it too."""
    if event.kind is StepKind.VALUE:
        return ""
    many = event.counts is not None
    found = [duration(event.call_s)] if event.call_s and not many else []
    if event.usage.total is None:
        found += taken.figures()
    elif tokens := event.usage.total:
        found.append(plural(tokens, "token"))
        if event.cost_usd:
            found.append(dollars(event.cost_usd))
    if many or event.kind in {StepKind.WORKFLOW, StepKind.EMBED}:
        found += [plural(taken.sent, "request")] if taken.sent > 1 else []
    elif event.attempts > 1:
        found.append(plural(event.attempts, "attempt"))
    if event.truncated:
        found.append("truncated")
    return f"[{', '.join(found)}]" if found else ""
