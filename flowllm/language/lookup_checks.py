"""What is certain to fail, found before anything is sent: keys that a value cannot have, conditions that are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flowllm.core.types import Json, StepId
from flowllm.language.problems import Problems, nearest
from flowllm.language.sandbox_methods import MAPPING_METHODS, methods_of
from flowllm.language.template import Template
from flowllm.language.template_paths import OUTPUT_WORDS, Lookup
from flowllm.language.workflow import (
    EmbedBody,
    Foreach,
    HttpBody,
    Input,
    LlmBody,
    ShellBody,
    Step,
    ValueBody,
    WorkflowBody,
)

_TEXT: Final[dict[str, Json]] = {"type": "string"}
_HTTP: Final[dict[str, Json]] = {
    "type": "object",
    "properties": {"status": {"type": "integer"}, "headers": {"type": "object"}, "body": {}},
    "additionalProperties": False,
}
_COMBINED: Final = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "if", "not", "enum", "const", "patternProperties", "dependentSchemas"}
)
"""Keywords beside which `properties` and `type` do not say all."""
_WORDS: Final = {
    "string": "text",
    "integer": "a number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_SCALARS: Final = frozenset({"string", "integer", "number", "boolean"})


@dataclass(frozen=True, slots=True)
class _Below:
    """What is under a key: a schema, None where it is not known; or the problem of the key."""

    schema: dict[str, Json] | None = None
    error: str = ""
    hint: str = ""
    certain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupProblem:
    """The problem of a path, at the offset of one of its keys."""

    offset: int
    message: str
    hint: str
    certain: bool = True


def check_lookups(
    step: Step | None, templates: Iterable[Template], known: Known, problems: Problems, *, name: str = ""
) -> None:
    """Add what is certain to fail in a step's templates, and warn of what is likely to."""
    for template in templates:
        for lookup in template.lookups:
            fault = known.fault(lookup, step)
            if fault is not None:
                where = template.place(fault.offset)
                report = problems.add if known.strict and fault.certain and lookup.certain else problems.warn
                report(where, fault.message, fault.hint, step=name)
    if step is None:
        return
    report = problems.add if known.strict else problems.warn
    accept = None if step.foreach is None else step.foreach.accept
    for key, condition in (("when", step.when), ("accept.when", None if accept is None else accept.when)):
        kind = None if condition is None else known.kind(condition, step)
        if condition is not None and kind not in {None, "true or false"}:
            message = f"`{key}` must give true or false, and this is {kind}"
            report(condition.where, message, "compare it, such as `x > 0` or `x == 'yes'`", step=name)
    items = None if step.foreach is None or step.foreach.items is None else step.foreach.items.tree
    kind = known.kind(items, step) if isinstance(items, Template) else None
    if isinstance(items, Template) and kind not in {None, "a list"}:
        hint = (
            "for a mapping write `{{ x.items() | list }}`"
            if kind == "a mapping"
            else "of text, `| fromjson` or an `output` schema makes a list"
        )
        report(items.where, f"`foreach` wants a list, and this is {kind}", hint, step=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the values that templates of one graph name, as JSON Schemas."""

    steps: Mapping[StepId, Step]
    inputs: Mapping[str, Input]
    strict: bool
    """What is certain to fail is a problem, not only a warning."""

    def kind(self, template: Template, step: Step) -> str | None:
        """What a template that is one expression gives, in words; None where that is not known."""
        given = template.gives
        if not isinstance(given, Lookup):
            return given
        schema = root = self._schema(given, step)
        for key, _ in given.keys:
            schema = None if schema is None else _step_into(schema, root or {}, key, called=False).schema
        if schema is None or not given.whole or _COMBINED.intersection(schema):
            return None
        kinds = _kinds(schema)
        return _WORDS[next(iter(kinds))] if len(kinds) == 1 else None

    def fault(self, lookup: Lookup, step: Step | None) -> LookupProblem | None:
        """The problem of a path."""
        schema = self._schema(lookup, step)
        shown = lookup.subject[1] if lookup.subject[0] != "input" else f"inputs.{lookup.subject[1]}"
        root = schema
        for place, (key, offset) in enumerate(lookup.keys):
            if schema is None:
                return None
            last = lookup.called and place == len(lookup.keys) - 1
            below = _step_into(schema, root or {}, key, called=last)
            if below.error:
                itself = place == 0 and lookup.subject[0] == "step" and key in OUTPUT_WORDS
                hint = f"write {{{{ {shown} }}}}: that is the output itself" if itself else below.hint
                return LookupProblem(
                    offset=offset, message=f"`{shown}` {below.error}", hint=hint, certain=below.certain
                )
            schema = below.schema
            shown = f"{shown}[{key}]" if isinstance(key, int) else f"{shown}.{key}"
        return None

    def _schema(self, lookup: Lookup, step: Step | None) -> dict[str, Json] | None:
        kind, name = lookup.subject
        if kind == "local":
            return None if step is None or step.foreach is None else self._local(name, step, step.foreach)
        if kind == "input":
            return {"type": self.inputs[name].type} if name in self.inputs else None
        return output_schema(self.steps[StepId(name)]) if name in self.steps else None

    def _local(self, name: str, step: Step, foreach: Foreach) -> dict[str, Json] | None:
        """What an item is, its number, and what comes of it."""
        if name == "index":
            return {"type": "integer"}
        if name == "output":
            return one_output(step)
        bare = getattr(foreach.items.tree, "bare", None) if foreach.items is not None else None
        if name != foreach.name or bare is None or bare not in self.steps:
            return None
        whole = output_schema(self.steps[bare])
        below = whole.get("items")
        return {**below, "$defs": whole.get("$defs", {})} if isinstance(below, dict) else None


# outputs as schemas


def output_schema(step: Step) -> dict[str, Json]:
    """What is known of a step's whole output; empty if nothing is."""
    one = one_output(step)
    return one if step.foreach is None else {"type": "array", "items": one}


def one_output(step: Step) -> dict[str, Json]:
    """The same without `foreach`."""
    match step.body:
        case LlmBody(output=None, samples=None) | ShellBody():
            known = _TEXT
        case LlmBody(output=output, samples=samples):
            schema = _TEXT if output is None else dict(output.schema or {})
            # references lead from the root, and within a list that would be another
            items = {} if "$defs" in schema or "definitions" in schema else schema
            known = schema if samples is None else {"type": "array", "items": items}
        case HttpBody():
            known = _HTTP
        case EmbedBody():
            known = {"type": "array"}
        case WorkflowBody(graph=graph):
            named: dict[str, Json] = {name: {} for name in graph.outputs}
            known = {"type": "object", "properties": named, "additionalProperties": False}
        case ValueBody(value=value) if isinstance(value.tree, Template) and not value.tree.is_expression:
            known = _TEXT
        case _:
            known = {}
    return known


def _kinds(schema: Mapping[str, Json]) -> frozenset[str]:
    """The types that a value may have, null aside; empty if that is not known."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return frozenset({kinds})
    return frozenset(kind for kind in kinds if kind != "null") if isinstance(kinds, list) else frozenset()


def _step_into(schema: dict[str, Json], root: Mapping[str, Json], key: str | int, *, called: bool) -> _Below:
    for _ in range(20):
        if set(schema) - {"description", "title", "$defs"} == {"$ref"}:
            schema = _pointed(root, schema["$ref"])
    kinds = _kinds(schema)
    if not kinds or _COMBINED.intersection(schema):
        return _Below()
    if kinds <= _SCALARS:
        return _in_scalar(kinds, key, called=called)
    if kinds == {"array"}:
        return _in_list(schema, key, called=called)
    return _in_mapping(schema, key, called=called) if kinds == {"object"} and isinstance(key, str) else _Below()


def _pointed(root: Mapping[str, Json], ref: Json) -> dict[str, Json]:
    """What a `$ref` within a document leads to; empty where that is not seen at once."""
    at: Json = dict(root)
    for part in str(ref).removeprefix("#").split("/")[1:]:
        at = at.get(part) if isinstance(at, dict) else None
    return at if isinstance(at, dict) and str(ref).startswith("#") else {}


def _in_scalar(kinds: frozenset[str], key: str | int, *, called: bool) -> _Below:
    is_text = "string" in kinds
    if (isinstance(key, int) and is_text) or (called and (key in methods_of("") or not is_text)):
        return _Below()
    kind = _WORDS[next(iter(kinds))] if len(kinds) == 1 else "no mapping"
    hint = "an `output` schema makes data of an answer" if is_text else ""
    return _Below(error=f"is {kind}, which has no key `{key}`", hint=hint)


def _in_list(schema: dict[str, Json], key: str | int, *, called: bool) -> _Below:
    items = schema.get("items")
    if isinstance(key, int) or (called and key in methods_of([])):
        return _Below(
            items if isinstance(items, dict) and isinstance(key, int) and "prefixItems" not in schema else None
        )
    return _Below(
        error=f"is a list, which has no key `{key}`",
        hint=f"`| map(attribute='{key}')` takes it of each item, `[0]` is the first item",
    )


def _in_mapping(schema: dict[str, Json], key: str, *, called: bool) -> _Below:
    properties = schema.get("properties")
    named = properties if isinstance(properties, dict) else {}
    if key in named:
        below = named[key]
        return _Below(below if isinstance(below, dict) and not called else None)
    if called and key in MAPPING_METHODS:
        return _Below()
    near = nearest(key, named)
    if schema.get("additionalProperties") is False:
        return _Below(error=f"has no key `{key}`", hint=near or "its schema has no properties")
    if schema.get("additionalProperties") in (None, True) and (
        near.startswith("did") or (named and key in OUTPUT_WORDS)
    ):
        return _Below(error=f"has no key `{key}` by its schema", hint=near, certain=False)
    return _Below()
