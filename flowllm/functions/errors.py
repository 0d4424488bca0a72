"""Where in a user's code an exception arose: on one line, and as a whole traceback without flowllm's own frames."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast

import flowllm
from flowllm.core.errors import FlowLLMError, describe_error, type_name
from flowllm.core.records import dataclass

LONGEST_LINE = 400
"""Characters of what an exception says, on one line."""
LONGEST_TRACEBACK = 20_000
"""Characters; of a longer one the middle is left out."""
_HEAD = 4_000
_SOURCE = 80
"""Characters of a line of source."""
_GROUPED = 3
"""Exceptions of a group that are named."""
_OURS: Final = f"{Path(flowllm.__file__).parent}{os.sep}"
_OTHERS: Final = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<frozen"}
)

_SYNTAX: Final = frozenset({SyntaxError, IndentationError, TabError})
_OUR_WORDS: Final = FlowLLMError.__dict__["__str__"]
_CAUSE: Final = BaseException.__dict__["__cause__"]
_TRACEBACK: Final = BaseException.__dict__["__traceback__"]
_MEMBERS: Final = BaseExceptionGroup.__dict__["exceptions"]
"""As Python keeps them, whatever a class of the user's makes of these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorText:
    """An exception in words."""

    line: str
    """What it is and where it arose: `ValueError: bad (tools.py:3, in helper: raise ValueError("bad"))`."""
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeError:
    """The parts of that, of any length, with all that is in them."""

    message: str
    place: str
    traceback: str


def error_text(error: BaseException, *, folder: str, clean: Callable[[str], str]) -> ErrorText:
    """The exception in words. `folder` is where the user's code is; `clean` takes out of a text what nobody may see,
    before anything is cut."""
    return shortened(whole_error(error, folder=folder), clean=clean)


def whole_error(error: BaseException, *, folder: str) -> WholeError:
    """Its message, its place in the user's code, which is in `folder`, and its traceback."""
    return WholeError(place=_place(error, folder), message=_message(error), traceback=_whole(error))


def shortened(whole: WholeError, *, clean: Callable[[str], str]) -> ErrorText:
    """The exception in words, as `error_text`."""
    place = whole.place
    message = _cut(" ".join(clean(whole.message).split()), LONGEST_LINE)
    text = clean(whole.traceback)
    if len(text) > LONGEST_TRACEBACK:
        left_out = len(text) - LONGEST_TRACEBACK
        text = f"{text[:_HEAD]}\n… {left_out:,} characters are left out …\n{text[left_out + _HEAD :]}"
    return ErrorText(line=f"{message} ({clean(place)})" if place else message, traceback=text)


def has_own_text(error: BaseException) -> bool:
    """A class of somebody's makes its text, or that of one in it or behind it: that may take any time."""
    cause = _CAUSE.__get__(error)
    every = (error, *_members(error), *(() if cause is None else (cause,)))
    spoken = (
        next(one.__dict__["__str__"] for one in type(each).__mro__ if "__str__" in one.__dict__) for each in every
    )
    return any(not isinstance(one, types.WrapperDescriptorType) and one is not _OUR_WORDS for one in spoken)


def _whole(error: BaseException) -> str:
    """The traceback as Python has it; where a class of the user's is in its way, of that exception alone."""
    try:
        whole = traceback.TracebackException.from_exception(error)
        for part in _parts(whole):
            part.stack = traceback.StackSummary.from_list(
                [frame for frame in part.stack if not frame.filename.startswith((_OURS, "<frozen"))]
            )
        return str.__str__("".join(whole.format()))
    except BaseException:  # noqa: BLE001 - whatever its class, its cause or its group raises
        frames = [one for one in traceback.extract_tb(_traceback(error)) if not one.filename.startswith(_OURS)]
        return f"Traceback (most recent call last):\n{''.join(traceback.format_list(frames))}{describe_error(error)}\n"


def _parts(one: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    waiting, seen = [one], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]


def _message(error: BaseException, depth: int = 0) -> str:
    """Its type and message, those of a group's members, and its cause."""
    found = _plainly(error)
    members = _members(error)
    if members and depth < _GROUPED:
        message = [_message(one, depth + 1) for one in members[:_GROUPED]]
        found += f": {'; '.join(message)}{'; …' if len(members) > _GROUPED else ''}"
    cause = _CAUSE.__get__(error)
    if cause is not None and cause is not error:
        found += f", caused by {_plainly(cause)}"
    return found


def _plainly(error: BaseException) -> str:
    if not issubclass(type(error), FlowLLMError):
        return describe_error(error)
    message = vars(error).get("message")
    return f"{type_name(error)}: {message}" if type(message) is str else describe_error(error)


def _traceback(error: BaseException) -> types.TracebackType | None:
    found: types.TracebackType | None = _TRACEBACK.__get__(error)
    return found


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = _MEMBERS.__get__(error)
    return found


def _place(error: BaseException, folder: str) -> str:
    """The innermost frame of the user's: `tools.py:3, in helper: raise ValueError`."""
    while members := _members(error):
        error = members[0]
    if type(error) in _SYNTAX and isinstance(file := cast("SyntaxError", error).filename, str) and file:
        line, number = cast("SyntaxError", error).text, cast("SyntaxError", error).lineno
        shown = f": {_cut(line.strip(), _SOURCE)}" if isinstance(line, str) and line.strip() else ""
        return f"{Path(file).name}:{number}{shown}"
    frames = [
        (frame.f_code.co_filename, number, frame.f_code.co_name)
        for frame, number in traceback.walk_tb(_traceback(error))
    ]
    frames = [frame for frame in frames if not frame[0].startswith((_OURS, "<frozen"))]
    own = [frame for frame in frames if frame[0].startswith(folder)]
    users = [frame for frame in frames if not frame[0].startswith(_OTHERS)]
    chosen = own or users or frames
    if not chosen:
        return ""
    file, number, function = chosen[-1]
    source = linecache.getline(file, number).strip()
    where = "" if function == "<module>" else f", in {function}"
    return f"{Path(file).name}:{number}{where}{f': {_cut(source, _SOURCE)}' if source else ''}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
