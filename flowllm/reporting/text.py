"""Text that people read: foreign text made harmless, numbers made short."""

from __future__ import annotations

import json
import re
import shlex
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flowllm.core import money
from flowllm.core.errors import ConditionFailed, ItemsFailed, TemplateFailed
from flowllm.core.types import IN_MEMORY, Json, N, RunStatus, WaitReason

_NUMBERS = re.compile(r"\[\n\s+((?:[-+.eE\d]+,\n\s+)*[-+.eE\d]+)\n\s*\]")
"""A list of numbers in indented JSON, where no text holds a line break."""
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but line feed and tab, so ANSI sequences too
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of writing
    "\u2028\u2029\u200b\ufeff\ufff9-\ufffb"  # line breaks and blanks that do not look like any
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates; invisible tag characters
)
_OF_THE_FILE = frozenset({TemplateFailed.__name__, ConditionFailed.__name__})
"""Errors that come again as long as the file and what is on record are the same."""
_NO_WIDTH = frozenset({"Mn", "Me", "Cf"})
"""What Unicode calls marks, and what is not seen."""
_MINUTE = 60.0
_HOUR = 3600.0
_KIBI = 1024
_SHORTEST_WAIT = 0.001


def visible(text: str) -> str:
    r"""The text with every character that could move the cursor or hide something written out, like \x1b."""
    return _UNSAFE.sub(lambda match: _escape(match[0]), text)


def _escape(char: str) -> str:
    code = ord(char)
    if char == "\r":
        return "\\r"
    if code <= 0xFF:  # noqa: PLR2004 - what two hexadecimal digits hold
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the same for four


