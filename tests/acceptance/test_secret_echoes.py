"""A server that echoes its key in every field, and where texts are cut: no part of it is left anywhere (P12)."""

from __future__ import annotations

import base64
import html
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.project import QUICK, Outcome, Project, prompts
from tests.support.replies import Reply
from tests.support.server import Server

KEY = "sk-Canary/7f3a+91c2.Xy=="
PARTS = [KEY[:start] for start in range(8, len(KEY))] + [KEY[start:] for start in range(2, len(KEY) - 8)]
"""A part of it is as bad as all of it."""
LIMITS = (200, 300, 1000, 4000, 64 * 1024, 256 * 1024)
"""Characters and bytes at which some text is cut somewhere."""


def _left(project: Project, *outcomes: Outcome) -> list[tuple[str, str]]:
    """Where parts of the key are, and which: in the database, its log, the events, and all that was printed."""
    places = {
        str(path.relative_to(project.folder)): path.read_bytes().decode(errors="replace")
        for path in project.folder.rglob("*")
        if path.is_file() and path.suffix != ".yaml"
    }
    for number, outcome in enumerate(outcomes):
        places |= {f"stdout {number}": outcome.out, f"stderr {number}": outcome.err}
    encoded = base64.b64encode(KEY.encode()).decode()
    needles = [*PARTS, encoded[:12], quote(KEY, safe=""), html.escape(KEY), json.dumps(KEY)[1:-1]]
    return [(place, part) for place, text in places.items() for part in needles if part in text][:5]


def _looked_at(project: Project) -> list[Outcome]:
    commands = (
        ("show", "last", "--json"),
        ("show", "last", "a"),
        ("failed", "last"),
        ("export", "last", "a"),
        ("runs", "--json"),
        ("cache", "stats", "--json"),
        ("doctor",),
    )
    return [project.cli(*words, OPENAI_API_KEY=KEY) for words in commands]


def _everywhere(n: int) -> dict[str, Any]:
    """An answer with the key as it is in each of its fields."""
    return {
        "id": KEY,
        "object": KEY,
        "model": f"model-of-{KEY}",
        "system_fingerprint": KEY,
        "service_tier": KEY,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop" if n % 2 else f"ended by {KEY}",
                "message": {
                    "role": KEY,
                    "content": f"Bearer {KEY} {quote(KEY)} {quote(KEY, safe='').lower()} {html.escape(KEY)} "
                    f"{base64.b64encode(f'user:{KEY}'.encode()).decode()} {KEY!r}",
                },
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def test_a_key_in_every_field_and_header_of_an_answer(project: Project, server: Server) -> None:
    server.script = lambda _body, n: Reply(
        body=json.dumps(_everywhere(n)).encode(),
        headers={"x-request-id": KEY, "x-ratelimit-limit-requests": KEY, "server": KEY},
    )
    steps = {**prompts(a="a", b="b"), "c": {"prompt": "c", "output": {"type": "object"}, "on_error": "continue"}}
    words = ("run", project.flow(steps=steps), "--events", "events.jsonl", "--json", "--debug")
    outcome = project.run(*words, OPENAI_API_KEY=KEY)
    assert outcome.code == 0, outcome.said
    assert outcome.json["steps"]["a"]["model"] == "model-of-***"
    assert _left(project, outcome, *_looked_at(project)) == []


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("shape", ["words", "json", "escaped"])
def test_a_key_where_what_a_server_says_is_cut(status: int, shape: str, project: Project, server: Server) -> None:
    """With its beginning at every place around each limit, all of them in one run."""
    starts = [limit - before for limit in LIMITS for before in (len(KEY) + 1, len(KEY) // 2, 8, 1)]

    def script(_body: dict[str, Any], n: int) -> Reply:
        told = "x" * (starts[(n - 1) % len(starts)] - 30) + KEY * 3 + "y" * 500
        body = told if shape == "words" else json.dumps({"error": {"message": told, "code": KEY, "type": KEY}})
        if shape == "escaped":
            body = body.replace("sk-C", "\\u0073\\u006b-C")
        return Reply(status=status, body=body.encode())

    server.script = script
    step = {
        "foreach": list(range(len(starts))),
        "prompt": "{{ item }}",
        "on_error": "continue",
        "retry": {**QUICK, "max_attempts": 1},
    }
    words = ("run", project.flow(steps={"a": step}), "--events", "events.jsonl", "--json", "--debug")
    outcome = project.run(*words, OPENAI_API_KEY=KEY)
    assert outcome.code != 0, outcome.said
    assert _left(project, outcome, *_looked_at(project)) == []


def test_commands_see_a_key_only_where_the_workflow_asks(project: Project) -> None:
    shell = "env | grep -c -e CANARY_KEY -e OPENAI_API_KEY -e TEAM_PAT; env | grep -c -e ^PATH= -e ^HOME="
    providers = {
        "mine": {
            "type": "openai",
            "base_url": "http://127.0.0.1:9/v1",
            "api_key_env": "CANARY_KEY",
            "headers": {"X-Team": "${TEAM_PAT}"},
        }
    }
    steps = {
        "hidden": {"shell": f"{shell} || true"},
        "asked": {"shell": "printf %s $CANARY_KEY", "env": {"CANARY_KEY": "given"}},
        "printed": {"value": "pat-canary-0123456789 and ollama"},
    }
    file = project.flow(
        providers=providers,
        defaults={"provider": "simulated"},
        steps=steps,
        outputs={name: f"{{{{ {name} }}}}" for name in steps},
    )
    environ = {"CANARY_KEY": KEY, "OPENAI_API_KEY": "ollama", "TEAM_PAT": "pat-canary-0123456789"}
    outcome = project.cli("run", file, "--json", **environ)
    assert outcome.code == 0, outcome.said
    assert outcome.json["outputs"] == {"hidden": "0\n2", "asked": "given", "printed": "*** and ollama"}
    assert _left(project, outcome) == []
