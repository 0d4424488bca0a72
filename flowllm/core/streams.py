"""What processes say, line by line."""

from __future__ import annotations

import asyncio
from typing import Final

LONGEST_LINE: Final = 2_000
"""Characters of a line that are kept."""


async def next_line(stream: asyncio.StreamReader) -> str:
    """The next line that is not empty; "" at the end."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than what is read at a time
            continue
        if not line or line.strip():
            return line.decode(errors="replace").strip()[:LONGEST_LINE]
