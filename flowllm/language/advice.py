"""What may not be what was meant, in a step or an output that is right in itself; and data files that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Mapping as AbstractMapping
from typing import Final, TypeAlias

from flowllm.core.errors import StepError
from flowllm.core.file_endings import refused_ending
from flowllm.core.records import dataclass, fields
from flowllm.core.types import Json, Limits, StepId
from flowllm.language.files import Sources
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Location, Problems, nearest
from flowllm.language.sandbox_methods import MAPPING_METHODS, methods_of
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.template_paths import OUTPUT_WORDS, Lookup
from flowllm.language.values import is_template
from flowllm.language.workflow import (
    Body,
    DataFile,
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

Schema: TypeAlias = "dict[str, Json]"
_PATH = re.compile(r"(?:steps\.)?([a-z_][a-z0-9_]*)(?:\.[A-Za-z0-9_]+|\[[0-9]+\])*")
_REMOTE = ("http:", "https:", "data:")


def advise(step: Step, sources: Sources, *, outermost: bool) -> None:
    """Add what may be wrong with a step. `outermost`: it is not within another workflow's step."""
    problems = sources.problems
    _check_same(step, problems)
    alone = outermost and not step.edges
    for path, where in _named_files(step):
        name, reason = sources.missing(path, where)
        if reason:
            report = problems.add if alone else problems.warn
            hint = f"looked for it at {name}" + ("" if alone else "; right if the run makes it first")
            report(where, f"the file {path} cannot be read: {reason}", hint, step=step.id)


def check_hedges(
    hedged: Iterable[tuple[Location, str, Body]],
    limits: Iterable[AbstractMapping[str, Limits | None]],
    problems: Problems,
) -> None:
    """Warn where `hedge` is written, and the provider, or its model, gets one request at a time; `limits` are those that
    are written, by the provider's name."""
    for where, step, body in hedged:
        if not isinstance(body, LlmBody | EmbedBody):
            continue
        try:
            name, model = str(body.provider.render({})), str(body.model.render({}))
        except StepError:  # known during the run
            continue
        found = [each for by_name in limits if (each := by_name.get(body.aliases.get(name, name))) is not None]
        if 1 in {one.max_concurrent for each in found for one in (each, each.models.get(model, each))}:
            message = "nothing can be sent once more, as `max_concurrent: 1` leaves no slot for a second attempt"
            problems.warn(where, message, "write `max_concurrent: 2` or more, or `hedge: off`", step=step)


def check_output(node: Node, steps: Collection[str], problems: Problems) -> None:
    """Warn of texts that are no more than the id of a step."""
    if isinstance(node, Mapping):
        for entry in node.entries:
            check_output(entry.value, steps, problems)
    elif isinstance(node, Sequence):
        for item in node.items:
            check_output(item, steps, problems)
    elif isinstance(node, Scalar) and node.is_text and not is_template(node.text):
        text = node.text.strip().removeprefix("$").removeprefix("{").removesuffix("}").strip()
        found = _PATH.fullmatch(text)
        if found is not None and found[1] in steps:
            problems.warn(
                node.where,
                f"this is the text {node.text!r}, not what the step `{found[1]}` gives",
                f'write "{{{{ {text} }}}}"',
            )


_BEHIND_TAGS: Final = re.compile(r"[%}]\}")


def check_saves(steps: Collection[Step], problems: Problems) -> None:
    """Add a problem for each step that saves to a file of a kind that is not written, or to a path that another has already,
    where both are certain to be carried out: no `when` is above them."""
    dependents: dict[str, list[str]] = {}
    for step in steps:
        for need in step.edges:
            dependents.setdefault(need, []).append(step.id)
    uncertain: set[str] = set()
    waiting: list[str] = [step.id for step in steps if step.when is not None]
    while waiting:
        name = waiting.pop()
        if name not in uncertain:
            uncertain.add(name)
            waiting += dependents.get(name, [])
    taken: dict[str, str] = {}
    for step in steps:
        if step.save is None:
            continue
        path = step.save.constant
        if refused := refused_ending(f"x{_BEHIND_TAGS.split(step.save.source)[-1]}"):
            problems.add(step.save.where, *refused, step=step.id)
        if not path or step.foreach is not None or step.id in uncertain:
            continue
        other = taken.setdefault(os.path.normpath(path), step.id)
        if other != step.id:
            problems.add(
                step.save.where,
                f"`{step.id}` saves to {path}, and so does `{other}`",
                "save them under two names",
                step=step.id,
            )


