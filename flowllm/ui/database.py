"""The database that the page shows: opened when it is there, afresh when it is another one, and heard when it changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from shlex import quote
from typing import Final

from flowllm.app.settings import DEFAULT_DATABASE
from flowllm.core.clock import Clock
from flowllm.core.errors import DatabaseTooNew, FlowLLMError, UsageError
from flowllm.core.tasks import start_task
from flowllm.storage.base import Store
from flowllm.storage.open import (
    Beat,
    SchemaState,
    home_of,
    is_memory,
    is_postgres,
    name_of,
    open_store,
    pulse_of,
    schema_of,
)

POLL: Final = 0.25
"""Seconds between looks, while somebody listens."""
_MEMORY: Final = "memory:"


class Database:
    """One database by its address. `missing`: it is not there yet, and an empty one stands in for it."""

    def __init__(self, url: str, *, clock: Clock) -> None:
        """Raises UsageError for an address that is none."""
        if is_memory(url):
            raise UsageError(
                "a database in memory is of one process: there is nothing to show", hint="name a file with --db"
            )
        home = home_of(url)
        assert home is not None  # noqa: S101 - as it is none in memory
        self.home = home
        """Its file; of one on a server, the name that its files on this machine begin with."""
        self.url = url if is_postgres(url) else str(home)
        self.name = name_of(self.url)
        self.option = "" if home == home_of(DEFAULT_DATABASE) else f" --db {quote(self.name)}"
        """What a command line needs besides, to find it from where the page was started."""
        self.missing = False
        self._clock = clock
        self._pulse = pulse_of(self.url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flowllm-pulse")
        self._opening = asyncio.Lock()
        self._store: Store | None = None
        self._former: Store | None = None
        """The one before, from which somebody may still read."""
        self._problem: FlowLLMError | None = None
        self._seen: Beat | None = None
        """As it was opened, or found not to be fit for that."""
        self._tick = 0
        self._ticked = asyncio.Event()
        self._listeners = 0
        self._listening: asyncio.Task[None] | None = None

    async def store(self) -> Store:
        """The store, as the file is now. Raises FlowLLMError where it cannot be shown: what is wrong, and what to do."""
        async with self._opening:
            beat = await self._beat()
            if self._is_stale(beat):
                await self._open_again()
                self._seen = beat
            if self._problem is not None:
                raise self._problem
            assert self._store is not None  # noqa: S101 - one of both is set
            return self._store

    def _is_stale(self, beat: Beat | None) -> bool:
        if self._store is None or beat is None or self._seen is None:
            return self._store is None or beat != self._seen or (beat is None and self.home.exists())
        return beat[0] != self._seen[0]

    async def _open_again(self) -> None:
        former, self._former, self._store, self._problem = self._former, self._store, None, None
        if former is not None:
            await former.close()
        try:
            state = (await asyncio.to_thread(schema_of, self.url)).state
            self.missing = state is SchemaState.MISSING
            if problem := _PROBLEMS.get(state):
                raise problem(self.name)
            self._store = await open_store(_MEMORY if self.missing else self.url, clock=self._clock)
        except FlowLLMError as error:
            self._problem = error

    async def _beat(self) -> Beat | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._pulse.beat)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """While this is open, `changed` hears of what is written."""
        self._listeners += 1
        if self._listening is None:
            self._listening = start_task(self._listen())
        try:
            yield
        finally:
            self._listeners -= 1

    async def changed(self, seen: int, *, within: float) -> int:
        """Wait until something was written since the number `seen` was given (begin with -1), or so many seconds; the number now."""
        if seen == self._tick:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ticked.wait(), within)
        return self._tick

    def wake(self) -> None:
        """Let all that wait go on, as if something was written."""
        self._tick += 1
        self._ticked.set()
        self._ticked = asyncio.Event()

    async def _listen(self) -> None:
        last = await self._beat()
        try:
            while self._listeners:
                await asyncio.sleep(POLL)
                now = await self._beat()
                if now != last:
                    last = now
                    self.wake()
        finally:
            self._listening = None

    async def close(self) -> None:
        """Give the connections back."""
        if self._listening is not None:
            self._listening.cancel()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._pulse.close)
        self._thread.shutdown()
        for store in (self._former, self._store):
            if store is not None:
                await store.close()


def _older(url: str) -> FlowLLMError:
    return UsageError(
        f"The database {url} was made by an older flowllm.",
        hint=f"`flowllm db upgrade --db {quote(url)}` brings it up to date{'' if is_postgres(url) else ', with a backup beside it'}; "
        "this page goes on by itself then.",
    )


def _newer(url: str) -> FlowLLMError:
    return DatabaseTooNew(
        f"The database {url} was made by a newer flowllm, which this one cannot read.",
        hint="Upgrade flowllm (pip install --upgrade flowllm), and start `flowllm ui` again.",
    )


_PROBLEMS: Final = {SchemaState.OLDER: _older, SchemaState.NEWER: _newer}
