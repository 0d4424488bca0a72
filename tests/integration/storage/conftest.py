"""Both stores, and the one on disk alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.storage.base import Store
from flowllm.storage.open import open_store
from flowllm.storage.sqlite.store import SqlStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, path: Path, anyio_backend: str) -> AsyncIterator[Store]:
    opened = await open_store("memory:" if request.param == "memory" else str(path), clock=SystemClock())
    yield opened
    await opened.close()


@pytest.fixture
async def disk(path: Path, anyio_backend: str) -> AsyncIterator[SqlStore]:
    opened = await open_store(str(path), clock=SystemClock())
    yield opened
    await opened.close()
