"""Data sets for `--over`, and what comes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def json_lines(path: Path, values: Iterable[object]) -> Path:
    """Write a data set of JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    return path


def texts(path: Path, count: int) -> Path:
    """Rows that have a `text` each, all different."""
    return json_lines(path, ({"text": f"row {number}"} for number in range(count)))


def lines(path: Path) -> list[dict[str, Any]]:
    """What `--output` has, in its order; every line must be whole."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n"), "the last line is cut"
    found = [json.loads(line) for line in content.splitlines()]
    for line in found:
        assert list(line) == ["index", "row", "outputs"]
    return found


def each_once(path: Path, count: int) -> list[dict[str, Any]]:
    """The same, once it is clear that it has a line for each of so many rows."""
    found = lines(path)
    often = Counter(line["index"] for line in found)
    assert [index for index, times in often.items() if times > 1] == []
    assert set(often) == set(range(count))
    return found
