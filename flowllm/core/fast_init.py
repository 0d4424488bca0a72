"""Frozen dataclasses whose making costs what that of others does.

The `__init__` of a frozen one calls `object.__setattr__` for each field; where a node makes a dozen such values, that is a
fifth of its way.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")
_MADE = object()


def fast_init(cls: type[T]) -> type[T]:
    """A frozen, slotted, keyword-only dataclass without `__post_init__`, with an `__init__` that takes half of the time. It is
    made as the first value is."""
    kind: Any = cls

    def first(self: Any, /, **values: Any) -> None:
        kind.__init__ = _init(kind)
        kind.__init__(self, **values)

    kind.__init__ = first
    return cls


def _init(cls: Any) -> Any:
    """The `__init__`: the value is of a class of the same layout, which is not frozen, until its fields are there."""
    settable = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    thawed = type(cls.__name__, cls.__bases__, {"__slots__": cls.__slots__, **settable})
    names: dict[str, Any] = {"_cls": cls, "_thawed": thawed, "_set": object.__setattr__, "_made": _MADE}
    parameters, lines = [], []
    for at, field in enumerate(fields(cls)):
        value = field.name
        if field.default_factory is not MISSING:
            names[f"_make_{at}"] = field.default_factory
            parameters.append(f"{field.name}=_made")
            value = f"_make_{at}() if {value} is _made else {value}"
        elif field.default is not MISSING:
            names[f"_default_{at}"] = field.default
            parameters.append(f"{field.name}=_default_{at}")
        else:
            parameters.append(field.name)
        lines.append(f"  self.{field.name} = {value}")
    body = "\n".join(["  _set(self, '__class__', _thawed)", *lines, "  self.__class__ = _cls"])
    exec(f"def __init__(self, /, *, {', '.join(parameters)}):\n{body}\n", names)  # noqa: S102 - as dataclasses does
    return names["__init__"]
