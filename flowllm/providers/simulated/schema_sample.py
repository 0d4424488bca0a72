"""A value that satisfies a JSON Schema, drawn at random: what a simulated model answers.

Values are built from the schema's keywords and then checked; a draw that does not fit (`oneOf`, `not`, `if` and
overlapping keywords can defeat the building) is drawn again.
"""

from __future__ import annotations

import math
import string
import sys
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeAlias

from flowllm.core.fingerprint import canonical
from flowllm.core.types import Json
from flowllm.providers.simulated.pattern_sample import PatternTooLong, matching
from flowllm.providers.simulated.schema_merge import merged
from flowllm.schemas.check import SchemaCheck
from flowllm.schemas.patterns import has_match

Phrase: TypeAlias = Callable[["Random", str], str]
"""Gives some text, by the name of the property that it is for."""

_TRIES = 60
_MOST_VALUES = 20_000
"""That one draw makes."""
_MOST_CHARACTERS = 1_000_000
"""Of one text."""
_MOST_COMPUTING = 0.5
"""Seconds of computing for all draws together, as the event loop waits for them."""
_SECONDS = 0.05
"""Of computing, for the check of one draw."""
_DEEPEST = 6
"""From this depth on only what is required is made, and the smallest branch is taken."""
_DEEPEST_OF_ALL = 40
_TOLD_APART = 50
"""Items of a list that are drawn again where they are equal to others, though they need not differ."""
_LONG_TEXT = 10_000
"""Characters from which on a text is made longer by itself."""
_ANNOTATIONS = frozenset({"enum", "title", "description", "default", "examples", "$defs", "definitions"})
_MORE_ITEMS = 3
_NEAR_THE_TOP = 2
_OPTIONAL_SHARE = 0.8
_MOST_CHOICES = 1000
"""Values of an enum among which one is chosen."""
_WORDS = ("river", "lantern", "harbour", "meadow", "signal", "orchard", "copper", "winter", "compass", "thread")
_KEYWORD_TYPES = (
    ("object", ("properties", "required", "additionalProperties", "minProperties", "patternProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems")),
    ("string", ("minLength", "maxLength", "pattern", "format")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


class TooMuch(Exception):
    """The schema asks for more than is made for it; `place` is where in it, as a path such as `tags.items`."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"at `{place}` of the schema: {reason}" if place else f"in the schema: {reason}")


def words(random: Random, name: str) -> str:  # noqa: ARG001 - any name will do
    """The plainest Phrase."""
    return " ".join(random.sample(_WORDS, 2))


def sample(schema: Json, random: Random, phrase: Phrase = words, *, items: int | None = None) -> Json:
    """A value that satisfies the schema, whenever one of 60 draws does; the last draw otherwise.

    `items` is the length of arrays near the top, where the schema allows it. Raises TooMuch.
    """
    until = time.thread_time() + _MOST_COMPUTING
    validator = SchemaCheck(schema)
    value: Json = None
    for _ in range(_TRIES):
        value = _drawn(schema, random, phrase, items, until)
        if _fits(validator, value) or time.thread_time() > until:
            break
    return value


def _drawn(schema: Json, random: Random, phrase: Phrase, items: int | None, until: float) -> Json:
    sampler = _Sampler(schema, random, phrase, items, until)
    try:
        return sampler.value(schema, 0, "value")
    except PatternTooLong as error:
        raise sampler.too_much(str(error)) from None
    except (OverflowError, ValueError):
        raise sampler.too_much("its bounds are beyond the numbers that can be drawn") from None
    except (RecursionError, MemoryError):
        raise sampler.too_much("it is too large, or nested too deeply") from None


def _fits(validator: SchemaCheck, value: Json) -> bool:
    try:
        return validator.fits(value, within=_SECONDS)
    except Exception:  # noqa: BLE001 - a schema that cannot be used for checking; any draw will do then
        return True


class _Sampler:
    """One draw."""

    def __init__(self, root: Json, random: Random, phrase: Phrase, items: int | None, until: float) -> None:
        self._until = until
        self._left = _MOST_VALUES
        self._path: list[str] = []
        self._root = root
        self._random = random
        self._phrase = phrase
        self._wanted = items

    def too_much(self, reason: str) -> TooMuch:
        """What is told where it gives up."""
        steps = self._path if len(self._path) <= _DEEPEST else [*self._path[:_DEEPEST], "…"]
        return TooMuch(".".join(steps), reason)

    def _spend(self, values: int = 1) -> None:
        """Raises TooMuch. Time is looked at for every value, as one alone may take long."""
        self._left -= values
        if self._left < 0:
            raise self.too_much(f"over {_MOST_VALUES:,} values are needed, more than a simulated answer has")
        if time.thread_time() > self._until:
            raise self.too_much("no value was found in the time that a simulated answer has")

    def _below(self, step: str, schema: Json, depth: int, name: str) -> Json:
        """The value of a part; where it gives up, the path stays as it was then."""
        self._path.append(step)
        value = self.value(schema, depth + 1, name)
        self._path.pop()
        return value

    def value(self, schema: Json, depth: int, name: str) -> Json:
        """A value for one schema; `name` is the property it is for."""
        self._spend()
        if not isinstance(schema, Mapping):
            return self._phrase(self._random, name)
        if depth > _DEEPEST_OF_ALL:
            return None
        schema = self._flat(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(self._allowed(schema))
        return self._typed(self._kind(schema, depth), schema, depth, name)

    def _typed(self, kind: str, schema: Mapping[str, Json], depth: int, name: str) -> Json:
        make: dict[str, Callable[[], Json]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: self._array(schema, depth, name),
            "string": lambda: self._string(schema, name),
            "integer": lambda: self._number(schema, whole=True),
            "number": lambda: self._number(schema, whole=False),
            "boolean": lambda: self._random.choice((True, False)),
        }
        return make[kind]() if kind in make else None

    def _flat(self, schema: Mapping[str, Json], depth: int) -> Mapping[str, Json]:
        """The schema with its reference followed and one branch of each choice merged into it."""
        for _ in range(_DEEPEST_OF_ALL):
            if "$ref" in schema:
                target = self._target(schema["$ref"])
                schema = merged({key: value for key, value in schema.items() if key != "$ref"}, target)
            elif schema.get("allOf"):
                parts = schema["allOf"]
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts:
                    self._spend(0)
                    schema = merged(schema, part)
            elif schema.get("anyOf") or schema.get("oneOf"):
                key = "anyOf" if schema.get("anyOf") else "oneOf"
                branch = self._branch(schema[key], depth)
                schema = merged({k: value for k, value in schema.items() if k != key}, branch)
            elif "if" in schema:
                branch = {"allOf": [schema["if"], schema.get("then", True)]}
                if self._random.random() < 0.5:  # noqa: PLR2004 - a fair coin
                    branch = schema.get("else", True)
                rest = {k: value for k, value in schema.items() if k not in ("if", "then", "else")}
                schema = merged(rest, branch)
            else:
                break
        return schema

    def _branch(self, branches: list[Json], depth: int) -> Json:
        """Any branch; deep down the one that leads least far."""
        if depth < _DEEPEST:
            return self._random.choice(branches)
        return min(branches, key=lambda branch: (self._leads_on(branch), len(str(branch))))

    def _leads_on(self, branch: Json) -> bool:
        if not isinstance(branch, Mapping):
            return False
        return "$ref" in branch or "required" in branch or branch.get("minItems", 0) > 0

    def _target(self, reference: Json) -> Json:
        """What a local reference points to (RFC 6901)."""
        target = self._root
        for part in str(reference).removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            else:
                target = target.get(key, True) if isinstance(target, Mapping) else True
        return target

    def _allowed(self, schema: Mapping[str, Json]) -> list[Json]:
        """The values of an enum that the rest of the schema allows; all, if it allows none."""
        values = list(schema["enum"])
        if all(key in _ANNOTATIONS for key in schema):
            return values
        if len(values) > _MOST_CHOICES:
            values = self._random.sample(values, len(values))
        validator = SchemaCheck({**{key: item for key, item in schema.items() if key != "enum"}, "$defs": {}})
        allowed: list[Json] = []
        for value in values:
            self._spend(0)
            if _fits(validator, value):
                allowed.append(value)
            if len(allowed) >= _MOST_CHOICES:
                break
        return allowed or values

    def _kind(self, schema: Mapping[str, Json], depth: int) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, str):
            return kinds
        if isinstance(kinds, list) and kinds:
            simple = [kind for kind in kinds if kind not in ("object", "array", "null")]
            named = [kind for kind in kinds if kind != "null"] or kinds
            return str(self._random.choice((simple or kinds) if depth >= _DEEPEST else named))
        for kind, keywords in _KEYWORD_TYPES:
            if any(keyword in schema for keyword in keywords):
                return kind
        return "string"

    def _object(self, schema: Mapping[str, Json], depth: int) -> dict[str, Json]:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", []))
        share = _OPTIONAL_SHARE if depth < _DEEPEST else 0.0
        allowed = [key for key, item in properties.items() if item is not False]
        chosen = [key for key in allowed if key in required or self._random.random() < share]
        chosen += [key for key in required if key not in properties]
        for key, others in schema.get("dependentRequired", {}).items():
            chosen += [other for other in others if key in chosen and other not in chosen]
        result = {key: self._below(key, self._property(schema, key), depth, key) for key in chosen}
        spare = [key for key in allowed if key not in result]
        least = schema.get("minProperties", 0)
        if least > _MOST_VALUES:
            raise self.too_much(f"`minProperties` is {least}, more than a simulated answer has")
        while len(result) < least:
            key = spare.pop() if spare else self._new_name(schema, result)
            result[key] = self._below(key, self._property(schema, key), depth, key)
        most = schema.get("maxProperties", len(result))
        for key in [key for key in result if key not in required][: max(0, len(result) - most)]:
            del result[key]
        return result

    def _property(self, schema: Mapping[str, Json], key: str) -> Json:
        """The schema of one property, `patternProperties` and `additionalProperties` included."""
        found = [schema["properties"][key]] if key in schema.get("properties", {}) else []
        patterns = schema.get("patternProperties", {})
        found += [item for pattern, item in patterns.items() if has_match(pattern, key)]
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
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", True)
        least = max(schema.get("minItems", 0), schema.get("minContains", 1) if "contains" in schema else 0)
        more = _MORE_ITEMS if depth < _DEEPEST else 0
        wanted = self._wanted if depth <= _NEAR_THE_TOP and self._wanted else 0
        most = schema.get("maxItems", max(least, len(prefix) + more, wanted))
        most = min(most, len(prefix)) if items is False else most
        length = self._random.randint(min(max(least, min(more, 1)), most), most)
        length = min(max(least, wanted), most) if wanted else length
        if least > _MOST_VALUES:
            keyword = "minItems" if schema.get("minItems", 0) == least else "minContains"
            raise self.too_much(f"`{keyword}` is {least}, more than a simulated answer has")
        most = min(most, max(least, _MOST_CHOICES))
        schemas = [prefix[i] if i < len(prefix) else items for i in range(min(length, most))]
        if "contains" in schema:
            schemas[: schema.get("minContains", 1)] = [
                merged({}, {"allOf": [schema["contains"], item]} if item is not True else schema["contains"])
                for item in schemas[: schema.get("minContains", 1)]
            ]
        return self._items(schemas, depth, name, least=least, unique=schema.get("uniqueItems", False))

    def _items(self, schemas: list[Json], depth: int, name: str, *, least: int, unique: bool) -> list[Json]:
        """One value for each; equal ones are drawn again, and left out if that does not help."""
        result: list[Json] = []
        seen: set[str] = set()
        for schema in schemas:
            for _ in range(_TRIES if unique or len(result) < _TOLD_APART else 1):
                value = self._below("items", schema, depth, name)
                if (mark := canonical(value)) not in seen:
                    break
            if mark in seen and (unique and len(result) >= least):
                continue
            seen.add(mark)
            result.append(value)
        return result

    def _string(self, schema: Mapping[str, Json], name: str) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", sys.maxsize)
        if "format" in schema and (text := self._formatted(schema["format"])):
            return text
        if "pattern" in schema:
            text = matching(schema["pattern"], self._random)
            for _ in range(_TRIES):
                if least <= len(text) <= most:
                    break
                self._spend(0)
                text = matching(schema["pattern"], self._random)
            return text
        if least > _MOST_CHARACTERS:
            raise self.too_much(f"`minLength` is {least}, more than a simulated answer has")
        text = self._phrase(self._random, name)
        while len(text) < least:
            text += " " + (text if len(text) > _LONG_TEXT else self._phrase(self._random, name))
        return text if len(text) <= most else text[:most].rstrip().ljust(least, "a")

    def _formatted(self, form: str) -> str:
        draw = self._random
        date = f"20{draw.randint(10, 29)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
        time = f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}Z"
        word = draw.choice(_WORDS)
        digits = "".join(draw.choice(string.hexdigits[:16]) for _ in range(32))
        return {
            "date": date,
            "time": time,
            "date-time": f"{date}T{time}",
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
    """Lowest and highest number that may be drawn; a missing end is put a hundred steps away."""
    lows = [schema["minimum"]] if "minimum" in schema else []
    highs = [schema["maximum"]] if "maximum" in schema else []
    narrow = min(step, 1e-3) if not isinstance(step, int) else step
    if "exclusiveMinimum" in schema:
        bound = schema["exclusiveMinimum"]
        lows.append(max(bound + _nudge(schema, narrow), _next(bound, math.inf)))
    if "exclusiveMaximum" in schema:
        bound = schema["exclusiveMaximum"]
        highs.append(min(bound - _nudge(schema, narrow), _next(bound, -math.inf)))
    width = 100 * max(step, 1)
    low = max(lows) if lows else (min(highs) - width if highs else 0)
    high = min(highs) if highs else low + width
    return low, max(low, high)


def _next(bound: float, towards: float) -> float:
    """The number beside it: of large ones, adding a little gives the same again."""
    return math.nextafter(bound, towards) if isinstance(bound, float) else -towards


def _nudge(schema: Mapping[str, Json], step: float) -> float:
    """How far inside an excluded bound to stay: less than the room there is."""
    bottom = max(schema.get("exclusiveMinimum", -math.inf), schema.get("minimum", -math.inf))
    top = min(schema.get("exclusiveMaximum", math.inf), schema.get("maximum", math.inf))
    room = top - bottom
    return step if not math.isfinite(room) or room > 2 * step else room / 4
