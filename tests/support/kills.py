"""Runs with workers whose processes are killed (kill -9) in any order, and whose database is, and what that cost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.support.dataset import each_once, texts
from tests.support.over import two_steps
from tests.support.project import Outcome, Project, killed_at_exit, until
from tests.support.ray_head import alive
from tests.support.server import Seen, Server

if TYPE_CHECKING:
    from tests.support.project import Process

LATENCY = 0.05
FOREVER = 10**9
"""As `server.hold`: no answer goes out until the test says so."""
_WITH_ITEMS = "SELECT DISTINCT pid FROM ranges JOIN processes ON process_id = process WHERE processes.ended_at IS NULL"
_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND application_name = 'flowllm' ORDER BY pid"
)

OWNERS = frozenset({"coordinator", "machine", "power cut"})
"""Kinds that end the process that has the run; `machine`: and all that work for it, at once; `power cut`: and the database's server."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One of them: of which kind, when, and whom it hit."""

    kind: str
    at: float
    """Seconds since 1970: who is cut off begins nothing after it."""
    pids: frozenset[int]
    """Processes of flowllm that it ended."""

    def cuts_off(self, pid: int) -> bool:
        """What that process had in flight: it is gone, or the next attempt at the run takes nothing of this one."""
        return pid in self.pids or self.kind in OWNERS


