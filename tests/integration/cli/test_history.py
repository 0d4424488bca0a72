"""Runs, and what the commands of history tell of them, through the command line and the real application."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flowllm.cli.files import starter_files
from flowllm.cli.main import cli
from flowllm.reporting.text import duration

FAILING = """\
name: failing
defaults: {provider: simulated, model: gpt-4o-mini}
inputs: {n: {type: integer, default: 0}}
steps:
  good: {prompt: "Say hello. \\e[31mred"}
  bad: {value: "{{ 1 / inputs.n }}"}
  after: {prompt: "Explain {{ bad }}"}
  never: {prompt: Never, when: "{{ false }}"}
outputs: {good: "{{ good }}", after: "{{ after }}"}
"""
SLOW = """\
name: slow
defaults: {provider: s, model: m}
providers: {s: {type: simulated, latency: 30s}}
steps: {a: {prompt: Say a}, b: {prompt: "Say {{ a }}"}}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "FLOWLLM_")):
            monkeypatch.delenv(name)
    for name, text in starter_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "failing.yaml").write_text(FAILING)
    (tmp_path / "slow.yaml").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flowllm(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == code, done.output
    return done


def data(*arguments: str, code: int = 0) -> Any:
    return json.loads(flowllm(*arguments, "--json", code=code).stdout)


def test_a_run_and_its_history() -> None:
    run = data("run", "workflows/blog.yaml", "-i", "topic=Tea")
    assert run["status"] == "succeeded"
    assert run["inputs"]["topic"] == "Tea"
    assert list(run["steps"]) == ["headline", "keywords", "intro", "outline"]
    assert run["requests"]["sent"] == 4

    shown = data("show", run["run_id"])
    assert {name: shown[name] for name in run if name != "steps"} == {
        name: run[name] for name in run if name != "steps"
    }
    for name, step in run["steps"].items():
        assert step.items() <= shown["steps"][name].items()
    headline = shown["steps"]["headline"]
    assert "Tea" in json.dumps(headline["request"])
    assert [attempt["status"] for attempt in headline["attempt_log"]] == ["succeeded"]
    assert data("show", "last", "headline") == headline

    [listed] = data("runs")
    assert listed["run_id"] == run["run_id"]
    assert listed["steps"] == {"succeeded": 4, "total": 4}
    assert data("runs", "--workflow", "other") == []


def test_an_equal_run_is_cached_and_a_changed_one_says_why() -> None:
    first = data("run", "workflows/blog.yaml", "-i", "topic=Tea")
    again = flowllm("run", "workflows/blog.yaml", "-i", "topic=Tea")
    assert "CACHED    headline" in again.stderr
    assert "0 sent, 4 cached" in again.stderr
    flowllm("run", "workflows/blog.yaml", "-i", "topic=Coffee")
    why = data("why", "last", "headline")
    assert why["status"] == "succeeded"
    assert [change["path"] for change in why["changes"]] == ["prompt"]
    told = flowllm("why", "last", "headline").stdout
    assert "    - Write one compelling headline for a blog post about Tea." in told
    assert "    + Write one compelling headline for a blog post about Coffee." in told
    assert "because input topic changed" in told
    assert data("cache", "stats")["entries"] == 8
    flowllm("cache", "clear", "--yes")
    assert data("cache", "stats")["entries"] == 0
    assert data("show", first["run_id"])["outputs"] == first["outputs"]


def test_plan_tells_what_would_be_sent() -> None:
    before = data("plan", "workflows/blog.yaml")
    assert before["steps"]["headline"]["state"] == "send"
    assert before["critical_path"] == ["headline", "intro", "outline"]
    assert data("runs") == []
    flowllm("run", "workflows/blog.yaml")
    after = data("plan", "workflows/blog.yaml")
    assert {step["state"] for step in after["steps"].values()} == {"cached"}
    assert after["requests"] == 0
    text = flowllm("plan", "workflows/blog.yaml", "--refresh", "headline").stdout
    assert re.search(r"path     headline \S+ → intro \S+ → outline \S+; at most 2 steps at a time", text)
    assert "basis    3 earlier calls" in text
    assert "--refresh" in text


def test_a_failed_run_is_reported_shown_drawn_and_resumed() -> None:
    failed = flowllm("run", "failing.yaml", code=1)
    assert "division by zero" in failed.stderr
    assert failed.stdout.startswith("good\n----\n")
    assert "after\n" not in failed.stdout
    run_id = data("runs")[0]["run_id"]
    assert f"resume it with: flowllm resume {run_id}" in failed.stderr

    shown = flowllm("show", run_id).stdout
    assert "bad    value   failed" in shown
    assert f"resume it with: flowllm resume {run_id}" in shown
    step = flowllm("show", run_id, "bad").stdout
    assert "error: TemplateFailed:" in step
    prompt = flowllm("show", run_id, "good").stdout
    assert "user\n----\nSay hello. \\x1b[31mred" in prompt
    assert "\x1b" not in prompt
    drawn = flowllm("graph", "failing.yaml", "--run", run_id).stdout
    assert "✗ bad    value   failed" in drawn
    assert "■ after  prompt  blocked    ◀── bad" in drawn

    assert "null" not in shown, "an output that it has not come to"
    assert "since it was last resumed" not in shown

    resumed = data("resume", code=1)
    shown, took_s = flowllm("show", run_id).stdout, data("runs")[0]["duration_s"]
    assert "  since it was last resumed:\n  requests: 0 sent" in shown
    assert f", after {duration(took_s)}\n" in shown, "what both attempts took"
    assert took_s > resumed["duration_s"]
    assert resumed["run_id"] == run_id
    assert resumed["requests"]["sent"] == 0
    assert resumed["outputs"]["after"] is None


def test_runs_are_found_by_the_beginning_of_their_id_or_not_at_all() -> None:
    assert "no run yet" in flowllm("show", "last", code=2).stderr
    assert "no runs yet" in flowllm("runs").stderr
    run = data("run", "failing.yaml", code=1)
    assert data("show", run["run_id"][:-1])["run_id"] == run["run_id"]
    assert "error: " in flowllm("show", "nonsense", code=2).stderr
    missing = flowllm("show", "last", "goodd", code=2)
    assert "did you mean `good`?" in missing.stderr


def test_runs_are_listed_by_status_age_workflow_and_tag() -> None:
    assert "no runs yet" in flowllm("runs", "--status", "failed").output
    for tags in (["nightly", "v2"], []):
        flowllm("run", "workflows/blog.yaml", "--provider", "simulated", "-q", *(f"--tag={tag}" for tag in tags))
    flowllm("run", "failing.yaml", "--tag", "nightly", "-q", code=1)
    broken, plain, tagged = data("runs")
    assert [one["tags"] for one in (broken, plain, tagged)] == [["nightly"], [], ["nightly", "v2"]]
    assert data("runs", "--tag", "nightly", "--status", "failed", "--since", "2d") == [broken]
    assert data("runs", "--tag", "nightly", "--workflow", "blog", "--since", "2020-01-31") == [tagged]
    assert data("resume", broken["run_id"], "-i", "n=1")["tags"] == data("show", "last")["tags"] == ["nightly"]
    listed = flowllm("runs")
    assert "nightly, v2" in listed.output
    assert listed.stderr == "3 runs: $0 in all\n"
    assert flowllm("runs", "--limit", "2").stderr == "2 runs (--limit shows more): $0 in all\n"
    assert "no run has the tag `nightyl`: did you mean `nightly`?" in flowllm("runs", "--tag", "nightyl").output
    assert "no run has the workflow `blgo`: did you mean `blog`?" in flowllm("runs", "--workflow", "blgo").output
    nothing = flowllm("runs", "--status", "paused", "--since", "2020-01-31T10:00+02:00").output
    assert re.search(r"no run since \S+ \S+ \S+ with status paused; `flowllm runs` lists all", nothing), nothing
    assert "neither a time like" in flowllm("runs", "--since", "soon", code=2).output
    assert (
        "--tag chooses what is listed" in flowllm("runs", "--tag", "v2", "prune", "--older-than", "1s", code=2).output
    )
    assert "a tag is one line" in flowllm("run", "failing.yaml", "--tag", "a\nb", code=2).output


def test_what_to_do_about_an_error_is_done_in_the_database_that_was_named() -> None:
    flowllm("run", "failing.yaml", "-q", "--db", "other data.db", code=1)
    unknown = flowllm("show", "last", "bad.x", "--db", "other data.db", code=2).output
    assert re.search(r"`flowllm show \S+ bad --db 'other data.db'` shows what is within bad", unknown), unknown
    assert "start one with `flowllm run FILE`\n" in flowllm("show", "last", code=2).output


def test_runs_are_deleted_and_pruned_while_stored_answers_stay() -> None:
    first = data("run", "workflows/blog.yaml")
    data("run", "workflows/blog.yaml")
    assert flowllm("runs", "delete", first["run_id"]).stderr.startswith("deleted 1 run")
    assert len(data("runs")) == 1
    assert flowllm("runs", "prune", "--older-than", "1d").stderr == "deleted 0 runs\n"
    refused = flowllm("runs", "prune", "--older-than", "0s", code=2).stderr
    assert "this would delete 1 run that ended before" in refused
    assert "add --yes" in refused
    assert len(data("runs")) == 1
    assert flowllm("runs", "prune", "--older-than", "0s", "--yes").stderr.startswith("deleted 1 run")
    assert data("cache", "stats")["entries"] == 4
    assert "add --yes" in flowllm("cache", "prune", "--older-than", "1d", code=2).stderr
    assert flowllm("cache", "prune", "--older-than", "1d", "--yes").stderr == "removed 0 stored answers\n"
    assert flowllm("cache", "prune", "--older-than", "0s", "-y").stderr.startswith("removed 4 stored answers")


def test_the_space_of_what_is_removed_goes_back_to_the_disk(project: Path) -> None:
    text = "{{ range(item, item + 30_000) | join }}"
    (project / "w.yaml").write_text(f"steps: {{a: {{foreach: {[n * 30_000 for n in range(10)]}, value: '{text}'}}}}\n")
    flowllm("run", "w.yaml")
    database = project / ".flowllm" / "flowllm.db"
    before = database.stat().st_size
    assert before > 500_000
    assert "MiB given back to the disk" in flowllm("runs", "prune", "--older-than", "0s", "--yes").stderr
    assert database.stat().st_size < before / 4


def test_what_a_function_asked_is_shown_in_the_order_of_its_calls(project: Path) -> None:
    (project / "asks.py").write_text(
        "import asyncio\n"
        "async def work(ask):\n"
        "    last = [ask(str(n)) for n in range(12)]\n"
        "    await asyncio.gather(*reversed(last))\n"
        "    return [0.5, 2, -1e-9]\n"
    )
    text = "defaults: {provider: simulated}\nsteps: {a: {python: './asks.py:work', asks: true}}\n"
    (project / "asks.yaml").write_text(text)
    flowllm("run", "asks.yaml", "--limit", "3")
    told = flowllm("show", "last", "a").output
    assert [line.split()[0] for line in told.splitlines() if line.startswith("a.ask[")] == [
        f"a.ask[{number}]" for number in range(12)
    ]
    assert "\n[0.5, 2, -1e-09]\n" in told
    assert data("show", "last")["options"].keys() == {"limit", "config", "given"}


def test_groups_pass_their_place_on(project: Path) -> None:
    flowllm("run", "workflows/blog.yaml", "--db", "other.db")
    assert data("runs") == []
    assert flowllm("runs", "--db", "other.db", "prune", "--older-than", "0s", "-y").stderr.startswith("deleted 1 run")


def test_a_run_of_a_workflow_that_no_longer_loads_can_be_shown(project: Path) -> None:
    (project / "flowllm.yaml").write_text("providers: {mine: {type: simulated}}\n")
    (project / "w.yaml").write_text("name: w\ndefaults: {provider: mine, model: m}\nsteps: {a: {prompt: Hi}}\n")
    flowllm("run", "w.yaml")
    (project / "flowllm.yaml").unlink()
    assert data("show", "last")["workflow"] == "w"


def test_results_can_be_piped_to_a_reader_that_leaves() -> None:
    flowllm("run", "workflows/blog.yaml")
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.readline()"], stdin=subprocess.PIPE) as reader:
        assert reader.stdin is not None
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from flowllm.cli.main import main; import sys; sys.argv[1:] = 'show', 'last'; main()",
            ],
            stdout=reader.stdin,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
        reader.stdin.close()
    assert done.stderr == ""


