from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.core.errors import UsageError
from flowllm.storage.sqlite.connection import database_path, is_memory


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("x.db", "x.db"),
        (".flowllm/flowllm.db", ".flowllm/flowllm.db"),
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////tmp/x y%.db", "/tmp/x y%.db"),
        ("~/x.db", str(Path.home() / "x.db")),
    ],
)
def test_paths(url: str, path: str) -> None:
    assert database_path(url) == Path(path)
    assert not is_memory(url)


@pytest.mark.parametrize("url", ["memory:", ":memory:", "sqlite:///:memory:"])
def test_memory(url: str) -> None:
    assert is_memory(url)


@pytest.mark.parametrize("url", ["", "sqlite:///", "postgresql://host/db", "sqlite://x", "sqlite:", "a\0b"])
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="database"):
        database_path(url)
