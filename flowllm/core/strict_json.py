"""JSON as RFC 8259 has it and nothing else, so that it can be written again, hashed and stored; and what of the text
of a model is the answer: without reasoning, and the one JSON value with something around it. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Final

from flowllm.core.types import Json

MAX_DEPTH: Final = 200
"""Lists and mappings within each other; far below where Python's own recursion ends."""
_SHOWN: Final = 40
_TOO_DEEP: Final = f"nested more than {MAX_DEPTH} deep"


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.{_SHOWN}} is too large")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float)


def loads(text: str) -> Json:
    """The value of a text. Raises json.JSONDecodeError for what is no JSON, and another ValueError, in words, for a
    number that no JSON holds (NaN, Infinity, 1e999, thousands of digits) and for more than MAX_DEPTH levels."""
    try:
        value: Json = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _value_error(error) from None
    _check_depth(value, text.count("[") + text.count("{"))
    return value


def loads_at(text: str, start: int) -> tuple[Json, int]:
    """The value that begins there, and where it ends; whatever stands behind it. Raises as `loads` does."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise _value_error(error) from None
    _check_depth(value, text.count("[", start, end) + text.count("{", start, end))
    return value, end


def json_of(data: bytes) -> Json:
    """The value of a text in UTF-8. Raises ValueError, of which `reason` gives the message."""
    return loads(data.decode())


def reason(error: ValueError) -> str:
    """What is wrong with a text, in a few words."""
    match error:
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} (character {error.pos + 1})"
        case UnicodeDecodeError():
            return f"not UTF-8 (byte {error.start + 1})"
    return str(error)


def _value_error(error: ValueError | RecursionError) -> ValueError:
    if isinstance(error, RecursionError):
        return ValueError(_TOO_DEEP)
    return ValueError("a number with too many digits") if "digits" in str(error) else error


def _check_depth(value: Json, brackets: int) -> None:
    if brackets > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)


def _depth(value: Json) -> int:
    """Lists and mappings within each other; level by level, so that no depth is too much."""
    depth, level = 0, _containers([value])
    while level:
        depth += 1
        level = _containers(inner for outer in level for inner in _inside(outer))
    return depth


def _containers(values: Iterable[Json]) -> list[dict[str, Json] | list[Json]]:
    return [value for value in values if isinstance(value, dict | list)]


def _inside(value: dict[str, Json] | list[Json]) -> Iterable[Json]:
    return value.values() if isinstance(value, dict) else value


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
        return loads(text.strip(_BLANKS))
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
            return loads(part.strip(_BLANKS))
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
            value, at = loads_at(text, start)
        except json.JSONDecodeError as error:
            if '":' in text[start : error.pos].replace(" ", ""):
                raise
            at = max(start + 1, error.pos)
            continue
        if fits(value):
            found.append(value)
    raise ValueError("it has too many brackets that begin no JSON")
