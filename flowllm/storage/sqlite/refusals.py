"""What the store refuses, and in which words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from flowllm.core.errors import OwnershipLost, RunNotFound, RunOwned, UsageError
from flowllm.core.types import RunId
from flowllm.storage.base import AttemptRecord, NodeWrite, Owner, RunLease


def fences_of(
    attempt: AttemptRecord | None, attempt_fence: RunLease | None, nodes: Sequence[NodeWrite]
) -> tuple[RunLease, ...]:
    """The fences of a settlement. Raises ValueError if a row has none, or that of another run."""
    found: list[RunLease] = []
    if attempt is not None:
        if attempt_fence is None:
            raise ValueError("An attempt cannot be settled without its fence.")
        _guards(attempt_fence, attempt.run_id)
        found.append(attempt_fence)
    for write in nodes:
        _guards(write.fence, write.node.run_id)
        if not found or write.fence is not found[-1]:  # they nearly always are one
            found.append(write.fence)
    return tuple(found) if len(found) == 1 else tuple(dict.fromkeys(found))


def _guards(fence: RunLease, run_id: RunId) -> None:
    if fence.run_id != run_id:
        raise ValueError("A fence of one run cannot guard a row of another.")


def ownership_lost(fence: RunLease, epoch: int | None) -> OwnershipLost:
    """A write under a fence that no longer holds; `epoch` is the run's, None if it is gone."""
    if epoch is None:
        return OwnershipLost(f"Run {fence.run_id} was deleted while this process worked on it.")
    return OwnershipLost(
        f"Run {fence.run_id} was taken over by another process; nothing more of it is written here.",
        hint=f"See how it goes on with: flowllm show {fence.run_id}",
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
