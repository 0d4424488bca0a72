"""Runs that are killed (kill -9) and gone on with again and again, and what that cost."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.project import HANG, Project, killed_at_exit, until
from tests.support.replies import Reply, Script
from tests.support.server import Seen, Server

LATENCY = 0.02


@dataclass(frozen=True, kw_only=True)
class Storm:
    """The figures of one run."""

    kills: int
    calls: int
    """Different ones: what an undisturbed run sends."""
    repeats: tuple[int, ...]
    """Of each killed process: requests of which something was asked again later."""

    def __str__(self) -> str:
        total = sum(self.repeats)
        return (
            f"{self.kills} kills, {self.calls} calls, {total} repeated: {total / self.kills:.1f} a kill, "
            f"at most {max(self.repeats)}"
        )


class Killer:
    """A script around another one, that kills a process a moment after a certain request has come."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._number = 0
        self._timer: threading.Timer | None = None

    def aim(self, process: subprocess.Popen[str], *, number: int, delay: float) -> None:
        """At that request of the server's, counted from 1; `delay` in seconds."""
        self._timer = threading.Timer(delay, process.kill)
        self._number = number

    def __call__(self, body: dict[str, Any], n: int) -> Reply:
        if n == self._number and self._timer is not None:
            self._timer.start()
        return self._script(body, n)


def storm(
    project: Project,
    server: Server,
    *words: str,
    calls: int,
    kills: int,
    in_flight: int,
    seed: int,
    exactly: bool = True,
) -> Storm:
    """`flowllm run words` killed so often, resumed each time, and at last to its end.

    The moments are spread over the run by numbers of requests, so they are the same on any machine; what they hit within
    a call is left to chance. `calls` is how many requests are certain to be sent, and `exactly` that no others are.
    """
    draw = random.Random(seed)
    killer = server.script = Killer(server.script)
    server.latency = LATENCY
    given: tuple[str, ...] = ("run", *words, "--quiet")
    begun: list[int] = []
    for kill in range(kills):
        until(lambda: server.in_flight == 0, "the requests of the killed process to end")
        begun.append(len(server.requests))
        number = draw.randint(calls * kill // (kills + 1) + 1, calls * (kill + 1) // (kills + 1))
        process = project.start(*given)
        killer.aim(process, number=max(begun[-1] + 1, number), delay=draw.uniform(0, LATENCY))
        with killed_at_exit(process):
            _, said = process.communicate(timeout=HANG)
        assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {said}"
        given = ("resume", "--quiet")
    until(lambda: server.in_flight == 0, "the requests of the killed process to end")
    begun.append(len(server.requests))
    outcome = project.cli(*given)
    assert outcome.code == 0, outcome.said
    assert len(project.run_ids()) == 1
    found = _figures(server.requests, begun)
    assert max(found.repeats) <= in_flight, f"more was repeated than was in flight: {found.repeats}"
    if exactly:
        _each_is_kept_once(project, server.requests)
    return found


def asked(seen: Seen) -> list[str]:
    """What a request asks for, each by itself: texts to embed share one."""
    texts = seen.body.get("input")
    return texts if isinstance(texts, list) else [seen.prompt]


def _figures(requests: Sequence[Seen], begun: Sequence[int]) -> Storm:
    """By the number of requests at the beginning of each process."""
    last: dict[str, int] = {text: seen.n for seen in requests for text in asked(seen)}
    repeats: Counter[int] = Counter()
    sent: defaultdict[int, list[str]] = defaultdict(list)
    for seen in requests:
        process = sum(start < seen.n for start in begun)
        sent[process] += asked(seen)
        repeats[process] += any(last[text] != seen.n for text in asked(seen))
    for process, texts in sent.items():
        twice = [text for text, often in Counter(texts).items() if often > 1]
        assert not twice, f"process {process} itself sent {twice[:3]} twice"
    assert repeats[len(begun)] == 0
    kills = len(begun) - 1
    return Storm(kills=kills, calls=len(last), repeats=tuple(repeats[kill + 1] for kill in range(kills)))


def _each_is_kept_once(project: Project, requests: Sequence[Seen]) -> None:
    """Of each call one answer was kept, and was paid for by one attempt; those that were cut off are on record."""
    by_status = dict(project.rows("SELECT status, count(*) FROM attempts GROUP BY status"))
    assert set(by_status) <= {"succeeded", "unknown"}
    assert sum(by_status.values()) >= len(requests), "a request was sent before it was on record"
    ((kept,),) = project.rows("SELECT count(*) FROM memo")
    every = {text for seen in requests for text in asked(seen)}
    assert kept == len(every), "an answer that came was lost"
    chats = {seen.prompt for seen in requests if "messages" in seen.body}
    where = "status = 'succeeded' AND CAST(json_extract(usage, '$[1]') AS BIGINT) > 0"
    ((paid,),) = project.rows(f"SELECT count(*) FROM attempts WHERE {where}")
    assert paid == len(chats), "an answer that came was paid for twice"
