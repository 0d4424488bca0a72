"""What a database engine brings: connections, and what its errors mean. All else of storage/ is written once for all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from flowllm.core.errors import StoreError

Values = Sequence[Any] | Mapping[str, Any]
"""Of a statement: for its `?` in their order, or for its `:names`."""
Row = tuple[Any, ...]


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """Rows that it has changed."""
        ...

    @property
    def description(self) -> Any:
        """Its columns, the name of each first."""
        ...

    def fetchone(self) -> Any:
        """The next row, None behind the last."""
        ...

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One connection, for one thread at a time. All statements are written once: in words that SQLite knows, with few that
    an engine translates."""

    @property
    def for_update(self) -> str:
        """Behind a query of rows that nobody else may change before this transaction ends."""
        ...

    @property
    def for_share(self) -> str:
        """Behind a query of rows that others may only read before this transaction ends."""
        ...

    @property
    def finds_contents(self) -> bool:
        """Whether items are found by their content: there is an index of it, and no table of the connection's own."""
        ...

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        ...

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        """Carry out a statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> object:
        """Carry out a statement for each of these values."""
        ...

    def write(self, statement: str, rows: Sequence[Row]) -> None:
        """Carry out an INSERT with `?` for many rows, in their order."""
        ...

    def keep_text(self, run_seq: int, body: bytes) -> int:
        """Put a text into the table of texts; its number. It is there once something else was written."""
        ...

    def lock_keys(self, keys: Collection[str]) -> None:
        """Whoever wants to lock one of them waits until this transaction has ended. Before it locks anything else."""
        ...

    def fetch(self, query: str, values: Values) -> list[Row]:
        """All rows of a query; of text that is damaged, some text."""
        ...

    def pages(self, query: str, values: Values, size: int) -> Iterator[list[Row]]:
        """The rows of a query, so many at a time."""
        ...

    def begin(self) -> None:
        """Begin a transaction that writes."""
        ...

    def begin_reading(self) -> None:
        """Begin a transaction that sees one state of the database."""
        ...

    def commit(self) -> None:
        """Make it durable."""
        ...

    def rollback(self) -> None:
        """Undo the open transaction, if there still is one: some failures have undone it already."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Watch(Protocol):
    """Whether a database still is the one that was opened, and whether others write to it."""

    def opened(self, connection: Any) -> None:
        """A transaction has begun on that connection."""
        ...

    def closed(self) -> None:
        """The connection is given back."""
        ...

    def others_wrote(self, within: float) -> bool:
        """Whether others may have written to it in so many last seconds. From any thread."""
        ...

    @property
    def version(self) -> object:
        """Another value than before once others have written to it; None: that is not known."""
        ...

    def loss(self, connection: Any) -> Any:
        """What is no longer as it was opened, if anything."""
        ...


class Engine(Protocol):
    """One database, from which connections are had. May be used from any thread, and pickled."""

    @property
    def name(self) -> str:
        """As messages name it: without a password."""
        ...

    @property
    def home(self) -> Path:
        """Absolute: files of this machine that belong to it have this name with something behind."""
        ...

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which somebody may remove or replace while it is open."""
        ...

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What its connections raise."""
        ...

    def writer(self) -> Connection:
        """A connection for writing: what it commits has reached the disk. Raises `errors`."""
        ...

    def reader(self) -> Connection:
        """A connection for reading. Raises `errors`."""
        ...

    def watch(self) -> Watch:
        """Of one writer."""
        ...

    def rescued(self, connection: Any, loss: Any) -> Engine:
        """Where all is that a connection can still read of a database that is lost. Raises `errors`."""
        ...

    def explain(self, error: BaseException) -> Exception:
        """The error to raise for one of `errors`: a StoreError, or ValueError for a value that a database cannot hold. Errors of
        flowllm's own come back as they are."""
        ...

    def concerns_data(self, error: BaseException) -> bool:
        """Whether the values of one write are to blame, not the database."""
        ...

    def worth_one_by_one(self, error: BaseException) -> bool:
        """Whether some writes of a group that failed so may still go through alone."""
        ...

    def passes(self, error: BaseException) -> bool:
        """Whether it is worth waiting and trying again: a server is away, or two transactions were in each other's way."""
        ...

    def afresh(self) -> None:
        """What is written next is nothing that was tried before."""
        ...

    def settled(self, connection: Any) -> bool:
        """Whether the last transaction was committed, although its end was not heard of."""
        ...

    def gone(self) -> StoreError | None:
        """The error for a database that is no longer there, as far as that can be seen."""
        ...

    def damaged(self, what: str) -> StoreError:
        """The error for content that is not as it was written."""
        ...

    def compact(self) -> int | None:
        """Give the space of what was removed back; how many bytes, None if it cannot. Blocks while it does."""
        ...
