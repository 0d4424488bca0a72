"""Values as JSON text, quickly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from flowllm.core.types import Json


def encoder(*, sort_keys: bool = False, ascii_only: bool = True) -> Callable[[Json], str]:
    """What writes a value without blanks, as `JSONEncoder.encode`, whose part in C is made once here and not for each value,
    which takes as long as a short one does. Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold,
    RecursionError for what holds itself or is nested too deeply."""
    usual = json.JSONEncoder(sort_keys=sort_keys, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return usual.encode
    text = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    pieces = make(None, usual.default, text, None, ":", ",", sort_keys, False, False)
    return lambda value: text(value) if isinstance(value, str) else "".join(pieces(value, 0))


class Filling(NamedTuple):
    """What an object was made of that many have in common."""

    form: dict[str, Json]
    """The object with something else in place of each of the texts."""
    texts: Sequence[str]
    """Each is a whole text in the object."""


class EncodedObject(Mapping[str, Json]):
    """A JSON object whose text is there already, as `encoder()` writes it; it is read when somebody looks into it."""

    __slots__ = ("_value", "filling", "text")

    def __init__(self, text: str, filling: Filling | None = None) -> None:
        self.text = text
        self.filling = filling
        self._value: dict[str, Json] | None = None

    def _read(self) -> dict[str, Json]:
        if self._value is None:
            self._value = json.loads(self.text)
        return self._value

    def __getitem__(self, name: str) -> Json:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())
