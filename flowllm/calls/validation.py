"""Whether an answer is the JSON that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowllm.core.errors import InvalidAnswer
from flowllm.core.records import dataclass
from flowllm.core.request import OutputFormat
from flowllm.core.strict_json import json_in
from flowllm.core.types import Json
from flowllm.schemas.patterns import LONGEST, TooLongToCheck

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

    from flowllm.schemas.check import SchemaCheck


_MOST_ERRORS = 5
_SHORT = 20_000
"""Characters of an answer that is checked at once, if that takes no more than these seconds."""
_AT_ONCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The value in an answer, or why it has none that will do."""

    value: Json = None
    error: InvalidAnswer | None = None


def _check(schema: Json) -> SchemaCheck:
    from flowllm.schemas.check import SchemaCheck  # noqa: PLC0415 - jsonschema takes 70 ms, for few workflows

    return SchemaCheck(schema)


class Validator:
    """Checks answers against one schema; made once a step, used for every answer."""

    def __init__(self, output: OutputFormat) -> None:
        self._output = output
        self._check: SchemaCheck | None = None
        """Made for the first answer: what it takes to import is needed while others are waited for, not before."""

    def _prepare(self) -> None:
        if self._check is None and self._output.schema is not None:
            self._check = _check(self._output.schema)

    def verdict(self, text: str) -> Verdict:
        """The JSON value in an answer, or an error in words that the model can act on."""
        self._prepare()
        try:
            return self._verdict(text, LONGEST)
        except TooLongToCheck:
            error = InvalidAnswer(
                f"the answer cannot be checked against the schema within {LONGEST:g} s",
                hint="simplify the schema: its patterns, `oneOf` and `anyOf`",
                answer=text,
            )
            return Verdict(error=error)

    async def verdict_aside(self, text: str) -> Verdict:
        """The same; what takes long is looked at off the event loop: signals and others go on."""
        if self._check is None and self._output.schema is not None:
            await asyncio.to_thread(self._prepare)
        if len(text) <= _SHORT:
            with contextlib.suppress(TooLongToCheck):
                return self._verdict(text, _AT_ONCE)
        return await asyncio.to_thread(self.verdict, text)

    def _verdict(self, text: str, within: float) -> Verdict:
        try:
            return Verdict(value=self._value(text, within))
        except InvalidAnswer as error:
            return Verdict(error=error)

    def _value(self, text: str, within: float) -> Json:
        value = _parse(text, self._may_be)
        if self._check is None:
            return value
        wrapper = self._output.wrapped and isinstance(value, dict) and set(value) == {"value"}
        try:
            errors = self._check.errors(value["value"] if wrapper else value, within=within)
            if wrapper and errors and self._check.fits(value, within=within):  # some servers leave the wrapper out
                return value
        except RecursionError:
            raise InvalidAnswer("the answer is nested too deeply", answer=text) from None
        if errors:
            raise InvalidAnswer(_told(errors), hint="see the last answer in `flowllm show`", answer=text)
        return value["value"] if wrapper else value

    def _may_be(self, value: Json) -> bool:
        """A value amid other text may be the answer."""
        return isinstance(value, dict) or self._output.schema is None or self._output.wrapped


def _parse(text: str, may_be: Callable[[Json], bool]) -> Json:
    try:
        return json_in(text, fits=may_be)
    except json.JSONDecodeError as error:
        told = f"the answer is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except ValueError as error:
        told = f"the answer is not usable JSON: {error}"
    raise InvalidAnswer(told, answer=text)


def _told(errors: list[ValidationError]) -> str:
    lines = [f"{_where(error)}: {error.message[:300]}" for error in errors[:_MOST_ERRORS]]
    if len(errors) > _MOST_ERRORS:
        lines.append(f"and {len(errors) - _MOST_ERRORS} more")
    return "the answer does not fit the schema: " + "; ".join(lines)


def _where(error: ValidationError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"at {path.lstrip('.')}" if path else "at the top"
