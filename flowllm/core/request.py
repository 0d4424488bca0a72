"""What is asked of a model, and what comes back; images in files, known by their content and read again when sent."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from flowllm.core.errors import ImageFailed
from flowllm.core.records import dataclass, field
from flowllm.core.types import NO_USAGE, Json, Usage

_OTHER_ROOTS = frozenset({"anyOf", "oneOf", "allOf", "enum", "const", "$ref"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """That an answer must be JSON, and of what shape.

    `schema` is the author's JSON Schema, bundled (no reference leaves it), None for `output: json`.
    """

    schema: Mapping[str, Json] | None = None
    name: str = "output"

    @property
    def wrapped(self) -> bool:
        """Whether answers come as `{"value": …}`: something other than an object satisfies the root, and servers want
        an object there."""
        schema = self.schema
        if schema is None or schema.get("type") in ("object", ["object"]):
            return False
        return "type" in schema or "properties" not in schema or not _OTHER_ROOTS.isdisjoint(schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file with an image, as it was when the step that sends it began."""

    path: str
    """As it was written."""
    file: str
    """Absolute."""
    sha256: str

    @property
    def placeholder(self) -> dict[str, Json]:
        """What stands for its bytes in messages, keys and records."""
        return {"path": self.path, "sha256": self.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One chat completion to ask for, before any provider's dialect."""

    model: str
    messages: tuple[Mapping[str, Json], ...]
    """In the API's own shape: {"role": …, "content": …}."""
    params: Mapping[str, Json] = field(default_factory=dict)
    """What else is sent: max_tokens, temperature, top_p, seed, stop, and the author's `params`."""
    output: OutputFormat | None = None
    cache_key: str = ""
    """Names the beginning that the prompt shares with others, for a provider that sends them to one machine by it."""
    images: tuple[ImageFile, ...] = ()
    """The files that parts of the messages stand for: {"type": "image_url", "image_url": ImageFile.placeholder}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Embeddings of one or many texts to ask for, before any provider's dialect."""

    model: str
    texts: tuple[str, ...]
    params: Mapping[str, Json] = field(default_factory=dict)
    """What else is sent: dimensions, and the author's `params`."""


Request: TypeAlias = ChatRequest | EmbedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest:
    """Work of a step's own, which goes through the same pipeline as requests to models; it asks none."""

    perform: Callable[[float, float], Awaitable[Json]]
    """Does the work once, within so many seconds, of the so many that are left to all attempts. Raises StepError."""
    model: str = ""


def service_tier(request: Request | LocalRequest) -> str:
    """The service tier that it asks for; empty: none, or by what is no text."""
    tier = "" if isinstance(request, LocalRequest) else request.params.get("service_tier")
    return tier if isinstance(tier, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer as a provider gave it."""

    text: str
    model: str
    """The model that answered, as the server names it."""
    finish_reason: str = "stop"
    """stop, or length: the answer was cut at its token limit; else the server's own word, whose meaning is
    unknown. Ends that are known to be no answer are errors."""
    usage: Usage = NO_USAGE
    headers: Mapping[str, str] = field(default_factory=dict)
    """The rate-limit headers, lower-case names."""
    request_id: str = ""
    cost_usd: float | None = None
    """US dollars, where the server itself says so."""
    list_price: str = ""
    """The model whose list price stands for the server's own, which is not known: `openai/gpt-4o-mini`."""
    service_tier: str = ""
    """The one that it was served in, where the server says so: `default`, `flex`, `priority`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The vectors of a request's texts, in the texts' order, all of one length."""

    vectors: tuple[list[float], ...]
    model: str
    """As in Completion, like all that follows."""
    usage: Usage = NO_USAGE
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    cost_usd: float | None = None
    list_price: str = ""
    service_tier: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalReply:
    """What work of a step's own gave; it takes no tokens and costs nothing."""

    value: Json
    model: str = ""
    usage: Usage = NO_USAGE
    headers: Mapping[str, str] = field(default_factory=dict)
    cost_usd: float | None = 0.0
    list_price: str = ""
    service_tier: str = ""


Reply: TypeAlias = Completion | Embeddings | LocalReply
"""What a provider gave for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A valid answer to a request: what steps build on and what the response cache keeps."""

    value: Json
    """The text, the validated JSON value where `output` asked for one, or a vector."""
    model: str
    provider: str
    """Name of the provider that answered, as the workflow calls it."""
    usage: Usage = NO_USAGE
    """All tokens spent on it, asking again included."""
    cost_usd: float | None = None
    """None: the price is unknown."""
    saved_usd: float | None = 0.0
    """What it cost when it was asked for, where it came from the cache."""
    truncated: bool = False
    """It was cut, or may have been."""
    unknown_end: str = ""
    """What the server says ended it, where the meaning of that is unknown: such an answer is not shared."""
    attempts: int = 0
    """Requests that were sent for it by the call that got it; 0 when it came from the cache."""
    cached: bool = False
    """It came from the cache."""
    joined: bool = False
    """It came from an equal call that was in flight."""
    queue_s: float = 0.0
    """Seconds spent waiting for admission."""
    call_s: float = 0.0
    """Seconds on the wire, all attempts together."""
    batch: str = ""
    """Names the request that it shared with other answers: attempts and seconds are those of all of them together.
    Empty: it had one of its own."""


LARGEST_IMAGE = 20 * 1024 * 1024
"""Bytes of one image."""
IMAGE_TOKENS = 1000
"""What an image is taken to cost until the provider says what it did."""
_HEAD = 16
_FORMATS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))


def examine(path: str, folder: str) -> ImageFile:
    """The image in the file at that path, relative to `folder`. Raises ImageFailed."""
    file = str(Path(folder, path))
    content = _content(file, path)
    return ImageFile(path=path, file=file, sha256=hashlib.sha256(content).hexdigest())


def data_url(image: ImageFile) -> str:
    """Its bytes as a `data:` URL. Raises ImageFailed if they are no longer those that were examined."""
    content = _content(image.file, image.path)
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise ImageFailed(
            f"the image {image.path} changed while the step waited to send it",
            hint="run it again: the image as it is now makes another request",
        )
    return f"data:image/{_format(content)};base64,{base64.b64encode(content).decode()}"


def stamp(path: str, folder: str) -> tuple[int, ...]:
    """What shows, without reading it, that a file is unchanged. Empty if that cannot be seen."""
    try:
        found = Path(folder, path).stat()
    except (OSError, ValueError):
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _content(file: str, path: str) -> bytes:
    content = _read(file, path)
    if len(content) > LARGEST_IMAGE:
        raise ImageFailed(
            f"the image {path} is larger than {LARGEST_IMAGE // 2**20} MB", hint="no provider takes more: shrink it"
        )
    if not _format(content):
        raise ImageFailed(f"the file {path} is not an image", hint="PNG, JPEG, GIF and WEBP can be sent")
    return content


def _read(file: str, path: str) -> bytes:
    """At most one byte more than LARGEST_IMAGE. A pipe or a device would never end: only regular files are opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImageFailed(f"the image {path} is not a regular file")
            return opened.read(LARGEST_IMAGE + 1)
    except IsADirectoryError:
        raise ImageFailed(f"the image {path} is a folder") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageFailed(
            f"the image {path} cannot be read: {reason or error}",
            hint="paths are relative to the folder of the workflow file",
        ) from None


def _format(content: bytes) -> str:
    """By its first bytes, whatever the file is called; empty for anything else."""
    head = content[:_HEAD]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _FORMATS if head.startswith(magic)), "")