@dataclass(kw_only=True)
class Kills:
    """What is done to one run, and the figures of it afterwards."""

    project: Project
    server: Server
    workers: Sequence[object]
    """Words about them, for `flowllm run` and for `resume`."""
    words: Sequence[object] = ()
    """The others of `flowllm run`."""
    environ: Mapping[str, str] = field(default_factory=dict)
    crash: Callable[[], None] | None = None
    """Start the database's server anew, as after a crash."""
    done: list[Kill] = field(default_factory=list)
    repeats: int = 0
    lost: Mapping[int, int] = field(default_factory=dict)
    """By the number of a kill: requests that it cut off."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(Counter(one.kind for one in self.done).items()))
        most = max(self.lost.values(), default=0)
        sent = f"{len(self.server.requests)} requests, {self.repeats} repeated, at most {most} cut off by a kill"
        return f"{len(self.done)} kills ({kinds}): {sent}"

    # the run

    def run(self, kinds: Sequence[str], *, calls: int, draw: random.Random) -> Outcome:
        """Execute it with a kill of each of these kinds, spread over its `calls` requests."""
        self.server.latency = LATENCY
        with contextlib.ExitStack() as stack:
            self._stack, self._late = stack, None
            self._start("run", *self.words)
            self._until(self.project.run_ids, "the run")
            (self._run_id,) = self.project.run_ids()
            for place, kind in enumerate(kinds):
                moment = calls * (place + draw.random()) / (len(kinds) + 1)
                self._keep_late(kinds)
                self._until(lambda: len(self.server.requests) >= moment, f"request {moment:.0f}")  # noqa: B023
                self.server.hold = FOREVER  # so that the run does not end meanwhile
                hit = self._aim(kind, draw)
                self.server.hold = 0
                time.sleep(draw.uniform(0, 2 * LATENCY))  # a moment between one answer and the next, at random
                self._hit(kind, hit)
            return self.project.finish(self._coordinator)

    def _start(self, *words: object) -> None:
        self._coordinator = self._started(*words, "--quiet", *self.workers)

    def _started(self, *words: object) -> Process:
        process = self.project.start(*words, **self.environ)
        self._stack.enter_context(killed_at_exit(process))
        return process

    def _keep_late(self, kinds: Sequence[str]) -> None:
        """There is a worker that joined by itself."""
        if "late" in kinds and (self._late is None or self._late.poll() is not None):
            self._late = self._started("work", self._run_id, "--quiet")

    # whom, and how

    def _aim(self, kind: str, draw: random.Random) -> Callable[[], frozenset[int]]:
        """What is to be done, and gives the processes of flowllm that it ends; that there is somebody is seen to here."""
        late = 0 if self._late is None else self._late.pid
        if kind == "late":
            assert self._late is not None
            return lambda: _killed(late)
        if kind == "worker":
            self._until_found(self._with_items, late)
            return lambda: _killed(draw.choice(self._until_found(self._with_items, late)))
        if kind in OWNERS:
            others = self._with_items() if kind != "coordinator" else ()
            return lambda: _killed(self._coordinator.pid, *others)
        if kind == "server":
            assert self.crash is not None
            return _none_by(self.crash)
        self._until_found(self._backends)
        if kind == "terminated backend":
            return _none_by(
                lambda: self.ask(f"SELECT pg_terminate_backend({draw.choice(self._until_found(self._backends))})")
            )
        assert kind == "killed backend"
        return _none_by(lambda: _killed(draw.choice(self._until_found(self._backends))))

    def _hit(self, kind: str, work: Callable[[], frozenset[int]]) -> None:
        pids = work()
        if kind == "power cut":
            assert self.crash is not None
            self.crash()
        if kind in OWNERS:
            _, said = self._coordinator.communicate()
            assert self._coordinator.returncode == -signal.SIGKILL, f"it ended before it could be killed: {said}"
            ((epoch,),) = self.ask("SELECT epoch FROM runs")
            self._start("resume", self._run_id)
            self._until(lambda: self.ask("SELECT epoch FROM runs") != [(epoch,)], "the next attempt")
        self.done.append(Kill(kind=kind, pids=pids, at=time.time()))

    def _until_found(self, find: Callable[..., list[int]], *values: int) -> list[int]:
        found: list[int] = []

        def there() -> bool:
            found[:] = find(*values)
            return bool(found)

        self._until(there, "somebody to kill")
        return found

    def _until(self, true: Callable[[], object], what: str) -> None:
        """Wait for what the run is to bring about."""
        until(lambda: true() or self._coordinator.poll() is not None, what)
        if self._coordinator.poll() is not None and not true():
            raise AssertionError(
                f"it ended, and not with {what}: {self.project.finish(self._coordinator).said} {self.done[-3:]}"
            )

    def _with_items(self, late: int = 0) -> list[int]:
        return sorted(pid for (pid,) in self.ask(_WITH_ITEMS) if pid != late and alive(pid))

    def _backends(self) -> list[int]:
        return [pid for (pid,) in self.ask(_BACKENDS) if alive(pid)]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Of the database, which may be about to come up."""
        found: list[list[tuple[Any, ...]]] = []

        def answered() -> bool:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                found.append(self.project.rows(query))
            return bool(found)

        until(answered, "the database")
        return found[0]

    # what came of it

    def check(self, rows: int, *, in_flight: int, ordered: bool = False) -> None:
        """Every row once, in the output and on record; no more asked twice than was on its way to those who were killed."""
        lines = each_once(self.project.folder / "out.jsonl", rows)
        assert not ordered or [line["index"] for line in lines] == list(range(rows))
        for line in lines:
            assert line["row"] == {"text": f"row {line['index']}"}
            assert f"first of row {line['index']}" in line["outputs"]["answer"]
        of_rows = "SELECT status, count(*), count(DISTINCT place) FROM nodes WHERE parent = 'row' GROUP BY status"
        assert self.ask(of_rows) == [("succeeded", rows, rows)]
        within = "SELECT count(*), count(DISTINCT node_id) FROM nodes WHERE node_id LIKE 'row[%].%'"
        assert self.ask(within) == [(2 * rows, 2 * rows)]
        assert self.ask("SELECT count(*) FROM ranges") == [(0,)], "a range is left"
        assert self.ask("SELECT count(*) FROM reports") == [(0,)], "a report is left"
        self._check_requests(self.server.requests, 2 * rows, in_flight)
        self._check_totals(3 * rows + 1)

    def _check_requests(self, requests: Sequence[Seen], calls: int, in_flight: int) -> None:
        often = Counter(seen.prompt for seen in requests)
        assert len(often) == calls
        self.repeats = len(requests) - calls
        statuses = dict(self.ask("SELECT status, count(*) FROM attempts GROUP BY status"))
        assert statuses.pop("succeeded") == calls, "an answer that came was paid for twice, or was lost"
        unknown = statuses.pop("unknown", 0)
        assert not statuses.keys() - {"not_sent"}
        assert self.repeats <= unknown, "a request was sent before it was on record"
        self._check_lost(in_flight)

    def _check_lost(self, in_flight: int) -> None:
        """What is unknown was cut off by a kill of its process, and each cut off no more than may be in flight."""
        lost: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        attempts = (
            "SELECT pid, started_at FROM attempts JOIN processes ON process_id = process WHERE status = 'unknown'"
        )
        for pid, at in self.ask(attempts):
            by = [place for place, kill in enumerate(self.done) if kill.at >= at and kill.cuts_off(pid)]
            assert by, f"a request of process {pid}, which was not killed then, is lost"
            lost[by[0]].append((pid, at))
        self.lost = {place: len(cut) for place, cut in lost.items()}
        most = [(self.done[place], cut) for place, cut in lost.items() if len(cut) > in_flight]
        assert not most, f"more is lost than was in flight: {most} of {self.done}"

    def _check_totals(self, nodes: int) -> None:
        ((succeeded, running, failed, requests, unknown),) = self.ask(
            "SELECT succeeded, running, failed, requests, unknown FROM totals"
        )
        assert (succeeded, running, failed) == (nodes, 0, 0), (succeeded, running, failed)
        statuses = dict(self.ask("SELECT status, count(*) FROM attempts WHERE status <> 'not_sent' GROUP BY status"))
        assert (requests, unknown) == (sum(statuses.values()), statuses.get("unknown", 0)), (
            requests,
            unknown,
            statuses,
        )
        usages = [json.loads(usage) for (usage,) in self.ask("SELECT usage FROM attempts WHERE status = 'succeeded'")]
        used = tuple(sum(usage[place] for usage in usages) for place in (0, 1))
        assert self.ask("SELECT input_tokens, output_tokens FROM totals") == [used]


def _none_by(work: Callable[[], object]) -> Callable[[], frozenset[int]]:
    """No process of flowllm is ended by it."""

    def done() -> frozenset[int]:
        work()
        return frozenset()

    return done


def _killed(*pids: int) -> frozenset[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return frozenset(pids)


def over(project: Project, rows: int, *, in_flight: int) -> Sequence[object]:
    """Write a data set and a workflow of two steps; the words of `flowllm run` for both."""
    texts(project.folder / "rows.jsonl", rows)
    file = two_steps(project, limits={"max_concurrent": in_flight})
    return (file, "--over", "rows.jsonl", "--output", "out.jsonl")
