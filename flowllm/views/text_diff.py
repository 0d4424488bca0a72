"""What differs between two texts: by lines, and within lines by words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby

from flowllm.core.records import dataclass
from flowllm.core.types import Json

CONTEXT = 1
"""Equal lines that are shown beside what differs."""
LARGEST = 1000
"""Lines or words of one side, beside what begins and ends the same, up to which they are matched: it takes their product."""
ALIKE = 0.4
"""The share of equal characters from which two lines are held against each other word by word."""
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")

Part = tuple[str, bool]
"""A piece of a line, and whether it differs."""
Span = tuple[str, int, int, int, int]
"""As `SequenceMatcher.get_opcodes` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffLine:
    """A line that both texts have (` `), that only one of them has (`-`, `+`), or that stands for equal ones (`…`)."""

    sign: str
    parts: tuple[Part, ...]

    def as_list(self) -> list[Json]:
        """As JSON: the sign, and each part with whether it differs."""
        return [self.sign, [list(part) for part in self.parts]]


def text_diff(before: str, after: str) -> tuple[DiffLine, ...]:
    """The lines that differ with their neighbours, the earlier text's before the later one's; empty for equal texts."""
    if before == after:
        return ()
    old, new = before.split("\n"), after.split("\n")
    spans = list(_spans(old, new))
    found: list[DiffLine] = []
    for number, (what, start, end, new_start, new_end) in enumerate(spans):
        if what == "equal":
            found += _context(old[start:end], first=number == 0, last=number == len(spans) - 1)
        else:
            found += _changed(old[start:end], new[new_start:new_end])
    return tuple(found)


def _context(lines: Sequence[str], *, first: bool, last: bool) -> Iterator[DiffLine]:
    head, tail = 0 if first else CONTEXT, 0 if last else CONTEXT
    if len(lines) <= head + tail + 1:
        yield from (_plain(" ", line) for line in lines)
        return
    yield from (_plain(" ", line) for line in lines[:head])
    if not first and not last:
        yield _plain("…", "")
    yield from (_plain(" ", line) for line in lines[len(lines) - tail :])


def _changed(old: Sequence[str], new: Sequence[str]) -> Iterator[DiffLine]:
    pairs = [_by_words(before, after) for before, after in zip(old, new, strict=False)]
    yield from (DiffLine(sign="-", parts=before) for before, _ in pairs)
    yield from (_plain("-", line) for line in old[len(pairs) :])
    yield from (DiffLine(sign="+", parts=after) for _, after in pairs)
    yield from (_plain("+", line) for line in new[len(pairs) :])


def _plain(sign: str, line: str) -> DiffLine:
    return DiffLine(sign=sign, parts=((line, sign in "+-"),))


def _by_words(before: str, after: str) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Both lines in parts; all of them differs where they have little in common."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    sides: tuple[list[Part], list[Part]] = [], []
    for what, start, end, new_start, new_end in _spans(old, new):
        differs = what != "equal"
        sides[0].append(("".join(old[start:end]), differs))
        sides[1].append(("".join(new[new_start:new_end]), differs))
    equal = sum(len(text) for text, differs in sides[0] if not differs and not text.isspace())
    if equal < ALIKE * min(len(before), len(after)):
        return ((before, True),), ((after, True),)
    return _joined(sides[0]), _joined(sides[1])


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """What differs and what does not, in turn: empty where only the other side has something. A blank between two parts that
    differ does so too."""
    kept = list(parts)
    for at in range(1, len(kept) - 1):
        if kept[at][0].isspace() and kept[at - 1][1] and kept[at + 1][1]:
            kept[at] = (kept[at][0], True)
    return tuple(
        ("".join(text for text, _ in group), differs) for differs, group in groupby(kept, lambda part: part[1])
    )


def _spans(old: Sequence[str], new: Sequence[str]) -> Iterator[Span]:
    """What is equal, and what is not; beyond LARGEST only what begins and what ends the same is equal."""
    shorter = min(len(old), len(new))
    head = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    tail = next((at for at in range(shorter - head) if old[-1 - at] != new[-1 - at]), shorter - head)
    end, new_end = len(old) - tail, len(new) - tail
    if head:
        yield "equal", 0, head, 0, head
    middle, new_middle = old[head:end], new[head:new_end]
    if max(len(middle), len(new_middle)) > LARGEST:
        yield "replace", head, end, head, new_end
    else:
        for what, *at in SequenceMatcher(None, middle, new_middle, autojunk=False).get_opcodes():
            yield what, at[0] + head, at[1] + head, at[2] + head, at[3] + head
    if tail:
        yield "equal", end, len(old), new_end, len(new)
