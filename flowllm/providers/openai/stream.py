"""Answers that come as a stream of events although nobody asked for one: put together to what a whole one is. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from flowllm.core.types import Json

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


def _index(choice: Mapping[str, Json]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0
