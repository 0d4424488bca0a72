"""A PostgreSQL database as the rest of storage/ sees it."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flowllm.core.errors import DatabaseCorrupt, StoreError, UsageError
from flowllm.storage.address import dsn, place, shown
from flowllm.storage.folders import make_folder
from flowllm.storage.postgres import faults
from flowllm.storage.postgres.connection import CONNECT_TIMEOUT, PostgresConnection

if TYPE_CHECKING:
    import asyncpg


class PostgresEngine:
    """The database at an address, which exists and is up to date."""

    is_file = False

    def __init__(self, url: str, home: Path | None = None) -> None:
        """Raises UsageError for an address that is none, or where the driver is not installed."""
        self._dsn = dsn(url)
        self._several = "," in self._dsn.partition("?")[0]
        self.name = shown(url)
        self.home = home or place(url)
        self._plain = False
        """A pooler was met that could not be seen."""
        self._unheard: str | None = None
        self._driver = driver()

    def __reduce__(self) -> tuple[Any, ...]:
        return PostgresEngine, (self._dsn, self.home)

    @cached_property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What asyncpg raises, and the network."""
        return (
            self._driver.PostgresError,
            self._driver.InterfaceError,
            self._driver.InternalClientError,
            OSError,
            TimeoutError,
            OverflowError,
        )

    def make_folder(self) -> None:
        """For files of this machine; where it cannot be made, they are in the temporary folder."""
        with suppress(OSError):
            make_folder(self.home.parent)

    def writer(self) -> PostgresConnection:
        """Raises `errors`."""
        connection = self.reader()
        connection.unheard = self._note
        return connection

    def reader(self) -> PostgresConnection:
        """Raises `errors`."""
        connection = PostgresConnection(self.connect)
        if self._plain:
            connection.unprepared()
        return connection

    async def connect(self) -> asyncpg.Connection[Any]:
        """The driver's connection. Raises `errors`."""
        try:
            found: asyncpg.Connection[Any] = await self._driver.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT,
                statement_cache_size=0,
                target_session_attrs="read-write" if self._several else None,
                server_settings={"application_name": "flowllm"},
            )
        except (ValueError, self._driver.ClientConfigurationError) as error:
            raise UsageError(
                f"The address {self.name} cannot be used: {str(error).partition(':')[0]}.",
                hint="Its options are those of libpq: sslmode, host, target_session_attrs and so on.",
            ) from None
        return found

    def watch(self) -> Others:
        """Of one writer."""
        return Others()

    def rescued(self, connection: object, loss: object) -> PostgresEngine:
        """It is never lost so."""
        raise NotImplementedError

    def explain(self, error: BaseException) -> Exception:
        """StorageFailed, UsageError, DatabaseCorrupt, or ValueError."""
        return faults.explain(error, self.name)

    def concerns_data(self, error: BaseException) -> bool:
        """Whether the values of one write are to blame."""
        return faults.concerns_data(error)

    def worth_one_by_one(self, error: BaseException) -> bool:
        """Whether some writes of a group may go through alone."""
        return faults.concerns_data(error)

    def passes(self, error: BaseException) -> bool:
        """Whether it is worth trying again."""
        if faults.state_of(error) == faults.NO_STATEMENT:
            self._plain = True
        return faults.passes(error)

    def _note(self, xid: str | None) -> None:
        self._unheard = xid

    def afresh(self) -> None:
        """The end of what was given up is of no interest any more."""
        self._unheard = None

    def settled(self, connection: PostgresConnection) -> bool:
        """Whether the last transaction was committed, although its end was not heard of: the server knows that for long."""
        if self._unheard is None:
            return False
        found = connection.ended(self._unheard)
        self._unheard = None
        return found

    def gone(self) -> StoreError | None:
        """That is seen by the errors."""
        return None

    def damaged(self, what: str) -> StoreError:
        """A part of it is not as it was written."""
        return DatabaseCorrupt(f"The database {self.name} is damaged: {what}.", hint=faults.RESTORE)

    def compact(self) -> int | None:
        """The server does that by itself."""
        return 0


class Others:
    """What is known of other processes: any of them may have written."""

    def opened(self, connection: object) -> None:
        """Nothing to look at."""

    def closed(self) -> None:
        """Nothing to look at."""

    def others_wrote(self, within: float) -> bool:  # noqa: ARG002
        """For all that is known."""
        return True

    version = None
    """That is not told."""

    def loss(self, connection: object) -> None:
        """A server tells it by errors."""


def driver() -> ModuleType:
    """Asyncpg. Raises UsageError where it is not installed."""
    try:
        import asyncpg  # noqa: PLC0415 - only who uses PostgreSQL has it, and it takes a tenth of a second
        import greenlet  # noqa: F401, PLC0415 - SQLAlchemy needs it for migrations
    except ImportError as error:
        raise UsageError(
            f"A PostgreSQL database needs the package {error.name}, which is not installed.",
            hint='Install it with: pip install "flowllm[postgres]"',
        ) from error
    found: ModuleType = asyncpg
    return found
