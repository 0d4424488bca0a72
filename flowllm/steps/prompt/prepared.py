"""Prepared requests: those of a step differ in a few texts alone, so all else of them is encoded and hashed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Final, TypeAlias

from flowllm.core.encoding import EncodedObject, Filling, encoder
from flowllm.core.fingerprint import key_text
from flowllm.core.records import dataclass, replace
from flowllm.core.request import ChatRequest
from flowllm.core.types import Json
from flowllm.language.template import Template, ValueTemplate
from flowllm.language.workflow import LlmBody, Step
from flowllm.steps.base import Bound
from flowllm.steps.pipeline import ModelTarget

_Target: TypeAlias = ModelTarget[ChatRequest]
_ENCODE: Final = encoder()
_MODELS: Final = 20
"""Models of one step for which requests are prepared."""


class PreparedRequests:
    """Of one step's body."""

    def __init__(self, body: LlmBody) -> None:
        self.holes = _holes(body)
        """What stands in a prepared request for each text that is still to come."""
        self._known: dict[tuple[str, str], PreparedRequest | None] = {}

    def get(self, provider: str, model: str, make: Callable[[], _Target | None]) -> PreparedRequest | None:
        """The request to that model; None for the first one, which may be all, and where there is none. `make` gives it
        with the holes in it. Raises what that raises."""
        if not self.holes:
            return None
        names = (provider, model)
        if names not in self._known:
            if len(self._known) < _MODELS:
                self._known[names] = None
            return None
        if self._known[names] is None:
            target = make()
            prepared = None if target is None else PreparedRequest.of(target, self.holes)
            if prepared is None:
                self.holes = {}
            self._known[names] = prepared
        return self._known[names]


def _holes(body: LlmBody) -> dict[Template, str]:
    """None where requests may differ in more than their model and the texts of their messages."""
    fixed = [value for value in (body.params, body.sample) if value is not None]
    if (
        body.prompt is None
        or body.images
        or body.samples is not None
        or body.fallback
        or not all(map(_is_fixed, fixed))
    ):
        return {}
    varying = [text for text in (body.system, body.prompt) if text is not None and text.constant is None]
    return {text: f"\0{number}\0" for number, text in enumerate(varying)}


def _is_fixed(value: ValueTemplate) -> bool:
    return all(template.constant is not None for template in value.templates)


class PreparedRequest:
    """A request with holes: its key and its parts are there but for the texts that go into them."""

    __slots__ = ("_begun", "_form", "_hashed", "_holes", "_shown", "_target")

    def __init__(
        self, target: _Target, holes: Mapping[Template, str], hashed: Sequence[str], shown: Sequence[str]
    ) -> None:
        """`hashed` and `shown` are what stands before, between and behind the holes in the texts of its key and parts."""
        self._target = target
        self._holes = holes
        self._begun = hashlib.sha256(hashed[0].encode())
        self._hashed = hashed[1:]
        self._shown = shown
        whole = all(_ends_with_quote(before) and behind.startswith('"') for before, behind in pairwise(shown))
        self._form = dict(target.parts) if whole else None

    @classmethod
    def of(cls, target: _Target, holes: Mapping[Template, str]) -> PreparedRequest | None:
        """Prepares a request in which the holes stand; None if they don't stand in it once each, in their order."""
        marks = [json.dumps(mark)[1:-1] for mark in holes.values()]
        hashed, shown = _around(marks, key_text(target.parts)), _around(marks, _ENCODE(dict(target.parts)))
        return None if hashed is None or shown is None else cls(target, holes, hashed, shown)

    def bound(self, step: Step, values: Mapping[str, Json]) -> Bound | None:
        """The step with these values; None where a text cannot be sent as it is. Raises TemplateFailed."""
        texts = [template.text(values) for template in self._holes]
        if not all(map(_is_whole, texts)):
            return None
        written = [_ENCODE(text)[1:-1] for text in texts]
        hashed = self._begun.copy()
        hashed.update("".join(chain.from_iterable(zip(written, self._hashed, strict=True))).encode())
        filling = None if self._form is None else Filling(self._form, texts)
        shown = "".join(chain.from_iterable(zip(self._shown, (*written, ""), strict=True)))
        parts = EncodedObject(shown, filling)
        key = hashed.hexdigest()
        return Bound(step=step, key=key, parts=parts, work=FilledRequest(self, texts, key, parts))

    def target(self, texts: Sequence[str], key: str, parts: Mapping[str, Json]) -> _Target:
        """The request with these texts in its holes."""
        contents = dict(zip(self._holes.values(), texts, strict=True))
        request = self._target.request
        messages = [{**one, "content": contents.get(one["content"], one["content"])} for one in request.messages]
        return replace(self._target, request=replace(request, messages=tuple(messages)), keys=(key,), parts=parts)


@dataclass(frozen=True, slots=True)
class FilledRequest:
    """A prepared request and its texts: it is put together once it must be sent."""

    prepared: PreparedRequest
    texts: Sequence[str]
    key: str
    parts: Mapping[str, Json]

    @property
    def target(self) -> _Target:
        """The request, with its provider."""
        return self.prepared.target(self.texts, self.key, self.parts)


def _around(marks: Sequence[str], text: str) -> list[str] | None:
    """What stands around the marks, if each of them is there once, in their order."""
    if any(text.count(mark) != 1 for mark in marks):
        return None
    found = []
    for mark in marks:
        before, there, text = text.partition(mark)
        if not there:
            return None
        found.append(before)
    return [*found, text]


def _ends_with_quote(text: str) -> bool:
    """With one that begins a text of JSON, and does not stand in one."""
    return text.endswith('"') and not text.endswith('\\"')


def _is_whole(text: str) -> bool:
    """It has no half characters (lone surrogates), which nobody can send."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
