"""What came back with status 200, whole or as a stream of events, as a Completion or a typed error. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from flowllm.core.errors import (
    BadAnswer,
    ContentFiltered,
    EmptyAnswer,
    Refused,
    RequestRejected,
    ServerFailed,
    StepError,
    TruncatedAnswer,
)
from flowllm.core.records import dataclass, replace
from flowllm.core.request import Completion
from flowllm.core.strict_json import without_reasoning
from flowllm.core.types import Json, Usage
from flowllm.providers.openai.errors import LONGEST_RAW, RequestInfo, error_at_200, has_message, is_error
from flowllm.providers.openai.tables import FINISH_REASONS, End, normalized
from flowllm.providers.openai.usage import read_usage

_LONGEST_REASON = 60
_EVENT_FIELDS = ("data:", "event:", "id:", "retry:", ":")
_CLIENT_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "computer_call", "shell_call"})
"""Calls that the server leaves to us; others, as of a web search, it has made itself."""


def decode(raw: bytes, *, api: str, info: RequestInfo) -> Completion:
    """The answer in a body that came with status 200. Raises as decode_chat does."""
    payload = parse(raw, info)
    text = raw.decode(errors="replace")
    return decode_responses(payload, text, info) if api == "responses" else decode_chat(payload, text, info)


def parse(raw: bytes, info: RequestInfo) -> dict[str, Json]:
    """The JSON object in a body. Raises BadAnswer, with the raw text in `answer`, if there is none."""
    try:
        text = raw.decode().removeprefix("\ufeff")
        payload = assembled(text) if _is_stream(text) else json.loads(text)
    except UnicodeDecodeError:
        raise bad_answer(info, "text that is not UTF-8", raw) from None
    except RecursionError:
        raise bad_answer(info, "JSON that is nested too deeply", raw) from None
    except json.JSONDecodeError as error:
        raise bad_answer(info, _not_json(raw, error), raw) from None
    except ValueError:  # an integer of thousands of digits
        raise bad_answer(info, "JSON with a number that is too large", raw) from None
    if payload is None and _is_stream(text):
        raise bad_answer(info, "a stream that broke off before its end", raw)
    if not isinstance(payload, dict):
        raise bad_answer(info, "JSON that is no object", raw)
    return payload


def _is_stream(text: str) -> bool:
    """Whether it is a stream of server-sent events (WHATWG HTML, section 9.2)."""
    return text[:200].lstrip().startswith(_EVENT_FIELDS)


def _not_json(raw: bytes, error: json.JSONDecodeError) -> str:
    start = raw[:200].lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (is the provider's base_url right?)"
    return f"text that is not valid JSON ({error.msg} at character {error.pos} of {len(error.doc)})"


def bad_answer(
    info: RequestInfo, what: str, raw: bytes | str, usage: Usage | None = None, *, kind: type[BadAnswer] = BadAnswer
) -> BadAnswer:
    """The error for an answer that is none, with the beginning of its text."""
    text = raw[: 4 * LONGEST_RAW].decode(errors="replace") if isinstance(raw, bytes) else raw
    message = f"{info.who} answered 200, but with {what}"
    return kind(message, answer=text[:LONGEST_RAW], usage=usage, status=200)


def decode_chat(payload: Mapping[str, Json], raw: str, info: RequestInfo) -> Completion:
    """The answer of Chat Completions; the choice with the lowest index, if there are several.

    Raises Refused, ContentFiltered, TruncatedAnswer (cut before one word was said: reasoning can use up all of
    `max_tokens`), RequestRejected (a tool call, though no tools were sent), ServerFailed (broken off), EmptyAnswer,
    BadAnswer, and for an error sent with status 200 whatever it stands for. `raw` is kept in a BadAnswer; usage is
    kept in all of them.
    """
    usage = read_usage(payload.get("usage"))
    choices = payload.get("choices")
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if is_error(payload) or (not found and has_message(payload)):
        raise _with_usage(error_at_200(payload, raw, info), usage)
    if not found:
        raise bad_answer(info, "no choices", raw, usage)
    choice = min(found, key=_index)
    if choice.get("error"):
        raise _with_usage(error_at_200(choice, raw, info), usage)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_answer(info, "a choice without a message", raw, usage)
    text, refusal = _content(message.get("content"))
    if isinstance(message.get("refusal"), str):
        refusal = message["refusal"] or refusal
    return _completion(
        payload,
        info,
        raw,
        parts=_Parts(
            text=text or "",
            refusal=refusal,
            finish_reason=str(choice.get("finish_reason") or ""),
            calls=_chat_calls(message),
            has_reasoning=any(message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details")),
        ),
        usage=usage,
    )


def _index(choice: Mapping[str, Json]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _chat_calls(message: Mapping[str, Json]) -> list[Json]:
    calls = message.get("tool_calls")
    found = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    old = message.get("function_call")
    return [*found, {"type": "function", "function": old}] if isinstance(old, dict) else found


def decode_responses(payload: Mapping[str, Json], raw: str, info: RequestInfo) -> Completion:
    """The answer of the Responses API; raises as decode_chat does."""
    usage = read_usage(payload.get("usage"))
    output = payload.get("output")
    if is_error(payload) or payload.get("status") == "failed" or (output is None and has_message(payload)):
        raise _with_usage(error_at_200({"error": {}, **payload}, raw, info), usage)
    if not isinstance(output, list):
        raise bad_answer(info, "no output", raw, usage)
    items = [item for item in output if isinstance(item, dict)]
    contents = [_content(item.get("content")) for item in _final_messages(items)]
    reason = str(payload.get("status") or "")
    if reason == "incomplete" and isinstance(details := payload.get("incomplete_details"), dict):
        reason = str(details.get("reason") or reason)
    return _completion(
        payload,
        info,
        raw,
        parts=_Parts(
            text="".join(text for text, _ in contents if text is not None),
            refusal="".join(refusal for _, refusal in contents),
            finish_reason=reason,
            calls=[_as_chat_call(item) for item in items if item.get("type") in _CLIENT_CALLS],
            has_reasoning=any(item.get("type") == "reasoning" for item in items),
        ),
        usage=usage,
    )


def _as_chat_call(item: Mapping[str, Json]) -> Json:
    """A call of a function as Chat Completions writes it; that of another tool as it is."""
    if item.get("type") != "function_call":
        return dict(item)
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}


def _final_messages(items: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The parts of an answer of either API."""

    text: str
    refusal: str
    finish_reason: str
    """As the server puts it; empty: it does not say."""
    calls: list[Json]
    """Tools that the model wants called, as Chat Completions writes them."""
    has_reasoning: bool
    """It has the model's reasoning, or some of it."""