def test_nothing_is_coloured_off_a_terminal_and_no_markup_is_read(project: Path) -> None:
    (project / "w.yaml").write_text(
        r"""name: '[bold]w[/x]'
steps: {a: {value: "[red]x[/y] \e[31m"}}
outputs: {o: "{{ a }}"}
"""
    )
    done = flowllm("run", "w.yaml")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout == "o\n-\n[red]x[/y] \\x1b[31m\n"
    assert ": [bold]w[/x], 1 step" in done.stderr


def test_inputs_that_do_not_fit_are_wrong_usage() -> None:
    done = flowllm("run", "failing.yaml", "-i", "n=many", code=2)
    assert done.stdout == ""
    assert "`n`" in done.stderr
    assert "error: " in flowllm("run", "failing.yaml", "-i", "m=1", code=2).stderr
    assert data("runs") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal_interrupts_a_real_run(project: Path, number: signal.Signals, code: int) -> None:
    events = project / "events.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "flowllm", "run", "slow.yaml", "--grace", "100ms", "--events", str(events)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not (events.exists() and "RequestSent" in events.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    assert "stopping" in err
    assert "waiting for 1 call in flight (up to 0.1 s)" in err
    [run] = data("runs")
    assert run["status"] == "interrupted"
    assert run["steps"] == {"succeeded": 0, "total": 2}
    assert err.rstrip().endswith(f"resume it with: flowllm resume {run['run_id']}")


