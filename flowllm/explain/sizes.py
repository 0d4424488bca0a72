"""How many tokens and dollars the requests of one node take: by its prompt as far as it is known, and by earlier calls. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass
from flowllm.core.request import IMAGE_TOKENS
from flowllm.core.types import Json, Usage
from flowllm.explain.span import NONE, NOTHING, Span, Takes
from flowllm.explain.stand_in import Case, StandIns
from flowllm.steps.base import Bound, WorkEstimate

_LIKELY_BYTES = 4.0
"""UTF-8 bytes of a token of English, by most tokenisers."""
_MOST_BYTES = 8.0
"""Those of the longest tokens on average; what is measured of real texts stays below 6."""
RESERVED = 4 / 3
"""What `estimate_tokens` gives, over what is likely: it is what is set aside for a prompt."""
_MARGIN = 1.2
"""What `estimate_tokens` is multiplied by to be never too low."""
_AROUND, _END = 4, 3
"""Tokens around each message, and behind the last, as OpenAI counts them (its cookbook, "How to count tokens")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCalls:
    """Earlier calls of one step to one model."""

    calls: int
    input_tokens: float | None
    """Of a call, on average, with what was asked again."""
    output_tokens: float | None
    seconds: float | None
    """Of an answered request, on average."""
    ratio: float | None
    """The prompts' tokens as they were reported, over what would have been expected of them."""


_MANY = 1_000_000

Rendered: TypeAlias = tuple[Bound, WorkEstimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a request has a model read."""

    texts: tuple[str, ...]
    beside: float
    """Tokens of what is no text: the schema, tools, images, and what is around messages."""

    @property
    def text(self) -> str:
        """All texts."""
        return "\n".join(self.texts)


def prompt_of(parts: Mapping[str, Json]) -> Prompt:
    """That of a node's record, or of a bound step: of its body, in whatever dialect."""
    body = parts.get("body") or {}
    texts, images = [], 0
    messages = body.get("messages") or body.get("input") or ()
    messages = messages if isinstance(messages, list) else [messages]
    for text in (body.get("instructions"), *(piece for one in messages for piece in _pieces(one))):
        if isinstance(text, str):
            texts.append(text)
        elif text is not None:
            images += 1
    shape = [body.get(name) for name in ("response_format", "text", "tools")]
    around = 0 if parts.get("kind") == "embed" else _AROUND * len(messages) + _END
    beside = sum(len(canonical(one)) for one in shape if one) / _LIKELY_BYTES + around + IMAGE_TOKENS * images
    return Prompt(texts=tuple(texts), beside=beside)


def _pieces(message: Json) -> Iterator[Json]:
    """The texts of a message, and something else for each image."""
    if isinstance(message, str):
        yield message
        return
    content = message.get("content") if isinstance(message, Mapping) else None
    for piece in content if isinstance(content, list) else [content]:
        yield piece.get("text", piece) if isinstance(piece, Mapping) else piece


def likely_tokens(prompt: Prompt, text: str | None = None) -> float:
    """About how many it has; `text` in place of its own."""
    return len((prompt.text if text is None else text).encode(errors="replace")) / _LIKELY_BYTES + prompt.beside


def takes_of(
    rendered: Sequence[Rendered], stand_ins: StandIns, past: PastCalls | None, *, waits: bool, floor: Span
) -> Takes:
    """What a node takes of which these are the requests in each case; all three are the same where nothing is unknown.

    `waits`: its prompt is not known yet; `floor` are tokens that may be in it though they were not rendered.
    """
    least, likely, most = (work for _, work in rendered)
    if not most.requests:
        return NOTHING
    requests = Span(low=least.requests or 0, expected=likely.requests, high=most.requests)
    some = rendered if waits else rendered[:1]
    prompts = [prompt_of(bound.parts) for bound, _ in some] * (3 // len(some))
    shown = [stand_ins.measured(prompt.text) for prompt in prompts[: len(some)]] * (3 // len(some))
    together = rendered[Case.LIKELY][0].parts.get("kind") == "embed"  # all texts, whatever requests they share
    count = 1 if together else likely.requests or 0
    low = len(shown[Case.LEAST].text.encode(errors="replace")) / _MOST_BYTES * (1 if together else requests.low)
    expected = _sum(likely_tokens(prompts[Case.LIKELY], shown[Case.LIKELY].text), shown[Case.LIKELY].likely)
    if past is not None and not together:
        if waits and past.input_tokens is not None:
            expected = past.input_tokens
        elif past.ratio is not None and expected is not None:
            expected *= past.ratio
    last, high = shown[Case.MOST], None
    if last.most is not None and floor.high is not None:
        high = most.input_tokens * _MARGIN * last.stretch
        high += (last.most + floor.high) * (1 if together else most.requests or 0)
    tokens_in = _ordered(low, None if expected is None else expected * count, high)
    output = None if likely.output_tokens is None else float(likely.output_tokens)
    if past is not None and past.output_tokens is not None and not together:
        output = past.output_tokens * count
    tokens_out = _ordered(0.0 if most.output_tokens == 0 else requests.low, output, most.output_tokens)
    return Takes(
        requests=requests,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=_cost(likely, tokens_in, tokens_out),
    )


def _ordered(low: float, expected: float | None, high: float | None) -> Span:
    """With what is expected between both ends."""
    low = low if high is None else min(low, high)
    if expected is not None:
        expected = max(low, expected if high is None else min(expected, high))
    return Span(low=low, expected=expected, high=high)


def _sum(one: float, other: float | None) -> float | None:
    return None if other is None else one + other


def _cost(work: WorkEstimate, tokens_in: Span, tokens_out: Span) -> Span | None:
    """None: the price is unknown."""

    def price(before: float | None, after: float | None) -> Usage | None:
        if before is None or after is None:
            return None
        return Usage(input_tokens=math.ceil(before), output_tokens=math.ceil(after))

    least = Usage(
        input_tokens=int(tokens_in.low), cached_input_tokens=int(tokens_in.low), output_tokens=int(tokens_out.low)
    )
    low = work.price(least)
    if low is None:
        return None
    if work.price(Usage(input_tokens=_MANY, output_tokens=_MANY)) == 0:
        return NONE  # nothing is paid, however much it is
    likely, most = price(tokens_in.expected, tokens_out.expected), price(tokens_in.high, tokens_out.high)
    return _ordered(
        low, None if likely is None else work.price(likely), None if most is None else work.price(most.dearest)
    )
