"""A traceback of Python's as people read it: what broke first, the user's own code before that of libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flowllm.core.records import dataclass
from flowllm.reporting.screen import Part
from flowllm.reporting.text import short_path, visible

_HEAD = "Traceback (most recent call last):"
_FRAME = re.compile(r'  File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
_MARKS = re.compile(r"\s*[~^]+\s*")
_LIBRARY = re.compile(r".*/(?:site|dist)-packages/|.*/lib(?:64)?/python[\d.]+/|<frozen ")
_LINKS = {
    "The above exception was the direct cause of the following exception:": "caused by:",
    "During handling of the above exception, another exception occurred:": "raised while this was handled:",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    file: str
    line: str
    function: str
    source: str


def traceback_lines(text: str) -> list[tuple[Part, ...]]:
    """The kept text of a traceback as lines: the frame that broke first, then who called it; of an exception with a cause, that
    behind it. What is not of that form (a group, one that was cut) stands as it is."""
    blocks = re.split("\n\n({})\n\n".format("|".join(map(re.escape, _LINKS))), text.strip("\n"))
    found: list[tuple[Part, ...]] = []
    for at in range(len(blocks) - 1, -1, -2):
        frames = _frames(blocks[at].split("\n"))
        if frames is None:
            return [(f"  {visible(line)}",) for line in text.splitlines()]
        shown, said = frames
        if found:
            found += [(("  " + _LINKS[blocks[at + 1]], "bold"),), *((f"  {visible(line)}",) for line in said)]
        found += _lines(shown)
    return found


def _frames(lines: list[str]) -> tuple[list[_Frame], list[str]] | None:
    """The frames of one exception, the last call first, and what it says."""
    if lines[0] != _HEAD:
        return None
    frames: list[_Frame] = []
    rest = lines[1:]
    while rest and (match := _FRAME.fullmatch(rest[0])):
        count = next((at for at, line in enumerate(rest[1:], 1) if not line.startswith("    ")), len(rest))
        source = [line.strip() for line in rest[1:count] if not _MARKS.fullmatch(line)]
        frames.append(
            _Frame(file=match["file"], line=match["line"], function=match["function"] or "", source=" ".join(source))
        )
        rest = rest[count:]
    return (frames[::-1], rest) if frames and rest and not rest[0].startswith((" ", "  [")) else None


def _lines(frames: list[_Frame]) -> Iterator[tuple[Part, ...]]:
    own = [frame for frame in frames if not _LIBRARY.match(frame.file)]
    others = [frame for frame in frames if _LIBRARY.match(frame.file)]
    for number, frame in enumerate(own or others):
        yield _where(frame, "at" if number == 0 else "called from", "bold" if number == 0 else "")
        if frame.source:
            yield (f"      {visible(frame.source)}",)
    for number, frame in enumerate(others if own else ()):
        if not number:
            yield (("  within libraries:", "dim"),)
        yield ((f"      {_place(frame)}  {visible(frame.source)}".rstrip(), "dim"),)


def _where(frame: _Frame, how: str, style: str) -> tuple[Part, ...]:
    return (f"  {how} ", (_place(frame), style))


def _place(frame: _Frame) -> str:
    function = f", in {visible(frame.function)}" if frame.function and frame.function != "<module>" else ""
    return f"{short_path(_LIBRARY.sub('', frame.file))}:{frame.line}{function}"
