"""What the test server may answer: a Reply, every fault there is as one, and scripts that choose among them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flowllm.providers.simulated.schema_sample import sample

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server does with one request."""

    text: str | None = None
    """The answer's text; None: something deterministic."""
    status: int = 200
    body: Any = None
    """Sent instead of an answer: text or bytes as they are, anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: Mapping[str, Any] | None = None
    """In the API's own shape; None: by the lengths of prompt and text."""
    delay: float = 0.0
    """Seconds before the first byte, on top of the server's latency."""
    after: int = 0
    """It goes out when the server has seen that many requests, or after a minute, which is in vain."""
    drip: float = 0.0
    """Seconds between bytes."""
    end: str = "whole"
    """whole; reset (RST) or close (FIN), after `sent` bytes of the body."""
    sent: int | None = None
    """None: not even the headers go out."""
    filler: int = 0
    """That many bytes go out as the text of an answer, made on the fly."""


Script = Callable[[dict[str, Any], int], Reply]


def error_body(message: str, code: str | None = None, kind: str = "error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def rate_limited(retry_after: str | None = None, **headers: str) -> Reply:
    """429, with that Retry-After."""
    sent = {**headers, **({} if retry_after is None else {"Retry-After": retry_after})}
    return Reply(status=429, body=error_body("Rate limit reached", "rate_limit_exceeded"), headers=sent)


def failed(status: int, message: str = "something broke", code: str | None = None) -> Reply:
    return Reply(status=status, body=error_body(message, code))


_DEEP = b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
FAULTS: dict[str, Reply] = {
    "429": rate_limited(),
    "quota": failed(429, "You exceeded your current quota", "insufficient_quota"),
    "unknown_model": failed(404, "The model does not exist", "model_not_found"),
    "too_long": failed(400, "This model's maximum context length is 10 tokens", "context_length_exceeded"),
    "bad_key": failed(401, "Incorrect API key provided", "invalid_api_key"),
    "slow_loris": Reply(drip=0.2),
    "late": Reply(delay=2.0),
    "reset": Reply(end="reset"),
    "reset_midway": Reply(end="reset", sent=20),
    "close": Reply(end="close"),
    "close_midway": Reply(end="close", sent=20),
    "truncated_json": Reply(body=b'{"id": "x", "choices": [{"message": {"content": "half of'),
    "invalid_json": Reply(body="this is no JSON"),
    "deep_json": Reply(body=_DEEP),
    "huge_integer": Reply(body=b'{"choices": ' + b"9" * 10_000 + b"}"),
    "html": Reply(body="<!DOCTYPE html><html><body>Welcome</body></html>", headers={"Content-Type": "text/html"}),
    "empty_body": Reply(body=b""),
    "not_utf8": Reply(body=b'{"choices": "\xff\xfe"}'),
    "list_body": Reply(body=[]),
    "stream": Reply(body='data: {"choices": []}\n\n', headers={"Content-Type": "text/event-stream"}),
    "error_at_200": Reply(body=error_body("it went wrong")),
    "rate_limit_at_200": Reply(body=error_body("slow down", "rate_limit_exceeded")),
    "empty_choices": Reply(body={"choices": []}),
    "null_choices": Reply(body={"choices": None}),
    "no_choices": Reply(body={}),
    "null_content": Reply(body={"choices": [{"message": {"role": "assistant", "content": None}}]}),
    "null_message": Reply(body={"choices": [{"message": None, "finish_reason": "stop"}]}),
    "content_filter": Reply(text="half a", finish_reason="content_filter"),
    "refusal": Reply(text="", refusal="I cannot help with that."),
    "tool_calls": Reply(text="", finish_reason="tool_calls"),
    "length": Reply(text="cut off in the mid", finish_reason="length"),
    "length_empty": Reply(text="", finish_reason="length"),
    "redirect": Reply(status=307, headers={"Location": "http://elsewhere.invalid/v1/chat/completions"}, body=""),
    "huge_answer": Reply(filler=32 * MIB),
}
for _status in (400, 403, 404, 408, 409, 422, 500, 502, 503, 529):
    FAULTS[str(_status)] = failed(_status)


def prompt_of(body: Mapping[str, Any]) -> str:
    """The text of the last message, or all texts to embed."""
    messages = body.get("messages") or body.get("input") or [{}]
    if isinstance(messages, str):
        return messages
    if isinstance(messages[-1], str):  # texts to embed
        return "\n".join(messages)
    content = messages[-1].get("content", "")
    return content if isinstance(content, str) else " ".join(str(part.get("text", "")) for part in content)


def echo(body: dict[str, Any], n: int) -> Reply:
    """The default script: text, or JSON that fits the schema, that depends on the body alone."""
    form = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    schema = form.get("schema") or (form.get("json_schema") or {}).get("schema")
    identity = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8]
    if schema is not None:
        return Reply(text=json.dumps(sample(schema, random.Random(identity))))
    if form.get("type") == "json_object":
        return Reply(text=json.dumps({"echo": identity}))
    return Reply(text=f"answer {identity} to: {prompt_of(body)[:80]}")


class ByPrompt:
    """A script that prompts give themselves: `[status=400]`, `[fault=reset]`, `[sleep=3]`, `[after=2]`, `[json={"a": 1}]`,
    `[text=…]`; with `[times=2]` a fault happens to the first two requests of a prompt only."""

    def __init__(self) -> None:
        self.mended = False
        self._counts: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any], n: int) -> Reply:
        prompt = prompt_of(body)
        self._counts[prompt] += 1
        marks = dict(re.findall(r"\[(status|fault|sleep|after|times|text)=([^\]]*)\]", prompt))
        reply = echo(body, n)
        position = prompt.find("[json=")
        if position >= 0:
            value, _ = json.JSONDecoder().raw_decode(prompt, position + len("[json="))
            reply = Reply(text=json.dumps(value))
        if "text" in marks:
            reply = Reply(text=marks["text"])
        over = self.mended or self._counts[prompt] > int(marks.get("times", 10**9))
        if not over and ("status" in marks or "fault" in marks):
            reply = FAULTS.get(marks.get("fault", "")) or failed(int(marks["status"]))
        return replace(reply, delay=reply.delay + float(marks.get("sleep", 0)), after=int(marks.get("after", 0)))