def _completion(payload: Mapping[str, Json], info: RequestInfo, raw: str, *, parts: _Parts, usage: Usage) -> Completion:
    text = without_reasoning(parts.text)
    if text is not parts.text:
        parts = replace(parts, text=text, has_reasoning=True)
    end = end_of(parts.finish_reason)
    if parts.calls and end in (End.DONE, End.TOOLS) and (info.tools or not text.strip()):
        text, end = _calls_as_text(parts, info, usage), End.DONE
    if (error := _end_error(info, parts, end, usage)) is not None:
        raise error
    if not text.strip():
        raise _empty_answer(info, parts, raw, usage)
    model, request_id, tier = (payload.get(name) for name in ("model", "id", "service_tier"))
    cut = "length" if end is End.CUT else "stop"
    return Completion(
        text=text,
        model=model if isinstance(model, str) and model else info.model,
        finish_reason=parts.finish_reason[:_LONGEST_REASON] if end is End.UNKNOWN else cut,
        usage=usage,
        request_id=request_id if isinstance(request_id, str) else "",
        service_tier=tier if isinstance(tier, str) else "",
    )


def _calls_as_text(parts: _Parts, info: RequestInfo, usage: Usage) -> str:
    """What the model wants called, for a step that sent tools: nothing here calls them."""
    text = json.dumps({"content": parts.text or None, "tool_calls": parts.calls}, ensure_ascii=False)
    if info.tools:
        return text
    raise RequestRejected(
        f"{info.model or 'the model'} wants to call a tool instead of answering, though it was given none",
        hint="the calls are in the answer that `flowllm show` prints; say in the prompt that it has no tools",
        answer=text,
        usage=usage,
        status=200,
    )


def _end_error(info: RequestInfo, parts: _Parts, end: End, usage: Usage) -> StepError | None:
    """The error for an end other than `stop` and a cut that left some text."""
    model = info.model or "the model"
    if parts.refusal:
        return Refused(f"{model} declined to answer", answer=parts.refusal, usage=usage, status=200)
    if end is End.FILTERED:
        return ContentFiltered(
            f"the content filter of {info.provider} stopped the answer ({parts.finish_reason[:_LONGEST_REASON]})",
            answer=parts.text,
            usage=usage,
            status=200,
        )
    if end is End.CUT and not parts.text.strip():
        return TruncatedAnswer(
            f"{model} used up max_tokens before it said a word",
            hint="raise max_tokens: reasoning counts against it too",
            answer="",
            usage=usage,
        )
    if end is End.ABORTED:
        reason = parts.finish_reason[:_LONGEST_REASON]
        error = ServerFailed(f"{info.who} broke off the answer ({reason})", status=200)
        error.answer = parts.text or None
        return _with_usage(error, usage)
    return None


