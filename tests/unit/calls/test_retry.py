from __future__ import annotations

import pytest

from flowllm.calls.retry import Attempts, backoff
from flowllm.core.errors import ConnectionFailed, RateLimited, RequestRejected, ServerFailed
from flowllm.core.types import RetryPolicy

POLICY = RetryPolicy(max_attempts=3, initial_delay=1, max_delay=10, multiplier=2)


def test_backoff_doubles_up_to_its_cap_and_full_jitter_takes_any_part_of_it() -> None:
    assert [backoff(POLICY, n, lambda: 1.0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff(POLICY, 3, lambda: 0.25) == 1
    assert backoff(POLICY, 100_000, lambda: 1.0) == 10
    assert backoff(RetryPolicy(jitter=False), 2, lambda: 0.0) == 2


def test_max_attempts_counts_the_first() -> None:
    attempts = Attempts(POLICY, lambda: 0.5)
    assert attempts.failed(ServerFailed("500")) == 0.5
    assert attempts.failed(ConnectionFailed("reset")) == 1
    assert attempts.failed(ServerFailed("500")) is None


def test_what_cannot_get_better_is_not_tried_again() -> None:
    assert Attempts(POLICY, lambda: 0).failed(RequestRejected("400")) is None


def test_rate_limits_use_up_no_attempts() -> None:
    attempts = Attempts(POLICY, lambda: 0.0)
    assert all(attempts.failed(RateLimited("429")) == 0 for _ in range(50))
    assert attempts.failed(ServerFailed("500")) is not None


@pytest.mark.parametrize("error", [RateLimited("429", retry_after=7), ServerFailed("503", retry_after=7)])
def test_retry_after_is_honoured_and_spread_a_little(error: ServerFailed) -> None:
    assert Attempts(POLICY, lambda: 0.0).failed(error) == 7
    assert Attempts(POLICY, lambda: 0.9).failed(error) == pytest.approx(7.9)
