"""Secrets reach nothing that stays or is shown (P12): canaries are let loose, then everything is searched."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import pytest

from tests.support.project import QUICK, Outcome, Project, killed_at_exit, prompts, until
from tests.support.replies import Reply, error_body, prompt_of
from tests.support.server import Server
from tests.support.web import Asked, Web, answer, redirect, running_web

KEY = "sk-canary-key-7f3a91c2"
TEAM = "canary-team-5b20de44"
WORD = 'canary "word" +/ä-93ee'
"""With characters that JSON and URLs write in another way."""
CANARY = "canary"


def _spellings(secret: str) -> set[bytes]:
    """The secret as text, as JSON, and as JSON within JSON."""
    once = json.dumps(secret)[1:-1]
    plain = json.dumps(secret, ensure_ascii=False)[1:-1]
    return {text.encode() for text in (secret, once, plain, json.dumps(once)[1:-1])}


def _found(project: Project, *outcomes: Outcome) -> list[str]:
    """Where any of the canaries is, in any spelling: files (database, its log, locks, events) and output."""
    places = {
        str(path.relative_to(project.folder)): path.read_bytes()
        for path in project.folder.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    for place, outcome in enumerate(outcomes):
        places |= {f"stdout {place}": outcome.out.encode(), f"stderr {place}": outcome.err.encode()}
    needles = [needle for secret in (KEY, TEAM, WORD) for needle in _spellings(secret)]
    return sorted({place for place, content in places.items() for needle in needles if needle in content})


def _looked_at(project: Project, step: str) -> list[Outcome]:
    """What every command says of the newest run."""
    commands = (
        ("show", "last"),
        ("show", "last", "--json"),
        ("show", "last", step),
        ("show", "last", step, "--json"),
        ("why", "last", step, "--json"),
        ("runs", "--json"),
    )
    return [project.cli(*words) for words in commands]


def _echoing(server: Server, status: int) -> None:
    """The server answers with the headers it got: in an error's message, or in an answer."""
    answers: list[str] = []

    def script(body: dict[str, Any], n: int) -> Reply:
        headers = server.requests[n - 1].headers
        told = f"you said {headers.get('authorization')} and {headers.get('x-team')}"
        answers.append(told)
        if status != 200:
            return Reply(status=status, body=error_body(told))
        return Reply(text=json.dumps({"told": told}) if body.get("response_format") else told)

    server.script = script


@pytest.mark.parametrize("status", [401, 400, 500])
def test_a_server_that_echoes_the_key_in_its_errors(status: int, project: Project, server: Server) -> None:
    _echoing(server, status)
    words = ("run", project.flow(steps=prompts(a="a")), "--events", "events.jsonl", "--debug")
    outcome = project.run(*words, OPENAI_API_KEY=KEY)
    assert outcome.code == (3 if status == 401 else 1), outcome.said
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "you said Bearer ***" in outcome.err, "the message was lost with the key"
    assert _found(project, outcome, *_looked_at(project, "a")) == []


def test_a_server_that_echoes_the_key_in_its_answers(project: Project, server: Server) -> None:
    _echoing(server, 200)
    providers = {
        "mine": {
            "type": "openai",
            "base_url": server.url,
            "api_key_env": "MY_KEY",
            "headers": {"X-Team": "${TEAM_KEY}"},
        }
    }
    file = project.flow(
        providers=providers,
        defaults={"model": "test-model", "provider": "mine"},
        steps={
            "a": {"prompt": "a"},
            "shape": {"prompt": "b", "output": {"type": "object", "required": ["told"]}},
            "below": {"prompt": "below {{ a }} {{ shape }}"},
        },
        outputs={"a": "{{ a }}", "shape": "{{ shape }}"},
    )
    environ = {"MY_KEY": KEY, "TEAM_KEY": TEAM}
    outcomes = [
        project.cli("run", file, "--events", "events.jsonl", **environ),
        project.cli("run", file, "--json", **environ),
        project.cli("plan", file, **environ),
        *_looked_at(project, "a"),
    ]
    assert [outcome.code for outcome in outcomes[:3]] == [0, 0, 0], outcomes[0].said
    assert server.requests[0].headers["x-team"] == TEAM
    assert len(server.requests) == 3, "masked answers did not come from the memo"
    assert "you said Bearer *** and ***" in outcomes[0].out
    assert _found(project, *outcomes) == []


