"""The JSON Schemas of workflow files and of flowllm.yaml, for editors."""

from __future__ import annotations

import re
from typing import Final

from flowllm.core.types import Json
from flowllm.language.model import STEP_SHAPES, ProjectShape, Shape, WorkflowShape
from flowllm.language.scalars import DURATION_PATTERN, SHARE_PATTERN
from flowllm.language.template import RESERVED_IDS

_NAME = "^[a-z_][a-z0-9_]*$"
_PROVIDER = "^(?!auto$)[A-Za-z_][A-Za-z0-9_.-]*$"
_GROUPED: Final = r"^[-+]?[1-9][0-9]*(_[0-9]+)+(\.[0-9_]*)?([eE][-+]?[0-9]+)?$"
"""A number whose digits are grouped, such as 200_000: a text to editors, whose YAML 1.2 knows no such numbers."""
_TITLES: Final = {
    **{shape.__name__: f"{kind} step" for kind, shape in STEP_SHAPES.items()},
    "HttpRequestShape": "HTTP request",
    "OpenAIShape": "provider (openai)",
    "SimulatedShape": "provider (simulated)",
    "EnforceShape": "limits of a simulated server",
    "ModelLimitsShape": "limits of a model",
    "WindowShape": "window",
    "DataFileShape": "data file",
    "DataFilesShape": "data files",
}
"""What tables of keys are called for users, where that is not the name of the class in small letters."""


def workflow_schema() -> dict[str, Json]:
    """A JSON Schema (draft 2020-12) that a workflow's file fits, with a description of every key.

    It is for completion and for the first look: references, files and templates are checked by `validate`.
    """
    schema = _of(WorkflowShape, "flowllm workflow")
    properties = schema["properties"]
    properties["inputs"]["propertyNames"] = {"pattern": _NAME}
    properties["steps"]["propertyNames"] = {"pattern": _NAME, "not": {"enum": sorted(RESERVED_IDS)}}
    properties["steps"]["minProperties"] = 1
    schema["$defs"][_key("WorkflowStepShape")]["properties"]["workflow"] |= _graph(properties)
    return schema


def config_schema() -> dict[str, Json]:
    """The same for flowllm.yaml."""
    return _of(ProjectShape, "flowllm.yaml")


def _of(shape: type[Shape], title: str) -> dict[str, Json]:
    schema: dict[str, Json] = _tidied(shape.model_json_schema())
    schema["properties"]["providers"]["propertyNames"] = {"pattern": _PROVIDER}
    for kind, name in (("openai", "OpenAIShape"), ("simulated", "SimulatedShape")):
        schema["$defs"][_key(name)]["properties"]["type"]["enum"] = [kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": title,
        "patternProperties": {"^x-": {"description": "The author's own."}},
    }


def _graph(properties: Json) -> dict[str, Json]:
    """A file's name, or the keys of a workflow but for those of an account."""
    keys = [key for key in properties if key not in {"limits", "budget", "keep"}]
    written = {
        "type": "object",
        "properties": {key: {"$ref": f"#/properties/{key}"} for key in keys},
        "patternProperties": {"^x-": {}},
        "required": ["steps"],
        "additionalProperties": False,
    }
    return {"type": ["string", "object"], "if": {"type": "object"}, "then": written}


def _title(name: str) -> str:
    return _TITLES.get(name) or re.sub(r"(?<!^)(?=[A-Z])", " ", name.removesuffix("Shape")).lower()


def _key(name: str) -> str:
    """The key of a table under `$defs`, which editors show too."""
    return re.sub(r"[^A-Za-z]+", "-", _title(name)).strip("-")


def _tidied(schema: Json) -> Json:
    """The schema that pydantic gives, as a user would read it.

    Without made-up titles, the null of optional keys and empty defaults; tables by names that users know; defaults and
    numbers as they are written.
    """
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: dict[str, Json] = {}
    for key, value in schema.items():
        tidy |= _entry(key, value, schema)
    if tidy.get("type") in ("integer", "number"):
        tidy |= {"type": [tidy["type"], "string"], "pattern": _GROUPED}
    return tidy


def _entry(key: str, value: Json, schema: dict[str, Json]) -> dict[str, Json]:
    """What becomes of one keyword of a schema."""
    if key == "$defs":
        return {key: {_key(name): {"title": _title(name), **_tidied(inner)} for name, inner in value.items()}}
    if key == "properties":
        return {key: {name: _tidied(inner) for name, inner in value.items()}}
    if key == "$ref":
        return {key: f"#/$defs/{_key(value.rpartition('/')[2])}"}
    if key == "anyOf":
        return _options([_tidied(option) for option in value if option != {"type": "null"}])
    if key == "default":
        return {} if value in (None, "", [], {}) else {key: _default(value, schema)}
    return {} if key == "title" else {key: _tidied(value)}


def _options(options: list[Json]) -> dict[str, Json]:
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}


def _default(value: Json, schema: dict[str, Json]) -> Json:
    """A default as it would be written: durations and shares have a unit."""
    if isinstance(value, float) and schema.get("pattern") == DURATION_PATTERN:
        return f"{value:g}s" if value >= 1 or not value else f"{value * 1000:g}ms"
    if isinstance(value, float) and schema.get("pattern") == SHARE_PATTERN:
        return f"{value * 100:g}%"
    return int(value) if isinstance(value, float) and value.is_integer() else value
