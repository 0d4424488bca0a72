"""A run is followed by its record: what is told of it is what its own observers hear."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowllm.core.events import Event, FanOutCounted
from flowllm.core.types import NodeStatus, RunId, RunStatus
from flowllm.reporting.base import AccountState
from flowllm.reporting.live_model import LiveModel
from flowllm.reporting.live_snapshot import LiveSnapshot
from flowllm.runtime.options import RunOptions
from flowllm.views.follow import RunFollower
from tests.support.project import Project
from tests.support.virtual import LoopClock, run_virtual
from tests.support.virtual_app import opened

FLOW = """
name: followed
defaults: {provider: sim, model: m}
providers: {sim: {type: simulated, latency: 1s, error_rate: 8%, seed: 3, limits: {max_concurrent: 10, requests_per_minute: 600}}}
steps:
  first: {prompt: "Say hello"}
  many: {foreach: {file: rows.txt}, prompt: "{{ first }} {{ item }}", retry: {max_attempts: 1}, on_error: continue}
  posts:
    foreach: {file: rows.txt}
    with: {text: "{{ item }}"}
    workflow:
      inputs: {text: }
      steps:
        head: {prompt: "Head {{ inputs.text }}"}
        parts: {foreach: [a, b], prompt: "{{ item }} of {{ head }}"}
    on_error: continue
  last: {value: "{{ many | length }} {{ posts | length }}"}
"""


class Own:
    """What the run's own observer hears."""

    def __init__(self) -> None:
        self.model = LiveModel()
        self.counted: list[int] = []

    def handle(self, event: Event) -> None:
        self.model.handle(event)
        if isinstance(event, FanOutCounted):
            self.counted.append(event.total)

    def look(self, now: float, accounts: dict[str, AccountState]) -> None:
        self.model.look(accounts)


def shares(snapshot: LiveSnapshot) -> list[tuple[str, NodeStatus, int | None, int, int]]:
    return [(step.name, step.status, step.total, step.ended, step.failed) for step in snapshot.steps]


def test_a_follower_sees_a_run_as_the_run_sees_itself(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    (tmp_path / "rows.txt").write_text("".join(f"row {n}\n" for n in range(120)))
    clock, own, seen = LoopClock(), Own(), LiveModel()

    async def follow(run_id: RunId) -> list[tuple[LiveSnapshot, LiveSnapshot]]:
        run = await app.store.run(run_id)
        started = app.started(run)
        seen.handle(started)
        follower, found = RunFollower(app.store, run, started.steps), []
        while seen.ended is None:
            for event in await follower.events(run, clock.now()):
                seen.handle(event)
            seen.look(await follower.accounts(clock.now()))
            found.append((own.model.snapshot(clock.now()), seen.snapshot(clock.now())))
            await asyncio.sleep(0.5)
            run = await app.store.run(run_id)
        return found

    async def main() -> None:
        async with app:
            running = asyncio.ensure_future(app.run(tmp_path / "flow.yaml", options=RunOptions(), observers=[own]))
            while own.model.started is None:
                await asyncio.sleep(0.1)
            await asyncio.sleep(3.3)
            [run] = await app.store.runs()
            following = await follow(run.run_id)
            await running
        assert own.counted == [120, 120]
        later = [pair for pair in following if pair[1].status is RunStatus.RUNNING and pair[1].steps[1].ended]
        assert len(later) > 8
        for its_own, followed in later:
            many, seen_many = its_own.steps[1], followed.steps[1]
            assert seen_many.total == many.total == 120
            assert abs(seen_many.ended - many.ended) <= 20, "but for what ends, or is committed, meanwhile"
            assert abs(seen_many.failed - many.failed) <= 20
        inner = [step for _, followed in later for step in followed.steps if step.depth and step.in_flight == 0]
        assert {step.name for step in inner if step.per_second} == {"posts.head", "posts.parts"}
        assert 240 in {step.total for step in inner if step.name == "posts.parts"}
        assert max(followed.in_flight for _, followed in later) == 10
        assert {followed.requests.limit for _, followed in later} >= {600}
        assert any(followed.steps[1].per_second for _, followed in later)
        last = following[-1][1]
        assert (last.status, last.done) == (RunStatus.SUCCEEDED, 4)
        assert last.elapsed_s == pytest.approx(own.model.snapshot(0.0).elapsed_s, abs=0.01)
        assert shares(last) == shares(own.model.snapshot(clock.now()))

    app = opened(clock)
    run_virtual(main())


def test_watch_shows_the_end_of_a_run_and_exits_with_its_code(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.cli("watch").err.startswith("error: there is no run yet")
    project.write(
        "flow.yaml",
        """
        name: slow
        defaults: {provider: s, model: m}
        providers: {s: {type: simulated, latency: 0.3s}}
        steps: {a: {prompt: Say a}, b: {foreach: [1, 0], value: "{{ 1 / item }}"}, c: {prompt: "Say {{ a }}"}}
        """,
    )
    running = project.start("run", "flow.yaml")
    assert running.stderr is not None
    assert running.stderr.readline().startswith("run ")
    watched = project.cli("watch")
    assert project.finish(running).code == watched.code == 1
    assert ": slow, 3 steps, provider s" in watched.err
    assert "OK        c" in watched.err
    assert "resume it with: flowllm resume " in watched.err
    assert watched.err.count("ItemsFailed") == 1
    again = project.cli("watch", project.run_ids()[0])
    assert (again.code, again.out) == (1, "")
    assert "failed in" in again.err