def _empty_answer(info: RequestInfo, parts: _Parts, raw: str, usage: Usage) -> EmptyAnswer:
    """Not one word is no answer, whatever the server calls it."""
    message = f"{info.model or 'the model'} gave an empty answer"
    hint = "see whether the prompt leaves it anything to say, or name a `fallback` model"
    if parts.has_reasoning or usage.reasoning_tokens:
        tokens = f" of {usage.reasoning_tokens:,} tokens" if usage.reasoning_tokens else ""
        message += f": it said nothing after its reasoning{tokens}"
        hint = "raise max_tokens, or lower the effort of its reasoning"
    return EmptyAnswer(message, hint=hint, answer=raw[:LONGEST_RAW], usage=usage, status=200)


def _with_usage(error: StepError, usage: Usage) -> StepError:
    """The error with the tokens that it cost all the same."""
    error.usage = None if usage == Usage.unknown() else usage
    return error


_ENDS = {
    spelling: end
    for end, reasons, _ in FINISH_REASONS
    for reason in reasons.split()
    for spelling in (reason, normalized(reason))
}


def end_of(reason: str) -> End:
    """What a reason means, whatever its case and separators; none given counts as done. `content_filter: SAFETY`
    stands for its first word if the whole is not known."""
    if not reason.strip():
        return End.DONE
    if reason in _ENDS:
        return _ENDS[reason]
    spellings = (normalized(reason), normalized(reason.partition(":")[0]))
    return next((_ENDS[one] for one in spellings if one in _ENDS), End.UNKNOWN)


_WHOLE = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


def assembled(text: str) -> dict[str, Json] | None:
    """The body that the events stand for, of Chat Completions or of Responses; None if their end did not come.

    Raises ValueError and RecursionError for an event that is not JSON.
    """
    merged: dict[str, Json] = {}
    choices: dict[int, _Choice] = {}
    over = False
    for name, data in _events(text):
        if data.strip() == "[DONE]":
            over = True
            break
        event = json.loads(data)
        if not isinstance(event, dict):
            continue
        if event.get("type") in _WHOLE and isinstance(event.get("response"), dict):
            return dict(event["response"])
        if event.get("error") or "error" in (event.get("type"), name):
            return event if event.get("error") else {"error": event}
        if event.get("object") == "response" or isinstance(event.get("response"), dict):
            continue
        merged |= {key: value for key, value in event.items() if key != "choices" and value is not None}
        for choice in event.get("choices") or ():
            if isinstance(choice, dict):
                choices.setdefault(_index(choice), _Choice()).add(choice)
    ended = all(choice.fields.get("finish_reason") for choice in choices.values())
    if not choices or not (over or ended):
        return None
    return {**merged, "choices": [choices[index].whole() for index in sorted(choices)]}


class _Choice:
    """One choice as far as it came. Pieces of text are joined once, at the end: there may be a hundred thousand."""

    def __init__(self) -> None:
        self.fields: dict[str, Json] = {}
        self._message: dict[str, Json] = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: list[dict[str, Json]] = []
        self._arguments: list[list[str]] = []

    def add(self, part: Mapping[str, Json]) -> None:
        """What one chunk says of it."""
        self.fields |= {
            key: value for key, value in part.items() if key not in ("delta", "message") and value is not None
        }
        delta = part.get("delta") or part.get("message")
        for key, value in delta.items() if isinstance(delta, dict) else ():
            if key == "tool_calls" and isinstance(value, list):
                for call in value:
                    self._call(call)
            elif isinstance(value, str) and key != "role":
                self._texts.setdefault(key, []).append(value)
            elif isinstance(value, list) and isinstance(self._message.get(key), list):
                self._message[key] += value
            elif value is not None:
                self._message[key] = value

    def _call(self, part: Json) -> None:
        """A piece of the tool call that it numbers."""
        if not isinstance(part, dict):
            return
        at = part.get("index")
        at = at if isinstance(at, int) and 0 <= at <= len(self._calls) else len(self._calls)
        if at == len(self._calls):
            self._calls.append({"function": {}})
            self._arguments.append([])
        call, function = self._calls[at], part.get("function")
        call |= {key: value for key, value in part.items() if key not in ("function", "index") and value}
        for key, value in function.items() if isinstance(function, dict) else ():
            if key == "arguments" and isinstance(value, str):
                self._arguments[at].append(value)
            elif value is not None:
                call["function"][key] = value

    def whole(self) -> dict[str, Json]:
        """The choice as an answer that is no stream has it."""
        message = self._message | {key: "".join(pieces) for key, pieces in self._texts.items()}
        for call, pieces in zip(self._calls, self._arguments, strict=True):
            call["function"]["arguments"] = "".join(pieces)
        calls = {"tool_calls": self._calls} if self._calls else {}
        return {**self.fields, "message": {**message, **calls}}


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Name and data of each event; lines of one event are joined."""
    name, lines = "", list[str]()
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif not line.strip():
            if lines:
                yield name, "\n".join(lines)
            name, lines = "", []
