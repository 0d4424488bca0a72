"""A request as the body that Chat Completions, Responses or Embeddings takes, its JSON Schema as the server takes it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from flowllm.core.records import dataclass, field
from flowllm.core.request import ChatRequest, EmbedRequest, ImageFile, OutputFormat, Request, data_url
from flowllm.core.types import Json

OPENAI_BASE_URL = "https://api.openai.com/v1"
OPENAI_HOST = "api.openai.com"
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig:
    """What is known of one server that speaks OpenAI's API. Nothing secret is in its repr."""

    name: str
    base_url: str = field(default=OPENAI_BASE_URL, repr=False)
    """May carry credentials and a query; neither reaches a key or a message."""
    api_key: str = field(default="", repr=False)
    """Empty: no Authorization header is sent."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable to name when the key is refused."""
    api: str = "chat"
    """chat: Chat Completions; responses: the Responses API."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request, expanded."""
    secrets: Sequence[str] = field(default=(), repr=False)
    """Parts of the headers that are secret whatever the headers are called."""
    structured: str = "json_schema"
    """How a schema travels: json_schema, json_object_schema, json_object or prompt."""
    max_tokens_field: str | None = None
    """What Chat Completions calls `max_tokens` here; None: by the host."""
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model to {input, output, cached_input}, US dollars per million tokens; they win over the bundled ones."""


def encode(request: Request, config: OpenAIConfig) -> dict[str, Json]:
    """The body for the API that the configuration names, or for embeddings."""
    if isinstance(request, EmbedRequest):
        return encode_texts(request)
    body = (encode_responses if config.api == "responses" else encode_chat)(request, config)
    if request.cache_key and _host(config.base_url) == OPENAI_HOST:
        body.setdefault("prompt_cache_key", request.cache_key)
    return body


def copies_texts(request: ChatRequest) -> bool:
    """See CopiesTexts: whether an answer without a schema is asked for depends on the word "JSON"."""
    return request.output is None or request.output.schema is not None


def encode_chat(request: ChatRequest, config: OpenAIConfig) -> dict[str, Json]:
    """The body of a Chat Completions request. A parameter that is None is one that is not set."""
    form = _form(request.output, config)
    body = {key: value for key, value in request.params.items() if value is not None}
    if "max_tokens" in body:
        target = config.max_tokens_field or _token_field(config.base_url)
        body.setdefault(target, body["max_tokens"])
        if target != "max_tokens":
            del body["max_tokens"]
    body |= {"model": request.model, "messages": _messages(request, config)}
    if form is not None and form["type"] == "json_schema":
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {key: value for key, value in form.items() if key != "type"},
        }
    elif form is not None:
        body["response_format"] = form
    return {key: _clean(value) for key, value in body.items()}


def encode_responses(request: ChatRequest, config: OpenAIConfig) -> dict[str, Json]:
    """The body of a Responses request. Nothing is kept at the server unless the author sets `store`."""
    form = _form(request.output, config)
    body: dict[str, Json] = {"store": False, "stream": False}  # some servers stream unless asked not to
    body |= {key: value for key, value in request.params.items() if value is not None}
    for name in _TOKEN_FIELDS:
        if name in body:
            body.setdefault("max_output_tokens", body.pop(name))
    if "reasoning_effort" in body:
        effort = body.pop("reasoning_effort")
        body["reasoning"] = {"effort": effort, **_mapping(body.get("reasoning"))}
    text = _mapping(body.get("text"))
    if "verbosity" in body:
        text = {"verbosity": body.pop("verbosity"), **text}
    if form is not None:
        text = {**text, "format": form}
    if text:
        body["text"] = text
    body |= {"model": request.model, "input": [_responses_item(item) for item in _messages(request, config)]}
    return {key: _clean(value) for key, value in body.items()}


def encode_texts(request: EmbedRequest) -> dict[str, Json]:
    """The body of an Embeddings request."""
    body = {key: value for key, value in request.params.items() if value is not None}
    body |= {"model": request.model, "input": list(request.texts)}
    return {key: _clean(value) for key, value in body.items()}


def with_images(body: Mapping[str, Json], images: Sequence[ImageFile]) -> dict[str, Json]:
    """The body with the bytes of those files in place of what stands for them. Reads files, so not for the event
    loop; raises ImageFailed for one that has changed. Nothing else in a body makes a file be read."""
    waiting = {(image.path, image.sha256): image for image in images}

    def filled(value: Json, name: str = "") -> Json:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if name == "image_url" and value.keys() == {"path", "sha256"}:
            image = waiting.get((value["path"], value["sha256"]))
            return value if image is None else {"url": data_url(image)}
        return {key: filled(item, key) for key, item in value.items()}

    whole: dict[str, Json] = dict(body)
    if "messages" in whole:
        whole["messages"] = filled(whole["messages"])
    else:  # the Responses API: {"type": "input_image", "image_url": "data:…"}
        whole["input"] = filled(whole["input"])
        for item in whole["input"]:
            if isinstance(item.get("content"), list):
                item["content"] = [_flat_image(part) for part in item["content"]]
    return whole


def _flat_image(part: Json) -> Json:
    if not (isinstance(part, dict) and isinstance(part.get("image_url"), dict)):
        return part
    return {**part, "image_url": part["image_url"].get("url")}


def _clean(value: Json) -> Json:
    """The value with half characters (lone surrogates), which UTF-8 cannot carry, replaced by U+FFFD.

    A model's answer may hold them, and a prompt is often made of answers."""
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _mapping(value: Json) -> dict[str, Json]:
    return dict(value) if isinstance(value, dict) else {}


