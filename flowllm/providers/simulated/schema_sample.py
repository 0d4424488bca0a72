"""A value that satisfies a JSON Schema, drawn at random: what a simulated model answers.

Values are built from the schema's keywords and then checked; a draw that does not fit (`oneOf`, `not`, `if` and
overlapping keywords can defeat the building) is drawn again."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeAlias

from flowllm.core.fingerprint import canonical
from flowllm.core.types import Json
from flowllm.providers.simulated.text import PatternTooLong, matching
from flowllm.schemas.check import SchemaCheck
from flowllm.schemas.patterns import has_match

Phrase: TypeAlias = Callable[[Random, str], str]
"""Gives some text, by the name of the property that it is for."""

_DRAWS = 60
_MAX_VALUES = 20_000
"""Values of one draw."""
_MAX_CHARACTERS = 1_000_000
"""Characters of one text."""
_MAX_CHOICES = 1000
"""Values of an enum among which one is chosen."""
_CPU_SECONDS = 0.5
"""Computing for all draws together: the event loop waits for them."""
_CHECK_SECONDS = 0.05
"""Computing for the check of one draw."""
_SHALLOW = 2
"""Down to this depth lists have the length that the prompt asks for."""
_DEEP = 6
"""From this depth on only what is required is made, and the smallest branch is taken."""
_DEEPEST = 40
_DISTINCT_ITEMS = 50
"""Items of a list that are drawn again where they are equal to others, though they need not differ."""
_LONG_TEXT = 10_000
"""Characters from which on a text is made longer by doubling it."""
_MORE_ITEMS = 3
_OPTIONAL_SHARE = 0.8
_ANNOTATIONS = frozenset({"enum", "title", "description", "default", "examples", "$defs", "definitions"})
_WORDS = ("river", "lantern", "harbour", "meadow", "signal", "orchard", "copper", "winter", "compass", "thread")
_KEYWORD_TYPES = (
    ("object", ("properties", "required", "additionalProperties", "minProperties", "patternProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems")),
    ("string", ("minLength", "maxLength", "pattern", "format")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


class SchemaTooLarge(Exception):
    """The schema asks for more than is made for it; the message has the place in it, such as `tags.items`."""


def words(random: Random, name: str) -> str:  # noqa: ARG001 - any name will do
    """The plainest Phrase."""
    return " ".join(random.sample(_WORDS, 2))


def sample(schema: Json, random: Random, phrase: Phrase = words, *, items: int | None = None) -> Json:
    """A value that satisfies the schema, whenever one of 60 draws does; the last draw otherwise.

    `items` is the length of arrays near the top, where the schema allows it. Raises SchemaTooLarge.
    """
    deadline = time.thread_time() + _CPU_SECONDS
    check = SchemaCheck(schema)
    value: Json = None
    for _ in range(_DRAWS):
        draw = _Draw(schema, random, phrase, items, deadline)
        try:
            value = draw.value(schema, 0, "value")
        except PatternTooLong as error:
            raise draw.too_large(str(error)) from None
        except (OverflowError, ValueError):
            raise draw.too_large("its bounds are beyond the numbers that can be drawn") from None
        except (RecursionError, MemoryError):
            raise draw.too_large("it is too large, or nested too deeply") from None
        if _fits(check, value) or time.thread_time() > deadline:
            break
    return value


def _fits(check: SchemaCheck, value: Json) -> bool:
    try:
        return check.fits(value, within=_CHECK_SECONDS)
    except Exception:  # noqa: BLE001 - a schema that cannot be used for checking; any draw will do then
        return True


class _Draw:
    """One attempt at a value."""

    def __init__(self, root: Json, random: Random, phrase: Phrase, items: int | None, deadline: float) -> None:
        self._root = root
        self._random = random
        self._phrase = phrase
        self._wanted_items = items or 0
        self._deadline = deadline
        self._values_left = _MAX_VALUES
        self._path: list[str] = []

    def too_large(self, reason: str) -> SchemaTooLarge:
        """The error for the place that was reached."""
        place = ".".join(self._path if len(self._path) <= _DEEP else [*self._path[:_DEEP], "…"])
        return SchemaTooLarge(f"at `{place}` of the schema: {reason}" if place else f"in the schema: {reason}")

    def _check_minimum(self, schema: Mapping[str, Json], keyword: str, most: int) -> None:
        if (least := schema.get(keyword, 0)) > most:
            raise self.too_large(f"`{keyword}` is {least}, more than a simulated answer has")

    def _count(self, values: int = 1) -> None:
        """Raises SchemaTooLarge. Time is looked at for every value, as one alone may take long."""
        self._values_left -= values
        if self._values_left < 0:
            raise self.too_large(f"over {_MAX_VALUES:,} values are needed, more than a simulated answer has")
        if time.thread_time() > self._deadline:
            raise self.too_large("no value was found in the time that a simulated answer has")

    def _below(self, step: str, schema: Json, depth: int, name: str) -> Json:
        """The value of a part; where it gives up, the path stays as it was then."""
        self._path.append(step)
        value = self.value(schema, depth + 1, name)
        self._path.pop()
        return value

    def value(self, schema: Json, depth: int, name: str) -> Json:
        """A value for one schema; `name` is the property it is for."""
        self._count()
        if not isinstance(schema, Mapping):
            return self._phrase(self._random, name)
        if depth > _DEEPEST:
            return None
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(self._allowed(schema))
        make: dict[str, Callable[[], Json]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: self._array(schema, depth, name),
            "string": lambda: self._string(schema, name),
            "integer": lambda: self._number(schema, whole=True),
            "number": lambda: self._number(schema, whole=False),
            "boolean": lambda: self._random.choice((True, False)),
        }
        return make.get(self._type(schema, depth), lambda: None)()

    def _flat(self, schema: Mapping[str, Json], depth: int) -> Mapping[str, Json]:
        """The schema with its reference followed and one branch of each choice merged into it."""
        for _ in range(_DEEPEST):
            if "$ref" in schema:
                schema = merged(schema, resolved(schema["$ref"], self._root), without=("$ref",))
            elif parts := schema.get("allOf"):
                schema = merged(schema, {}, without=("allOf",))
                for part in parts:
                    self._count(0)
                    schema = merged(schema, part)
            elif schema.get("anyOf") or schema.get("oneOf"):
                key = "anyOf" if schema.get("anyOf") else "oneOf"
                schema = merged(schema, self._branch(schema[key], depth), without=(key,))
            elif "if" in schema:
                branch: Json = {"allOf": [schema["if"], schema.get("then", True)]}
                if self._random.random() < 0.5:  # noqa: PLR2004 - a fair coin
                    branch = schema.get("else", True)
                schema = merged(schema, branch, without=("if", "then", "else"))
            else:
                break
        return schema

    def _branch(self, branches: list[Json], depth: int) -> Json:
        """Any branch; deep down the one that leads least far."""
        if depth < _DEEP:
            return self._random.choice(branches)

        def leads_on(branch: Json) -> bool:
            ends = not isinstance(branch, Mapping)
            return not ends and ("$ref" in branch or "required" in branch or branch.get("minItems", 0) > 0)

        return min(branches, key=lambda branch: (leads_on(branch), len(str(branch))))

    def _allowed(self, schema: Mapping[str, Json]) -> list[Json]:
        """The values of an enum that the rest of the schema allows; all, if it allows none."""
        values = list(schema["enum"])
        if all(key in _ANNOTATIONS for key in schema):
            return values
        if len(values) > _MAX_CHOICES:
            values = self._random.sample(values, len(values))
        check = SchemaCheck({**merged(schema, {}, without=("enum",)), "$defs": {}})
        allowed: list[Json] = []
        for value in values:
            self._count(0)
            if _fits(check, value):
                allowed.append(value)
            if len(allowed) >= _MAX_CHOICES:
                break
        return allowed or values

    def _type(self, schema: Mapping[str, Json], depth: int) -> str:
        types = schema.get("type")
        if isinstance(types, str):
            return types
        if isinstance(types, list) and types:
            simple = [kind for kind in types if kind not in ("object", "array", "null")]
            named = [kind for kind in types if kind != "null"] or types
            return str(self._random.choice((simple or types) if depth >= _DEEP else named))
        return next((kind for kind, keywords in _KEYWORD_TYPES if any(key in schema for key in keywords)), "string")

    def _object(self, schema: Mapping[str, Json], depth: int) -> dict[str, Json]:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", []))
        share = _OPTIONAL_SHARE if depth < _DEEP else 0.0
        allowed = [key for key, item in properties.items() if item is not False]
        chosen = [key for key in allowed if key in required or self._random.random() < share]
        chosen += [key for key in required if key not in properties]
        for key, others in schema.get("dependentRequired", {}).items():
            chosen += [other for other in others if key in chosen and other not in chosen]
        result = {key: self._below(key, self._property(schema, key), depth, key) for key in chosen}
        spare = [key for key in allowed if key not in result]
        self._check_minimum(schema, "minProperties", _MAX_VALUES)
        while len(result) < schema.get("minProperties", 0):
            key = spare.pop() if spare else self._new_name(schema, result)
            result[key] = self._below(key, self._property(schema, key), depth, key)
        surplus = max(0, len(result) - schema.get("maxProperties", len(result)))
        for key in [key for key in result if key not in required][:surplus]:
            del result[key]
        return result

    def _property(self, schema: Mapping[str, Json], key: str) -> Json:
        """The schema of one property, `patternProperties` and `additionalProperties` included."""
        found = [schema["properties"][key]] if key in schema.get("properties", {}) else []
        found += [item for pattern, item in schema.get("patternProperties", {}).items() if has_match(pattern, key)]
        if not found:
            return schema.get("additionalProperties", True)
        return found[0] if len(found) == 1 else {"allOf": found}

    def _new_name(self, schema: Mapping[str, Json], taken: Mapping[str, Json]) -> str:
        if schema.get("propertyNames"):
            name = str(self.value({"type": "string", **schema["propertyNames"]}, 0, "name"))
        elif schema.get("patternProperties") and schema.get("additionalProperties") is False:
            name = matching(self._random.choice(list(schema["patternProperties"])), self._random)
        else:
            name = self._random.choice(_WORDS)
        return name if name not in taken else f"{name}{len(taken)}"

    def _array(self, schema: Mapping[str, Json], depth: int, name: str) -> list[Json]:
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        contained = schema.get("minContains", 1) if "contains" in schema else 0
        least = max(schema.get("minItems", 0), contained)
        more = _MORE_ITEMS if depth < _DEEP else 0
        wanted = self._wanted_items if depth <= _SHALLOW else 0
        most = schema.get("maxItems", max(least, len(prefix) + more, wanted))
        most = min(most, len(prefix)) if items is False else most
        length = self._random.randint(min(max(least, min(more, 1)), most), most)
        length = min(max(least, wanted), most) if wanted else length
        self._check_minimum(schema, "minItems", _MAX_VALUES)
        self._check_minimum(schema, "minContains", _MAX_VALUES)
        length = min(length, most, max(least, _MAX_CHOICES))
        schemas = [prefix[i] if i < len(prefix) else items for i in range(length)]
        for i in range(min(contained, length)):
            joined = schema["contains"] if schemas[i] is True else {"allOf": [schema["contains"], schemas[i]]}
            schemas[i] = merged({}, joined)
        return self._items(schemas, depth, name, least=least, unique=schema.get("uniqueItems", False))

    def _items(self, schemas: list[Json], depth: int, name: str, *, least: int, unique: bool) -> list[Json]:
        """One value for each; equal ones are drawn again, and left out if that does not help."""
        result: list[Json] = []
        seen: set[str] = set()
        for schema in schemas:
            for _ in range(_DRAWS if unique or len(result) < _DISTINCT_ITEMS else 1):
                value = self._below("items", schema, depth, name)
                if (text := canonical(value)) not in seen:
                    break
            if unique and text in seen and len(result) >= least:
                continue
            seen.add(text)
            result.append(value)
        return result

    def _string(self, schema: Mapping[str, Json], name: str) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", sys.maxsize)
        if "format" in schema and (text := self._formatted(schema["format"])):
            return text
        if "pattern" in schema:
            text = matching(schema["pattern"], self._random)
            for _ in range(_DRAWS):
                if least <= len(text) <= most:
                    break
                self._count(0)
                text = matching(schema["pattern"], self._random)
            return text
        self._check_minimum(schema, "minLength", _MAX_CHARACTERS)
        text = self._phrase(self._random, name)
        while len(text) < least:
            text += " " + (text if len(text) > _LONG_TEXT else self._phrase(self._random, name))
        return text if len(text) <= most else text[:most].rstrip().ljust(least, "a")

    def _formatted(self, form: str) -> str:
        draw = self._random
        date = f"20{draw.randint(10, 29)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
        time_of_day = f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}Z"
        word = draw.choice(_WORDS)
        digits = "".join(draw.choice("0123456789abcdef") for _ in range(32))
        return {
            "date": date,
            "time": time_of_day,
            "date-time": f"{date}T{time_of_day}",
            "duration": f"PT{draw.randint(1, 59)}M",
            "email": f"{word}@example.com",
            "hostname": f"{word}.example.com",
            "ipv4": f"192.0.2.{draw.randint(1, 254)}",
            "ipv6": f"2001:db8::{draw.randint(1, 9999)}",
            "uri": f"https://example.com/{word}",
            "uri-reference": f"/{word}",
            "uuid": f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}",
            "json-pointer": f"/{word}",
            "regex": f"^{word}$",
        }.get(form, "")

    def _number(self, schema: Mapping[str, Json], *, whole: bool) -> float:
        step = schema.get("multipleOf")
        low, high = _range(schema, step or (1 if whole else 1e-3))
        if step:
            first, last = math.ceil(low / step), math.floor(high / step)
            value = self._random.randint(first, max(first, last)) * step
            return round(value) if whole or float(value).is_integer() else float(value)
        if whole:
            return self._random.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        drawn = self._random.uniform(low, high)
        if not math.isfinite(drawn):  # the two are further apart than a number can be
            drawn = float(low)
        rounded = round(drawn, 2)
        return rounded if low <= rounded <= high else drawn


def _range(schema: Mapping[str, Json], step: float) -> tuple[float, float]:
    """Lowest and highest number that may be drawn; a missing end is put a hundred steps away.

    Of an excluded bound it stays a step away, or a quarter of the room if there is less.
    """
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    nudge = step if isinstance(step, int) else min(step, 1e-3)
    exclusive = "exclusiveMinimum" in schema or "exclusiveMaximum" in schema
    if exclusive and lows and highs and (room := min(highs) - max(lows)) <= 2 * nudge:
        nudge = room / 4
    if "exclusiveMinimum" in schema:
        lows[-1] = max(lows[-1] + nudge, _next(lows[-1], math.inf))
    if "exclusiveMaximum" in schema:
        highs[-1] = min(highs[-1] - nudge, _next(highs[-1], -math.inf))
    width = 100 * max(step, 1)
    low = max(lows) if lows else (min(highs) - width if highs else 0)
    return low, max(low, min(highs) if highs else low + width)


def _next(bound: float, towards: float) -> float:
    """The number beside it: of large ones, adding a little gives the same again."""
    return math.nextafter(bound, towards) if isinstance(bound, float) else -towards


def merged(one: Mapping[str, Json], other: Json, *, without: tuple[str, ...] = ()) -> dict[str, Json]:
    """A schema for what satisfies both, keys `without` left out of `one`; where they cannot be joined, `other` wins."""
    result = {key: value for key, value in one.items() if key not in without}
    for key, value in other.items() if isinstance(other, Mapping) else ():
        join = _JOINS.get(key)
        result[key] = join(result[key], value) if join is not None and key in result else value
    return result


def resolved(reference: Json, root: Json) -> Json:
    """What a local reference points to (RFC 6901); True for one that points nowhere."""
    target = root
    for part in str(reference).removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            target = target.get(key, True) if isinstance(target, Mapping) else True
    return target


def _maps(one: Json, other: Json) -> Json:
    return {**one, **other, **{name: {"allOf": [one[name], other[name]]} for name in one if name in other}}


def _types(one: Json, other: Json) -> Json:
    """An integer is a number too."""
    firsts, seconds = ({kinds} if isinstance(kinds, str) else set(kinds) for kinds in (one, other))
    if ("integer" in firsts and "number" in seconds) or ("number" in firsts and "integer" in seconds):
        firsts, seconds = firsts | {"integer"}, seconds | {"integer"}
    return sorted(firsts & seconds) or other


_JOINS: dict[str, Callable[[Json, Json], Json]] = {
    **dict.fromkeys(("properties", "$defs", "definitions", "patternProperties"), _maps),
    **dict.fromkeys(("required", "allOf"), lambda one, other: [*one, *(item for item in other if item not in one)]),
    **dict.fromkeys(
        ("items", "additionalProperties", "contains", "propertyNames"), lambda one, other: {"allOf": [one, other]}
    ),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "enum": lambda one, other: [item for item in other if item in one] or other,
    "type": _types,
}