@pytest.mark.parametrize("place", ["userinfo", "query"])
def test_a_key_in_the_base_url(place: str, project: Project, server: Server) -> None:
    """It is used or refused, and stays out of everything either way."""
    url = server.url.replace("http://", f"http://user:{TEAM}@") if place == "userinfo" else f"{server.url}?key={TEAM}"
    file = project.flow(
        defaults={"model": "test-model", "retry": {**QUICK, "max_attempts": 2}}, steps=prompts(a="a [status=500]")
    )
    outcome = project.cli("run", file, "--events", "events.jsonl", OPENAI_BASE_URL=url)
    assert outcome.code in {1, 2}, outcome.said
    assert "Traceback" not in outcome.err
    looked = _looked_at(project, "a") if outcome.code == 1 else []
    assert _found(project, outcome, *looked) == []


def _written_out(project: Project, server: Server, url: str) -> str:
    """A project with a secret wherever one can be written out; the steps say it in many ways."""
    headers = {"Authorization": f"Bearer {KEY}", "Cookie": f"sid={TEAM}; theme=dark"}
    provider = {"type": "openai", "base_url": f"{server.url}?api-key={TEAM}", "headers": headers}
    project.write("flowllm.yaml", {"providers": {"work": provider}})
    project.write(
        "tools.py",
        f"API_KEY = {TEAM!r}  # {KEY}\n\n\ndef say(password):\n    return [password.title(), repr(password)]\n\n\ndef no(password):\n    raise ValueError(password)\n",
    )
    http = {"url": f"{url}/x?token={TEAM}", "headers": {"X-Api-Key": KEY}, "allow_private": True}
    return project.flow(
        defaults={"provider": "work", "model": "test-model", "retry": QUICK},
        steps={
            "a": {"prompt": "a"},
            "h": {"http": http},
            "s": {"shell": f"echo $TOKEN; true --user me:{TEAM}", "env": {"TOKEN": KEY}},
            "p": {"python": "./tools.py:say", "with": {"password": KEY}},
            "e": {"python": "./tools.py:no", "with": {"password": KEY}, "on_error": "continue"},
        },
        outputs={name: f"{{{{ {name} }}}}" for name in "ahsp"},
    )


def test_secrets_that_are_written_out_in_files(project: Project, server: Server) -> None:
    _echoing(server, 200)
    with running_web(_path_telling(200)) as web:
        file = _written_out(project, server, web.url)
        outcomes = [
            project.cli("run", file, "--events", "events.jsonl", "--json"),
            project.cli("resume", "last", "--retry-failed"),
            *(project.cli(*words) for words in (("validate", file), ("doctor",), ("plan", file), ("failed", "last"))),
            *(one for step in "hpe" for one in _looked_at(project, step)),
        ]
        assert [outcome.code for outcome in outcomes[:3]] == [0, 0, 0], outcomes[0].said
        assert web.asked[0].headers["x-api-key"] == KEY
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    for outcome in outcomes[2:4]:
        assert "headers.Authorization" in outcome.out + outcome.err, outcome.said
    for name in ("flowllm.yaml", file):
        (project.folder / name).unlink()  # these have them
    assert _found(project, *outcomes) == []
    assert project.cli("show", "last").code == 0


