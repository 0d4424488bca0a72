"""`output`: a JSON Schema, inline or in a file, made whole and checked before anything is sent.

What `$ref` names in other files is copied under the root's `$defs`, so that the schema that is sent, hashed
and validated with is one document.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

from flowllm.core.errors import InvalidWorkflow
from flowllm.core.request import OutputFormat
from flowllm.core.types import Json
from flowllm.language.files import SnapshotFiles, Sources, beside
from flowllm.language.nodes import Entry, Mapping, Node, Scalar, Sequence, constant, kind_of, plain_data, scalars
from flowllm.language.problems import Location, Problems, SourceError, nearest
from flowllm.language.schema_keywords import BY_NAME, TYPES, check_keywords
from flowllm.language.schema_plain import is_plain
from flowllm.language.source import parse_yaml
from flowllm.language.values import is_template
from flowllm.schemas.patterns import check_pattern

MAX_FILES = 20
_SUFFIXES = (".json", ".yaml", ".yml")
_REFUSED = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$recursiveAnchor")
_LITERAL = ("const", "enum", "default", "examples", "example")
"""Keywords whose values are data, not schemas."""


def output_format(node: Scalar | Mapping, sources: Sources, problems: Problems, step: str) -> OutputFormat:
    """What `output` of a step asks for. Raises SourceError where the schema is not right or not there.

    Keywords that are not known go to the problems.
    """
    if isinstance(node, Scalar):
        if node.text == "json":
            return OutputFormat()
        name, root = _load(node.text, node.where, sources)
    else:
        name, root = node.where.file, node
        template = next((leaf for leaf in scalars(node) if is_template(leaf.text)), None)
        if template is not None:
            raise SourceError(template.where, "a JSON Schema cannot hold a template")
    if not isinstance(root, Mapping):
        raise SourceError(root.where, f"a JSON Schema is a mapping, this is {kind_of(root)}")
    bundle = _Bundle(name, root, sources)
    schema = bundle.schema()
    for document in bundle.documents.values():
        check_keywords(document, problems, step)
    return OutputFormat(schema=schema)


def output_of(value: Json) -> OutputFormat:
    """The same for a value that code gives: `json`, or a JSON Schema that refers to no file. Raises SourceError."""
    here = Location(file="output", line=1, column=1)
    if value != "json" and not isinstance(value, dict):
        raise SourceError(here, "this is neither `json` nor a JSON Schema")
    node = _placeless(value, here)
    assert isinstance(node, Scalar | Mapping)  # noqa: S101 - as its value is
    problems = Problems()
    found = output_format(node, Sources(SnapshotFiles({}), problems), problems, "")
    try:
        problems.check()
    except InvalidWorkflow as invalid:
        raise SourceError(here, invalid.problems[0].message, invalid.problems[0].hint) from None
    return found


def _load(path: str, where: Location, sources: Sources) -> tuple[str, Node]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path):
        raise SourceError(
            where, "a schema cannot be fetched from a URL", "save it beside the workflow and name the file"
        )
    if not path.endswith(_SUFFIXES):
        raise SourceError(
            where,
            f"`{path}` is neither `json` nor the path of a schema's file",
            "a schema's file ends in .json or .yaml",
        )
    name, text = sources.read_named(path, where)
    return name, _json_nodes(text, name) if path.endswith(".json") else parse_yaml(text, name)


def _json_nodes(text: str, name: str) -> Node:
    """JSON read as the YAML that it nearly is, for the places; else without places."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(
            Location(file=name, line=error.lineno, column=error.colno), f"this is not JSON: {error.msg}"
        ) from None
    except (ValueError, RecursionError):
        raise SourceError(
            Location(file=name, line=1, column=1), "this JSON is nested too deep or holds huge numbers"
        ) from None
    try:
        node = parse_yaml(text.replace("\t", " "), name)
    except SourceError as error:
        if "second time" in error.message or "nested" in error.message:
            raise
        return _placeless(data, Location(file=name, line=1, column=1))
    return node


def _placeless(data: Json, where: Location, depth: int = 0) -> Node:
    if depth > 50:  # noqa: PLR2004 - as deep as YAML may be
        raise SourceError(where, "this is nested more than 50 deep")
    if isinstance(data, dict):
        return Mapping(
            where=where,
            entries=tuple(
                Entry(key=key, where=where, value=_placeless(value, where, depth + 1)) for key, value in data.items()
            ),
        )
    if isinstance(data, list):
        return Sequence(where=where, items=tuple(_placeless(item, where, depth + 1) for item in data))
    if isinstance(data, str):
        return constant(data, where)
    return Scalar(where=where, text=json.dumps(data))


