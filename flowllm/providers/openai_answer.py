"""The dialect of OpenAI: what came back with status 200, as a Completion or a typed error. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowllm.answer_text import without_reasoning
from flowllm.errors import (
    BadAnswer,
    ContentFiltered,
    InvalidAnswer,
    Refused,
    RequestRejected,
    ServerFailed,
    TruncatedAnswer,
)
from flowllm.providers.failures import LONGEST_RAW, LONGEST_WORDS, Asked, error_at_200
from flowllm.request import Completion
from flowllm.types import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowllm.errors import StepError
    from flowllm.types import Json

_CUT = frozenset({"length", "max_tokens", "max_output_tokens"})
_FILTERED = frozenset({"content_filter", "content_filtered", "safety"})
_TOOLS = frozenset({"tool_calls", "function_call", "tool_use"})
_MOST_TOKENS = 2**53
"""A count above this is nonsense, and would not fit a database."""


def decode(raw: bytes, *, api: str, asked: Asked) -> Completion:
    """The answer in a body that came with status 200. Raises as decode_chat does."""
    payload = parse(raw, asked)
    text = raw.decode(errors="replace")
    return decode_responses(payload, text, asked) if api == "responses" else decode_chat(payload, text, asked)


def parse(raw: bytes, asked: Asked) -> dict[str, Json]:
    """The JSON object in a body. Raises BadAnswer, with the raw text in `answer`, if there is none."""
    try:
        payload = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise bad_answer(asked, "text that is not UTF-8", raw) from None
    except RecursionError:
        raise bad_answer(asked, "JSON that is nested too deeply", raw) from None
    except json.JSONDecodeError as error:
        raise bad_answer(asked, _described(raw, error), raw) from None
    except ValueError:  # an integer of thousands of digits
        raise bad_answer(asked, "JSON with a number that is too large", raw) from None
    if not isinstance(payload, dict):
        raise bad_answer(asked, "JSON that is no object", raw)
    return payload


_INVALID_JSON = frozenset({"json_validate_failed", "json_validation_failed", "failed_generation"})


def invalid_json(payload: Json) -> InvalidAnswer | None:
    """The error of a server that checked the model's JSON itself and found it wrong, with what the model wrote."""
    error = payload.get("error") if isinstance(payload, dict) else None
    if not isinstance(error, dict) or _INVALID_JSON.isdisjoint(
        {str(error.get("code")), str(error.get("type"))}
    ):
        return None
    written = next((found for found in (error, payload) if "failed_generation" in found), {})
    text = written.get("failed_generation")
    told = str(error.get("message") or "it is not valid JSON")
    return InvalidAnswer(
        f"the server did not accept the model's JSON: {told[:LONGEST_WORDS]}",
        answer=text if isinstance(text, str) else "",
    )


