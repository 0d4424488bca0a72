"""The JSON Schema of workflow files, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowllm.spec.model import WorkflowShape
from flowllm.spec.template import RESERVED_IDS

if TYPE_CHECKING:
    from flowllm.types import Json

_NAME = "^[a-z_][a-z0-9_]*$"
_PROVIDER = "^(?!auto$)[A-Za-z_][A-Za-z0-9_.-]*$"


def workflow_schema() -> dict[str, Json]:
    """A JSON Schema (draft 2020-12) that a workflow's file fits, with a description of every key.

    It is for completion and for the first look: references, files and templates are checked by `validate`.
    """
    schema: dict[str, Json] = _tidied(WorkflowShape.model_json_schema())
    properties = schema["properties"]
    properties["inputs"]["propertyNames"] = {"pattern": _NAME}
    properties["steps"]["propertyNames"] = {"pattern": _NAME, "not": {"enum": sorted(RESERVED_IDS)}}
    properties["steps"]["minProperties"] = 1
    properties["providers"]["propertyNames"] = {"pattern": _PROVIDER}
    for name in ("OpenAIShape", "SimulatedShape"):
        kind = schema["$defs"][name]["properties"]["type"]
        kind["enum"] = ["simulated" if name == "SimulatedShape" else "openai"]
    schema["$defs"]["WorkflowStepShape"]["properties"]["workflow"] |= _graph(properties)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "flowllm workflow",
        "patternProperties": {"^x-": {"description": "The author's own."}},
    }


def _graph(properties: Json) -> dict[str, Json]:
    """A file's name, or the keys of a workflow but for those of an account."""
    keys = [key for key in properties if key not in {"limits", "budget"}]
    written = {
        "type": "object",
        "properties": {key: {"$ref": f"#/properties/{key}"} for key in keys},
        "patternProperties": {"^x-": {}},
        "required": ["steps"],
        "additionalProperties": False,
    }
    return {"type": ["string", "object"], "if": {"type": "object"}, "then": written}


def _tidied(schema: Json) -> Json:
    """The schema that pydantic gives without made-up titles, the null of optional keys, and empty defaults."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: dict[str, Json] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            tidy[key] = {name: _tidied(inner) for name, inner in value.items()}
        elif key == "anyOf":
            tidy |= _options([_tidied(option) for option in value if option != {"type": "null"}])
        elif key != "title" and not (key == "default" and value in (None, "", [], {})):
            tidy[key] = _tidied(value)
    return tidy


def _options(options: list[Json]) -> dict[str, Json]:
    return dict(options[0]) if len(options) == 1 else {"anyOf": options}