class _Bundle:
    """One root schema and the documents that it refers to."""

    def __init__(self, name: str, root: Mapping, sources: Sources) -> None:
        self._folder = os.path.dirname(name)  # noqa: PTH120 - text only, as written
        self._name = name
        self._root = root
        self._sources = sources
        self.documents: dict[str, Node] = {name: root}
        self._keys: dict[str, str] = {name: ""}
        self._taken = set(_names_in(root.get("$defs")))

    def schema(self) -> dict[str, Json]:
        """The root with everything it refers to, references rewritten, checked."""
        bundled: dict[str, Json] = self._rewritten(self._name, self._root)
        done = {self._name}
        extra: dict[str, Json] = {}
        while pending := [name for name in self.documents if name not in done]:
            for name in pending:
                done.add(name)
                extra[self._keys[name]] = self._rewritten(name, self.documents[name])
        if extra:
            bundled["$defs"] = {**bundled.get("$defs", {}), **extra}
        for document in self.documents.values():
            _check(document)
        self._check_loops(bundled)
        return bundled

    def _rewritten(self, name: str, document: Node) -> Json:
        data = plain_data(document)
        for path, schema in _schemas(document):
            target = data
            for step in path:
                target = target[step]
            self._rewrite(name, schema, target, root=not path)
        return data

    def _rewrite(self, name: str, schema: Mapping, data: dict[str, Json], *, root: bool) -> None:
        for key, where in schema.keys().items():
            if key in _REFUSED:
                raise SourceError(where, f"`{key}` is not supported", "refer with `$ref: '#/…'`")
            if key in {"$id", "id"} and isinstance(data[key], str) and (key == "$id" or root):
                if not root:
                    raise SourceError(where, "`$id` inside a schema is not supported", "refer with `$ref: '#/…'`")
                del data[key]
        if name != self._name and root:
            data.pop("$schema", None)
        if not name.endswith(".json"):
            _keep_texts(schema, data)
        ref = schema.get("$ref")
        if ref is not None:
            data["$ref"] = self._target(name, ref)

    def _target(self, name: str, ref: Node) -> str:
        if not isinstance(ref, Scalar):
            raise SourceError(ref.where, f"`$ref` is a text such as '#/$defs/name', this is {kind_of(ref)}")
        path, _, fragment = ref.text.partition("#")
        document = self._document(name, path, ref.where) if path else name
        if fragment and not fragment.startswith("/"):
            raise SourceError(ref.where, f"`#{fragment}` is not supported", "refer with a pointer: '#/…'")
        _follow(self.documents[document], fragment, ref)
        key = self._keys[document]
        return f"#{f'/$defs/{key}' if key else ''}{fragment}"

    def _document(self, name: str, path: str, where: Location) -> str:
        shown = beside(name, path)
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path):
            inside = os.path.relpath(shown, self._folder or ".")
            if os.path.isabs(path) or inside.startswith(".."):  # noqa: PTH117 - text only
                raise SourceError(
                    where, f"`$ref` leaves the schema's folder: {path}", "keep the files of a schema together"
                )
            if not path.endswith(_SUFFIXES):
                raise SourceError(
                    where, f"`$ref: {path}` names no schema's file", "a schema's file ends in .json or .yaml"
                )
        if shown not in self.documents:
            if len(self.documents) >= MAX_FILES:
                raise SourceError(where, f"a schema cannot be made of more than {MAX_FILES} files")
            at = Location(file=name, line=where.line, column=where.column)
            _, self.documents[shown] = _load(path, at, self._sources)
            self._keys[shown] = self._fresh(path)
        return shown

    def _fresh(self, path: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_]", "_", os.path.basename(path).rsplit(".", 1)[0]) or "schema"  # noqa: PTH119
        key, number = stem, 2
        while key in self._taken:
            key, number = f"{stem}_{number}", number + 1
        self._taken.add(key)
        return key

    def _check_loops(self, bundled: Json) -> None:
        """A chain of `$ref` that comes back to itself says nothing, and would never end."""
        for _, schema in _schemas(self._root):
            ref = schema.get("$ref")
            if isinstance(ref, Scalar):
                seen: set[str] = set()
                at: Json = {"$ref": self._target(self._name, ref)}
                while isinstance(at, dict) and isinstance(at.get("$ref"), str):
                    if at["$ref"] in seen:
                        raise SourceError(ref.where, f"`$ref: {ref.text}` leads back to itself")
                    seen.add(at["$ref"])
                    at = _pointed(bundled, at["$ref"])


