"""Whether a failed attempt is made again, and after how long. Pure."""

from __future__ import annotations

from collections.abc import Callable

from flowllm.core.errors import HttpFailed, RateLimited, ServerFailed, StepError
from flowllm.core.types import RetryPolicy


def backoff(policy: RetryPolicy, failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after that many failures in a row (from 1).

    Exponential, capped, with full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015. `random` gives an even draw from [0, 1).
    """
    exponent = min(failures - 1, 64)
    ceiling = min(policy.max_delay, policy.initial_delay * policy.multiplier**exponent)
    return ceiling * random() if policy.jitter else ceiling


def asked_wait(error: StepError) -> float | None:
    """Seconds that the server asked to be left alone, None if it did not."""
    return error.retry_after if isinstance(error, RateLimited | ServerFailed | HttpFailed) else None


class Attempts:
    """Counts the attempts at one request, and says after each failure how long to wait, or to give up.

    Answers that only say "slow down", and failures of a provider that is in trouble as a whole, use up no
    attempts: they are bounded by the step's timeout alone.
    """

    def __init__(self, policy: RetryPolicy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self._used = 0
        self._free = 0

    def failed(self, error: StepError, *, free: bool = False) -> float | None:
        """Seconds until the next attempt, None if there is none."""
        if not error.retryable:
            return None
        asked = asked_wait(error)
        if free or isinstance(error, RateLimited):
            self._free += 1
            return self._after(asked, self._free)
        self._used += 1
        return None if self._used >= self._policy.max_attempts else self._after(asked, self._used)

    def _after(self, asked: float | None, failures: int) -> float:
        wait = backoff(self._policy, failures, self._random)
        if asked is None:
            return wait
        # What the server asked for, and a little more, so that not everyone comes back in the same instant.
        return asked + min(wait, self._policy.initial_delay)
