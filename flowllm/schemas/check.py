"""Whether a value fits a JSON Schema, in bounded time whatever the schema and the value."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from flowllm.core.types import Json
from flowllm.schemas.patterns import LONGEST, TooLongToCheck, has_match

if TYPE_CHECKING:
    Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]

MOST_ERRORS: Final = 1000
_LITERAL: Final = frozenset({"enum", "const", "default", "examples"})
_LONGEST_NAME: Final = 64
_limit = threading.local()


class SchemaCheck:
    """Checks values against one schema."""

    def __init__(self, schema: Json) -> None:
        self._validator = _Bounded(_undeclared(schema))

    def errors(self, value: Json, *, within: float = LONGEST) -> list[ValidationError]:
        """What does not fit, the first thousand by their places. Raises TooLongToCheck after so many seconds of
        computing, RecursionError for a value that is nested too deeply."""
        _limit.at = time.thread_time() + within
        found_errors = list(islice(self._validator.iter_errors(value), MOST_ERRORS))
        return sorted(found_errors, key=lambda error: list(map(str, error.path)))

    def fits(self, value: Json, *, within: float = LONGEST) -> bool:
        """Raises as `errors` does."""
        _limit.at = time.thread_time() + within
        return bool(self._validator.is_valid(value))


def _undeclared(schema: Json) -> Json:
    """The schema without `$schema`, which would bring back the library's own validator for the part that it is in."""
    if isinstance(schema, dict):
        return {
            name: item if name in _LITERAL else _undeclared(item)
            for name, item in schema.items()
            if not (name == "$schema" and isinstance(item, str))
        }
    return [_undeclared(item) for item in schema] if isinstance(schema, list) else schema


def _pattern(validator: Any, pattern: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not has_match(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, by_pattern: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, below in by_pattern.items():
            for name, item in value.items():
                if has_match(pattern, name):
                    yield from validator.descend(item, below, path=name, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    patterns = schema.get("patternProperties", {})
    known = {name for name in value if any(has_match(pattern, name) for pattern in patterns)}
    rest = {name: item for name, item in value.items() if name not in known}
    # without its patterns, the keyword's own function runs none
    plain = {key: item for key, item in schema.items() if key != "patternProperties"}
    yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, wanted, rest, plain) or ()


def _unevaluated_properties(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    # Looks for patterns with Python's engine, everywhere within: a short name cannot hold it up for long.
    if validator.is_type(value, "object") and any(len(name) > _LONGEST_NAME for name in value):
        raise TooLongToCheck
    yield from (Draft202012Validator.VALIDATORS["unevaluatedProperties"](validator, wanted, value, schema) or ())


def _unique_items(validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(value, "array") and len({_frozen(item) for item in value}) < len(value):
        yield ValidationError(f"{value!r} has non-unique elements")


def _frozen(value: Json) -> object:
    """Equal for equal JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return ("list", *map(_frozen, value))
    if isinstance(value, dict):
        return ("dict", frozenset((name, _frozen(item)) for name, item in value.items()))
    return (isinstance(value, bool), value)


def _bounded(keyword: Keyword) -> Keyword:
    def check(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError] | None:
        if time.thread_time() > _limit.at:
            raise TooLongToCheck
        return keyword(validator, wanted, value, schema)

    return check


_OWN: Mapping[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "uniqueItems": _unique_items,
}
_extend: Callable[..., Any] = extend
_Bounded: Any = _extend(
    Draft202012Validator,
    {name: _bounded(keyword) for name, keyword in {**Draft202012Validator.VALIDATORS, **_OWN}.items()},
)
