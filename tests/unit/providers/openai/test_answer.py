from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from flowllm.core.errors import (
    BadAnswer,
    ContentFiltered,
    EmptyAnswer,
    QuotaExhausted,
    RateLimited,
    Refused,
    RequestRejected,
    ServerFailed,
    StepError,
    TruncatedAnswer,
    Unauthorized,
    UnknownModel,
)
from flowllm.core.request import Completion
from flowllm.core.types import Usage
from flowllm.providers.openai.answer import decode
from flowllm.providers.openai.errors import LONGEST_RAW, RequestInfo
from flowllm.providers.openai.tables import FINISH_REASONS, End

INFO = RequestInfo(provider="work", server="127.0.0.1:1", model="m", key_env="WORK_KEY")


def chat(payload: object) -> Completion:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return decode(raw, api="chat", info=INFO)


def responses(payload: object) -> Completion:
    return decode(json.dumps(payload).encode(), api="responses", info=INFO)


def choice(content: object = "hi", reason: object = "stop", **more: object) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **more}, "finish_reason": reason}]}


def test_a_whole_answer() -> None:
    payload = {
        **choice("hi"),
        "model": "m-2026",
        "id": "abc",
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }
    assert chat(payload) == Completion(
        text="hi",
        model="m-2026",
        request_id="abc",
        usage=Usage(input_tokens=10, output_tokens=5, cached_input_tokens=4, reasoning_tokens=2),
    )


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "many",
        {},
        {"prompt_tokens": None, "completion_tokens": "7"},
        {"prompt_tokens": -1, "completion_tokens": True},
        {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
        {"prompt_tokens": 10**300, "prompt_tokens_details": 3, "completion_tokens_details": []},
    ],
)
def test_usage_that_makes_no_sense_is_unknown(usage: object) -> None:
    assert chat({**choice(), "usage": usage}).usage == Usage.unknown()


def test_fractions_of_tokens_are_dropped() -> None:
    assert chat({**choice(), "usage": {"prompt_tokens": 3.0}}).usage.input_tokens == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "image"}, {"type": "text", "text": "b"}], "b"),
        (["a", "b"], "ab"),
        ("null byte \u0000, surrogate \ud800, {{7*7}}", "null byte \u0000, surrogate \ud800, {{7*7}}"),
    ],
)
def test_text_in_its_shapes(content: object, text: str) -> None:
    assert chat(choice(content)).text == text


_AFTER: dict[End, str | type[StepError]] = {
    End.DONE: "stop",
    End.CUT: "length",
    End.TOOLS: "stop",
    End.FILTERED: ContentFiltered,
    End.ABORTED: ServerFailed,
}


@pytest.mark.parametrize(
    ("end", "reason"), [(end, reason) for end, reasons, _ in FINISH_REASONS for reason in reasons.split()], ids=str
)
def test_each_reason_in_the_table_of_ends(end: End, reason: str) -> None:
    after = _AFTER[end]
    for spelling in (reason, reason.upper(), reason.replace("_", "-"), f"{reason}: more"):
        if isinstance(after, str):
            assert chat(choice("half", spelling)).finish_reason == after
            continue
        with pytest.raises(after) as caught:
            chat({**choice("half", spelling), "usage": {"completion_tokens": 7}})
        assert caught.value.answer == "half"
        assert caught.value.usage == Usage(input_tokens=None, output_tokens=7)


def test_every_row_of_the_table_of_ends_has_a_source() -> None:
    assert all(source for _, _, source in FINISH_REASONS)
    assert {end for end, _, _ in FINISH_REASONS} == {*End} - {End.UNKNOWN}


@pytest.mark.parametrize("reason", [None, ""])
def test_no_reason_is_an_end(reason: object) -> None:
    assert chat(choice(reason=reason)).finish_reason == "stop"


@pytest.mark.parametrize("reason", ["whatever", 7, "Stopped early", "x" * 1000])
def test_an_unknown_reason_is_kept_as_the_server_put_it(reason: object) -> None:
    assert chat(choice(reason=reason)).finish_reason == str(reason)[:60]


@pytest.mark.parametrize("content", ["", " \n", None, [], 7])
def test_not_one_word_is_no_answer(content: object) -> None:
    with pytest.raises(EmptyAnswer, match="gave an empty answer") as caught:
        chat({**choice(content), "usage": {"completion_tokens": 7}})
    assert caught.value.usage == Usage(input_tokens=None, output_tokens=7)
    assert caught.value.retryable
    thought = {"completion_tokens": 300, "completion_tokens_details": {"reasoning_tokens": 300}}
    with pytest.raises(EmptyAnswer, match="nothing after its reasoning of 300 tokens"):
        chat({**choice(content), "usage": thought})
    with pytest.raises(EmptyAnswer, match="nothing after its reasoning"):
        chat(choice(content, reasoning_content="I think a lot"))


CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("reason", ["tool_calls", "stop", "tool_use"])
def test_a_call_of_a_tool_is_the_answer_of_a_step_that_sends_tools(reason: str) -> None:
    payload = choice(None, reason, tool_calls=[CALL])
    raw = json.dumps(payload).encode()
    completion = decode(raw, api="chat", info=replace(INFO, tools=True))
    assert json.loads(completion.text) == {"content": None, "tool_calls": [CALL]}
    assert completion.finish_reason == "stop"
    with pytest.raises(RequestRejected, match="though it was given none") as caught:
        chat(payload)
    assert json.loads(caught.value.answer or "") == {"content": None, "tool_calls": [CALL]}
    both = json.dumps(choice("I look.", reason, tool_calls=[CALL])).encode()
    assert chat(both).text == "I look."
    with_tools = decode(both, api="chat", info=replace(INFO, tools=True)).text
    assert json.loads(with_tools) == {"content": "I look.", "tool_calls": [CALL]}


def test_calls_in_other_shapes_are_written_alike() -> None:
    old = json.dumps(choice(None, "function_call", function_call={"name": "f", "arguments": "{}"})).encode()
    found = decode(old, api="chat", info=replace(INFO, tools=True)).text
    assert json.loads(found)["tool_calls"] == [{"type": "function", "function": CALL["function"]}]
    item = {"type": "function_call", "id": "fc", "call_id": "t", "name": "f", "arguments": "{}"}
    raw = json.dumps({"status": "completed", "output": [item]}).encode()
    answer = decode(raw, api="responses", info=replace(INFO, tools=True))
    assert json.loads(answer.text)["tool_calls"] == [CALL]


def test_calls_that_the_server_made_itself_are_no_answer() -> None:
    output = [
        {"type": "web_search_call", "id": "w", "status": "completed"},
        *message({"type": "output_text", "text": "a"}),
    ]
    raw = json.dumps({"status": "completed", "output": output}).encode()
    assert decode(raw, api="responses", info=replace(INFO, tools=True)).text == "a"


def test_of_several_choices_the_first_by_index() -> None:
    several = [{"index": i, "message": {"content": f"choice {i}"}, "finish_reason": "stop"} for i in (2, 0, 1)]
    assert chat({"choices": several}).text == "choice 0"


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'id': 'c', 'model': 'm2', 'choices': choices, **more})}\n\n"


def test_a_stream_that_nobody_asked_for_is_read() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    body = ": ping\n\n" + chunk({"role": "assistant", "content": "Par"}) + chunk({"content": "is."})
    whole = body + chunk({}, "stop") + f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
    for text in (whole, whole.replace("\n", "\r\n")):
        assert chat(text.encode()) == Completion(
            text="Paris.", model="m2", request_id="c", usage=Usage(input_tokens=3, output_tokens=2)
        )
    assert chat((body + chunk({}, "length")).encode()).finish_reason == "length"
    with pytest.raises(BadAnswer, match="a stream that broke off"):
        chat(body.encode())
    with pytest.raises(ServerFailed, match="overloaded"):
        chat((body + 'data: {"error": {"message": "overloaded", "code": 503}}\n\n').encode())
    with pytest.raises(ServerFailed, match="upstream gone"):
        chat((body + 'event: error\ndata: {"message": "upstream gone", "code": 502}\n\n').encode())
    with pytest.raises(BadAnswer, match="not valid JSON"):
        chat(b"data: {\n\n")


def test_a_stream_of_tool_calls() -> None:
    start = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}
    body = chunk({"tool_calls": [start]}) + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]})
    raw = (body + chunk({}, "tool_calls")).encode()
    assert json.loads(decode(raw, api="chat", info=replace(INFO, tools=True)).text)["tool_calls"] == [CALL]


