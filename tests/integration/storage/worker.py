"""Another process at the same database: python -m tests.integration.storage.worker MODE PATH [ARGUMENT]

Prints a word a line as it goes on, and goes on at a line on standard input where it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import sys
from pathlib import Path

from flowllm.core.clock import SystemClock
from flowllm.core.errors import FlowLLMError
from flowllm.core.types import RunId, RunStatus
from flowllm.storage.base import NodeWrite
from flowllm.storage.open import open_store, this_process
from flowllm.storage.sql.store import SqlStore
from flowllm.storage.sql.writer import Failpoints
from flowllm.storage.sqlite import engine
from flowllm.storage.sqlite.migrate import upgrade
from tests.support.records import ME, answer, attempt_of_node, lease_of, node, run


def say(word: object) -> None:
    print(word, flush=True)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def killed(path: str, where: str, at: int) -> None:
    """Settle unit after unit, say each that is acknowledged, die in the commit of unit `at`."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            die()

    await (await open_store(path, clock=SystemClock())).close()
    store = SqlStore(engine.at(Path(path)), owner=ME, failpoints=Failpoints(**{where: count}))
    made = await store.create_run(run("r1", owner=ME))  # its commit is the first
    for number in range(1000):
        await commit_one(store, made, number)
        say(number)


async def commit_one(store: object, made: object, number: int) -> None:
    name = f"n{number}"
    lease = lease_of(made)
    await store.commit(
        attempt=attempt_of_node(name, "r1"),
        attempt_lease=lease,
        memo=answer(name),
        nodes=[NodeWrite(lease=lease, node=node(name, "r1", seq=number))],
    )


async def claim(path: str, run_id: str) -> None:
    """Claim a run when told to; hold it until told to end."""
    clock = SystemClock()
    store = await open_store(path, clock=clock)
    say("ready")
    sys.stdin.readline()
    try:
        claimed = await store.claim_run(RunId(run_id), this_process(clock))
    except FlowLLMError as error:
        say(f"{type(error).__name__}: {error.message}")
        return
    say("claimed")
    while (line := await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            await commit_one(store, claimed, int(line))
            say("settled")
        except FlowLLMError as error:
            say(type(error).__name__)
    await store.finish_run(lease_of(claimed), status=RunStatus.PAUSED, finished_at=1.0)
    await store.close()
    say("ended")


async def full(path: str, room: int) -> None:
    """Write under a file-size limit until it fails, then again without one."""
    store = await open_store(path, clock=SystemClock())
    made = await store.create_run(run("r1", owner=ME))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    number = 0
    try:
        while True:
            await commit_one(store, made, number)
            number += 1
    except FlowLLMError as error:
        say(f"{type(error).__name__}: {error}".replace("\n", " "))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await commit_one(store, made, number)
    say(number + 1)
    say(len(await store.nodes(RunId("r1"))))
    await store.close()


async def left(path: str, room: int) -> None:
    """Write under a file-size limit until it fails, then six hundred results that were under way, and end."""
    store = await open_store(path, clock=SystemClock())
    made = await store.create_run(run("r1", owner=ME))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    number = 0
    with contextlib.suppress(FlowLLMError):
        while True:
            await commit_one(store, made, number)
            number += 1
    under_way = (commit_one(store, made, number + n) for n in range(600))
    results = await asyncio.gather(*under_way, return_exceptions=True)
    say(number + 600)
    for result in results:
        say(type(result).__name__)
    await store.close()


def hold(path: str) -> None:
    """Take the write lock until told to end."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("held")
    sys.stdin.readline()
    connection.execute("ROLLBACK")


def upgrade_now(path: str) -> None:
    say("ready")
    sys.stdin.readline()
    done = upgrade(path)
    say(f"{done.after.state} {done.backup is not None}")


def upgrade_and_die(path: str) -> None:
    """Die in the migration, after its last statement and before the commit."""
    from alembic import command

    original = command.upgrade

    def deadly(*arguments: object) -> None:
        original(*arguments)
        say("migrated")
        die()

    command.upgrade = deadly
    upgrade(path)


def unclosed(path: str) -> None:
    """Use a store and forget to close it."""

    async def use() -> None:
        store = await open_store(path, clock=SystemClock())
        await store.create_run(run("r1", owner=ME))
        await store.memo("x")
        say("used")

    asyncio.run(use())


def main(mode: str, path: str, *rest: str) -> None:
    match mode:
        case "killed":
            asyncio.run(killed(path, rest[0], int(rest[1])))
        case "claim":
            asyncio.run(claim(path, rest[0]))
        case "full":
            asyncio.run(full(path, int(rest[0])))
        case "left":
            asyncio.run(left(path, int(rest[0])))
        case "hold":
            hold(path)
        case "upgrade":
            upgrade_now(path)
        case "upgrade_and_die":
            upgrade_and_die(path)
        case "unclosed":
            unclosed(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
