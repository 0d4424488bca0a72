"""`dataclass`, whose classes are made in a tenth of the time: a method is compiled when it is first called, or shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, field, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

__all__ = ("dataclass", "field", "fields", "replace")

T = TypeVar("T")


def _dataclass(*, frozen: bool = False, slots: bool, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """`dataclasses.dataclass` with these arguments; its classes are dataclasses to `fields`, `replace` and so on.

    The standard one writes and compiles six methods for each class, which was two fifths of the time that a command of
    flowllm took to import, most of it for classes of which that command makes nothing. `slots` must be true, and
    classes derived from such a class need this decorator too. What `inspect.signature` says of a class is known once
    one of its objects was made.
    """
    make = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)

    def decorate(cls: type[T]) -> type[T]:
        cls.__doc__ = cls.__doc__ or cls.__name__  # the standard one would work out a signature
        made = make(cls)
        for name, method in _methods(made, frozen=frozen).items():
            if name not in made.__dict__:
                setattr(made, name, method)
        return made

    return decorate


def _methods(cls: type, *, frozen: bool) -> dict[str, Callable[..., Any] | None]:
    shown = tuple(item.name for item in fields(cls) if item.repr)
    compared = tuple(item.name for item in fields(cls) if item.compare)
    values: Callable[[object], object] = attrgetter(*compared) if compared else type

    def first(self: object, *args: Any, **kwargs: Any) -> None:
        init = cls.__init__ = _compiled(cls, frozen=frozen)  # type: ignore[misc]
        init(self, *args, **kwargs)

    def text(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in shown])})"

    def equal(self: object, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    methods: dict[str, Callable[..., Any] | None] = {"__init__": first, "__repr__": text, "__eq__": equal}
    if not frozen:
        return methods | {"__hash__": None}
    methods |= {"__hash__": lambda self: hash(values(self)), "__setattr__": _refuse, "__delattr__": _refuse}
    return methods | {"__getstate__": _state, "__setstate__": _set_state}


def _compiled(cls: type, *, frozen: bool) -> Callable[..., None]:
    """`__init__` as the standard one writes it: fields that may stand at a place first, then those by name alone."""
    known: dict[str, Any] = {"_default": object(), "_cls": cls, "_thawed": _thawed(cls) if frozen else cls}
    parameters: dict[bool, list[str]] = {False: ["self"], True: []}
    lines: list[str] = []
    for item in fields(cls):
        name, value, default = item.name, item.name, ""
        if item.default_factory is not MISSING:
            known[f"_make_{name}"], default = item.default_factory, "=_default"
            value = f"_make_{name}() if {name} is _default else {name}" if item.init else f"_make_{name}()"
        elif item.default is not MISSING:
            known[f"_default_{name}"], default = item.default, f"=_default_{name}"
            value = name if item.init else f"_default_{name}"
        if item.init:
            parameters[bool(item.kw_only)].append(f"{name}{default}")
        if item.init or default:
            lines.append(f"self.{name} = {value}")
    if frozen:
        known["_set"] = object.__setattr__
        lines = ["_set(self, '__class__', _thawed)", *lines, "self.__class__ = _cls"]
    lines.append("self.__post_init__()" if hasattr(cls, "__post_init__") else "return")
    head = ", ".join([*parameters[False], *(["*"] if parameters[True] else []), *parameters[True]])
    exec("\n ".join([f"def __init__({head}):", *lines]), known)  # noqa: S102 - so does the standard one
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {item.name: item.type for item in fields(cls) if item.init}
    return init


def _thawed(cls: Any) -> type:
    """A class of the same layout that is not frozen, of which an object is until its fields are there: to set each of them
    against the lock, as the standard one does, takes twice as long as all else of its making."""
    settable = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    generic = {name: cls.__dict__[name] for name in ("__orig_bases__",) if name in cls.__dict__}
    thawed: type = type(cls)(cls.__name__, cls.__bases__, {"__slots__": cls.__slots__, **settable, **generic})
    return thawed


def _refuse(self: object, name: str, _value: object = None) -> NoReturn:
    raise FrozenInstanceError(f"cannot change the field {name!r} of {type(self).__name__}")


def _state(self: Any) -> list[object]:
    return [getattr(self, item.name) for item in fields(self)]


def _set_state(self: Any, state: list[object]) -> None:
    for item, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, item.name, value)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass
