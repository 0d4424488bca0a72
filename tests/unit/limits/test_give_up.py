from __future__ import annotations

import asyncio

import pytest

from flowllm.core.errors import (
    AttemptTimedOut,
    BadAnswer,
    ConnectionFailed,
    EmptyAnswer,
    PathNotFound,
    ProviderDown,
    QuotaExhausted,
    RateLimited,
    Refused,
    RequestRejected,
    ServerFailed,
    StepError,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.types import Limits
from flowllm.limits.account_limiter import AccountLimiter
from flowllm.limits.adaptive import Departure
from flowllm.limits.breaker import LEAST
from flowllm.limits.give_up import MOST_REFUSED, SHORT_PATIENCE, FailureReport, judge_failure
from flowllm.limits.waiter import Admission
from tests.support.virtual import LoopClock, run_virtual

SENT = Departure()


def judged(*errors: StepError, gap: float = 0.0, answered: bool = False, **limits: object) -> list[FailureReport]:
    async def main() -> list[FailureReport]:
        account = AccountLimiter(LoopClock())
        account.set_limits(Limits(**limits))
        if answered:
            account.answered({}, SENT)
        reports = []
        for error in errors:
            reports.append(judge_failure(account, error, SENT))
            await asyncio.sleep(gap)
        return reports

    return run_virtual(main())


REFUSED = ConnectionFailed("nobody listens", reason="refused")
TROUBLE = ServerFailed("500", status=500)


def test_no_quota_gives_the_provider_up_at_once() -> None:
    down = judged(QuotaExhausted("insufficient_quota", hint="pay"), answered=True)[0].down
    assert isinstance(down, ProviderDown)
    assert "nothing left to spend" in down.message
    assert down.hint == "pay"


def test_a_401_gives_the_provider_up_at_once_and_after_answers_when_it_repeats() -> None:
    key = Unauthorized("401", status=401)
    assert judged(key)[0].down is not None
    first, second = judged(key, key, answered=True)
    assert (first.down, first.doubted) == (None, True)
    assert second.down is not None
    one, _, other = judged(key, RequestRejected("400"), key, answered=True)
    assert one.down is other.down is None, "there was an answer in between"


def test_a_403_may_be_one_request_s_fault() -> None:
    barred = Unauthorized("403", status=403)
    assert judged(barred)[0].down is not None
    reports = judged(*[barred] * MOST_REFUSED[False], answered=True)
    assert [report.down is not None for report in reports] == [False] * (len(reports) - 1) + [True]
    assert not any(report.doubted for report in reports)


def test_a_wrong_path_gives_up_only_a_provider_that_never_answered() -> None:
    nothing = PathNotFound("404", status=404, hint="base_url")
    down = judged(nothing)[0].down
    assert down is not None
    assert "address" in down.message
    assert down.hint == "base_url"
    assert judged(nothing, answered=True)[0].down is None
    assert judged(UnknownModel("404", status=404), nothing)[1].down is None, "it knows the API"


@pytest.mark.parametrize("kind", [RateLimited, ServerFailed])
def test_a_wait_beyond_patience_gives_up_at_once_and_says_until_when(kind: type[RateLimited]) -> None:
    down = judged(kind("quota of the day", retry_after=9840), answered=True)[0].down
    assert down is not None
    assert "until 2027-01-15 10:44:00 UTC (2:44:00)" in down.message
    assert judged(kind("soon", retry_after=60), answered=True)[0].down is None
    assert judged(kind("soon", retry_after=6), answered=True, give_up_after=5.0)[0].down is not None


def test_an_empty_answer_is_no_trouble_of_the_provider() -> None:
    reports = judged(*[EmptyAnswer("nothing")] * (2 * LEAST), gap=10.0, give_up_after=30.0)
    assert all(report == FailureReport() for report in reports)


@pytest.mark.parametrize("reason", ["refused", "unknown_host", "unreachable", "tls", "proxy"])
def test_a_server_that_was_never_reached_is_given_up_in_seconds(reason: str) -> None:
    error = ConnectionFailed("no way", reason=reason)
    reports = judged(*[error] * 5, gap=SHORT_PATIENCE / 2)
    assert [report.down is not None for report in reports[:3]] == [False, False, True]
    assert all(report.down is None for report in judged(*[error] * 5, gap=1.0, answered=True))


def test_a_reset_connection_is_no_proof_that_nobody_is_there() -> None:
    error = ConnectionFailed("reset", reason="reset")
    assert all(report.down is None for report in judged(*[error] * 5, gap=2.0))


@pytest.mark.parametrize("error", [TROUBLE, RateLimited("429"), AttemptTimedOut("slow"), BadAnswer("html")])
def test_without_one_success_for_so_long_the_provider_is_given_up(error: StepError) -> None:
    reports = judged(*[error] * 4, gap=10.0, answered=True, give_up_after=30.0)
    assert [report.down is not None for report in reports] == [False, False, False, True]


@pytest.mark.parametrize("error", [Refused("no"), RequestRejected("400")])
def test_a_refusal_is_an_answer_and_shows_that_the_provider_lives(error: StepError) -> None:
    reports = judged(TROUBLE, error, TROUBLE, error, gap=20.0, give_up_after=30.0)
    assert all(report.down is None for report in reports)


def test_a_failure_uses_up_attempts_until_the_provider_as_a_whole_is_in_trouble() -> None:
    reports = judged(*[TROUBLE] * LEAST)
    assert [report.free for report in reports] == [False] * (LEAST - 1) + [True]


def test_people_hear_once_that_requests_wait() -> None:
    notices = [report.notice for report in judged(*[TROUBLE] * (LEAST + 5)) if report.notice]
    assert len(notices) == 1
    assert "in trouble (500)" in notices[0]


def test_everyone_who_waits_hears_that_it_is_in_vain_and_later_ones_may_try_again() -> None:
    async def main() -> tuple[list[object], float]:
        account = AccountLimiter(LoopClock())
        account.set_limits(Limits(max_concurrent=1))
        await account.acquire(Admission())
        waiting = [asyncio.ensure_future(account.acquire(Admission())) for _ in range(5)]
        await asyncio.sleep(1)
        judge_failure(account, QuotaExhausted("empty"), SENT)
        heard = await asyncio.gather(*waiting, return_exceptions=True)
        account.give_back(Admission(), used=0, sent=True)
        return heard, await account.acquire(Admission())

    heard, waited = run_virtual(main())
    assert [type(error) for error in heard] == [ProviderDown] * 5
    assert waited == 0