def columns(text: str) -> int:
    """How many columns of a terminal a harmless text takes: characters of East Asia take two, marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(one) in _NO_WIDTH else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text
    )


def resume_options(
    status: RunStatus, errors: Sequence[Mapping[str, Json]], file: str, *, tolerated: bool = False
) -> str:
    """What a resume needs besides the run to do more than to fail again, after these errors of steps or of the run.

    `file` is the workflow's; `tolerated`: other failures were let pass, which a resume lets stand.
    """
    hints = " ".join(str(error.get("hint") or "") for error in errors)
    budget = re.search(r"--budget \S+", hints)
    options = f" {budget[0]}" if budget else ""
    if "--retry-failed" in hints:
        options += " --retry-failed"
    elif status is RunStatus.FAILED and errors and all(error.get("type") in _OF_THE_FILE for error in errors):
        options += (
            " --retry-failed"
            if tolerated
            else f" --file {shlex.quote(file)}"
            if file and not file.endswith(IN_MEMORY)
            else ""
        )
    return options


def one_line(text: str, longest: int = 200) -> str:
    """The text on one line, harmless, cut to so many characters."""
    flat = visible(" ".join(text.split()))
    return flat if len(flat) <= longest else f"{flat[: longest - 1]}…"


def json_text(value: Json, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """JSON that is valid and harmless on a terminal: unsafe characters are written as their escapes."""
    return harmless_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=_plain))


def harmless_json(text: str) -> str:
    """JSON with its unsafe characters, which stand in texts alone, as their escapes."""
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1].replace("\x7f", "\\u007f"), text)


def _plain(value: object) -> Json:
    """What json does not know by itself: any other mapping, any other sequence."""
    keys = getattr(value, "keys", None)
    if callable(keys):
        mapping: Mapping[str, Json] = value  # type: ignore[assignment]
        return dict(mapping)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def readable(value: Json) -> str:
    """A value as a person reads it: text as it is, anything else as JSON; harmless either way.

    A list of numbers, such as a vector, stands on one line.
    """
    if isinstance(value, str):
        return visible(value)
    return _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", json_text(value))


def duration(seconds: float | None) -> str:
    """A time span: 850ms, 1.2s, 3m 05s, 2h 07m; `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:  # noqa: PLR2004 - what rounds to a second
        return f"{round(seconds * 1000)}ms"
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def time_left(seconds: float) -> str:
    """The same of what is only guessed: whole seconds, 45s, 3m 05s."""
    whole = max(1, round(seconds))
    return f"{whole}s" if whole < _MINUTE else duration(whole)


def clock_time(seconds: float | None, *, zone: bool = False) -> str:
    """A wall clock time, seconds since 1970, as clocks here show it, to the second; `zone` names it: `2026-01-02 03:04:05 CET`.
    `-` for none."""
    return "-" if seconds is None else time.strftime(f"%Y-%m-%d %H:%M:%S{' %Z' * zone}", time.localtime(seconds))


def byte_size(count: int) -> str:
    """Bytes for people: 512 bytes, 1.5 KiB, 3.0 MiB."""
    if count < _KIBI:
        return plural(count, "byte")
    amount, units = float(count), iter(("KiB", "MiB", "GiB", "TiB"))
    while amount >= _KIBI and (unit := next(units, "")):
        amount /= _KIBI
    return f"{amount:.1f} {unit}"


def dollars(cost: float | None) -> str:
    """A sum (see `money`); `unknown` for none."""
    return "unknown" if cost is None else money.dollars(cost)


def at_least(value: N | None, known: N, shown: Callable[[N], str]) -> str:
    """A sum, or how much of it is known."""
    if value is not None:
        return shown(value)
    return f"at least {shown(known)}" if known else "unknown"


def plural(count: int, noun: str) -> str:
    """`1 step`, `4 steps`, `12,000 steps`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


_SHARES = ("accepted", "succeeded", "failed", "skipped", "not_sent")


def item_shares(counts: Mapping[str, Json]) -> str:
    """Counts of items, each with its word: `49,997 succeeded, 3 failed`."""
    same = counts.get("accepted") == counts.get("succeeded")  # which are accepted as well
    names = (name for name in _SHARES if counts.get(name) and not (same and name == "succeeded"))
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names)


def short_path(path: str) -> str:
    """A path as a person would type it here: relative if it is in the working directory."""
    try:
        return one_line(str(Path(path).relative_to(Path.cwd())))
    except (OSError, ValueError):
        return one_line(path)


def rate(per_second: float) -> str:
    """How fast something goes: 1,234/s, 12.3/s, 4.2/min."""
    if per_second >= 100:  # noqa: PLR2004 - three digits are enough
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{per_second * _MINUTE:.1f}/min"


def error_text(error: Mapping[str, Json] | None, longest: int = 400) -> str:
    """An error's record on one line: its type and message."""
    if not error:
        return "unknown error"
    return one_line(f"{error.get('type', 'Error')}: {error.get('message', '')}", longest)


def without_items(node: str, error: Mapping[str, Json]) -> Mapping[str, Json]:
    """The error of a foreach without those of its items, which stand beside it."""
    if error.get("type") != ItemsFailed.__name__:
        return error
    return {**error, "message": str(error.get("message")).partition(f"; {node}[")[0]}


def reason_word(reason: WaitReason | str) -> str:
    """Why something waits, in words: `equal call`."""
    return reason.replace("_", " ")


def suspended_text(kind: str, token: str, due_at: float | None) -> str:
    """What a suspended node waits for: `approval, token r1/ok, until 2026-01-02 03:04:05`."""
    until = "" if due_at is None else time.strftime(", until %Y-%m-%d %H:%M:%SZ", time.gmtime(due_at))
    return f"{one_line(kind)}, token {one_line(token)}{until}"


def waits_text(waits: Mapping[str, float], *, equal_to: str = "") -> str:
    """`1.2s: equal call 800ms, rate 400ms`, the longest first; empty where nothing waited for as long as a millisecond.
    `equal_to` is the step whose equal call it was, where that is known."""
    longest = sorted(
        ((seconds, reason) for reason, seconds in waits.items() if seconds >= _SHORTEST_WAIT), reverse=True
    )
    words = {reason: reason_word(reason) for reason in waits}
    if equal_to:
        words[WaitReason.EQUAL_CALL] = f"equal call of `{equal_to}`"
    shares = ", ".join(f"{words[reason]} {duration(seconds)}" for seconds, reason in longest)
    return shares and f"{duration(sum(seconds for seconds, _ in longest))}: {shares}"
