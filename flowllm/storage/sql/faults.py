"""What the store refuses, and what it has lost, in which words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from flowllm.core.errors import OwnershipLost, RunNotFound, RunOwned, StorageFailed, UsageError
from flowllm.core.records import dataclass
from flowllm.storage.base import Owner, RunLease


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The database is no longer the file that was opened; nothing more is begun."""

    name: str
    what: str
    """What became of it, after its name."""
    place: Path | None
    """The database that all of it is in now; None if it could not be saved."""
    why_not: str = ""
    again: bool = False
    """It is where it was."""

    def error(self) -> StorageFailed:
        """It, for one of those who wait."""
        begun = f"The database {self.name} {self.what} while it was in use, so nothing more is sent."
        if self.place is None:
            return StorageFailed(
                f"{begun} What it held could not be saved: {self.why_not}.",
                hint="Put it back, or restore it from a backup, then resume the run.",
            )
        if self.again:
            return StorageFailed(f"{begun} All that it held is in it again.", hint="Resume the run.")
        return StorageFailed(
            f"{begun} All that it held is in {self.place}.",
            hint="Go on with that one (--db), or first put it back where it was.",
            database=str(self.place),
        )


def no_room(error: OSError, name: str) -> StorageFailed:
    """A request that is not sent, as its result might be lost."""
    return StorageFailed(
        f"There is no room for results beside the database {name}, nor in the temporary folder: {error.strerror}.",
        hint="Free some space, then resume the run.",
    )


def lost_results(count: int, name: str) -> str:
    """What is told of requests that were on record and are not any more."""
    return (
        f"the database {name} has lost what was last written to it before a process that used it ended ({count} or more "
        "requests, or their results): its log was damaged, cut or removed, or an older copy was put in its place; "
        "what is missing is sent again, and paid again"
    )


def kept_in(paths: Iterable[Path]) -> str:
    """A line on the results that the database could not take."""
    names = ", ".join(str(path) for path in paths)
    return f"The results that it could not take are kept in {names}, until they are put into it as a run is started or resumed."


def ownership_lost(lease: RunLease, epoch: int | None) -> OwnershipLost:
    """A write under a lease that no longer holds; `epoch` is the run's, None if it is gone, negative if it is the process that
    was ended."""
    if epoch is None:
        return OwnershipLost(f"Run {lease.run_id} was deleted while this process worked on it.")
    if epoch == -lease.epoch:
        return OwnershipLost(
            f"Run {lease.run_id} is no longer this process's, of which nothing was heard for too long; nothing more of it is written here.",
            hint=f"Go on with it with: flowllm resume {lease.run_id}",
        )
    return OwnershipLost(
        f"Run {lease.run_id} was taken over by another process; nothing more of it is written here.",
        hint=f"See how it goes on with: flowllm show {lease.run_id}",
    )


def run_owned(run_id: str, owner: Owner | None) -> RunOwned:
    """A run that another process has; the owner is told as far as it is known."""
    if owner is None:
        return RunOwned(f"Run {run_id} is owned by another process.", hint="Wait until it has ended.")
    since = datetime.fromtimestamp(owner.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return RunOwned(
        f"Run {run_id} is owned by process {owner.pid} on {owner.host} since {since}.",
        hint=f"Wait until it has ended, or stop it on {owner.host} with: kill -INT {owner.pid}",
    )


def run_exists(run_id: str) -> UsageError:
    """An id that is taken."""
    return UsageError(f"There already is a run {run_id}.")


def run_not_found(run_id: str) -> RunNotFound:
    """An id that no run has."""
    return RunNotFound(f"There is no run {run_id}.", hint="`flowllm runs` lists the runs of this database.")


def ambiguous(run_id: str, found: Iterable[str]) -> RunNotFound:
    """The beginning of several ids."""
    return RunNotFound(f"Several runs begin with {run_id}: {', '.join(found)}.", hint="Give more of the id.")
