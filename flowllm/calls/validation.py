"""Whether an answer is the JSON that was asked for. The house of jsonschema at run time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator

from flowllm.errors import InvalidAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonschema.exceptions import ValidationError

    from flowllm.request import OutputFormat
    from flowllm.types import Json

_FENCE = "```"
_MOST_ERRORS = 5


class Validator:
    """Checks answers against one schema; made once a step, used for every answer."""

    def __init__(self, output: OutputFormat) -> None:
        self._schema = output.schema
        self._validator = None if output.schema is None else Draft202012Validator(dict(output.schema))

    def check(self, text: str) -> Json:
        """The JSON value in an answer. Raises InvalidAnswer, in words that the model can act on."""
        value = _parse(text)
        if self._validator is None:
            return value
        if _is_wrapper(value, self._schema):
            value = value["value"]
        try:
            errors = sorted(self._validator.iter_errors(value), key=lambda error: list(map(str, error.path)))
        except RecursionError:
            raise InvalidAnswer("the answer is nested too deeply", answer=text) from None
        if errors:
            raise InvalidAnswer(_told(errors), hint="see the last answer in `flowllm show`", answer=text)
        return value


def _parse(text: str) -> Json:
    try:
        return json.loads(_unfenced(text), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidAnswer(
            f"the answer is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}",
            answer=text,
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"the answer is not usable JSON: {error}", answer=text) from None


def _unfenced(text: str) -> str:
    """What stands in the Markdown code block that some models put around the whole of their JSON.

    No regular expression: on an answer of thousands of blank lines one took minutes.
    """
    whole = text.strip()
    if len(whole) <= 2 * len(_FENCE) or not (whole.startswith(_FENCE) and whole.endswith(_FENCE)):
        return text
    language, _, block = whole[len(_FENCE) : -len(_FENCE)].partition("\n")
    return block if not language.strip() or language.strip().isalpha() else text


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not a JSON value")


def _is_wrapper(value: Json, schema: Mapping[str, Json] | None) -> bool:
    """A schema whose root is not an object travels as {"value": …}; some servers leave the wrapper out."""
    root_is_object = schema is not None and (schema.get("type") == "object" or "properties" in schema)
    return not root_is_object and isinstance(value, dict) and set(value) == {"value"}


def _told(errors: list[ValidationError]) -> str:
    lines = [f"{_where(error)}: {error.message[:300]}" for error in errors[:_MOST_ERRORS]]
    if len(errors) > _MOST_ERRORS:
        lines.append(f"and {len(errors) - _MOST_ERRORS} more")
    return "the answer does not fit the schema: " + "; ".join(lines)


def _where(error: ValidationError) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return f"at {path.lstrip('.')}" if path else "at the top"
