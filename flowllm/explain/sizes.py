"""How many tokens and dollars the requests of one node take: by its prompt as far as it is known, and by earlier calls. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass, replace
from flowllm.core.request import IMAGE_TOKENS
from flowllm.core.types import Json
from flowllm.explain.prices import Prices, Rates
from flowllm.explain.span import ANY, NONE, NOTHING, Span, Takes, all_of
from flowllm.explain.stand_in import LIKELY_BYTES, MOST_BYTES, Case, Measured, StandIns
from flowllm.steps.base import Bound, WorkEstimate

RESERVED: Final = 4 / 3
"""What `estimate_tokens` gives, over what is likely: it is what is set aside for a prompt."""
_MARGIN: Final = 1.2
"""What `estimate_tokens` is multiplied by to be hardly ever too low,"""
_EVERY_BYTE: Final = 3.0
"""and to be never too low: tokens of bytes are the worst that a tokeniser does, with digits or rare letters."""
_ANEW: Final = 2.0
"""So many times as many tokens may an answer have in another prompt, where it is escaped or read by another model."""
_IMAGE_MOST: Final = 50_000
"""Tokens that a model charges for an image at most (gpt-4o-mini, in full detail)."""
_COMPLAINT: Final = 2500
"""Tokens in which a model is told what is wrong with its answer, at most."""
_AROUND, _END = 4, 3
"""Tokens around each message, and behind the last, as OpenAI counts them (its cookbook, "How to count tokens")."""
_OPEN: Final = Span(high=None)
"""Nothing as long as all goes well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCalls:
    """Earlier calls of one step to one model. Figures are those of a call on average, with all that was asked again."""

    calls: int
    requests: float
    answers: float
    """Requests that were answered, the answers that would not do among them."""
    input_tokens: float | None
    output_tokens: float | None
    cached_share: float
    """Of the tokens in, those that were read from the provider's cache."""
    seconds: tuple[float, ...]
    """That answered requests took, each."""
    ratio: float | None
    """The prompts' tokens as they were reported, over what would have been expected of them."""