# a foreach whose items all ask the same


def _check_same(step: Step, problems: Problems) -> None:
    foreach = step.foreach
    if foreach is None or not _asks(step) or _is_short(foreach):
        return
    used = set().union(*(template.names for template in _asked(step)))
    if not used & {foreach.name, "index"}:
        what = "graph" if isinstance(step.body, WorkflowBody) else "prompt"
        problems.warn(
            step.where,
            f"all items of `{step.id}` ask the same: its {what} has neither {{{{ {foreach.name} }}}} nor {{{{ index }}}}",
            'it is asked once, and all get that answer; for different ones add `sample: "{{ index }}"`'
            if isinstance(step.body, LlmBody)
            else "hand the item in",
            step=step.id,
        )


def _asks(step: Step) -> bool:
    """It asks a model, and an answer is used again for an equal question."""
    if isinstance(step.body, WorkflowBody):
        return any(_asks(inner) for inner in step.body.graph.steps.values())
    return isinstance(step.body, LlmBody | EmbedBody) and step.cache.enabled


def _is_short(foreach: Foreach) -> bool:
    tree = None if foreach.items is None else foreach.items.tree
    return isinstance(tree, list) and len(tree) < 2  # noqa: PLR2004 - one item has none to equal


def _asked(step: Step) -> Iterator[Template | ValueTemplate]:
    """The templates that decide what is asked: all of its body, of a graph those that it is handed."""
    for field in fields(step.body):
        value = getattr(step.body, field.name)
        if isinstance(value, Template | ValueTemplate):
            yield value


# files


def _named_files(step: Step) -> Iterator[tuple[str, Location]]:
    """Files that a step reads when it runs, where their paths are written out."""
    foreach = step.foreach
    if foreach is not None:
        for source in (foreach.file, *(foreach.matrix or {}).values()):
            if isinstance(source, DataFile) and not source.many and source.path.constant not in {None, "-"}:
                yield str(source.path.constant), source.path.where
    images = step.body.images if isinstance(step.body, LlmBody) else None
    if images is not None:
        for image in images.tree if isinstance(images.tree, list) else [images.tree]:
            if isinstance(image, Template) and image.constant and not image.constant.lower().startswith(_REMOTE):
                yield image.constant, image.where


# what is certain to fail: keys that a value cannot have, conditions that are none

