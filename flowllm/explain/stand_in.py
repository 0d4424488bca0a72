"""What stands for the outputs that nobody knows yet, so that the templates of later steps can be rendered and measured.

An output is known in its shape, by the step's schema, and in its size, by what the model may write. Each text in it is one
character of Unicode's private plane 16; rendering copies these characters to where the texts would be. All texts of one answer
share its tokens, so a prompt holds at most the answer's most tokens as often as the text that is copied most often.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import IntEnum
from typing import TypeAlias

from flowllm.core.fingerprint import canonical
from flowllm.core.records import dataclass
from flowllm.core.types import Json
from flowllm.explain.span import ANY, Span
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import Step

MARK = re.compile("[\U00100000-\U0010fffd]")
_FIRST, _LAST = 0x100000, 0x10FFFC
_NOBODYS = chr(_LAST + 1)
"""Stands for texts beyond those that there are characters for."""
MOST_ITEMS = 200
"""Items of a list that stands in; of longer ones what is around the items is multiplied."""
LIKELY_ITEMS = 3
_DEEPEST = 12
LIKELY_BYTES = 4.0
"""UTF-8 bytes of a token of English, by most tokenisers."""
MOST_BYTES = 8.0
"""Those of the longest tokens on average; what is measured of real texts stays below 6."""
_LEAST_ITEM = 2
"""Tokens that an item of a list takes at least, with what sets it apart from the next."""


class Case(IntEnum):
    """The three that everything is rendered for."""

    LEAST = 0
    LIKELY = 1
    MOST = 2


Cases: TypeAlias = "tuple[Json, Json, Json]"
"""A value in each case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One answer that texts come from."""

    likely: float | None
    """Tokens of one of its texts."""
    most: float | None
    """Tokens of all of them together."""
    stretch: float = 1.0
    """So many times as many items may be in it as stand in; infinite: nothing bounds them."""


class StandIns:
    """The characters of one plan."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, Source]] = {_NOBODYS: ("", Source(likely=None, most=None))}
        self._marks: dict[tuple[str, str], str] = {}

    def text(self, name: str, tokens: Span = ANY) -> Cases:
        """A text of so many tokens, which the node `name` gives."""
        mark = self._mark(name, "", Source(likely=tokens.expected, most=tokens.high))
        return mark, mark, mark

    def answer(self, name: str, schema: Json, tokens: Span) -> Cases:
        """An answer of so many tokens by a JSON Schema."""
        shape = _Shape(schema, tokens.high)
        likely = shape.value(Case.LIKELY, lambda _: "")
        places = _texts(likely)
        shape.value(Case.MOST, lambda _: "")  # says how many more items there may be
        each = None
        if tokens.expected is not None:
            around = len(canonical(likely)) / LIKELY_BYTES
            each = max(1.0, (tokens.expected - around) / places) if places else 0.0
        source = Source(likely=each, most=tokens.high, stretch=shape.stretch)

        def made(case: Case) -> Json:
            return shape.value(case, lambda place: self._mark(name, place, source))

        return made(Case.LEAST), made(Case.LIKELY), made(Case.MOST)

    def like(self, name: str, value: Json, tokens: Span) -> Cases:
        """A value as the node gave it before, whose texts may come to be longer by so many tokens at most."""
        source = Source(likely=0.0, most=tokens.high)

        def made(one: Json, place: str) -> Json:
            if isinstance(one, dict):
                return {key: made(inner, f"{place}/{key}") for key, inner in one.items()}
            if isinstance(one, list):
                return [made(inner, f"{place}/{number}") for number, inner in enumerate(one)]
            return f"{one}{self._mark(name, place, source)}" if isinstance(one, str) else one

        found = made(value, "=")
        return found, found, found

    def _mark(self, name: str, place: str, source: Source) -> str:
        mark = self._marks.get((name, place))
        if mark is None:
            number = _FIRST + len(self._marks)
            mark = self._marks[name, place] = chr(number) if number <= _LAST else _NOBODYS
        if mark != _NOBODYS:
            self._sources[mark] = (name, source)
        return mark

    def measured(self, text: str) -> Measured:
        """A rendered text without the characters, and what they stand for."""
        marks = Counter(MARK.findall(text))
        known = {mark: self._sources[mark] for mark in marks if mark in self._sources}
        if not known:
            return Measured(text=text)
        copies: dict[str, int] = {}
        for mark, (name, _) in known.items():
            copies[name] = max(copies.get(name, 0), marks[mark])
        sources = dict(known.values())
        likely = [None if found.likely is None else found.likely * marks[mark] for mark, (_, found) in known.items()]
        most = [None if sources[name].most is None else (sources[name].most or 0) * n for name, n in copies.items()]
        return Measured(
            text=MARK.sub("", text),
            likely=None if None in likely else sum(one or 0 for one in likely),
            most=None if None in most else sum(one or 0 for one in most),
            stretch=max(source.stretch for source in sources.values()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A text, of which a part stands for others."""

    text: str
    """What is known of it."""
    likely: float | None = 0.0
    """Tokens of the rest; None: nothing says."""
    most: float | None = 0.0
    stretch: float = 1.0
    """So many times as long `text` may be."""


def least_and_likely(schema: Json) -> tuple[float, float | None]:
    """Tokens of the shortest answer by a JSON Schema, and of a likely one; None: its texts or lists may be of any length."""
    shape = _Shape(schema, None)
    least = canonical(shape.value(Case.LEAST, lambda _: ""))
    shape.letters = 0.0
    likely = canonical(shape.value(Case.LIKELY, lambda _: ""))
    bounded = (len(likely) + shape.letters) / LIKELY_BYTES
    return len(least) / MOST_BYTES, None if shape.is_open else bounded


class _Shape:
    """Values of a JSON Schema's shape."""

    def __init__(self, schema: Json, most: float | None) -> None:
        self._root = schema
        self._most = most
        self.stretch = 1.0
        self.is_open = False
        """There was a text or a list that may be of any length."""
        self.letters = 0.0
        """Of the texts that have a bound, were each half as long as it may be."""

    def value(self, case: Case, leaf: Callable[[str], str]) -> Json:
        """One, its texts given by their places."""
        return self._of(self._root, case, leaf, "")

    def _of(self, schema: Json, case: Case, leaf: Callable[[str], str], place: str) -> Json:
        schema = self._plain(schema)
        if place.count("/") > _DEEPEST:
            return None
        if choices := [schema["const"]] if "const" in schema else schema.get("enum"):
            length = {Case.LEAST: min, Case.MOST: max}.get(case)
            return choices[0] if length is None else length(choices, key=lambda one: len(canonical(one)))
        match _type(schema):
            case "object":
                properties = schema.get("properties") or {}
                return {name: self._of(one, case, leaf, f"{place}/{name}") for name, one in properties.items()}
            case "array":
                count = self._length(schema, case, place)
                return [self._of(schema.get("items"), case, leaf, f"{place}/{number}") for number in range(count)]
            case kind if kind in _SIMPLE:
                return schema.get("minimum", _SIMPLE[kind])
        self.is_open |= "maxLength" not in schema
        self.letters += schema.get("maxLength", 0) / 2
        return leaf(place)

    def _plain(self, schema: Json) -> Mapping[str, Json]:
        """With its reference followed, and the first branch of a choice that gives something."""
        for _ in range(_DEEPEST):
            if not isinstance(schema, Mapping):
                break
            if "$ref" in schema:
                schema = _resolved(str(schema["$ref"]), self._root)
                continue
            branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if not branches:
                break
            schema = next((one for one in branches if one != {"type": "null"}), {})
        return schema if isinstance(schema, Mapping) else {}

    def _length(self, schema: Mapping[str, Json], case: Case, place: str) -> int:
        """Of a list in that case."""
        least: int = schema.get("minItems", 0)
        most: int | None = schema.get("maxItems")
        self.is_open |= most is None
        if case is Case.LEAST:
            return min(least, MOST_ITEMS)
        if case is Case.LIKELY:
            return min(max(least, LIKELY_ITEMS if most is None else min(LIKELY_ITEMS, most)), MOST_ITEMS)
        if most is None and self._most is None:
            self.stretch = math.inf
            return MOST_ITEMS
        shortest = canonical(self._of(schema.get("items"), Case.LEAST, lambda _: "", place))
        each = max(_LEAST_ITEM, int(len(shortest) // MOST_BYTES))
        bound = math.inf if self._most is None else max(least, self._most // each)
        wanted = int(min(bound, math.inf if most is None else most))
        count = min(wanted, MOST_ITEMS)
        self.stretch = max(self.stretch, wanted / count if count else 1.0)
        return count


_SIMPLE: Mapping[str | None, Json] = {"integer": 1, "number": 1, "boolean": True, "null": None}


def _type(schema: Mapping[str, Json]) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else None
    return str(kind)


def _resolved(reference: str, root: Json) -> Json:
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _texts(value: Json) -> int:
    """How many empty texts are in it."""
    if isinstance(value, dict):
        return sum(map(_texts, value.values()))
    if isinstance(value, list):
        return sum(map(_texts, value))
    return int(value == "")


def templates_of(step: Step) -> list[Template]:
    """Those of what the step does, without its conditions."""
    found: list[Template] = []
    for one in fields(step.body):
        value = getattr(step.body, one.name)
        if isinstance(value, Template):
            found.append(value)
        elif isinstance(value, ValueTemplate):
            found += value.templates
    return found


_PATH = re.compile(r"\s*\{\{\s*[a-z_]\w*(\s*(\.\s*\w+|\[\s*(\d+|'[^']*'|\"[^\"]*\")\s*\]))*\s*\}\}\s*")


def only_names(value: Template | ValueTemplate) -> bool:
    """It names data as it is: what is counted of its stand-in holds of the data too."""
    tree = value if isinstance(value, Template) else value.tree
    return isinstance(tree, Template) and _PATH.fullmatch(tree.raw) is not None
