"""Regular expressions of schemas, run on foreign text in bounded time. The only module that uses jsonschema_rs.

Python's own engine may take for ever on a text of forty characters. Here patterns run in time that grows with the text;
those with look-arounds and backreferences, which no such engine has, within a number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

_MOST_KEPT: Final = 1000
_MOST_STEPS: Final = 200_000
"""Of backtracking: some hundredths of a second."""

LONGEST: Final = 5.0
"""Seconds of computing that the check of one value may take."""


class TooLongToCheck(Exception):
    """A check took more than it may."""


def has_match(pattern: str, text: str) -> bool:
    """The pattern is found somewhere in the text. Raises TooLongToCheck, and ValueError for what is no pattern."""
    return _matcher(pattern)(text)


def check_pattern(pattern: str) -> None:
    """Raises ValueError, in words, for a pattern that cannot be run."""
    _matcher(pattern)


@lru_cache(maxsize=_MOST_KEPT)
def _matcher(pattern: str) -> Callable[[str], bool]:
    import jsonschema_rs as rust  # noqa: PLC0415 - few workflows have patterns

    schema = {"pattern": pattern}
    for options in (rust.RegexOptions(), rust.FancyRegexOptions(backtrack_limit=_MOST_STEPS)):
        try:
            validator = rust.Draft202012Validator(schema, pattern_options=options)
        except (rust.ValidationError, ValueError):
            continue
        return lambda text: _found(validator, text)
    raise ValueError("it is none of ECMA 262, or larger than can be run in bounded time")


def _found(validator: Any, text: str) -> bool:
    try:
        error = next(iter(validator.iter_errors(text)), None)
    except UnicodeEncodeError:  # half characters
        return _found(validator, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if error is not None and "backtracking" in error.message:
        raise TooLongToCheck
    return error is None
