"""One answer, from the first request to the last: what to send next, decided purely.

A conversation is told how each request ended and says what comes next: send (again, or a repaired question, after a
delay), accept, or give up. It knows no provider, no clock and no store. Answers that only say "slow down", and failures
of a provider that is in trouble as a whole, use up no attempts: they are bounded by the step's timeout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowllm.calls.base import MOST_REPAIRS, AnyRequest
from flowllm.calls.validation import Validator, Verdict
from flowllm.core.errors import (
    EmptyAnswer,
    HttpFailed,
    InvalidAnswer,
    RateLimited,
    ServerFailed,
    StepError,
    TruncatedAnswer,
    WrongVectors,
)
from flowllm.core.records import dataclass, replace
from flowllm.core.request import ChatRequest, Completion, Embeddings, EmbedRequest, Reply
from flowllm.core.types import NO_USAGE, Json, RetryPolicy, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this request after `delay` seconds; `error` is why the one before it did not do."""

    request: AnyRequest
    delay: float = 0.0
    asked: float = 0.0
    """Seconds of the delay that the server asked for."""
    error: StepError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The answer is there."""

    value: Json
    truncated: bool
    """It was cut, or may have been."""
    unknown_end: str = ""
    """As in Answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """There will be no answer."""

    error: StepError


class Conversation:
    """The state of one call."""

    def __init__(
        self,
        request: AnyRequest,
        *,
        policy: RetryPolicy,
        validator: Validator | None,
        keep_truncated: bool,
        random: Callable[[], float],
    ) -> None:
        self._first = request
        self._request = request
        self._policy = policy
        self._validator = validator
        self._keep_truncated = keep_truncated
        self._random = random
        self._used = 0
        """Attempts at this question, and those that counted for nothing."""
        self._free = 0
        self._repairs = 0
        self._doubted = False
        self.usage = NO_USAGE
        """Spent so far, on answers that were not accepted too."""

    def start(self) -> Send:
        """The first request."""
        return Send(request=self._request)

    def failed(self, error: StepError, *, free: bool = False, doubted: bool = False) -> Send | GiveUp:
        """The request that was sent last brought no answer; `free` if that uses up no attempt, `doubted` if the error
        is to be seen twice before it is believed."""
        self.spent(error.usage or NO_USAGE)
        if isinstance(error, InvalidAnswer):  # the server itself has looked at it
            return self._repair(error.answer or "", error)
        if isinstance(error, EmptyAnswer) and self._validator is not None:
            return self._repair("", InvalidAnswer(error.message, hint=error.hint))
        if doubted and not self._doubted:
            self._doubted = True
            return Send(request=self._request, delay=backoff(self._policy, 1, self._random), error=error)
        delay = self._delay_after(error, free=free)
        if delay is None or self._is_for_smaller_ones(error):
            return GiveUp(error=error)
        # The timeout of an http step holds over what its server asks for too
        asked = 0.0 if isinstance(error, HttpFailed) else _asked_wait(error) or 0.0
        return Send(request=self._request, delay=delay, asked=asked, error=error)

    def spent(self, usage: Usage) -> None:
        """A request took that, whose outcome decides nothing."""
        self.usage += usage

    def _delay_after(self, error: StepError, *, free: bool) -> float | None:
        """Seconds until the next attempt, None if there is none."""
        if not error.retryable:
            return None
        if free or isinstance(error, RateLimited):
            self._free += 1
            wait = backoff(self._policy, self._free, self._random)
        else:
            self._used += 1
            if self._used >= self._policy.max_attempts:
                return None
            wait = backoff(self._policy, self._used, self._random)
        asked = _asked_wait(error)
        # What the server asked for, and a little more, so that not everyone comes back in the same instant.
        return wait if asked is None else asked + min(wait, self._policy.initial_delay)

    def _is_for_smaller_ones(self, error: StepError) -> bool:
        """The same texts at once would get the same; they are asked for again in smaller batches."""
        request = self._request
        return isinstance(error, WrongVectors) and isinstance(request, EmbedRequest) and len(request.texts) > 1

    def answered(self, reply: Reply, verdict: Verdict | None = None) -> Accept | Send | GiveUp:
        """The request that was sent last brought this; `verdict` is the validator's, if it has looked already."""
        self.usage += reply.usage
        if isinstance(reply, Completion):
            return self._completed(reply, verdict)
        value = list(reply.vectors) if isinstance(reply, Embeddings) else reply.value
        return Accept(value=value, truncated=False)

    def _completed(self, completion: Completion, verdict: Verdict | None) -> Accept | Send | GiveUp:
        cut = completion.finish_reason == "length"
        unknown = "" if cut or completion.finish_reason == "stop" else completion.finish_reason
        doubtful = cut or bool(unknown)
        if (cut and self._validator is not None) or (doubtful and not self._keep_truncated):
            return GiveUp(error=self._cut(completion, unknown))
        if self._validator is None:
            return Accept(value=completion.text, truncated=doubtful, unknown_end=unknown)
        verdict = verdict or self._validator.verdict(completion.text)
        if verdict.error is not None:
            return self._repair(completion.text, verdict.error)
        return Accept(value=verdict.value, truncated=doubtful, unknown_end=unknown)

    def _cut(self, completion: Completion, unknown: str) -> TruncatedAnswer:
        what = "the answer" if self._validator is None else "the JSON answer"
        how = f"may be cut: it ended with {unknown!r}" if unknown else "was cut at its token limit"
        return TruncatedAnswer(
            f"{what} {how}", hint="raise max_tokens, or ask for less", answer=completion.text, usage=self.usage
        )

    def _repair(self, text: str, error: InvalidAnswer) -> Send | GiveUp:
        if self._repairs == MOST_REPAIRS:
            return GiveUp(
                error=InvalidAnswer(
                    f"{error.message} (asked {MOST_REPAIRS + 1} times)",
                    hint="see the last answer with `flowllm show`; simplify the schema, or name a `fallback` model",
                    answer=text,
                    usage=self.usage,
                )
            )
        if not isinstance(self._first, ChatRequest):
            return GiveUp(error=error)
        self._repairs += 1
        self._used = self._free = 0
        self._request = replace(self._first, messages=_asked_again(self._first, text, error))
        return Send(request=self._request, error=error)


def _asked_again(first: ChatRequest, text: str, error: InvalidAnswer) -> tuple[Mapping[str, Json], ...]:
    """The question with the answer that would not do, and why. Servers take no message that is empty."""
    told = {
        "role": "user",
        "content": f"That cannot be used: {error.message}. Answer again with the corrected JSON only.",
    }
    if text.strip():
        return (*first.messages, {"role": "assistant", "content": text}, told)
    told["content"] = "Your answer was empty. Answer with the JSON only."
    *before, last = first.messages
    if last.get("role") == "user" and isinstance(last.get("content"), str):  # some want the roles to take turns
        return (*before, {**last, "content": f"{last['content']}\n\n{told['content']}"})
    return (*first.messages, told)


def backoff(policy: RetryPolicy, failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after that many failures in a row (from 1).

    Exponential, capped, with full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015. `random` gives an even draw from [0, 1).
    """
    exponent = min(failures - 1, 64)
    ceiling = min(policy.max_delay, policy.initial_delay * policy.multiplier**exponent)
    return ceiling * random() if policy.jitter else ceiling


def _asked_wait(error: StepError) -> float | None:
    """Seconds that the server asked to be left alone, None if it did not."""
    return error.retry_after if isinstance(error, RateLimited | ServerFailed | HttpFailed) else None
