"""Owners in several processes."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import OwnershipLost, RunOwned
from flowllm.core.types import RunId, RunStatus
from flowllm.storage.base import NodeWrite
from flowllm.storage.open import open_store, this_process
from flowllm.storage.sql import store as sql
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sqlite import watch
from tests.support.owners import end, silence
from tests.support.process import worker
from tests.support.records import ME, OTHER, lease_of, node, run

pytestmark = pytest.mark.anyio
WORKER = "tests.integration.storage.worker"
R1 = RunId("r1")


@pytest.fixture
async def paused(disk: SqlStore) -> SqlStore:
    made = await disk.create_run(run("r1", owner=ME))
    await disk.finish_run(lease_of(made), status=RunStatus.PAUSED, finished_at=1.0)
    return disk


async def test_of_four_processes_that_claim_at_once_one_wins(paused: SqlStore, path: Path) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(worker(WORKER, "claim", path, "r1")) for _ in range(4)]
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.tell()
        answers = {child.pid: child.hear() for child in children}
        winners = [child for child in children if answers[child.pid] == "claimed"]
        assert len(winners) == 1
        refusals = [answer for answer in answers.values() if answer != "claimed"]
        assert all(answer.startswith("RunOwned: Run r1 is owned by") for answer in refusals)
        assert (await paused.run(R1)).status is RunStatus.RUNNING
        assert (await paused.run(R1)).owner.pid == winners[0].pid
        with pytest.raises(RunOwned, match=f"process {winners[0].pid} on "):
            await paused.claim_run(R1, ME)
        with pytest.raises(RunOwned):
            await paused.delete_runs([R1])
        winners[0].tell()
        assert winners[0].hear() == "ended"
    ended = await paused.run(R1)
    assert (ended.epoch, ended.status, ended.owner) == (2, RunStatus.PAUSED, None)


async def test_the_run_of_a_killed_owner_is_interrupted_and_can_be_claimed(paused: SqlStore, path: Path) -> None:
    with worker(WORKER, "claim", path, "r1") as child:
        assert child.hear() == "ready"
        child.tell()
        assert child.hear() == "claimed"
        assert (await paused.runs())[0].status is RunStatus.RUNNING
        os.kill(child.pid, signal.SIGKILL)
        child.rest()
    assert (await paused.runs())[0].status is RunStatus.INTERRUPTED
    assert (await paused.run(R1)).status is RunStatus.INTERRUPTED
    assert (await paused.claim_run(R1, ME)).epoch == 3


async def test_an_owner_that_was_stopped_and_wakes_late_writes_nothing(
    paused: SqlStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "SECOND_LOOK", 0.01)
    with worker(WORKER, "claim", path, "r1") as child:
        assert child.hear() == "ready"
        child.tell()
        assert child.hear() == "claimed"
        child.tell(1)
        assert child.hear() == "settled"
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(RunOwned):
            await paused.claim_run(R1, ME)
        silence(path)
        heir = await paused.claim_run(R1, ME)
        assert heir.epoch == 3
        await paused.commit(nodes=[NodeWrite(lease=lease_of(heir), node=node("mine", "r1", seq=9))])
        os.kill(child.pid, signal.SIGCONT)
        child.tell(2)
        assert child.hear() == "OwnershipLost"
        child.tell()
        child.rest()
    assert {found.node_id for found in await paused.nodes(R1)} == {"n1", "mine"}
    assert (await paused.run(R1)).status is RunStatus.RUNNING
    assert (await paused.run(R1)).owner == ME


async def test_the_former_owner_knows_that_its_run_was_taken_over(path: Path, disk: SqlStore) -> None:
    made = await disk.create_run(run("r1", owner=ME))
    end(path)
    heir = await open_store(str(path), clock=SystemClock())
    claimed = await heir.claim_run(R1, this_process(SystemClock()))
    with pytest.raises(OwnershipLost):
        await disk.finish_run(lease_of(made), status=RunStatus.FAILED, finished_at=1.0)
    assert (await disk.run(R1)).status is RunStatus.RUNNING
    await heir.finish_run(lease_of(claimed), status=RunStatus.PAUSED, finished_at=2.0)
    assert (await disk.claim_run(R1, ME)).epoch == 3
    await heir.close()


async def test_a_store_that_closes_gives_its_runs_back(path: Path, disk: SqlStore) -> None:
    other = await open_store(str(path), clock=SystemClock())
    await other.create_run(run("r1", owner=ME))
    await other.close()
    assert (await disk.run(R1)).status is RunStatus.INTERRUPTED
    assert (await disk.claim_run(R1, ME)).epoch == 2


async def test_what_others_write_is_known_by_the_next_commit_and_not_believed_for_long(
    path: Path, disk: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "OTHERS_KNOWN", 1000.0)
    made = await disk.create_run(run("r1", owner=ME))
    await disk.commit(nodes=[NodeWrite(lease=lease_of(made), node=node("n1", "r1"))])
    assert not disk.others_wrote(1000.0)
    other = await open_store(str(path), clock=SystemClock())
    await other.create_run(run("r2", owner=OTHER))
    await other.close()
    await disk.commit(nodes=[NodeWrite(lease=lease_of(made), node=node("n2", "r1"))])
    assert disk.others_wrote(1000.0)
    assert not disk.others_wrote(-1.0)
    monkeypatch.setattr(watch, "OTHERS_KNOWN", -1.0)  # nothing was written here for so long
    assert disk.others_wrote(-1.0)
