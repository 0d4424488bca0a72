"""Images in files: known by their content, and read once more when they are sent."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

from flowllm.core.errors import ImageFailed
from flowllm.core.request import ImageFile

LARGEST = 20 * 1024 * 1024
"""Bytes of one image."""
TOKENS = 1000
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
    if len(content) > LARGEST:
        raise ImageFailed(
            f"the image {path} is larger than {LARGEST // 2**20} MB", hint="no provider takes more: shrink it"
        )
    if not _format(content):
        raise ImageFailed(f"the file {path} is not an image", hint="PNG, JPEG, GIF and WEBP can be sent")
    return content


def _read(file: str, path: str) -> bytes:
    """At most one byte more than LARGEST. A pipe or a device would never end: only regular files are opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ImageFailed(f"the image {path} is not a regular file")
            return opened.read(LARGEST + 1)
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
