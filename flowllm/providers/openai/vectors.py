"""Embeddings that came with status 200, as vectors or a typed error. Pure."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Mapping

from flowllm.core.errors import BadAnswer, WrongVectors
from flowllm.core.request import Embeddings, EmbedRequest
from flowllm.core.types import Json
from flowllm.providers.openai.answer import bad_answer, parse
from flowllm.providers.openai.errors import LONGEST_RAW, RequestInfo, error_at_200, has_message, is_error
from flowllm.providers.openai.usage import read_usage

_SHOWN = 2000
"""Bytes of an answer of numbers that an error keeps."""


class _Unfit(Exception):
    """What is the matter with the vectors, and whether fewer texts in a request may help."""

    def __init__(self, what: str, kind: type[BadAnswer] = WrongVectors, hint: str = "") -> None:
        self.what, self.kind, self.hint = what, kind, hint


def decode_embeddings(raw: bytes, request: EmbedRequest, info: RequestInfo) -> Embeddings:
    """The vectors in a body, in the order of the request's texts, whatever the order of the answer.

    Raises WrongVectors if they do not fit the texts, BadAnswer for what is no answer at all, and for an error sent with
    status 200 whatever it stands for.
    """
    payload = parse(raw, info)
    if is_error(payload) or (not payload.get("data") and has_message(payload)):
        raise error_at_200(payload, raw[:LONGEST_RAW].decode(errors="replace"), info)
    usage = read_usage(payload.get("usage"), embedding=True)
    try:
        vectors = _vectors(payload.get("data"), request)
    except _Unfit as unfit:
        # its usage too: it is paid for all the same
        error = bad_answer(info, unfit.what, raw[:_SHOWN], usage, kind=unfit.kind)
        error.hint = unfit.hint or error.hint
        raise error from None
    model, request_id = payload.get("model"), payload.get("id")
    return Embeddings(
        vectors=vectors,
        model=model if isinstance(model, str) and model else info.model,
        usage=usage,
        request_id=request_id if isinstance(request_id, str) else "",
    )


def _vectors(data: Json, request: EmbedRequest) -> tuple[list[float], ...]:
    if not isinstance(data, list):
        raise _Unfit("no embeddings", BadAnswer)
    found = {index: _vector(entry) for index, entry in _indexed(data, len(request.texts))}
    vectors = tuple(found[index] for index in range(len(request.texts)))
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise _Unfit("embeddings of different lengths")
    wanted = request.params.get("dimensions")
    if isinstance(wanted, int) and lengths != {wanted}:
        hint = "remove `dimensions`: this model or server does not heed it"
        raise _Unfit(f"embeddings of {lengths.pop()} numbers instead of {wanted}", BadAnswer, hint)
    return vectors


def _indexed(data: list[Json], wanted: int) -> list[tuple[int, Mapping[str, Json]]]:
    """Each entry with the index of its text. Some servers number nothing: then the order counts."""
    entries = [entry for entry in data if isinstance(entry, dict)]
    if len(data) != wanted or len(entries) != wanted:
        raise _Unfit(f"{len(entries)} embeddings for {wanted} texts")
    indices = [entry.get("index") for entry in entries]
    if all(index is None for index in indices):
        return list(enumerate(entries))
    numbers = [index for index in indices if isinstance(index, int) and not isinstance(index, bool)]
    if sorted(numbers) != list(range(wanted)):
        raise _Unfit("embeddings whose `index` is wrong")
    return list(zip(numbers, entries, strict=True))


def _vector(entry: Mapping[str, Json]) -> list[float]:
    vector = entry.get("embedding")
    if isinstance(vector, str):
        vector = _from_base64(vector)
    try:
        # one pass in C each: a batch has a hundred thousand numbers
        if isinstance(vector, list) and vector and not {*map(type, vector)} - {int, float}:
            numbers = [float(number) for number in vector]
            if all(map(math.isfinite, numbers)):
                return numbers
    except OverflowError:
        pass
    raise _Unfit("an embedding that is not a list of numbers")


def _from_base64(text: str) -> list[float] | None:
    """Little-endian 32-bit floats, for an author who sets `encoding_format: base64`."""
    try:
        numbers = array("f", base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
