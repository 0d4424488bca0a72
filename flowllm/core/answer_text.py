"""What of a model's text is the answer: reasoning left out, and the one JSON value with something around it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from flowllm.core import strict_json
from flowllm.core.types import Json

_BLANKS: Final = " \t\r\n\ufeff"
_NAMES: Final = "think|thinking|thought|reasoning|seed:think"
_OPENING: Final = re.compile(rf"[{_BLANKS}]*(?:<(?P<name>{_NAMES})>|\[think\]|◁think▷)", re.IGNORECASE)
_END: Final = rf"(?:</(?:{_NAMES})>|\[/think\]|◁/think▷)"
_CLOSING: Final = re.compile(_END, re.IGNORECASE)
_CLOSING_LINE: Final = re.compile(rf"^[ \t]*{_END}[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_FINAL: Final = re.compile(r"<\|channel\|>final[^<]{0,60}<\|message\|>")
_CHANNEL: Final = re.compile(rf"[{_BLANKS}]*<\|(?:channel|start)\|>")
_BEGIN: Final = re.compile(r"[\[{]")
_FENCE: Final = "```"
_MOST_STARTS: Final = 1000
"""Brackets that begin no JSON, after which no more are tried."""


def without_reasoning(text: str) -> str:
    """The text behind the blocks of reasoning that it begins with: `<think>…</think>`, or all up to a `</think>` that
    stands on a line of its own where nothing opened it, as templates that give the model the opening tag make it; of
    the channels of gpt-oss the final one.

    A block that is not closed is left as it is: it is unknown where the answer begins.
    """
    if _CHANNEL.match(text):
        *before, final = _FINAL.split(text)
        return final.removesuffix("<|return|>").strip(_BLANKS) if before else text
    at = 0
    while (opening := _OPENING.match(text, at)) is not None and (end := _closed(opening, text)):
        at = end
    if not at and opening is None:
        last = _CLOSING_LINE.search(text)
        at = last.end() if last is not None and not _OPENING.search(text, 0, last.start()) else 0
    return text[at:].lstrip(_BLANKS) if at else text


def _closed(opening: re.Match[str], text: str) -> int:
    """Where the block that begins there is closed; 0: nowhere."""
    name = opening["name"]
    end = (re.compile(f"</{name}>", re.IGNORECASE) if name else _CLOSING).search(text, opening.end())
    return 0 if end is None else end.end()


def json_in(text: str, *, fits: Callable[[Json], bool]) -> Json:
    """The one JSON value in an answer, for which `fits` may hold: all of it, or what stands behind reasoning, in a code
    block, or amid prose. A value that stands there twice is one.

    Raises ValueError, in words that the model can act on; json.JSONDecodeError where it was nearly JSON.
    """
    try:
        return strict_json.loads(text.strip(_BLANKS))
    except json.JSONDecodeError as error:
        broken = error
    shorter = without_reasoning(text).strip(_BLANKS)
    if _OPENING.match(shorter):
        raise ValueError("it holds reasoning that does not end, and no answer behind it")
    *_, last = _CLOSING.split(shorter)
    if not last.strip(_BLANKS):
        raise ValueError("it holds no JSON" + (" behind its reasoning" if last != shorter else ""))
    for part in (shorter, _unfenced(shorter), last):
        try:
            return strict_json.loads(part.strip(_BLANKS))
        except json.JSONDecodeError:
            continue
    return _the_one(_values(last, fits) or _values(shorter, fits), broken)


def _the_one(found: list[Json], broken: json.JSONDecodeError) -> Json:
    if not found:
        raise broken
    if any(json.dumps(value, sort_keys=True) != json.dumps(found[0], sort_keys=True) for value in found[1:]):
        raise ValueError(f"it holds {len(found)} JSON values that differ; give one")
    return found[0]


def _unfenced(text: str) -> str:
    """What stands in the Markdown code block that is the whole of a text.

    No regular expression: on an answer of thousands of blank lines one took minutes.
    """
    if len(text) <= 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    language, _, block = text[len(_FENCE) : -len(_FENCE)].partition("\n")
    return block if not language.strip() or language.strip().isalpha() else text


def _values(text: str, fits: Callable[[Json], bool]) -> list[Json]:
    """The objects and lists amid other text that fit. Each character is read once: what begins like JSON and breaks
    off is an answer that was cut or is wrong, and what stands within it is none.

    Raises ValueError for such a one.
    """
    found: list[Json] = []
    at = 0
    for _ in range(_MOST_STARTS):
        begin = _BEGIN.search(text, at)
        if begin is None:
            return found
        start = begin.start()
        try:
            value, at = strict_json.loads_at(text, start)
        except json.JSONDecodeError as error:
            if '":' in text[start : error.pos].replace(" ", ""):
                raise
            at = max(start + 1, error.pos)
            continue
        if fits(value):
            found.append(value)
    raise ValueError("it has too many brackets that begin no JSON")