def test_a_stream_of_responses() -> None:
    response = {"status": "completed", "output": message({"type": "output_text", "text": "Paris."})}
    events = [
        {"type": "response.created", "response": {"status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "delta": "Par"},
    ]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    end = f"event: x\ndata: {json.dumps({'type': 'response.completed', 'response': response})}\n\n"
    assert decode((body + end).encode(), api="responses", info=INFO).text == "Paris."
    with pytest.raises(BadAnswer, match="a stream that broke off"):
        decode(body.encode(), api="responses", info=INFO)


@pytest.mark.parametrize("content", ["", None])
def test_a_cut_before_the_first_word_is_none(content: str | None) -> None:
    with pytest.raises(TruncatedAnswer, match="before it said a word") as caught:
        chat({**choice(content, "length"), "usage": {"completion_tokens": 100}})
    assert caught.value.usage == Usage(input_tokens=None, output_tokens=100)
    assert "max_tokens" in caught.value.hint


@pytest.mark.parametrize(
    ("payload", "kind", "answer"),
    [
        (choice("half", "content_filter"), ContentFiltered, "half"),
        (choice(None, "content_filter"), ContentFiltered, ""),
        (choice("", refusal="I won't"), Refused, "I won't"),
        (choice([{"type": "refusal", "refusal": "no"}]), Refused, "no"),
    ],
)
def test_ends_that_are_errors(payload: dict[str, Any], kind: type[StepError], answer: str | None) -> None:
    with pytest.raises(kind) as caught:
        chat(payload)
    assert caught.value.answer == answer


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "nothing"),
        (b"  \n", "nothing"),
        (b"not json", "not valid JSON"),
        (b'{"choices": [{"mess', "not valid JSON"),
        (b'\n<!DOCTYPE html><html lang="en">', "a web page"),
        (b"<?xml version='1.0'?><e/>", "a web page"),
        (b"data: {}\n\n", "a stream that broke off"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "too large"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b'"text"', "no object"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": null}', "no choices"),
        (b'{"choices": {}}', "no choices"),
        (b'{"choices": [null]}', "no choices"),
        (b'{"choices": [{}]}', "without a message"),
        (b'{"choices": [{"message": null}]}', "without a message"),
        (b'{"error": {"message": "it went wrong"}}', "it went wrong"),
        (b'{"error": "it went wrong"}', "it went wrong"),
    ],
)
def test_what_is_no_answer_is_a_bad_one_with_its_raw_text(raw: bytes, expected: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        chat(raw)
    assert expected in caught.value.message
    assert "work (127.0.0.1:1)" in caught.value.message
    assert caught.value.answer == raw.decode(errors="replace")[:LONGEST_RAW]


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert chat(b"\xef\xbb\xbf" + json.dumps(choice("hi")).encode()).text == "hi"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "rate_limit_exceeded"}, RateLimited),
        ({"code": "insufficient_quota"}, QuotaExhausted),
        ({"type": "model_not_found"}, UnknownModel),
        ({"code": "invalid_api_key"}, Unauthorized),
        ({"code": 502, "message": "upstream"}, ServerFailed),
        ({"code": 429}, RateLimited),
        ({"code": 400}, RequestRejected),
        ({"type": "server_error"}, ServerFailed),
        ({"code": "something_new"}, BadAnswer),
        ({"code": 12345}, BadAnswer),
    ],
)
def test_an_error_at_200_is_what_it_says_it_is(error: dict[str, Any], kind: type[StepError]) -> None:
    for payload in ({"error": error}, {"choices": [{"error": error, "message": {"content": ""}}]}):
        with pytest.raises(kind) as caught:
            chat(payload)
        assert type(caught.value) is kind
        assert caught.value.answer == json.dumps(payload)


def test_an_answer_of_responses() -> None:
    payload = {
        "status": "completed",
        "model": "m2",
        "id": "r1",
        "output": [
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hmm"}]},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}],
            },
        ],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 8},
        },
    }
    assert responses(payload) == Completion(
        text="ab",
        model="m2",
        request_id="r1",
        usage=Usage(input_tokens=3, output_tokens=9, cached_input_tokens=1, reasoning_tokens=8),
    )


def message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "message", "content": list(parts)}]


def cut(reason: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"status": "incomplete", "incomplete_details": {"reason": reason}, "output": message(*parts)}


HALF = {"type": "output_text", "text": "half"}


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"output": message({"type": "refusal", "refusal": "no"})}, Refused),
        (cut("content_filter", HALF), ContentFiltered),
        (cut("max_output_tokens"), TruncatedAnswer),
        ({"output": [{"type": "function_call", "name": "f"}]}, RequestRejected),
        ({"output": []}, EmptyAnswer),
        ({"output": None}, BadAnswer),
        ({}, BadAnswer),
        ({"status": "failed", "error": {"code": "server_error", "message": "oh"}}, ServerFailed),
        ({"status": "failed", "error": {"code": "rate_limit_exceeded"}}, RateLimited),
        ({"status": "failed", "error": None}, BadAnswer),
    ],
)
def test_ends_of_responses_that_are_errors(payload: dict[str, Any], kind: type[StepError]) -> None:
    with pytest.raises(kind) as caught:
        responses(payload)
    assert type(caught.value) is kind


def test_a_cut_answer_of_responses() -> None:
    completion = responses(cut("max_output_tokens", HALF))
    assert (completion.text, completion.finish_reason, completion.model) == ("half", "length", "m")


def _message(text: str, phase: str | None) -> dict[str, Any]:
    return {"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([_message("I look.", "commentary"), _message("Paris.", "final_answer")], "Paris."),
        ([_message("I look.", "commentary"), _message("Paris.", None)], "Paris."),
        ([_message("Par", None), _message("is.", None)], "Paris."),
    ],
)
def test_commentary_is_no_answer(messages: list[dict[str, Any]], text: str) -> None:
    assert responses({"output": [{"type": "reasoning", "summary": []}, *messages]}).text == text


def test_commentary_alone_is_no_answer() -> None:
    with pytest.raises(BadAnswer):
        responses({"output": [_message("I look.", "commentary")]})


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Paris."}],
        [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "Paris."}],
        [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Par"}, {"text": "is."}],
        [{"type": "summary_text", "text": "hm"}, "Paris."],
        "<think>\nhm\n</think>\n\nParis.",
    ],
)
def test_reasoning_is_no_part_of_the_answer(content: object) -> None:
    assert chat(choice(content)).text == "Paris."
