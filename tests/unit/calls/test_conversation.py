from __future__ import annotations

import pytest

from flowllm.calls.conversation import Accept, Conversation, GiveUp, Send, backoff
from flowllm.calls.validation import Validator
from flowllm.core.errors import (
    ConnectionFailed,
    InvalidAnswer,
    RateLimited,
    RequestRejected,
    ServerFailed,
    TruncatedAnswer,
)
from flowllm.core.request import ChatRequest, Completion, OutputFormat
from flowllm.core.types import RetryPolicy, Usage

REQUEST = ChatRequest(model="m", messages=({"role": "user", "content": "How many?"},))
NUMBERS = Validator(OutputFormat(schema={"type": "array", "items": {"type": "integer"}}))


def dialogue(**how: object) -> Conversation:
    settings = {"policy": RetryPolicy(max_attempts=2), "validator": None, "keep_truncated": True}
    return Conversation(REQUEST, **{**settings, "random": lambda: 0.5, **how})


def said(text: str, reason: str = "stop") -> Completion:
    return Completion(text=text, model="m", finish_reason=reason, usage=Usage(input_tokens=1, output_tokens=2))


def test_text_is_taken_as_it_is() -> None:
    talk = dialogue()
    assert talk.start() == Send(request=REQUEST)
    assert talk.answered(said(" {{7*7}} \x00\n")) == Accept(value=" {{7*7}} \x00\n", truncated=False)


def test_failures_are_tried_again_until_the_attempts_are_used_up() -> None:
    talk, error = dialogue(), ServerFailed("500")
    again = talk.failed(error)
    assert again == Send(request=REQUEST, delay=0.5, error=error)
    assert talk.failed(error) == GiveUp(error=error)


def test_what_is_rejected_is_given_up_at_once() -> None:
    error = RequestRejected("400")
    assert dialogue().failed(error) == GiveUp(error=error)


def test_an_invalid_answer_is_asked_again_with_the_validators_words() -> None:
    talk = dialogue(validator=NUMBERS)
    again = talk.answered(said('["one"]'))
    assert isinstance(again, Send)
    assert again.delay == 0
    *before, answer, question = again.request.messages
    assert tuple(before) == REQUEST.messages
    assert answer == {"role": "assistant", "content": '["one"]'}
    assert "'one' is not of type 'integer'" in question["content"]
    assert "at [0]" in question["content"]
    assert talk.answered(said("[1]")) == Accept(value=[1], truncated=False)
    assert talk.usage == Usage(input_tokens=2, output_tokens=4)


def test_three_invalid_answers_end_it_with_the_last_one_kept() -> None:
    talk = dialogue(validator=NUMBERS)
    assert isinstance(talk.answered(said("no")), Send)
    assert isinstance(talk.answered(said("nope")), Send)
    over = talk.answered(said("never"))
    assert isinstance(over, GiveUp)
    assert isinstance(over.error, InvalidAnswer)
    assert over.error.answer == "never"
    assert over.error.usage == Usage(input_tokens=3, output_tokens=6)


def test_a_repaired_question_is_built_on_the_first_and_has_attempts_of_its_own() -> None:
    talk = dialogue(validator=NUMBERS)
    talk.failed(ServerFailed("500"))
    talk.answered(said("bad 1"))
    assert isinstance(talk.failed(ServerFailed("500")), Send)
    again = talk.answered(said("bad 2"))
    assert isinstance(again, Send)
    assert len(again.request.messages) == 3
    assert again.request.messages[1]["content"] == "bad 2"


def test_a_cut_answer_is_kept_marked_or_refused_and_cut_json_is_never_kept() -> None:
    cut = said("[1, 2", "length")
    assert dialogue().answered(cut) == Accept(value="[1, 2", truncated=True)
    for talk in (dialogue(keep_truncated=False), dialogue(validator=NUMBERS)):
        over = talk.answered(cut)
        assert isinstance(over, GiveUp)
        assert isinstance(over.error, TruncatedAnswer)
        assert over.error.answer == "[1, 2"


def test_rate_limits_do_not_end_it() -> None:
    talk = dialogue()
    assert all(isinstance(talk.failed(RateLimited("429", retry_after=1)), Send) for _ in range(20))


POLICY = RetryPolicy(max_attempts=3, initial_delay=1, max_delay=10, multiplier=2)


def delays(*errors: ServerFailed, draw: float = 0.0) -> list[float | None]:
    """Seconds to the attempt after each failure; None where there is none."""
    talk = dialogue(policy=POLICY, random=lambda: draw)
    return [getattr(talk.failed(error), "delay", None) for error in errors]


def test_backoff_doubles_up_to_its_cap_and_full_jitter_takes_any_part_of_it() -> None:
    assert [backoff(POLICY, n, lambda: 1.0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff(POLICY, 3, lambda: 0.25) == 1
    assert backoff(POLICY, 100_000, lambda: 1.0) == 10
    assert backoff(RetryPolicy(jitter=False), 2, lambda: 0.0) == 2


def test_max_attempts_counts_the_first() -> None:
    assert delays(ServerFailed("500"), ConnectionFailed("reset"), ServerFailed("500"), draw=0.5) == [0.5, 1, None]


def test_rate_limits_use_up_no_attempts() -> None:
    assert delays(*[RateLimited("429")] * 50, ServerFailed("500")) == [0.0] * 51


@pytest.mark.parametrize("error", [RateLimited("429", retry_after=7), ServerFailed("503", retry_after=7)])
def test_retry_after_is_honoured_and_spread_a_little(error: ServerFailed) -> None:
    assert delays(error) == [7]
    assert delays(error, draw=0.9) == [pytest.approx(7.9)]
