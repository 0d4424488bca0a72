"""The JSON Schemas of workflow files and of flowllm.yaml, for editors: made from the tables of keys."""

from __future__ import annotations

import re
from typing import Any, Final

from flowllm.core.types import Json
from flowllm.language.file_keys import ProjectKeys, WorkflowKeys
from flowllm.language.keys import Key, Keys
from flowllm.language.kinds import kinds
from flowllm.language.nodes import DURATION_PATTERN, SHARE_PATTERN
from flowllm.language.template import RESERVED_IDS

_GROUPED: Final = r"^[-+]?[1-9][0-9]*(_[0-9]+)+(\.[0-9_]*)?([eE][-+]?[0-9]+)?$"
"""A number whose digits are grouped, such as 200_000: a text to editors, whose YAML 1.2 knows no such numbers."""


def workflow_schema() -> dict[str, Json]:
    """A JSON Schema (draft 2020-12) that a workflow's file fits, with a description of every key.

    It is for completion and for the first look: references, files and templates are checked by `validate`.
    """
    specs = kinds().values()
    schema, tables = _document(WorkflowKeys, *(spec.keys for spec in specs))
    properties = schema["properties"]
    properties["steps"] |= {
        "propertyNames": {"pattern": "^[a-z_][a-z0-9_]*$", "not": {"enum": sorted(RESERVED_IDS)}},
        "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{_name(spec.keys)}"} for spec in specs]},
    }
    tables["workflow-step"]["properties"]["workflow"] |= _graph(properties)
    return schema


def config_schema() -> dict[str, Json]:
    """The same for flowllm.yaml."""
    return _document(ProjectKeys)[0]


def _document(top: type[Keys], *others: type[Keys]) -> tuple[dict[str, Json], dict[str, Json]]:
    """The schema of a file, and the tables under its `$defs`."""
    tables: dict[str, Json] = {}
    for table in others:
        _reference(table, tables)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_table(top, tables),
        "title": top.title,
        "patternProperties": {"^x-": {"description": "The author's own."}},
    }
    schema["$defs"] = tables
    return schema, tables


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


def _name(table: type[Keys]) -> str:
    """The key of a table under `$defs`, which editors show too."""
    return re.sub(r"[^A-Za-z]+", "-", table.title).strip("-")


def _table(table: type[Keys], tables: dict[str, Json]) -> dict[str, Json]:
    required = [name for name, key in table.table.items() if key.required]
    return {
        "type": "object",
        "description": table.__doc__,
        "properties": {name: _key(key, tables) for name, key in table.table.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _key(key: Key[Any], tables: dict[str, Json]) -> dict[str, Json]:
    schema: dict[str, Json] = {"description": key.text, **_resolved(key.value.schema, tables)}
    if not key.required and key.default not in (None, "", (), {}):
        schema["default"] = default_as_written(key)
    return schema


def _resolved(schema: Any, tables: dict[str, Json]) -> Any:
    """A schema in which tables are named, and numbers may have grouped digits."""
    if isinstance(schema, list):
        return [_resolved(item, tables) for item in schema]
    if not isinstance(schema, dict):
        return _reference(schema, tables) if isinstance(schema, type) else schema
    resolved = {key: _resolved(item, tables) for key, item in schema.items()}
    if resolved.get("type") in ("integer", "number"):
        resolved |= {"type": [resolved["type"], "string"], "pattern": _GROUPED}
    return resolved


def _reference(table: type[Keys], tables: dict[str, Json]) -> str:
    name = _name(table)
    if name not in tables:
        tables[name] = {}
        tables[name] = {"title": table.title, **_table(table, tables)}
    return f"#/$defs/{name}"


def default_as_written(key: Key[Any]) -> Json:
    """A default as an author would write it: durations and shares have a unit."""
    default, pattern = key.default, key.value.schema.get("pattern")
    if pattern == DURATION_PATTERN:
        return f"{default:g}s" if default >= 1 or not default else f"{default * 1000:g}ms"
    if pattern == SHARE_PATTERN:
        return f"{default * 100:g}%"
    return int(default) if isinstance(default, float) and default.is_integer() else default
