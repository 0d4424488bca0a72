from __future__ import annotations

from flowllm.calls.conversation import Accept, Conversation, GiveUp, Send
from flowllm.calls.validation import Validator
from flowllm.core.errors import InvalidAnswer, RateLimited, RequestRejected, ServerFailed, TruncatedAnswer
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