def _token_field(base_url: str) -> str:
    """OpenAI's newer models refuse `max_tokens`; most other servers know nothing else."""
    return "max_completion_tokens" if _host(base_url) == OPENAI_HOST else "max_tokens"


def _host(base_url: str) -> str | None:
    try:
        return urlsplit(base_url).hostname
    except ValueError:
        return None


def _form(output: OutputFormat | None, config: OpenAIConfig) -> dict[str, Json] | None:
    """How the server itself is asked for JSON, in the flat shape of the Responses API; None: it is not."""
    if output is None or config.structured == "prompt":
        return None
    if output.schema is None or config.structured == "json_object":
        return {"type": "json_object"}
    schema = wire_schema(output)
    if config.structured == "json_object_schema":
        return {"type": "json_object", "schema": schema}
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", output.name)[:_NAME_LENGTH] or "output"
    return {"type": "json_schema", "name": name, "schema": schema, "strict": strict_allowed(schema)}


def _messages(request: ChatRequest, config: OpenAIConfig) -> list[dict[str, Json]]:
    """The messages, with an instruction about JSON where the server needs one.

    It goes to the end of the first message if that is the system's: some servers take one such message only.
    """
    messages = [dict(message) for message in request.messages]
    output = request.output
    if output is None:
        return messages
    if output.schema is None:
        needed = not any("json" in text.lower() for text in _texts(messages))
        demand = instruction(None)
    else:
        needed = config.structured in ("json_object", "prompt")
        demand = instruction(wire_schema(output)) if needed else ""
    if not needed:
        return messages
    first = messages[0] if messages else {}
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        first["content"] = f"{first['content']}\n\n{demand}"
        return messages
    return [{"role": "system", "content": demand}, *messages]


def _texts(messages: Iterable[Mapping[str, Json]]) -> Iterable[str]:
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield part["text"]