def test_a_run_goes_on_with_a_secret_that_only_the_file_has(project: Project, server: Server) -> None:
    _echoing(server, 500)
    provider = {"type": "openai", "base_url": server.url, "headers": {"Authorization": f"Bearer {KEY}"}}
    file = project.flow(
        providers={"work": provider},
        defaults={"provider": "work", "model": "test-model", "retry": {"max_attempts": 1}},
        steps=prompts(a="a"),
    )
    assert project.cli("run", file).code == 1
    text = (project.folder / file).read_text()
    (project.folder / file).write_text(text.replace(f"Bearer {KEY}", "Bearer ${TEAM_KEY}"))
    lacking = project.cli("resume", "last")
    assert lacking.code == 2, lacking.said
    assert f"{file}:" in lacking.err
    assert "--file" in lacking.err
    (project.folder / file).write_text(f"# new\n{text}")
    failed = project.cli("resume", "last")
    assert failed.code == 1, failed.said
    assert "changed since this run began" in failed.err
    (project.folder / file).write_text(text)
    _echoing(server, 200)
    assert "changed" not in (outcome := project.cli("resume", "last")).err
    assert outcome.code == 0, outcome.said
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    (project.folder / file).unlink()
    assert _found(project, lacking, failed, outcome) == []


STEPS = """
    import json

    def raises(word):
        raise ValueError(f"it does not like {word}")

    def raises_nested(word):
        raise RuntimeError({"deep": [word]})

    def returns(word):
        return {"word": word, word: [word], "inside": json.dumps({"word": word})}

    def prints(word):
        print("the word is", word)
        return len(word)
    """


def _python(project: Project, function: str) -> str:
    project.write("mine.py", STEPS)
    return project.flow(
        secrets=["THE_WORD"],
        steps={
            "a": {
                "python": f"./mine.py:{function}",
                "with": {"word": "{{ secrets.THE_WORD }}"},
                "retry": {"max_attempts": 2, **QUICK},
            }
        },
        outputs={"a": "{{ a }}"},
    )


@pytest.mark.parametrize(("function", "code"), [("raises", 1), ("raises_nested", 1), ("returns", 0), ("prints", 0)])
def test_a_python_step_that_gives_a_secret_away(function: str, code: int, project: Project) -> None:
    words = ("run", _python(project, function), "--events", "events.jsonl", "--debug")
    outcome = project.cli(*words, THE_WORD=WORD)
    assert outcome.code == code, outcome.said
    if function == "prints":  # the author's own words to the terminal are the author's
        outcome = Outcome(code=0, out=outcome.out, err=outcome.err.replace(f"the word is {WORD}\n", ""))
    assert _found(project, outcome, *_looked_at(project, "a")) == []
    ((parts, outcome_kept),) = project.rows("SELECT parts, coalesce(output, '') || coalesce(error, '') FROM nodes")
    assert "***" in parts
    assert function == "prints" or "***" in outcome_kept


def _with_headers(project: Project, web: Web, **options: Any) -> str:
    headers = {"Authorization": "Bearer {{ secrets.THE_KEY }}", "X-Team": "{{ secrets.THE_TEAM }}"}
    http = {"url": f"{web.url}/ask", "headers": headers, "allow_private": True}
    retry = {"max_attempts": 2, **QUICK}
    return project.flow(
        secrets=["THE_KEY", "THE_TEAM"],
        steps={"a": {"http": http, "retry": retry, **options}},
        outputs={"a": "{{ a }}"},
    )


def _telling(status: int) -> Callable[[Asked], bytes]:
    """A server that says in every way what it was told; the key also across the place where an error is cut off."""

    def script(asked: Asked) -> bytes:
        key, team = asked.headers["authorization"], asked.headers["x-team"]
        cut_off = "x" * 480 + key
        told = {"told": [key, json.dumps({team: key})], key: team} if status != 400 else cut_off.encode()
        return answer(told, status=status, kind="application/json", X_Told=key, Set_Cookie=f"team={team}")

    return script


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("cache", [False, True])
def test_a_web_server_that_echoes_its_headers(status: int, cache: bool, project: Project) -> None:
    environ = {"THE_KEY": KEY, "THE_TEAM": TEAM}
    with running_web(_telling(status)) as web:
        file = _with_headers(project, web, cache=cache)
        words = ("run", file, "--events", "events.jsonl", "--debug", "--json")
        outcome = project.cli(*words, **environ)
        assert outcome.code == (0 if status == 200 else 1), outcome.said
        assert len(web.asked) == (2 if status == 503 else 1)
        assert {(asked.headers["authorization"], asked.headers["x-team"]) for asked in web.asked} == {
            (f"Bearer {KEY}", TEAM)
        }
    assert _found(project, outcome, *_looked_at(project, "a")) == []
    for start in (8, 12, len(KEY) - 1):  # nor the beginning of one, where something was cut off
        assert KEY[:start] not in (project.folder / "events.jsonl").read_text()
        assert KEY[:start] not in outcome.out + outcome.err
    step = outcome.json["steps"]["a"]
    assert "***" in json.dumps(step["output"] if status == 200 else step["error"])