Rendered: TypeAlias = tuple[Bound, WorkEstimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a request has a model read."""

    texts: tuple[str, ...]
    images: int
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
    beside = sum(len(canonical(one)) for one in shape if one) / LIKELY_BYTES + around + IMAGE_TOKENS * images
    return Prompt(texts=tuple(texts), images=images, beside=beside)


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
    return _bytes(prompt.text if text is None else text) / LIKELY_BYTES + prompt.beside


def _calibrated(expected: float | None, past: PastCalls, *, known: float | None) -> float | None:
    """What is expected of a prompt by its text, corrected by what the step's prompts had before, with all that was asked again.
    Where so many tokens of it are `known` and the rest is answers, that rest is expected to be as it was."""
    if past.input_tokens is None or (known is None and past.ratio is None):
        return expected
    if expected is None or past.ratio is None:
        return past.input_tokens
    by_text = expected * past.ratio * past.answers
    share = 1.0 if known is None or not past.input_tokens else min(1.0, known / past.input_tokens)
    return share * by_text + (1 - share) * past.input_tokens


def _fewest_tokens(text: str) -> float:
    """No tokeniser makes fewer: long runs of spaces or signs are one token to some, words are at least one each."""
    return sum(min(MOST_BYTES, len(word) + 1) for word in text.split()) / MOST_BYTES


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The requests of a node in each case; all three are the same where nothing is unknown."""

    rendered: Sequence[Rendered]
    prompts: Sequence[Prompt]
    shown: Sequence[Measured]
    """The texts of the prompts without what stands in."""
    together: bool
    """Texts to embed: they share requests."""
    floor: Span = NONE
    """Tokens that may be in a prompt though they were not rendered."""

    @classmethod
    def of(cls, rendered: Sequence[Rendered], stand_ins: StandIns, *, waits: bool, floor: Span = NONE) -> Asked:
        """`waits`: the prompts are not known yet."""
        some = rendered if waits else rendered[:1]
        prompts = [prompt_of(bound.parts) for bound, _ in some]
        shown = [stand_ins.measured(prompt.text) for prompt in prompts]
        copies = 3 // len(some)
        together = rendered[0][0].parts.get("kind") == "embed"
        return cls(rendered=rendered, prompts=prompts * copies, shown=shown * copies, together=together, floor=floor)

    def work(self, case: Case) -> WorkEstimate:
        """What it takes in that case."""
        return self.rendered[case][1]

    @property
    def requests(self) -> Span:
        """If every answer will do at once."""
        least, likely, most = (work for _, work in self.rendered)
        few = least.requests if least.shared_requests is None else least.shared_requests
        return Span.between(few or 0, likely.requests, most.requests)

    @property
    def prompts_read(self) -> int:
        """How often the prompt is read, if every answer will do at once: all texts to embed once, whatever requests they share."""
        return 1 if self.together else self.work(Case.MOST).requests or 0

    def input_tokens(self, past: PastCalls | None, *, waits: bool) -> Span:
        """The same."""
        likely, last, most = self.shown[Case.LIKELY], self.shown[Case.MOST], self.work(Case.MOST)
        fewest = _fewest_tokens(self.shown[Case.LEAST].text)
        low = fewest * (1 if self.together else self.work(Case.LEAST).requests or 0)
        expected: float | None = None
        if likely.likely is not None:
            expected = likely_tokens(self.prompts[Case.LIKELY], likely.text) + likely.likely
        if past is not None and not self.together:
            known = _bytes(likely.text) / LIKELY_BYTES if waits else None
            expected = _calibrated(expected, past, known=known)
        if expected is not None and not self.together:
            expected *= self.work(Case.LIKELY).requests or 0
        if last.most is None or self.floor.high is None:
            return _ordered(low, expected, None, None)
        text, times = most.input_tokens * last.stretch, self.prompts_read
        images = _IMAGE_MOST * self.prompts[Case.MOST].images
        once = text * _MARGIN + (last.most + self.floor.high) * times
        high = text * _EVERY_BYTE + (last.most * _ANEW + self.floor.high + images) * times
        return _ordered(low, expected, once, high)

    def output_tokens(self, each: Span) -> Span:
        """The same; `each` is what is expected of an answer, and its least."""
        most = self.work(Case.MOST).output_tokens
        if most == 0:
            return NONE
        count = self.work(Case.LIKELY).requests or 0
        return _ordered(
            self.requests.low * each.low, None if each.expected is None else each.expected * count, most, most
        )


def takes_of(asked: Asked, past: Sequence[PastCalls | None], length: Span, prices: Prices, *, waits: bool) -> Takes:
    """What the node takes in all. `past` has the earlier calls to its model and to each fallback; `length` is that of an answer."""
    first, before = asked.work(Case.LIKELY), past[0]
    if not asked.work(Case.MOST).requests:
        return NOTHING
    count, requests = first.requests or 0, asked.requests
    if before is not None and not asked.together:
        requests = _ordered(requests.low, count * before.requests, requests.high, requests.high)
        length = replace(length, expected=before.output_tokens or length.expected)
    once = Takes(
        requests=requests,
        input_tokens=asked.input_tokens(before, waits=waits),
        output_tokens=asked.output_tokens(length),
    )
    whole = _repeated(once, first, asked)
    share = 0.0 if before is None else before.cached_share
    found = [replace(whole, cost_usd=_cost(prices.of(first), whole, share))]
    for work, instead in zip(first.fallbacks, past[1:], strict=True):
        times = 0.0 if instead is None or before is None else count * instead.calls / before.calls
        perhaps = _perhaps(whole, instead, times)
        cost = _cost(prices.of(work), perhaps, 0.0)
        found.append(replace(perhaps, cost_usd=(ANY if times else _OPEN) if cost is None else cost))
    takes = all_of(found)
    rates = [prices.of(work) for work in (first, *first.fallbacks)]
    least = min(0.0 if one is None else _least_cost(one, whole) for one in rates)
    return takes if takes.cost_usd is None else replace(takes, cost_usd=replace(takes.cost_usd, low=least))


def _repeated(once: Takes, work: WorkEstimate, asked: Asked) -> Takes:
    """With the most if each answer has to be asked for as often as it may be, and one attempt more beside a slow one."""
    questions, tries, requests = 1 + work.repairs, work.attempts + 1.0, once.requests.high
    before, after = once.input_tokens.high, once.output_tokens.high
    if asked.together:  # what is refused is asked for again in halves
        texts = max(1, len(asked.prompts[Case.MOST].texts))
        requests, tries = 2.0 * texts, tries * (1 + math.ceil(math.log2(texts)))
    if work.repairs:  # with the answer that would not do, and why
        wrong = None if after is None or requests is None else after + requests * _COMPLAINT
        before = None if before is None or wrong is None else before + wrong * work.repairs / questions

    def most(span: Span, amount: float | None) -> Span:
        return replace(span, high=None if amount is None else amount * tries * questions)

    return Takes(
        requests=most(once.requests, requests),
        input_tokens=most(once.input_tokens, before),
        output_tokens=most(once.output_tokens, after),
    )


def _perhaps(most: Takes, past: PastCalls | None, times: float) -> Takes:
    """Of a fallback: what so many of its earlier calls took, and as much as the model that it stands in for at most."""

    def span(high: float | None, of_call: float | None) -> Span:
        expected = None if of_call is None else of_call * times
        return _ordered(0.0, expected, 0.0, high)

    return Takes(
        requests=span(most.requests.high, 0.0 if past is None else past.requests),
        input_tokens=span(most.input_tokens.high, 0.0 if past is None else past.input_tokens),
        output_tokens=span(most.output_tokens.high, 0.0 if past is None else past.output_tokens),
    )


def _least_cost(rates: Rates, takes: Takes) -> float:
    return rates.of(takes.requests.low, takes.input_tokens.low, takes.output_tokens.low, cached=1.0)


def _cost(rates: Rates | None, takes: Takes, cached: float) -> Span | None:
    """`cached` is the share of the tokens in that is expected to be read from the provider's cache. None: the price is unknown."""
    if rates is None or rates.free:
        return None if rates is None else NONE

    def price(end: str, *, cached: float = 0.0, dearest: bool = False) -> float | None:
        """At that end of the range."""
        found = [getattr(span, end) for span in (takes.requests, takes.input_tokens, takes.output_tokens)]
        return None if None in found else rates.of(*found, cached=cached, dearest=dearest)

    return _ordered(
        _least_cost(rates, takes),
        price("expected", cached=cached),
        price("high_once", dearest=True),
        price("high", dearest=True),
    )


def _ordered(low: float, expected: float | None, once: float | None, high: float | None) -> Span:
    """With what is expected between both ends."""
    low = low if once is None else min(low, once)
    if expected is not None:
        expected = max(low, expected if high is None else min(expected, high))
        once = None if once is None else max(once, expected)
    return Span(low=low, expected=expected, high_once=once, high=high)
