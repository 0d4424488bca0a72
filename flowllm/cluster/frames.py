"""How flowllm and its process of Ray speak: frames of a mapping, as JSON, and of bytes besides."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Final

from flowllm.core.types import Json

_LENGTHS: Final = struct.Struct(">II")


def frame(message: dict[str, Json], data: bytes = b"") -> bytes:
    """A frame as it is sent."""
    head = json.dumps(message).encode()
    return _LENGTHS.pack(len(head), len(data)) + head + data


async def read_frame(reader: asyncio.StreamReader) -> tuple[dict[str, Json], bytes]:
    """The next frame. Raises EOFError if the other side is gone."""
    try:
        head, data = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        return json.loads(await reader.readexactly(head)), await reader.readexactly(data)
    except ConnectionError as error:
        raise EOFError from error
