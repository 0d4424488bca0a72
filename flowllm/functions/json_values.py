"""What users' code gives, as plain JSON: the very same whether it has just been computed or comes from the store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from flowllm.core.types import Json

MAX_DEPTH = 200
"""Lists and mappings within each other."""
MAX_SIZE = 16 * 1024 * 1024
"""Bytes as JSON, about."""
SOON = 20_000
"""Values that are gone through in a few milliseconds."""
_MAX_BITS = 14_284
"""Of an integer: Python reads and writes no more than 4,300 digits."""
_ADVICE: Final = (
    (("bytes", "bytearray", "memoryview"), "return text, such as value.decode() or base64"),
    (("set", "frozenset", "range", "dict_keys", "dict_values", "dict_items"), "return list(value)"),
    (("datetime", "date", "time"), "return value.isoformat()"),
    (("Decimal", "Fraction", "UUID", "PosixPath", "WindowsPath"), "return str(value), or float(value)"),
    (("ndarray", "Series", "Tensor"), "return value.tolist()"),
    (("DataFrame",), "return value.to_dict('records')"),
)


class NotJson(Exception):
    """A value cannot be had as JSON; `message` says what and where, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or "return plain JSON values: None, bool, numbers, text, lists, dicts"


class TooLargeForLoop(Exception):
    """Going through the value may take long, so it is not for an event loop."""


def to_json(value: Any, *, soon: bool = False) -> Json:
    """A copy made of None, bool, int, float, str, list and dict alone.

    Subclasses of these (enums, named tuples, ordered dicts, …) become what they stand for, tuples, other sequences and
    iterators lists, other mappings dicts, numpy's scalars numbers. Raises NotJson; with `soon` also TooLargeForLoop, for a value
    that is large or would be computed while it is looked at, of which nothing has been consumed then.
    """
    try:
        return _Reader(soon=soon).read(value)
    except RecursionError:
        raise NotJson("a value that is nested too deeply, or contains itself") from None


def not_json(value: Any) -> str:
    """What in a value JSON cannot hold, in words; empty if all is well."""
    try:
        to_json(value)
    except NotJson as error:
        return error.message
    return ""


class _Reader:
    """Goes through one value."""

    def __init__(self, *, soon: bool) -> None:
        self._soon = soon
        self._count = 0
        self._size = 0
        self._around: set[int] = set()
        self._path: list[str | int] = []

    def read(self, value: Any) -> Json:  # noqa: PLR0911 - one a type
        self._count += 1
        if self._soon and self._count > SOON:
            raise TooLargeForLoop
        kind = type(value)
        if value is None or kind is bool:
            self._weigh(4)
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            return self._float(value)
        if isinstance(value, Mapping):
            return self._within(value, self._mapping)
        if is_list(value) or isinstance(value, Iterator):
            if self._soon and not isinstance(value, (list, tuple)):
                raise TooLargeForLoop
            return self._within(value, self._list)
        if kind.__module__.partition(".")[0] == "numpy" and getattr(value, "ndim", None) == 0:
            return self._scalar(value)
        raise NotJson(f"{_named(kind)}{self._where()}, which JSON cannot hold", _advice(value))

    def _weigh(self, size: int) -> None:
        self._size += size
        if self._size > MAX_SIZE:
            raise NotJson("more than 16 MiB as JSON", "write it to a file, and return the file's name, or return less")

    def _text(self, value: str) -> str:
        text = value if type(value) is str else str.__str__(value)
        self._weigh(2 + (len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))))
        return text

    def _integer(self, value: int) -> int:
        bits = int.bit_length(value)
        if bits > _MAX_BITS:
            raise NotJson(f"an integer of over 4,300 digits{self._where()}", "return it as text, or as a float")
        self._weigh(2 + bits // 3)
        return value if type(value) is int else int.__int__(value)

    def _float(self, value: float) -> float:
        number = value if type(value) is float else float.__float__(value)
        if not math.isfinite(number):
            raise NotJson(f"{number}{self._where()}, which JSON cannot hold", "return None in its place")
        self._weigh(3)
        return number

    def _scalar(self, value: Any) -> Json:
        """One of numpy's, as Python's own."""
        item = value.item()
        if type(item).__module__.partition(".")[0] == "numpy":
            raise NotJson(f"{_named(type(value))}{self._where()}, which JSON cannot hold")
        return self.read(item)

    def _within(self, value: Any, read: Any) -> Json:
        if id(value) in self._around:
            raise NotJson(f"a value that contains itself{self._where()}")
        if len(self._path) >= MAX_DEPTH:
            raise NotJson(f"a value that is nested more than {MAX_DEPTH} deep")
        self._weigh(2)
        self._around.add(id(value))
        try:
            return read(value)
        finally:
            self._around.discard(id(value))

    def _mapping(self, value: Mapping[Any, Any]) -> Json:
        found: dict[str, Json] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                what = f"a mapping with the key {_shown(key)}{self._where()}; keys must be text"
                raise NotJson(what, "use str(key)")
            name = self._text(key)
            if name in found:
                raise NotJson(f"a mapping with two keys {_shown(name)}{self._where()}")
            self._path.append(name)
            found[name] = self.read(item)
            self._path.pop()
        return found

    def _list(self, value: Any) -> Json:
        found: list[Json] = []
        items = iter(value)
        for place in itertools.count():
            self._path.append(place)
            try:
                item = next(items)
            except StopIteration:
                self._path.pop()
                return found
            found.append(self.read(item))
            self._path.pop()
        return found

    def _where(self) -> str:
        if not self._path:
            return ""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self._path[:8])
        told = "".join(steps)[:120].removeprefix(".")
        return f" at {told}{'…' if len(self._path) > 8 else ''}"  # noqa: PLR2004 - as above


def is_list(value: Any) -> bool:
    """It becomes a list of JSON: a list, a tuple, or a sequence whose items are read as they are looked at."""
    if isinstance(value, (list, tuple)):
        return True
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview, range))


def _named(kind: type) -> str:
    article = "an" if kind.__name__[:1].lower() in "aeiou" else "a"
    return f"{article} {kind.__name__}"


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:  # noqa: BLE001 - a class of the user's
        return f"<{type(value).__name__}>"


def _advice(value: Any) -> str:
    names = {kind.__name__ for kind in type(value).__mro__}
    for kinds, advice in _ADVICE:
        if not names.isdisjoint(kinds):
            return advice
    if "Enum" in names:
        return "return its .value"
    if hasattr(type(value), "__dataclass_fields__"):
        return "return dataclasses.asdict(value)"
    if hasattr(type(value), "model_dump"):
        return "return value.model_dump(mode='json')"
    if hasattr(value, "__await__"):
        return "return its result: await it, or write `async def`"
    return ""
