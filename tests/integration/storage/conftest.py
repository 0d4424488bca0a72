"""A store at a path, and a temporary one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.storage.base import Store
from flowllm.storage.open import open_store
from flowllm.storage.sql.store import SqlStore
from tests.support.postgres import database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Store]:
    with database() if request.param == "postgres" else nullcontext("memory:") as url:
        monkeypatch.chdir(tmp_path)
        opened = await open_store(url, clock=SystemClock())
        yield opened
        await opened.close()


@pytest.fixture
async def disk(path: Path, anyio_backend: str) -> AsyncIterator[SqlStore]:
    opened = await open_store(str(path), clock=SystemClock())
    yield opened
    await opened.close()