def _described(raw: bytes, error: json.JSONDecodeError) -> str:
    start = raw[:200].lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (is the provider's base_url right?)"
    if start.startswith((b"data:", b"event:")):
        return "a stream (remove `stream` from params)"
    return f"text that is not valid JSON ({error.msg} at character {error.pos} of {len(error.doc)})"


def bad_answer(
    asked: Asked,
    what: str,
    raw: bytes | str,
    usage: Usage | None = None,
    *,
    kind: type[BadAnswer] = BadAnswer,
) -> BadAnswer:
    """The error for an answer that is none, with the beginning of its text."""
    text = raw[: 4 * LONGEST_RAW].decode(errors="replace") if isinstance(raw, bytes) else raw
    return kind(
        f"{asked.provider} ({asked.server}) answered 200, but with {what}",
        answer=text[:LONGEST_RAW],
        usage=usage,
        status=200,
    )


def decode_chat(payload: Mapping[str, Json], raw: str, asked: Asked) -> Completion:
    """The answer of Chat Completions; the first choice, if there are several.

    Raises Refused, ContentFiltered, TruncatedAnswer (cut before one word was said: reasoning can use up all of
    `max_tokens`), RequestRejected (a tool call), BadAnswer, and for an error sent with status 200 whatever it stands
    for. `raw` is kept in a BadAnswer; usage is kept in all of them.
    """
    if payload.get("error"):
        raise invalid_json(payload) or error_at_200(payload, raw, asked)
    usage = read_usage(payload.get("usage"), "prompt", "completion")
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise bad_answer(asked, "no choices", raw, usage)
    choice = choices[0]
    if choice.get("error"):
        raise error_at_200(choice, raw, asked)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_answer(asked, "a choice without a message", raw, usage)
    text, refusal = _content(message.get("content"))
    if isinstance(message.get("refusal"), str):
        refusal = message["refusal"] or refusal
    reason = str(choice.get("finish_reason") or "stop").lower()
    return _judged(payload, asked, raw, text=text, refusal=refusal, reason=reason, usage=usage)


def decode_responses(payload: Mapping[str, Json], raw: str, asked: Asked) -> Completion:
    """The answer of the Responses API; raises as decode_chat does."""
    if payload.get("error") or payload.get("status") == "failed":
        raise error_at_200({"error": {}, **payload}, raw, asked)
    usage = read_usage(payload.get("usage"), "input", "output")
    output = payload.get("output")
    if not isinstance(output, list):
        raise bad_answer(asked, "no output", raw, usage)
    items = [item for item in output if isinstance(item, dict)]
    contents = [_content(item.get("content")) for item in _final(items)]
    texts = [text for text, _ in contents if text is not None]
    refusal = "".join(refusal for _, refusal in contents)
    text = "".join(texts) if texts else None
    reason = "stop"
    if payload.get("status") == "incomplete":
        details = payload.get("incomplete_details")
        reason = str(details.get("reason") if isinstance(details, dict) else None).lower()
    elif text is None and any(str(item.get("type", "")).endswith("_call") for item in items):
        reason = "tool_calls"
    return _judged(payload, asked, raw, text=text, refusal=refusal, reason=reason, usage=usage)


def _final(items: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """The messages that are the answer: those of the final phase where a server names phases, never commentary."""
    messages = [item for item in items if item.get("type", "message") == "message"]
    final = [item for item in messages if item.get("phase") == "final_answer"]
    return final or [item for item in messages if item.get("phase") != "commentary"]


def _content(content: Json) -> tuple[str | None, str]:
    """The text of a message and the refusal in it; a list of parts is joined. None: there is no text."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return None, ""
    parts = [part if isinstance(part, dict) else {"text": part} for part in content]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str) and not _is_reasoning(part)]
    refusals = [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
    return "".join(texts) if texts else None, "".join(refusals)


def _is_reasoning(part: Mapping[str, Json]) -> bool:
    kind = str(part.get("type", ""))
    return "think" in kind or "reason" in kind or "summary" in kind


def _judged(
    payload: Mapping[str, Json],
    asked: Asked,
    raw: str,
    *,
    text: str | None,
    refusal: str,
    reason: str,
    usage: Usage,
) -> Completion:
    text = text if text is None else without_reasoning(text)
    error = _ended_badly(asked, text=text, refusal=refusal, reason=reason, usage=usage)
    if error is not None:
        raise error
    if text is None:
        raise bad_answer(asked, "no text", raw, usage)
    model, identity = payload.get("model"), payload.get("id")
    return Completion(
        text=text,
        model=model if isinstance(model, str) and model else asked.model,
        finish_reason="length" if reason in _CUT else "stop",
        usage=usage,
        request_id=identity if isinstance(identity, str) else "",
    )


def _ended_badly(
    asked: Asked, *, text: str | None, refusal: str, reason: str, usage: Usage
) -> StepError | None:
    """The error for an end other than `stop` and a cut that left some text."""
    model = asked.model or "the model"
    if refusal:
        return Refused(f"{model} declined to answer", answer=refusal, usage=usage, status=200)
    if reason in _FILTERED:
        return ContentFiltered(
            f"the content filter of {asked.provider} stopped the answer",
            answer=text or "",
            usage=usage,
            status=200,
        )
    if reason in _TOOLS:
        return RequestRejected(
            f"{model} wants to call a tool instead of answering",
            hint="remove the tools from `params`",
            answer=text,
            usage=usage,
            status=200,
        )
    if reason in _CUT and not text:
        return TruncatedAnswer(
            f"{model} used up max_tokens before it said a word",
            hint="raise max_tokens: reasoning counts against it too",
            answer="",
            usage=usage,
        )
    if reason in ("error", "failed", "cancelled"):
        return ServerFailed(f"{asked.provider} ({asked.server}) broke off the answer ({reason})", status=200)
    return None


def read_usage(usage: Json, before: str, after: str) -> Usage:
    """Token counts under `<before>_tokens` and `<after>_tokens`; what is missing or makes no sense counts as 0."""
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        input_tokens=_count(usage, f"{before}_tokens"),
        output_tokens=_count(usage, f"{after}_tokens"),
        cached_input_tokens=_count(usage.get(f"{before}_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(usage.get(f"{after}_tokens_details"), "reasoning_tokens"),
    )


def _count(counts: Json, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return 0
    return int(value)