def _path_telling(status: int) -> Callable[[Asked], bytes]:
    """A server that says what it was asked for, as proxies and frameworks do in their errors."""

    def script(asked: Asked) -> bytes:
        told = f"Cannot {asked.method} {asked.target} or {unquote_plus(asked.target)}"
        return answer("x" * 470 + told if status == 400 else {"told": told}, status=status, Location=asked.target)

    return script


@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("place", ["whole", "path", "query", "in text"])
def test_a_web_server_that_echoes_its_url(status: int, place: str, project: Project) -> None:
    with running_web(_path_telling(status)) as web:
        token = WORD if place == "query" else KEY
        http: dict[str, Any] = {
            "whole": {"url": "{{ secrets.WHOLE }}"},
            "path": {"url": f"{web.url}/{{{{ secrets.TOKEN }}}}/x"},
            "query": {"url": web.url, "query": {"k": "{{ secrets.TOKEN }}", "n": 1}},
            "in text": {"url": f"{web.url}?k=a{{{{ secrets.TOKEN | urlencode }}}}z"},
        }[place]
        step = {"http": {**http, "allow_private": True}, "retry": {"max_attempts": 2, **QUICK}, "cache": True}
        file = project.flow(secrets=["WHOLE", "TOKEN"], steps={"a": step}, outputs={"a": "{{ a }}"})
        environ = {"WHOLE": f"{web.url}/hooks/{KEY}?t={TEAM}", "TOKEN": token}
        words = ("run", file, "--events", "events.jsonl", "--debug", "--json")
        outcomes = [project.cli(*words, **environ), project.cli(*words, **environ)]
        assert [outcome.code for outcome in outcomes] == [0 if status == 200 else 1] * 2, outcomes[0].said
        assert len(web.asked) == {200: 1, 400: 2, 503: 4}[status], "the key was another, or an answer was kept"
        assert any(secret in unquote_plus(web.asked[0].target) for secret in (KEY, WORD))
    assert _found(project, *outcomes, *_looked_at(project, "a")) == []
    for start in (12, len(KEY) - 1):
        assert KEY[:start] not in outcomes[0].out + outcomes[0].err + (project.folder / "events.jsonl").read_text()
    assert ("WHOLE" if place == "whole" else "TOKEN") in project.rows("SELECT parts FROM nodes")[0][0]


@pytest.mark.parametrize("url", [f"ftp://{KEY}", f"https://h/{KEY} x", f"https://user:{KEY}@h/", f"{'h' * 180}{KEY}"])
def test_a_secret_that_is_no_url_is_not_told(url: str, project: Project) -> None:
    file = project.flow(secrets=["URL"], steps={"a": {"http": {"url": "{{ secrets.URL }}"}}})
    outcome = project.cli("run", file, "--debug", "--json", URL=url)
    assert outcome.code == 1, outcome.said
    assert _found(project, outcome, *_looked_at(project, "a")) == []