def _keep_texts(schema: Mapping, data: dict[str, Json]) -> None:
    """Values that a schema of type string names are texts as written: `enum: [1.10, true]` means "1.10" and "true"."""
    kind, enum = schema.get("type"), schema.get("enum")
    if not isinstance(kind, Scalar) or kind.text != "string":
        return
    for key in ("const", "default"):
        value = schema.get(key)
        if isinstance(value, Scalar):
            data[key] = value.text
    if isinstance(enum, Sequence):
        data["enum"] = [item.text if isinstance(item, Scalar) else plain_data(item) for item in enum.items]


def _pointed(data: Json, ref: str) -> Json:
    for part in _parts(ref[1:]):
        data = data[int(part)] if isinstance(data, list) else data.get(part)
    return data


def _parts(fragment: str) -> list[str]:
    return [unquote(part).replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:]]


def _names_in(node: Node | None) -> list[str]:
    return list(node.keys()) if isinstance(node, Mapping) else []


def _follow(node: Node, fragment: str, ref: Scalar) -> None:
    """Raises SourceError at the reference if there is nothing at that JSON pointer."""
    for part in _parts(fragment):
        child: Node | None = None
        if isinstance(node, Mapping):
            child = node.get(part)
        elif isinstance(node, Sequence) and part.isdecimal() and int(part) < len(node.items):
            child = node.items[int(part)]
        if child is None:
            raise SourceError(ref.where, f"`$ref: {ref.text}` points at nothing", nearest(part, _names_in(node)))
        node = child


def _schemas(node: Node, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Mapping]]:
    """Every mapping below a node that is a schema, with its path."""
    if not isinstance(node, Mapping):
        return
    yield path, node
    for entry in node.entries:
        below = (*path, entry.key)
        if entry.key in _LITERAL or entry.key.startswith("x-"):
            continue
        if entry.key in BY_NAME and isinstance(entry.value, Mapping):
            for inner in entry.value.entries:
                yield from _schemas(inner.value, (*below, inner.key))
        elif isinstance(entry.value, Sequence):
            for index, item in enumerate(entry.value.items):
                yield from _schemas(item, (*below, index))
        else:
            yield from _schemas(entry.value, below)


def _check(document: Node) -> None:
    """Raises SourceError where a document is not a JSON Schema."""
    for _, schema in _schemas(document):
        _check_types(schema)
        _check_patterns(schema)
    data = plain_data(document)
    if is_plain(data):
        return
    # jsonschema takes 100 ms to import, and most workflows have no such schema
    from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415

    validator = validator_for(data, default=Draft202012Validator)
    errors = validator(validator.META_SCHEMA).iter_errors(data)
    first = min(errors, key=lambda error: -len(error.absolute_path), default=None)
    if first is not None:
        where, key = _located(document, list(first.absolute_path))
        message = first.message if len(first.message) < 150 else "this value does not fit"  # noqa: PLR2004 - a line
        raise SourceError(where, f"not a valid JSON Schema{f', at `{key}`' if key else ''}: {message}")


def _located(node: Node, path: list[str | int]) -> tuple[Location, str]:
    key = ""
    for part in path:
        if isinstance(node, Mapping):
            child = node.get(str(part))
            key = str(part)
        else:
            child = node.items[part] if isinstance(node, Sequence) and isinstance(part, int) else None
        if child is None:
            break
        node = child
    return node.where, key


def _check_types(schema: Mapping) -> None:
    found = schema.get("type")
    for item in found.items if isinstance(found, Sequence) else (found,):
        if isinstance(item, Scalar) and item.text not in TYPES:
            raise SourceError(item.where, f"`{item.text}` is not a type of JSON Schema", nearest(item.text, TYPES))
    required = schema.get("required")
    if isinstance(required, Scalar):
        raise SourceError(
            required.where, "`required` is a list of names", "it stands beside `properties`: required: [a, b]"
        )


def _check_patterns(schema: Mapping) -> None:
    pattern, by_pattern = schema.get("pattern"), schema.get("patternProperties")
    found = [(pattern.text, pattern.where)] if isinstance(pattern, Scalar) else []
    if isinstance(by_pattern, Mapping):
        found += by_pattern.keys().items()
    for text, where in found:
        try:
            check_pattern(text)
        except ValueError as error:
            raise SourceError(
                where,
                f"`{text}` is not a regular expression: {error}",
                r"patterns are JavaScript's: \k<name> for (?P=name), $ for \Z, no conditions, no counts in the thousands",
            ) from None
