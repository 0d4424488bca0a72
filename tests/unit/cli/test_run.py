"""`run` and `resume` around an application that plays a given run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from click.testing import CliRunner, Result

from flowllm.app.result import EMPTY_STATS, RunResult
from flowllm.cli import signals
from flowllm.cli.main import cli
from flowllm.core.cancel import StopSignal
from flowllm.core.errors import RunOwned
from flowllm.core.types import RunId, RunStatus
from flowllm.datasets.file_writes import FileRegistry
from flowllm.reporting.base import Observer
from flowllm.runtime.options import RunOptions
from tests.support.events import ERROR, node_ended, notice, run_ended, run_started, stop_requested


def result(status: RunStatus = RunStatus.SUCCEEDED, **values: Any) -> RunResult:
    known: dict[str, Any] = {
        "run_id": RunId("20261121-abc"),
        "workflow": "blog",
        "status": status,
        "provider": "openai",
        "inputs": {},
        "outputs": {"headline": "Tea"},
        "steps": {},
        "stats": EMPTY_STATS,
    }
    return RunResult(**known | values)


class PlayedApp:
    """Takes the place of FlowLLM; `play` is what happens in a run."""

    database = "flowllm.db"

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    play: ClassVar[Callable[[Sequence[Observer], StopSignal], Awaitable[RunResult]]]

    def __init__(self, **location: Any) -> None:
        self.calls.append(("open", location))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.calls.append(("close", {}))

    async def run(
        self, workflow: str, *, observers: Sequence[Observer], stop: StopSignal, claims: FileRegistry, **given: Any
    ) -> RunResult:
        self.calls.append(("run", {"workflow": workflow, **given}))
        return await PlayedApp.play(observers, stop)

    async def resume(
        self, run_id: str | None, *, observers: Sequence[Observer], stop: StopSignal, claims: FileRegistry, **given: Any
    ) -> RunResult:
        self.calls.append(("resume", {"run_id": run_id, **given}))
        return await PlayedApp.play(observers, stop)

    async def result(self, run_id: str, *, full: bool) -> RunResult:
        return result(run_id=run_id, outputs={"headline": f"full: {full}"})


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> type[PlayedApp]:
    monkeypatch.setattr("flowllm.cli.database.FlowLLM", PlayedApp)
    PlayedApp.calls = []
    ending(RunStatus.SUCCEEDED)
    return PlayedApp


def ending(status: RunStatus, **values: Any) -> None:
    async def play(observers: Sequence[Observer], _stop: StopSignal) -> RunResult:
        for event in (run_started(nodes=1), node_ended("headline", total=1), run_ended(status=status)):
            for observer in observers:
                observer.handle(event)
        return result(status, **values)

    PlayedApp.play = play


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_outputs_on_standard_output_all_else_on_standard_error(app: type[PlayedApp]) -> None:
    done = invoke("run", "blog.yaml")
    assert done.exit_code == 0
    assert done.stdout == "headline\n--------\nTea\n"
    assert "1 of 1  OK        headline" in done.stderr
    assert "succeeded in 3.4s" in done.stderr
    assert "resume it with" not in done.stderr
    assert app.calls[-1] == ("close", {})


def test_quiet_says_nothing_of_a_success(app: type[PlayedApp]) -> None:
    done = invoke("run", "blog.yaml", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    ending(RunStatus.FAILED, outputs={})
    done = invoke("run", "blog.yaml", "-q")
    assert done.stderr.startswith("failed in 3.4s")


def test_json_is_the_object_of_the_contract(app: type[PlayedApp]) -> None:
    assert json.loads(invoke("run", "blog.yaml", "--json").stdout) == result().as_dict()
    full = json.loads(invoke("run", "blog.yaml", "--json", "--full").stdout)
    assert full == result(outputs={"headline": "full: True"}).as_dict()


@pytest.mark.parametrize(
    ("status", "code"),
    [(RunStatus.SUCCEEDED, 0), (RunStatus.FAILED, 1), (RunStatus.PAUSED, 3), (RunStatus.INTERRUPTED, 130)],
)
def test_exit_codes(app: type[PlayedApp], status: RunStatus, code: int) -> None:
    ending(status)
    assert invoke("run", "blog.yaml").exit_code == code
    assert invoke("resume").exit_code == code


def test_the_command_that_resumes_works_as_it_is_printed(app: type[PlayedApp]) -> None:
    ending(RunStatus.FAILED)
    done = invoke("run", "blog.yaml", "--db", "my runs.db", "--config", "f.yaml")
    assert "resume it with: flowllm resume 20261121-abc --db 'my runs.db' --config f.yaml" in done.stderr.splitlines()
    assert app.calls[0] == ("open", {"database": "my runs.db", "config": "f.yaml"})


def test_every_option_reaches_the_run(app: type[PlayedApp], tmp_path: Path) -> None:
    (tmp_path / "in.yaml").write_text("a: 1\n")
    done = invoke(
        *("run", "blog.yaml", "-i", "b=2", "--inputs", str(tmp_path / "in.yaml"), "--provider", "simulated"),
        *("--model", "m", "--set", "judge.model=x=y", "--set", "a.cache=false", "--max-concurrent", "3"),
        *("--no-cache", "--refresh", "a", "--refresh", "b", "--until", "c", "--fail-fast", "--grace", "5m"),
        *("--priority", "high", "--workers", "4"),
    )
    assert done.exit_code == 0, done.stderr
    assert app.calls[1] == (
        "run",
        {
            "workflow": "blog.yaml",
            "inputs": {"a": 1},
            "input_text": {"b": "2"},
            "options": RunOptions(
                provider="simulated",
                model="m",
                settings={"judge.model": "x=y", "a.cache": "false"},
                max_concurrent=3,
                no_cache=True,
                refresh=("a", "b"),
                until="c",
                fail_fast=True,
                grace=300.0,
                priority="high",
            ),
            "workers": 4,
        },
    )


def test_without_options_the_defaults_hold(app: type[PlayedApp]) -> None:
    invoke("run", "blog.yaml")
    assert app.calls[1][1]["options"] == RunOptions()


def test_resume_passes_on_what_was_said(app: type[PlayedApp], tmp_path: Path) -> None:
    letters = tmp_path / "letters.jsonl"
    letters.write_text('{"n": 1, "_node": "a[1]"}\n')
    invoke(
        *("resume", "20261121", "--file", "new.yaml", "--retry-failed", "--until", "x"),
        *("-i", "n=1", "--mended", str(letters), "--budget", "usd=2.5", "--workers", "0"),
    )
    assert app.calls[1] == (
        "resume",
        {
            "run_id": "20261121",
            "file": "new.yaml",
            "inputs": {},
            "input_text": {"n": "1"},
            "mended": [{"n": 1, "_node": "a[1]"}],
            "retry_failed": True,
            "until": "x",
            "budget": {"usd": 2.5},
            "cluster": None,
            "workers": 0,
        },
    )
    invoke("resume")
    assert app.calls[4][1]["run_id"] is None


def test_a_run_that_has_succeeded_already_is_said_so(app: type[PlayedApp]) -> None:
    async def play(_observers: Sequence[Observer], _stop: StopSignal) -> RunResult:
        return result()

    PlayedApp.play = play
    done = invoke("resume", "20261121-abc")
    assert done.exit_code == 0
    assert done.stderr == "run 20261121-abc has succeeded already; nothing was done\n"
    assert "Tea" in done.stdout


def test_events_are_written_to_the_file(app: type[PlayedApp], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert invoke("run", "blog.yaml", "--events", str(path)).exit_code == 0
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "RunStarted",
        "NodeEnded",
        "RunEnded",
    ]
    done = invoke("run", "blog.yaml", "--events", str(tmp_path / "no" / "events.jsonl"))
    assert done.exit_code == 2
    assert "cannot write events" in done.stderr


def test_an_error_before_the_run_is_reported(app: type[PlayedApp]) -> None:
    async def play(_observers: Sequence[Observer], _stop: StopSignal) -> RunResult:
        raise RunOwned("run x is owned by process 7 on host", hint="wait for it")

    PlayedApp.play = play
    done = invoke("resume", "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: run x is owned by process 7 on host\n  wait for it\n"


def test_notices_are_shown_even_when_quiet(app: type[PlayedApp]) -> None:
    async def play(observers: Sequence[Observer], _stop: StopSignal) -> RunResult:
        for observer in observers:
            observer.handle(notice("blog.yaml was edited"))
        return result()

    PlayedApp.play = play
    assert "notice: blog.yaml was edited" in invoke("resume", "-q").stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_and_a_second_one_cancels_it(
    app: type[PlayedApp], number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_GUARD", "")  # it could end this process
    heard: list[str] = []

    async def play(observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        cancelled = asyncio.Event()

        def asked() -> None:
            heard.append(str(stop.reason))
            for observer in observers:
                observer.handle(stop_requested(reason=stop.reason))
            os.kill(os.getpid(), signal.SIGTERM)

        stop.listen(cancelled, asked, cancelled.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(cancelled.wait(), 10)
        for observer in observers:
            observer.handle(run_ended(status=RunStatus.INTERRUPTED))
        return result(RunStatus.INTERRUPTED, error=ERROR)

    PlayedApp.play = play
    done = invoke("run", "blog.yaml", "--grace", "5s")
    assert done.exit_code == code
    assert len(heard) == 1
    assert "nothing new is sent, waiting for 3 calls in flight (up to 5 s)" in done.stderr
    assert "stopping at once" in done.stderr
    assert "resume it with: flowllm resume 20261121-abc" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_end_does_not_lose_the_results(
    app: type[PlayedApp], number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_GUARD", "")

    async def close(_app: PlayedApp, *_exception: object) -> None:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0)

    monkeypatch.setattr(app, "__aexit__", close)
    done = invoke("run", "blog.yaml")
    assert (done.exit_code, done.stdout) == (0, "headline\n--------\nTea\n")


def test_a_run_that_is_cancelled_and_does_not_get_done_is_left_as_it_is(
    app: type[PlayedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_GUARD", "")
    monkeypatch.setattr(signals, "BEAT", 0.001)
    left: list[int] = []
    monkeypatch.setattr("os._exit", left.append)

    async def play(_observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        stop.listen("test", lambda: os.kill(os.getpid(), signal.SIGINT))
        os.kill(os.getpid(), signal.SIGTERM)
        while not left:  # the loop turns
            await asyncio.sleep(0)
        return result(RunStatus.INTERRUPTED)

    PlayedApp.play = play
    invoke("run", "blog.yaml")
    assert left == [143]


def test_a_run_that_finishes_all_the_same_succeeded(app: type[PlayedApp], monkeypatch: pytest.MonkeyPatch) -> None:
    guards: list[int | None] = []

    def guarded(*given: Any) -> int | None:
        guards.append(really(*given))
        return guards[0]

    really = signals._guarded
    monkeypatch.setattr(signals, "_guarded", guarded)

    async def play(_observers: Sequence[Observer], stop: StopSignal) -> RunResult:
        asked = asyncio.Event()
        stop.listen(asked, asked.set)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(asked.wait(), 10)
        return result()

    PlayedApp.play = play
    before = signal.getsignal(signal.SIGTERM)
    assert invoke("run", "blog.yaml").exit_code == 0
    assert signal.getsignal(signal.SIGTERM) == before
    (guard,) = guards
    assert guard is not None
    with pytest.raises(ProcessLookupError):
        os.kill(guard, 0)