def test_figures_of_a_run_are_what_was_sent_and_of_a_resume_what_was_reused(project: Path) -> None:
    (project / "flow.yaml").write_text(
        "defaults: {provider: simulated, model: m}\n"
        "steps:\n"
        "  each:\n"
        "    foreach: [x]\n"
        '    with: {n: "{{ item }}"}\n'
        "    workflow:\n"
        "      inputs: {n: }\n"
        '      steps: {a: {prompt: "{{ inputs.n }}"}, b: {prompt: "{{ a }}!"}, c: {shell: "cat", stdin: "{{ b }}"}}\n'
        '      outputs: {c: "{{ c }}"}\n'
        '  bad: {value: "{{ 1 / 0 }}"}\n'
    )
    said = flowllm("run", "flow.yaml", code=1).stderr
    assert "2 requests]" in next(line for line in said.splitlines() if "OK        each 1 item" in line)
    assert "resume it with" in said
    again = flowllm("resume", code=1).stderr
    assert "REUSED    each 1 item\n" in again
    assert "1 reused, 1 failed" in again
    assert "resume it with" not in flowllm("run", "flow.yaml", "--db", "memory:", code=1).stderr


def test_a_plan_tells_what_is_known_and_what_that_leaves_out(project: Path) -> None:
    (project / "flow.yaml").write_text(
        "defaults: {provider: simulated, model: gpt-4o-mini, max_tokens: 1000}\n"
        'steps: {a: {prompt: hi}, b: {prompt: "{{ a }}"}, c: {foreach: "{{ b }}", prompt: "{{ item }}"}}\n'
    )
    said = flowllm("plan", "flow.yaml").stdout
    assert re.search(r"1  a +send +1 +~8 +≤1,000  never answered before", said)
    assert re.search(r"1/item +unknown +≤1,000/item", said)
    assert "unknown  what 1 step will take at most" in said
    planned = data("plan", "flow.yaml")
    assert (planned["output_tokens"], planned["at_least"]["output_tokens"]) == (None, 2000)
