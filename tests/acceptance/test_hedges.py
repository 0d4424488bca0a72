"""Requests that hang, at a real server behind the real client: sent once more, and the first answer is taken."""

from __future__ import annotations

import json
import re
from typing import Any

from flowllm.events import NodeHedged
from tests.support.author import Author
from tests.support.project import Project, as_yaml, killed_at_exit, prompts, until
from tests.support.replies import Reply, echo, prompt_of
from tests.support.server import Server
from tests.support.web import answer, running_web

HANG = 3600.0
SOON = {"hedge": "200ms"}


def hangs(word: str, *, times: int = 1) -> Any:
    """The first so many requests with that word in their prompt are not answered."""
    seen = []

    def script(body: dict[str, Any], n: int) -> Reply:
        if word in prompt_of(body).split():
            seen.append(n)
            return Reply(delay=HANG) if len(seen) <= times else Reply(text="at last")
        return echo(body, n)

    return script


def test_one_that_hangs_is_sent_twice_and_everything_says_so(project: Project, server: Server) -> None:
    server.script = hangs("one")
    file = project.flow(steps=prompts(a="one", b="{{ a }} and two"), defaults={"model": "m", "retry": SOON})
    done = project.cli("run", file, "--events", "events.jsonl")
    assert done.code == 0, done.said
    assert "requests: 3 sent, 1 sent twice;" in done.out + done.err
    assert "HEDGE     a takes long: sent once more, the first answer counts" in done.out + done.err
    first, second, _ = server.requests
    assert first.raw == second.raw
    until(lambda: first.cut_off, "the connection of the first to be closed")
    assert (first.status, second.status) == (None, 200)

    shown = project.json("show", "last")
    assert (shown["requests"]["hedged"], shown["steps"]["a"]["output"]) == (1, "at last")
    assert (shown["cost_usd"], shown["unknown"]["requests"]) == (None, 1), "nobody knows what the first one costs"
    log = project.json("show", "last", "a")["attempt_log"]
    assert [(one["number"], one["status"], (one["error"] or {}).get("type")) for one in log] == [
        (1, "unknown", "Abandoned"),
        (2, "succeeded", None),
    ]
    assert "another attempt at the same was answered first" in project.cli("show", "last", "a").out
    assert project.json("why", "last", "a")["hedged"] == 1
    assert "1 request took long, and was sent twice" in project.cli("why", "last", "a").out
    events = [json.loads(line) for line in (project.folder / "events.jsonl").read_text().splitlines()]
    assert [event["hedge"] for event in events if event["event"] == "RequestSent"] == [False, True, False]


def test_what_is_late_is_learned_and_few_are_sent_twice(project: Project, server: Server) -> None:
    server.script = hangs("77")
    items = {"ask": {"foreach": "{{ range(150) | list }}", "prompt": "number {{ item }} please"}}
    file = project.flow(steps=items, defaults={"model": "m"}, limits={"max_concurrent": 20})
    done = project.json("run", file)
    assert done["steps"]["ask"]["counts"]["succeeded"] == 150
    # a slow machine may make others late; their second attempts are bounded all the same
    assert 1 <= done["requests"]["hedged"] <= 1 + 150 // 50
    assert len(server.requests) == 150 + done["requests"]["hedged"]
    log = project.json("show", "last", "ask[77]")["attempt_log"]
    assert [one["status"] for one in log] == ["unknown", "succeeded"]


def test_killed_with_two_attempts_on_their_way_both_are_on_record_and_one_more_is_sent(
    project: Project, server: Server
) -> None:
    server.script = hangs("one", times=2)
    process = project.start("run", project.flow(steps=prompts(a="one"), defaults={"model": "m", "retry": SOON}))
    with killed_at_exit(process):
        until(lambda: len(server.requests) == 2, "the second attempt", of=process)
    assert project.rows("SELECT number, status FROM attempts ORDER BY number") == [(1, "sent"), (2, "sent")]
    assert project.json("resume", "last")["outputs"] == {}
    assert len(server.requests) == 3
    log = project.json("show", "last", "a")["attempt_log"]
    assert [one["status"] for one in log] == ["unknown", "unknown", "succeeded"]


def test_what_is_known_of_a_step_is_told_beside_what_is_not(project: Project, server: Server) -> None:
    server.script = hangs("2")
    step = {"foreach": [1, 2, 3], "prompt": "ask {{ item }}"}
    file = project.flow(steps={"ask": step}, defaults={"model": "m", "retry": SOON, "max_tokens": 50})
    said = project.cli("run", file).err
    assert re.search(r"OK +ask\[1\] \[.*\d+ tokens and 1 request of unknown use, 2 attempts\]", said), said
    assert re.search(r"OK +ask 3 items \[\d+ tokens and 1 request of unknown use, 4 requests\]", said), said
    step = project.json("show", "last", "ask")
    known, unknown = step["at_least"], step["unknown"]
    assert (unknown["requests"], known["output_tokens"] > 0, step["usage"]["output_tokens"]) == (1, True, None)
    told = f"{known['input_tokens']} in, {known['output_tokens']} out, and up to {unknown['reserved_tokens']} for 1 request"
    assert f"tokens       {told} of unknown use" in project.cli("show", "last", "ask").out
    assert f"at least {known['input_tokens'] + known['output_tokens']}" in project.cli("show", "last").out
    assert project.json("show", "last")["steps"]["ask"]["at_least"] == known


def test_requests_that_only_read_are_sent_twice_too(author: Author) -> None:
    half = b"HTTP/1.1 200 Said\r\nContent-Length: 9\r\n\r\n"
    with running_web(lambda asked: half if asked.n == 1 else answer({"n": asked.n})) as web:
        step = {"http": {"url": web.url, "allow_private": True}, "retry": SOON}
        flow = as_yaml({"steps": {"it": step}, "outputs": {"it": "{{ it.body }}"}})
        done = author.run(flow)
        assert done.outputs["it"] == {"n": 2}
        assert len(web.asked) == 2
    (hedged,) = (event for event in author.events if isinstance(event, NodeHedged))
    assert (hedged.node_id, hedged.attempt) == ("it", 2)
    assert done.stats["requests"]["hedged"] == 1
