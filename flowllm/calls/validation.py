"""Whether an answer is the JSON that was asked for. The house of jsonschema at run time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator

from flowllm.answer_text import json_in
from flowllm.errors import InvalidAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonschema.exceptions import ValidationError

    from flowllm.request import OutputFormat
    from flowllm.types import Json

_MOST_ERRORS = 5


class Validator:
    """Checks answers against one schema; made once a step, used for every answer."""

    def __init__(self, output: OutputFormat) -> None:
        self._output = output
        self._validator = None if output.schema is None else Draft202012Validator(dict(output.schema))

    def check(self, text: str) -> Json:
        """The JSON value in an answer. Raises InvalidAnswer, in words that the model can act on."""
        value = _parse(text, self._may_be)
        if self._validator is None:
            return value
        wrapper = self._output.wrapped and isinstance(value, dict) and set(value) == {"value"}
        try:
            errors = self._errors(value["value"] if wrapper else value)
            if wrapper and errors and not self._errors(value):  # some servers leave the wrapper out
                return value
        except RecursionError:
            raise InvalidAnswer("the answer is nested too deeply", answer=text) from None
        if errors:
            raise InvalidAnswer(_told(errors), hint="see the last answer in `flowllm show`", answer=text)
        return value["value"] if wrapper else value

    def _errors(self, value: Json) -> list[ValidationError]:
        if self._validator is None:
            return []
        return sorted(self._validator.iter_errors(value), key=lambda error: list(map(str, error.path)))

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