_TEXT: Final[Schema] = {"type": "string"}
_HTTP: Final[Schema] = {
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


class _NoKey(Exception):
    """A value cannot have a key. `certain`: whatever the value is."""

    def __init__(self, error: str, hint: str = "", *, offset: int = 0, certain: bool = True) -> None:
        super().__init__(error)
        self.hint = hint
        self.offset = offset
        self.certain = certain


def check_lookups(
    step: Step | None, templates: Iterable[Template], known: Known, problems: Problems, *, name: str = ""
) -> None:
    """Add what is certain to fail in a step's templates, and warn of what is likely to."""
    for template in templates:
        for lookup in template.lookups:
            try:
                known.follow(lookup, step)
            except _NoKey as missing:
                report = problems.add if known.strict and missing.certain and lookup.certain else problems.warn
                report(template.place(missing.offset), str(missing), missing.hint, step=name)
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

    steps: AbstractMapping[StepId, Step]
    inputs: AbstractMapping[str, Input]
    strict: bool
    """What is certain to fail is a problem, not only a warning."""

    def kind(self, template: Template, step: Step) -> str | None:
        """What a template that is one expression gives, in words; None where that is not known."""
        given = template.gives
        if not isinstance(given, Lookup):
            return given
        try:
            schema = self.follow(given, step)
        except _NoKey:
            return None
        if schema is None or not given.whole or _COMBINED.intersection(schema):
            return None
        kinds = _kinds(schema)
        return _WORDS[next(iter(kinds))] if len(kinds) == 1 else None

    def follow(self, lookup: Lookup, step: Step | None) -> Schema | None:
        """The schema of what a path leads to, None where it is not known. Raises _NoKey at the key that cannot be there."""
        schema = root = self._schema(lookup, step)
        shown = lookup.subject[1] if lookup.subject[0] != "input" else f"inputs.{lookup.subject[1]}"
        for index, (key, offset) in enumerate(lookup.keys):
            if schema is None or root is None:
                return None
            try:
                schema = _below(schema, root, key, called=lookup.called and index == len(lookup.keys) - 1)
            except _NoKey as missing:
                itself = index == 0 and lookup.subject[0] == "step" and key in OUTPUT_WORDS
                hint = f"write {{{{ {shown} }}}}: that is the output itself" if itself else missing.hint
                raise _NoKey(f"`{shown}` {missing}", hint, offset=offset, certain=missing.certain) from None
            shown = f"{shown}[{key}]" if isinstance(key, int) else f"{shown}.{key}"
        return schema

    def _schema(self, lookup: Lookup, step: Step | None) -> Schema | None:
        kind, name = lookup.subject
        if kind == "local":
            return None if step is None or step.foreach is None else self._local(name, step, step.foreach)
        if kind == "input":
            return {"type": self.inputs[name].type} if name in self.inputs else None
        return output_schema(self.steps[StepId(name)]) if name in self.steps else None

    def _local(self, name: str, step: Step, foreach: Foreach) -> Schema | None:
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


def output_schema(step: Step) -> Schema:
    """What is known of a step's whole output; empty if nothing is."""
    one = one_output(step)
    return one if step.foreach is None else {"type": "array", "items": one}


def one_output(step: Step) -> Schema:
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
            named: Schema = {name: {} for name in graph.outputs}
            known = {"type": "object", "properties": named, "additionalProperties": False}
        case ValueBody(value=value) if isinstance(value.tree, Template) and not value.tree.is_expression:
            known = _TEXT
        case _:
            known = {}
    return known


def _kinds(schema: Schema) -> frozenset[str]:
    """The types that a value may have, null aside; empty if that is not known."""
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return frozenset({kinds})
    return frozenset(kind for kind in kinds if kind != "null") if isinstance(kinds, list) else frozenset()


def _below(schema: Schema, root: Schema, key: str | int, *, called: bool) -> Schema | None:
    """The schema of what is under a key, None where it is not known. Raises _NoKey, without its place."""
    for _ in range(20):
        if set(schema) - {"description", "title", "$defs"} == {"$ref"}:
            schema = _pointed(root, schema["$ref"])
    kinds = _kinds(schema)
    if not kinds or _COMBINED.intersection(schema):
        return None
    if kinds <= _SCALARS:
        _check_scalar(kinds, key, called=called)
        return None
    if kinds == {"array"}:
        return _in_list(schema, key, called=called)
    return _in_mapping(schema, key, called=called) if kinds == {"object"} and isinstance(key, str) else None


def _pointed(root: Schema, ref: Json) -> Schema:
    """What a `$ref` within a document leads to; empty where that is not seen at once."""
    at: Json = root
    for part in str(ref).removeprefix("#").split("/")[1:]:
        at = at.get(part) if isinstance(at, dict) else None
    return at if isinstance(at, dict) and str(ref).startswith("#") else {}


def _check_scalar(kinds: frozenset[str], key: str | int, *, called: bool) -> None:
    is_text = "string" in kinds
    if (isinstance(key, int) and is_text) or (called and (key in methods_of("") or not is_text)):
        return
    kind = _WORDS[next(iter(kinds))] if len(kinds) == 1 else "no mapping"
    hint = "an `output` schema makes data of an answer" if is_text else ""
    raise _NoKey(f"is {kind}, which has no key `{key}`", hint)


def _in_list(schema: Schema, key: str | int, *, called: bool) -> Schema | None:
    items = schema.get("items")
    if isinstance(key, int):
        return items if isinstance(items, dict) and "prefixItems" not in schema else None
    if called and key in methods_of([]):
        return None
    hint = f"`| map(attribute='{key}')` takes it of each item, `[0]` is the first item"
    raise _NoKey(f"is a list, which has no key `{key}`", hint)


def _in_mapping(schema: Schema, key: str, *, called: bool) -> Schema | None:
    properties = schema.get("properties")
    named = properties if isinstance(properties, dict) else {}
    if key in named:
        below = named[key]
        return below if isinstance(below, dict) and not called else None
    if called and key in MAPPING_METHODS:
        return None
    near = nearest(key, named)
    if schema.get("additionalProperties") is False:
        raise _NoKey(f"has no key `{key}`", near or "its schema has no properties")
    if schema.get("additionalProperties") in (None, True) and (
        near.startswith("did") or (named and key in OUTPUT_WORDS)
    ):
        raise _NoKey(f"has no key `{key}` by its schema", near, certain=False)
    return None