def test_a_redirect_takes_no_secrets_to_another_host(project: Project) -> None:
    with running_web(lambda _: answer("there")) as other, running_web() as web:
        web.script = lambda _: redirect(f"{other.url}/?{KEY}")
        file = _with_headers(project, web)
        outcome = project.cli("run", file, "--events", "events.jsonl", THE_KEY=KEY, THE_TEAM=TEAM)
        assert outcome.code == 0, outcome.said
        assert web.asked[0].headers["x-team"] == TEAM
        (asked,) = other.asked
        assert CANARY not in json.dumps(asked.headers)
        web.script = lambda _: redirect(f"file:///{KEY}")
        failed = project.cli("run", file, "--debug", "--json", THE_KEY=KEY, THE_TEAM=TEAM)
        assert "file:///***" in failed.out
    assert _found(project, outcome, failed, *_looked_at(project, "a")) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ('echo "$WORD"; echo "$WORD" >&2', 0),
        ('echo "it does not like $WORD" >&2; exit 1', 1),
        # cut off in the middle of one, at either end of what is kept of it
        (
            'for i in 1 2 3 4 5 6 7 8 9; do printf "%s " "$WORD$WORD$WORD$WORD$WORD$WORD$WORD$WORD$WORD"; done >&2; exit 1',
            1,
        ),
        (
            "head -c 4080 /dev/zero | tr '\\0' x >/dev/null; echo \"$WORD\" | sed 's/^/=/' >&2; head -c 4085 /dev/zero >&2; exit 1",
            1,
        ),
        ('printf "\\377$WORD"', 1),
    ],
)
def test_a_command_that_gives_a_secret_away(command: str, code: int, project: Project) -> None:
    step = {"shell": command, "env": {"WORD": "{{ secrets.THE_WORD }}"}, "retry": {"max_attempts": 2, **QUICK}}
    file = project.flow(secrets=["THE_WORD"], steps={"a": step}, outputs={"a": "{{ a }}"})
    outcome = project.cli("run", file, "--events", "events.jsonl", "--debug", "--json", THE_WORD=WORD)
    assert outcome.code == code, outcome.said
    assert _found(project, outcome, *_looked_at(project, "a")) == []
    events = (project.folder / "events.jsonl").read_text()
    assert "93ee" not in outcome.out + outcome.err + events, "the end of one is left"
    assert 'canary \\"wo' not in outcome.out + outcome.err + events, "the beginning of one is left"
    (parts,) = project.rows("SELECT parts FROM nodes WHERE node_id = 'a'")
    assert "***THE_WORD***" in parts[0]


def test_a_secret_that_is_not_set_is_named_and_nothing_starts(project: Project) -> None:
    outcome = project.cli("run", _python(project, "returns"))
    assert outcome.code == 2
    assert "THE_WORD" in outcome.err
    assert project.run_ids() == []


def test_a_secret_given_as_an_input_is_masked_too(project: Project, server: Server) -> None:
    project.write("mine.py", STEPS)
    file = project.flow(
        inputs={"text": None},
        secrets=["THE_WORD"],
        steps={**prompts(a="say {{ inputs.text }}"), "b": {"python": "./mine.py:prints", "with": {"word": "x"}}},
    )
    outcome = project.cli("run", file, "-i", f"text=I am {WORD}", "--json", THE_WORD=WORD)
    assert outcome.code == 0, outcome.said
    assert prompt_of(server.requests[0].body) == f"say I am {WORD}"
    assert _found(project, outcome, *_looked_at(project, "a")) == []


def test_the_files_of_a_killed_run(project: Project, server: Server) -> None:
    """With the log of the database still beside it."""
    _echoing(server, 200)
    file = project.flow(steps=prompts(a="a", b="b {{ a }}"))

    process = project.start("run", file, "--events", "events.jsonl", OPENAI_API_KEY=KEY)
    with killed_at_exit(process):
        until(lambda: server.requests, "the first request", of=process)
        server.hold = 10**6
        until(lambda: project.rows("SELECT 1 FROM memo"), "an answer on disk", of=process)
    server.hold = 0
    names = {path.name for path in project.database.parent.rglob("*") if path.is_file()}
    assert {"flowllm.db-wal", "flowllm.db-shm"} <= names
    assert _found(project) == []
