"""Where in a user's code an exception arose: on one line, and as a whole traceback without flowllm's own frames."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import flowllm
from flowllm.errors import FlowLLMError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An exception in words."""

    line: str
    """What it is and where it arose: `ValueError: bad (tools.py:3, in helper: raise ValueError("bad"))`."""
    traceback: str


def told(error: BaseException, *, folder: str, clean: Callable[[str], str]) -> Told:
    """The exception in words. `folder` is where the user's code is; `clean` takes out of a text what nobody may see,
    before anything is cut."""
    whole = traceback.TracebackException.from_exception(error)
    for part in _parts(whole):
        part.stack = traceback.StackSummary.from_list(
            [frame for frame in part.stack if not frame.filename.startswith((_OURS, "<frozen"))]
        )
    place = _place(error, folder)
    said = _cut(" ".join(clean(_said(error)).split()), LONGEST_LINE)
    text = clean("".join(whole.format()))
    if len(text) > LONGEST_TRACEBACK:
        left_out = len(text) - LONGEST_TRACEBACK
        text = f"{text[:_HEAD]}\n… {left_out:,} characters are left out …\n{text[left_out + _HEAD :]}"
    return Told(line=f"{said} ({clean(place)})" if place else said, traceback=text)


def _parts(one: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    waiting, seen = [one], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]


def _said(error: BaseException) -> str:
    """Its type and message, those of a group's members, and its cause."""
    found = _plainly(error)
    if isinstance(error, BaseExceptionGroup):
        members = [_said(one) for one in error.exceptions[:_GROUPED]]
        found += f": {'; '.join(members)}{'; …' if len(error.exceptions) > _GROUPED else ''}"
    if error.__cause__ is not None and error.__cause__ is not error:
        found += f", caused by {_plainly(error.__cause__)}"
    return found


def _plainly(error: BaseException) -> str:
    try:
        text = error.message if isinstance(error, FlowLLMError) else str(error)
    except Exception as problem:  # noqa: BLE001 - a class of the user's
        text = f"<its text cannot be had: {type(problem).__name__}>"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException, folder: str) -> str:
    """The innermost frame of the user's: `tools.py:3, in helper: raise ValueError`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        return f"{Path(error.filename).name}:{error.lineno}{f': {_cut(line, _SOURCE)}' if line else ''}"
    frames = [
        (frame.f_code.co_filename, number, frame.f_code.co_name)
        for frame, number in traceback.walk_tb(error.__traceback__)
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
