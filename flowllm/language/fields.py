"""What a key may be: the type that its reader gives, the reader, and the same as JSON Schema for editors."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import PlainValidator, WithJsonSchema

from flowllm.core.types import CachePolicy, Json, OnError, OnTruncated, Priority
from flowllm.language import readers
from flowllm.language import readers_kinds as kind_readers
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.scalars import DURATION_PATTERN, SHARE_PATTERN

_TEMPLATE: dict[str, Json] = {"type": "string", "pattern": r"\{[{%#]"}
_TEXT: dict[str, Json] = {"type": ["string", "number", "boolean"]}
_NAME: dict[str, Json] = {"type": "string", "pattern": "^[a-z_][a-z0-9_]*$"}
_VARIABLE: dict[str, Json] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
_COUNT: dict[str, Json] = {"type": "integer", "minimum": 1}
_DURATION: dict[str, Json] = {"type": "string", "pattern": DURATION_PATTERN}
_FILE: dict[str, Json] = {
    "type": "object",
    "properties": {"file": {"type": "string"}},
    "required": ["file"],
    "additionalProperties": False,
}
_TARGET: dict[str, Json] = {
    "type": "object",
    "properties": {"provider": _TEXT, "model": _TEXT},
    "required": ["model"],
    "additionalProperties": False,
}
_TTL: dict[str, Json] = {
    "type": "object",
    "properties": {"ttl": _DURATION},
    "required": ["ttl"],
    "additionalProperties": False,
}
_MESSAGE: dict[str, Json] = {"type": "object", "required": ["role"]}


def _or_template(schema: dict[str, Json]) -> dict[str, Json]:
    return {"anyOf": [schema, _TEMPLATE]}


def _bounded(least: float, most: float) -> dict[str, Json]:
    return {"type": "number", "minimum": least, "maximum": most}


Text: TypeAlias = Annotated[Scalar, PlainValidator(readers.text), WithJsonSchema(_TEXT)]
Written: TypeAlias = Annotated[Scalar, PlainValidator(readers.written), WithJsonSchema(_TEXT)]
When: TypeAlias = Annotated[Scalar, PlainValidator(readers.text), WithJsonSchema(_TEMPLATE)]
PlainText: TypeAlias = Annotated[str, PlainValidator(readers.plain_text), WithJsonSchema(_TEXT)]
AnyText: TypeAlias = Annotated[
    str, PlainValidator(readers.any_text), WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
]
Prompt: TypeAlias = Annotated[
    Scalar | Mapping, PlainValidator(readers.prompt), WithJsonSchema({"anyOf": [_TEXT, _FILE]})
]
Messages: TypeAlias = Annotated[
    Sequence | Scalar,
    PlainValidator(readers.messages),
    WithJsonSchema(_or_template({"type": "array", "minItems": 1, "items": _or_template(_MESSAGE)})),
]
Whole: TypeAlias = Annotated[
    Scalar, PlainValidator(readers.number(minimum=1, whole=True, template=True)), WithJsonSchema(_or_template(_COUNT))
]
Sample: TypeAlias = Annotated[
    Scalar,
    PlainValidator(readers.number(minimum=0, whole=True, template=True)),
    WithJsonSchema(_or_template({"type": "integer", "minimum": 0})),
]
Seed: TypeAlias = Annotated[
    Scalar,
    PlainValidator(readers.number(minimum=-readers.LARGEST, whole=True, template=True)),
    WithJsonSchema(_or_template({"type": "integer"})),
]
Samples: TypeAlias = Annotated[
    int,
    PlainValidator(readers.number(minimum=1, maximum=1000, whole=True)),
    WithJsonSchema({**_COUNT, "maximum": 1000}),
]
Temperature: TypeAlias = Annotated[
    Scalar,
    PlainValidator(readers.number(minimum=0, maximum=2, template=True)),
    WithJsonSchema(_or_template(_bounded(0, 2))),
]
TopP: TypeAlias = Annotated[
    Scalar,
    PlainValidator(readers.number(minimum=0, maximum=1, template=True)),
    WithJsonSchema(_or_template(_bounded(0, 1))),
]
Stop: TypeAlias = Annotated[
    Scalar | Sequence,
    PlainValidator(readers.stop),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}),
]
Params: TypeAlias = Annotated[
    Mapping,
    PlainValidator(readers.params),
    WithJsonSchema({"type": "object", "propertyNames": {"not": {"enum": [*readers.OWN_OPTIONS, *readers.NOT_PARAMS]}}}),
]
Arguments: TypeAlias = Annotated[Mapping, PlainValidator(readers.arguments), WithJsonSchema({"type": "object"})]
_TEXTS: dict[str, Json] = {"type": "object", "additionalProperties": _TEXT}
RequestHeaders: TypeAlias = Annotated[
    Mapping, PlainValidator(kind_readers.texts_by_name(readers.HEADER_NAME, "a header")), WithJsonSchema(_TEXTS)
]
Environment: TypeAlias = Annotated[
    Mapping,
    PlainValidator(kind_readers.texts_by_name(readers.ENVIRONMENT_NAME, "an environment variable")),
    WithJsonSchema(_TEXTS),
]
Query: TypeAlias = Annotated[
    Mapping,
    PlainValidator(kind_readers.query),
    WithJsonSchema({"type": "object", "additionalProperties": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}}),
]
Inputs: TypeAlias = Annotated[
    Mapping | Scalar,
    PlainValidator(kind_readers.arguments_or_template),
    WithJsonSchema(_or_template({"type": "object"})),
]
Embedded: TypeAlias = Annotated[
    Scalar | Sequence,
    PlainValidator(kind_readers.texts),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}),
]
EmbedParams: TypeAlias = Annotated[
    Mapping,
    PlainValidator(kind_readers.embed_params),
    WithJsonSchema({"type": "object", "propertyNames": {"not": {"enum": [*kind_readers.EMBED_OPTIONS]}}}),
]
Fallback: TypeAlias = Annotated[
    tuple[tuple[Scalar, Scalar | None], ...],
    PlainValidator(readers.fallback),
    WithJsonSchema({"type": "array", "items": {"anyOf": [_TEXT, _TARGET]}}),
]
OutputShape: TypeAlias = Annotated[
    Scalar | Mapping, PlainValidator(readers.output), WithJsonSchema({"type": ["string", "object"]})
]
Cache: TypeAlias = Annotated[
    CachePolicy, PlainValidator(readers.cache), WithJsonSchema({"anyOf": [{"type": "boolean"}, _TTL]})
]
Duration: TypeAlias = Annotated[float, PlainValidator(readers.duration), WithJsonSchema(_DURATION)]
DurationOrZero: TypeAlias = Annotated[float, PlainValidator(readers.duration_or_zero), WithJsonSchema(_DURATION)]
Share: TypeAlias = Annotated[
    float, PlainValidator(readers.share), WithJsonSchema({"type": "string", "pattern": SHARE_PATTERN})
]
Flag: TypeAlias = Annotated[bool, PlainValidator(readers.boolean), WithJsonSchema({"type": "boolean"})]
Needs: TypeAlias = Annotated[
    tuple[Scalar, ...],
    PlainValidator(readers.name_list(readers.NAME, "a step's id")),
    WithJsonSchema({"type": "array", "items": _NAME, "uniqueItems": True}),
]
Secrets: TypeAlias = Annotated[
    tuple[Scalar, ...],
    PlainValidator(readers.name_list(readers.ENVIRONMENT_NAME, "the name of an environment variable")),
    WithJsonSchema({"type": "array", "items": _VARIABLE, "uniqueItems": True}),
]
Headers: TypeAlias = Annotated[
    dict[str, str], PlainValidator(readers.headers), WithJsonSchema({"type": "object", "additionalProperties": _TEXT})
]
BaseUrl: TypeAlias = Annotated[
    str, PlainValidator(readers.base_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})
]
Variable: TypeAlias = Annotated[str, PlainValidator(readers.environment_name), WithJsonSchema(_VARIABLE)]
Anything: TypeAlias = Annotated[Node, PlainValidator(readers.anything), WithJsonSchema({})]
Count: TypeAlias = Annotated[int, PlainValidator(readers.number(minimum=1, whole=True)), WithJsonSchema(_COUNT)]
Integer: TypeAlias = Annotated[
    int, PlainValidator(readers.number(minimum=-readers.LARGEST, whole=True)), WithJsonSchema({"type": "integer"})
]
Rate: TypeAlias = Annotated[
    float,
    PlainValidator(readers.number(minimum=readers.SMALLEST_RATE)),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
Multiplier: TypeAlias = Annotated[
    float, PlainValidator(readers.number(minimum=1, maximum=1000)), WithJsonSchema(_bounded(1, 1000))
]
Sigma: TypeAlias = Annotated[
    float, PlainValidator(readers.number(minimum=0, maximum=10)), WithJsonSchema(_bounded(0, 10))
]
PriorityWord: TypeAlias = Annotated[
    Priority, PlainValidator(readers.word_of(Priority)), WithJsonSchema({"enum": [word.value for word in Priority]})
]
OnErrorWord: TypeAlias = Annotated[
    OnError, PlainValidator(readers.word_of(OnError)), WithJsonSchema({"enum": [word.value for word in OnError]})
]
OnTruncatedWord: TypeAlias = Annotated[
    OnTruncated,
    PlainValidator(readers.word_of(OnTruncated)),
    WithJsonSchema({"enum": [word.value for word in OnTruncated]}),
]
Jitter: TypeAlias = Annotated[
    str, PlainValidator(readers.choice("full", "none")), WithJsonSchema({"enum": ["full", "none"]})
]
Api: TypeAlias = Annotated[
    str, PlainValidator(readers.choice("chat", "responses")), WithJsonSchema({"enum": ["chat", "responses"]})
]
_STRUCTURED = ("json_schema", "json_object_schema", "json_object", "prompt")
Structured: TypeAlias = Annotated[
    str, PlainValidator(readers.choice(*_STRUCTURED)), WithJsonSchema({"enum": list(_STRUCTURED)})
]
_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
TokensField: TypeAlias = Annotated[
    str, PlainValidator(readers.choice(*_TOKENS_FIELDS)), WithJsonSchema({"enum": list(_TOKENS_FIELDS)})
]
ProviderType: TypeAlias = Annotated[
    str, PlainValidator(readers.choice("openai", "simulated")), WithJsonSchema({"enum": ["openai", "simulated"]})
]
Price: TypeAlias = Annotated[
    dict[str, float],
    PlainValidator(readers.price),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {key: {"type": "number", "minimum": 0} for key in readers.PRICES},
            "required": ["input", "output"],
            "additionalProperties": False,
        }
    ),
]
TokensCharged: TypeAlias = Annotated[
    str, PlainValidator(readers.choice("request", "usage")), WithJsonSchema({"enum": ["request", "usage"]})
]
OnExceed: TypeAlias = Annotated[
    str, PlainValidator(readers.choice("pause", "fail")), WithJsonSchema({"enum": ["pause", "fail"]})
]
_INPUT_TYPES = ("string", "integer", "number", "boolean", "array", "object")
InputType: TypeAlias = Annotated[
    str, PlainValidator(readers.choice(*_INPUT_TYPES)), WithJsonSchema({"enum": list(_INPUT_TYPES)})
]
_INPUT: dict[str, Json] = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null", "array"]},
        {
            "type": "object",
            "properties": {
                "type": {"enum": list(_INPUT_TYPES)},
                "default": {},
                "enum": {"type": "array", "minItems": 1},
                "description": {"type": "string"},
            },
            "additionalProperties": False,
        },
    ]
}
InputValue: TypeAlias = Annotated[Node, PlainValidator(readers.anything), WithJsonSchema(_INPUT)]
Overshoot: TypeAlias = Annotated[
    float, PlainValidator(readers.number(minimum=1, maximum=1000)), WithJsonSchema(_bounded(1, 1000))
]
_FORMATS = ("jsonl", "json", "csv", "lines")
DataFormat: TypeAlias = Annotated[
    str, PlainValidator(readers.choice(*_FORMATS)), WithJsonSchema({"enum": list(_FORMATS)})
]
Delimiter: TypeAlias = Annotated[
    str, PlainValidator(kind_readers.delimiter), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 1})
]
_DATA_FILE: dict[str, Json] = {
    "type": "object",
    "properties": {
        "file": _TEXT,
        "format": {"enum": list(_FORMATS)},
        "delimiter": {"type": "string", "minLength": 1, "maxLength": 1},
        "limit": _COUNT,
    },
    "required": ["file"],
    "additionalProperties": False,
}
_DATA_FILES: dict[str, Json] = {
    "type": "object",
    "properties": {"files": _TEXT, "limit": _COUNT},
    "required": ["files"],
    "additionalProperties": False,
}
_AXIS: dict[str, Json] = {"anyOf": [_TEMPLATE, {"type": "array"}, _DATA_FILE, _DATA_FILES]}
ForeachSource: TypeAlias = Annotated[
    Node,
    PlainValidator(readers.anything),
    WithJsonSchema(
        {
            "anyOf": [
                *_AXIS["anyOf"],
                {
                    "type": "object",
                    "properties": {
                        "matrix": {
                            "type": "object",
                            "propertyNames": {"pattern": "^[a-z_][a-z0-9_]*$"},
                            "minProperties": 1,
                            "additionalProperties": _AXIS,
                        }
                    },
                    "required": ["matrix"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
ItemName: TypeAlias = Annotated[Scalar, PlainValidator(readers.text), WithJsonSchema(_NAME)]
MaxFailed: TypeAlias = Annotated[
    int | float,
    PlainValidator(kind_readers.count_or_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SHARE_PATTERN}]}),
]
Images: TypeAlias = Annotated[
    Scalar | Sequence,
    PlainValidator(kind_readers.images),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}),
]
BatchSize: TypeAlias = Annotated[
    int,
    PlainValidator(readers.number(minimum=1, maximum=2048, whole=True)),
    WithJsonSchema({**_COUNT, "maximum": 2048}),
]
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Method: TypeAlias = Annotated[str, PlainValidator(readers.choice(*_METHODS)), WithJsonSchema({"enum": list(_METHODS)})]
Command: TypeAlias = Annotated[Scalar, PlainValidator(kind_readers.command), WithJsonSchema(_TEXT)]
Graph: TypeAlias = Annotated[
    Scalar | Mapping, PlainValidator(kind_readers.graph), WithJsonSchema({"type": ["string", "object"]})
]
