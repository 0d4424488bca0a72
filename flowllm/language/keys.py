"""Tables of keys: what each key of a file may be, its default, and what it means.

A table is a class with one `Key` for each key that may be written; a key whose name is a word of Python ends in `_`:

    class RetryKeys(Keys, title="retry"):
        '''How failed attempts are made again.'''

        max_attempts = Key(count, "Attempts in all.", 5)
        as_ = Key(text, "…", REQUIRED)

`read_keys` reads a node by a table and gives an instance with typed attributes. The JSON Schema for editors and the
tables of the language's documentation are made from the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, overload

from flowllm.core.records import dataclass, replace
from flowllm.core.types import Json
from flowllm.language.foreign import meant
from flowllm.language.nodes import Entry, Mapping, Node, Sequence, kind_of
from flowllm.language.problems import Location, Problems, SourceError, nearest

T = TypeVar("T")
V = TypeVar("V")
K = TypeVar("K", bound="Keys")


@dataclass(frozen=True, slots=True)
class Value(Generic[V]):
    """What a key may be: a reader of nodes, and the same as a JSON Schema for editors.

    The reader raises SourceError at the very scalar that is at fault, or an ExceptionGroup of several SourceError. `$ref` in the
    schema may name a table.
    """

    read: Callable[[Node], V]
    schema: dict[str, Any]
    at_key: bool = False
    """What is missing in it is reported at its key, not where its value begins."""

    def __call__(self, node: Node) -> V:
        """What the reader gives."""
        return self.read(node)


def value(schema: dict[str, Json]) -> Callable[[Callable[[Node], V]], Value[V]]:
    """Makes a Value of a reader."""
    return lambda read: Value(read, schema)


class _Required:
    """The type of REQUIRED."""


REQUIRED: Final = _Required()


class Key(Generic[T]):
    """One key of a table: what it may be, its meaning, and its default, which is None unless it is given."""

    name = ""

    @overload
    def __init__(self: Key[V | None], value: Value[V], text: str) -> None: ...
    @overload
    def __init__(self: Key[V], value: Value[V], text: str, default: V | _Required) -> None: ...
    def __init__(self, value: Value[Any], text: str, default: Any = None) -> None:
        self.value, self.text, self.default = value, text, default

    @property
    def required(self) -> bool:
        """It has no default."""
        return self.default is REQUIRED

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.rstrip("_")

    @overload
    def __get__(self, instance: None, owner: type) -> Key[T]: ...
    @overload
    def __get__(self, instance: Keys, owner: type) -> T: ...
    def __get__(self, instance: Keys | None, owner: type) -> Key[T] | T:
        if instance is None:
            return self
        found: T = instance.values[self.name]
        return found


class Keys:
    """A table of keys; an instance holds the values that a mapping has for them, or their defaults."""

    title: ClassVar[str] = ""
    """What users call it; a table without is part of others only."""
    foreign: ClassVar[str] = ""
    """Where to look for keys of other systems, see foreign.py."""
    table: ClassVar[dict[str, Key[Any]]] = {}
    """The keys as they are written; those of base classes first."""
    _defaults: ClassVar[dict[str, Any]] = {}
    _required: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, title: str = "") -> None:
        cls.title = title
        found = (key for base in reversed(cls.__mro__) for key in vars(base).values() if isinstance(key, Key))
        cls.table = {key.name: key for key in found}
        cls._defaults = {name: key.default for name, key in cls.table.items()}
        cls._required = tuple(name for name, key in cls.table.items() if key.required)

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        self.values = self._defaults | (given or {})

    @classmethod
    def read(cls, node: Node, what: str) -> Self:
        """The values of a mapping. Raises an ExceptionGroup of all errors. `what` is for sentences."""
        if not isinstance(node, Mapping):
            error = SourceError(node.where, f"expected a mapping, found {kind_of(node)}", "write {key: value}")
            raise ExceptionGroup(what, [error])
        errors: list[Exception] = [cls.unknown(e.key, e.where, what) for e in node.entries if e.key not in cls.table]
        known = [(entry, cls.table[entry.key].value) for entry in node.entries if entry.key in cls.table]
        given = _collect([(e.key, _at_key(e) if value.at_key else e.value, value.read) for e, value in known], errors)
        missing = [name for name in cls._required if name not in given and node.entry(name) is None]
        errors += [SourceError(node.where, f"`{name}` is missing in {what}") for name in missing]
        if errors:
            raise ExceptionGroup(what, errors)
        return cls(given)

    @classmethod
    def unknown(cls, key: str, where: Location, what: str) -> SourceError:
        """The error of a key that the table does not have."""
        return unknown_key(key, where, what, cls.table, cls.foreign)


def _at_key(entry: Entry) -> Node:
    """The value as if it began at its key."""
    return replace(entry.value, where=entry.where) if isinstance(entry.value, Mapping) else entry.value


def _collect(reads: Iterable[tuple[str, Node, Callable[[Node], V]]], errors: list[Exception]) -> dict[str, V]:
    """What the readers give; their errors are added to `errors`."""
    given = {}
    for name, node, read in reads:
        try:
            given[name] = read(node)
        except SourceError as error:
            errors.append(error)
        except ExceptionGroup as group:
            errors += group.exceptions
    return given


def nested(table: type[K], name: str) -> Value[K]:
    """A mapping that is read by a table of its own."""
    return Value(lambda node: table.read(node, f"`{name}`"), {"$ref": table}, at_key=True)


def listed(table: type[K], name: str) -> Value[tuple[K, ...]]:
    """A list of such mappings."""

    def read(node: Node) -> tuple[K, ...]:
        if not isinstance(node, Sequence):
            raise SourceError(node.where, f"expected a list, found {kind_of(node)}", "write [{key: value}]")
        errors: list[Exception] = []
        items = ((str(index), item, lambda n: table.read(n, f"`{name}`")) for index, item in enumerate(node.items))
        given = _collect(items, errors)
        if errors:
            raise ExceptionGroup(name, errors)
        return tuple(given.values())

    return Value(read, {"type": "array", "items": {"$ref": table}})


def by_name(
    of: Callable[[str], Value[V]], key: str, check: Callable[[str, Location], None] = lambda *_: None
) -> Value[dict[str, V]]:
    """Values by names that the author chooses; `of` is the value for a name, `check` raises SourceError where one
    cannot be."""

    def read(node: Node) -> dict[str, V]:
        if not isinstance(node, Mapping):
            raise SourceError(node.where, f"`{key}` must be a mapping, found {kind_of(node)}", "write {key: value}")
        for entry in node.entries:
            check(entry.key, entry.where)
        errors: list[Exception] = []
        reads = ((entry, of(entry.key)) for entry in node.entries)
        given = _collect(((e.key, _at_key(e) if what.at_key else e.value, what.read) for e, what in reads), errors)
        if errors:
            raise ExceptionGroup(key, errors)
        return given

    return Value(read, {"type": "object", "additionalProperties": of("").schema})


def read_keys(table: type[K], node: Node, what: str, problems: Problems, *, step: str = "") -> K | None:
    """Read a node by a table of keys. Adds problems; then the result is None."""
    try:
        return table.read(node, what)
    except ExceptionGroup as group:
        problems.add_errors(group, step=step)
        return None


def unknown_key(key: str, where: Location, what: str, known: Iterable[str], foreign: str = "") -> SourceError:
    """The error of a key that a table does not have. `foreign`: where to look for keys of other systems."""
    hint = meant(key, foreign) if foreign else ""
    return SourceError(where, f"unknown key `{key}` in {what}", hint or nearest(key, known))
