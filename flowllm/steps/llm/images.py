"""`images`: what goes with a prompt besides its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.errors import TemplateFailed
from flowllm.core.images import TOKENS, examine, stamp
from flowllm.core.request import ImageFile
from flowllm.core.types import Json, estimate_tokens
from flowllm.language.workflow import LlmBody, Step

_SCHEMES = ("http:", "https:", "data:")
_REMEMBERED = 1000
_AROUND = 8
"""Tokens that a message has besides its text: its role, and what sets it apart from the next."""


class Pictures:
    """Finds out what images a step sends. A file that has not changed is read only once to be known."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[int, ...]], ImageFile] = {}

    def of(self, body: LlmBody, values: Mapping[str, Json], step: Step) -> Sequence[str | ImageFile]:
        """URLs and files, in the author's order. Raises TemplateFailed, ImageFailed."""
        if body.images is None:
            return ()
        named = body.images.render(values)
        listed = named if isinstance(named, list) else [named]
        for one in listed:
            if not isinstance(one, str) or not one.strip():
                raise TemplateFailed(
                    f"{step.where}: `images` must give a URL or a path, or a list of them, not {one!r}"
                )
        return [one if one.lower().startswith(_SCHEMES) else self._file(one, body.folder) for one in listed]

    def _file(self, path: str, folder: str) -> ImageFile:
        key = (path, folder, stamp(path, folder))
        if key not in self._known:
            image = examine(path, folder)
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = image
        return self._known[key]


def illustrated(text: str, images: Sequence[str | ImageFile]) -> Json:
    """The content of a message: the text alone, or with the images in the API's own shape."""
    if not images:
        return text
    shown = [{"url": image} if isinstance(image, str) else image.placeholder for image in images]
    return [{"type": "text", "text": text}, *({"type": "image_url", "image_url": one} for one in shown)]


def by_content(body: Json, images: Sequence[ImageFile]) -> Json:
    """The body as it is in the key: of a file its content counts, not its name."""
    if not images:
        return body
    if isinstance(body, list):
        return [by_content(item, images) for item in body]
    if not isinstance(body, dict):
        return body
    if any(body == image.placeholder for image in images):
        return {"sha256": body["sha256"]}
    return {key: by_content(value, images) for key, value in body.items()}


def prompt_tokens(messages: Sequence[Mapping[str, Json]]) -> int:
    """About how many tokens messages have, images included."""
    return sum(_tokens(message.get("content", "")) + _AROUND for message in messages)


def _tokens(content: Json) -> int:
    if not isinstance(content, list):
        return estimate_tokens(str(content))
    return sum(TOKENS if _is_image(part) else estimate_tokens(str(part)) for part in content)


def _is_image(part: Json) -> bool:
    return isinstance(part, dict) and "image_url" in part