def _responses_item(message: Mapping[str, Json]) -> dict[str, Json]:
    """A message of Chat Completions as an input item of Responses."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    parts = [_responses_part(part, assistant=message.get("role") == "assistant") for part in content]
    return {**message, "content": parts}


def _responses_part(part: Json, *, assistant: bool) -> Json:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "text":
        return {**part, "type": "output_text" if assistant else "input_text"}
    if part.get("type") != "image_url":
        return part
    image = part.get("image_url")
    fields = {}
    if isinstance(image, dict) and "url" in image:
        fields = {"image_url": image["url"], **{key: image[key] for key in ("detail",) if key in image}}
    return {**{key: value for key, value in part.items() if key != "type"}, **fields, "type": "input_image"}


_SCHEMA_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems", "contentSchema"),
)
_HOISTED = ("$defs", "definitions")

# OpenAI, "Structured model outputs", section "Supported schemas".
_STRICT_KEYWORDS = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
        *("definitions", "description", "title", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "pattern", "format", "minItems", "maxItems"),
    )
)
_STRICT_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"])
_STRICT_DEPTH = 10
_STRICT_PROPERTIES = 5000
_STRICT_ENUM_VALUES = 1000
_STRICT_TEXT = 120_000
_STRICT_REFERENCE = re.compile(r"#(/(\$defs|definitions)/[^/]+)?")


def wire_schema(output: OutputFormat) -> dict[str, Json]:
    """The schema as it is sent: its root is always an object.

    Definitions are lifted out of what is wrapped, and references into it are rewritten, so that it means the same.
    """
    schema = output.schema or {}
    if not output.wrapped:
        return {"type": "object", **{key: value for key, value in schema.items() if key != "type"}}
    inner = dict(schema)
    hoisted: dict[str, Json] = {}
    if "$id" not in inner:  # references inside a resource of its own stay relative to it
        inner.pop("$schema", None)
        inner = _moved(inner)
        hoisted = {key: inner.pop(key) for key in _HOISTED if key in inner}
    return {
        "type": "object",
        "properties": {"value": inner},
        "required": ["value"],
        "additionalProperties": False,
        **hoisted,
    }


def _moved(schema: Json) -> Json:
    """The schema with its references to the root rewritten for its new place."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            inside = value == "#" or value.startswith("#/")
            if inside and not value.startswith(tuple(f"#/{name}/" for name in _HOISTED)):
                result[key] = "#/properties/value" + value.removeprefix("#")
        elif key in _SCHEMA_MAPS and isinstance(value, dict):
            result[key] = {name: _moved(item) for name, item in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            result[key] = [_moved(item) for item in value]
        elif key in _SCHEMAS:
            result[key] = _moved(value)
    return result


def strict_allowed(schema: Mapping[str, Json]) -> bool:
    """Whether OpenAI's strict mode takes this schema as it is; the root must be an object.

    Errs on the side of no: a schema that is not sent as strict is still validated here.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    properties = enum_values = text = 0
    for depth, part in _parts(schema, 1):
        if depth > _STRICT_DEPTH or not _strict_part(part):
            return False
        names = [*part.get("properties", {}), *part.get("$defs", {}), *part.get("definitions", {})]
        values = part.get("enum", [])
        properties += len(part.get("properties", {}))
        enum_values += len(values)
        text += sum(map(len, names)) + sum(len(value) for value in values if isinstance(value, str))
    return properties <= _STRICT_PROPERTIES and enum_values <= _STRICT_ENUM_VALUES and text <= _STRICT_TEXT


def _parts(schema: Json, depth: int) -> Iterator[tuple[int, dict[str, Json]]]:
    """The schema and every schema in it, with how many objects deep each is; what is no mapping as `{}`."""
    if not isinstance(schema, dict):
        yield depth, {}
        return
    yield depth, schema
    if depth > _STRICT_DEPTH:
        return
    branches = schema.get("anyOf", [])
    below = [*branches] if isinstance(branches, list) else []
    below += [schema["items"]] if "items" in schema else []
    for key in ("properties", *_HOISTED):
        mapping = schema.get(key, {})
        below += mapping.values() if isinstance(mapping, dict) else ()
    for item in below:
        yield from _parts(item, depth + 1)


def _strict_part(part: Mapping[str, Json]) -> bool:
    """Whether one schema, its parts left out, is allowed."""
    if not _STRICT_KEYWORDS.issuperset(part):
        return False
    if "$ref" in part:
        return set(part) == {"$ref"} and _STRICT_REFERENCE.fullmatch(str(part["$ref"])) is not None
    if "anyOf" in part:
        return isinstance(part["anyOf"], list)
    types = part.get("type")
    types = types if isinstance(types, list) else [types]
    known = all(isinstance(item, str) for item in types)
    return (
        known
        and ("object" not in types or _strict_object(part))
        and ("array" not in types or isinstance(part.get("items"), dict))
        and part.get("format", "date") in _STRICT_FORMATS
    )


def _strict_object(part: Mapping[str, Json]) -> bool:
    properties, required = part.get("properties", {}), part.get("required", [])
    return (
        part.get("additionalProperties") is False
        and isinstance(properties, dict)
        and isinstance(required, list)
        and set(properties) == set(required)
    )


def instruction(schema: Mapping[str, Json] | None) -> str:
    """What is written to a model that cannot be given a schema otherwise. Names JSON, which `json_object` demands."""
    if schema is None:
        return "Answer with a single valid JSON value and nothing else: no explanation, no code fence."
    text = json.dumps(schema, ensure_ascii=False, separators=(", ", ": "))
    return (
        "Answer with a single JSON object and nothing else: no explanation, no code fence. "
        f"It must satisfy this JSON Schema:\n{text}"
    )
