"""Requests that others took for equal, or for different (P4). Each test is named after what went wrong elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.project import QUICK, Project, prompts
from tests.support.server import Server, running_server


def _sent(project: Project, **step: Any) -> int:
    """How many requests a workflow of this one step sends."""
    file = project.flow(steps={"a": {"prompt": "ask", **step}})
    return int(project.json("run", file)["requests"]["sent"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"system": "Be brief."}),
        ({"system": "Be brief."}, {"system": "Be long."}),
        ({}, {"max_tokens": 10}),
        ({"max_tokens": 10}, {"max_tokens": 11}),
        ({}, {"temperature": 0}),
        ({"temperature": 0}, {"temperature": 1}),
        ({}, {"top_p": 1}),
        ({"seed": 1}, {"seed": 2}),
        ({}, {"seed": 0}),
        ({"stop": "a"}, {"stop": ["a", "b"]}),
        ({"params": {"logit_bias": {"50256": -100}}}, {"params": {"logit_bias": {"50256": -99}}}),
        ({}, {"params": {"reasoning_effort": "low"}}),
        ({"params": {"user": "1"}}, {"params": {"user": 1}}),
        ({"params": {"flag": True}}, {"params": {"flag": 1}}),
        ({"params": {"flag": 0}}, {"params": {"flag": False}}),
        ({"model": "one"}, {"model": "other"}),
        ({}, {"output": "json"}),
        ({"output": {"type": "object"}}, {"output": {"type": "object", "properties": {}}}),
        ({"output": "json"}, {"output": {"type": "object"}}),
        ({"sample": 0}, {"sample": 1}),
    ],
    ids=str,
)
def test_what_is_sent_differs_so_it_is_sent(
    one: dict[str, Any], other: dict[str, Any], project: Project, server: Server
) -> None:
    """Parameters dropped from the key; temperature 0 and unset equal; a type collision."""
    assert _sent(project, **one) == 1
    assert _sent(project, **other) == 1, "another request was answered with the first one's answer"
    assert _sent(project, **one) == 0
    assert _sent(project, **other) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"retry": {"max_attempts": 2}}),
        ({}, {"timeout": "5m"}),
        ({}, {"priority": "high"}),
        ({}, {"on_error": "continue"}),
        ({}, {"cache": {"ttl": "7d"}}),
        ({}, {"sample": 0}),
        ({}, {"fallback": ["other"]}),
        ({}, {"when": "{{ 1 == 1 }}"}),
        ({"params": {"b": 1, "a": 2}}, {"params": {"a": 2, "b": 1}}),
        ({}, {"params": {}}),
        ({}, {"params": {"flag": None}}),
        ({"prompt": "ask"}, {"prompt": "ask\n"}),
    ],
    ids=str,
)
def test_what_is_sent_is_equal_so_it_is_not_sent_again(
    one: dict[str, Any], other: dict[str, Any], project: Project
) -> None:
    """A cosmetic edit reran everything."""
    assert _sent(project, **one) == 1
    assert _sent(project, **other) == 0


def test_a_comma_in_a_value_is_no_separator(project: Project, server: Server) -> None:
    def messages(*texts: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text} for text in texts]

    lists = [messages("a", "b"), messages("a,b"), messages("a b"), messages("b", "a"), messages("a", "b", "")]
    steps = {f"s{place}": {"messages": value} for place, value in enumerate(lists)}
    project.json("run", project.flow(steps=steps))
    assert len(server.requests) == len(lists)


def test_the_base_url_is_part_of_the_key(project: Project, server: Server) -> None:
    with running_server() as other:
        for url in (server.url, other.url, server.url, other.url):
            project.json("run", project.flow(steps=prompts(a="ask")), OPENAI_BASE_URL=url)
        assert (len(server.requests), len(other.requests)) == (1, 1)


def test_the_api_that_is_spoken_is_part_of_the_key(project: Project, server: Server) -> None:
    for api in ("chat", "responses", "chat", "responses"):
        providers = {"mine": {"type": "openai", "base_url": server.url, "api": api}}
        defaults = {"model": "test-model", "provider": "mine"}
        project.json("run", project.flow(providers=providers, defaults=defaults, steps=prompts(a="ask")))
    assert [seen.path for seen in server.requests] == ["/v1/chat/completions", "/v1/responses"]


def test_the_name_and_the_key_of_the_provider_are_not(project: Project, server: Server) -> None:
    for name in ("one", "other"):
        providers = {name: {"type": "openai", "base_url": server.url, "api_key_env": f"{name.upper()}_KEY"}}
        defaults = {"model": "test-model", "provider": name}
        file = project.flow(providers=providers, defaults=defaults, steps=prompts(a="ask"))
        project.environ[f"{name.upper()}_KEY"] = f"secret-of-{name}"
        project.json("run", file)
    assert len(server.requests) == 1


def test_a_functions_code_is_part_of_its_key(project: Project) -> None:
    """A stale answer of code that had changed came back."""
    file = project.flow(
        steps={"a": {"python": "./mine.py:give", "with": {"x": 1}, "cache": True}}, outputs={"a": "{{ a }}"}
    )
    project.write("mine.py", "def give(x):\n    return x + 1\n")
    assert project.json("run", file)["outputs"] == {"a": 2}
    project.write("mine.py", "def give(x):\n    # a comment\n\n    return x + 1\n")
    assert project.json("run", file)["steps"]["a"]["cached"] is True
    project.write("mine.py", "def give(x):\n    return x + 2\n")
    assert project.json("run", file)["outputs"] == {"a": 3}


def test_a_ttl_that_has_passed_asks_again(project: Project, server: Server) -> None:
    file = project.flow(steps={"a": {"prompt": "ask", "cache": {"ttl": "1ms"}}})
    for _ in range(2):
        project.json("run", file)
    assert len(server.requests) == 2


def test_memo_and_retries_go_together(project: Project, server: Server) -> None:
    """An answer that took three attempts is kept like any other, under the request's key."""
    file = project.flow(steps=prompts(a="a [status=500] [times=2] [text=done]", b="b {{ a }}"))
    first = project.json("run", file)
    assert first["steps"]["a"]["attempts"] == 3
    assert first["requests"]["retried"] == 2
    assert project.json("run", file)["requests"]["sent"] == 0
    assert len(server.requests) == 4


def test_a_failure_is_never_stored(project: Project, server: Server) -> None:
    file = project.flow(
        defaults={"model": "test-model", "retry": {**QUICK, "max_attempts": 1}},
        steps=prompts(a="a [fault=html] [times=1]"),
    )
    project.json("run", file, code=1)
    assert project.json("run", file)["steps"]["a"]["output"].startswith("answer ")
    assert len(server.requests) == 2


def _by_route(project: Project, url: str, **settings: Any) -> int:
    """How many requests a step sends whose provider has those settings; it goes to that URL."""
    providers = {"gateway": {"type": "openai", "base_url": url, **settings}}
    steps = {"a": {"prompt": "ask", "provider": "gateway"}}
    return int(project.json("run", project.flow(steps=steps, providers=providers), TEAM="blue")["requests"]["sent"])


def test_headers_and_the_query_of_a_base_url_are_part_of_the_key_and_secrets_are_not(
    project: Project, server: Server
) -> None:
    url = server.url
    assert _by_route(project, url, headers={"X-Route": "big"}) == 1
    assert _by_route(project, url, headers={"x-route": "big"}) == 0
    assert _by_route(project, url, headers={"X-Route": "small"}) == 1
    assert _by_route(project, url) == 1
    assert _by_route(project, url, headers={"X-Route": "${TEAM}"}) == 1
    assert _by_route(project, url, headers={"Authorization": "Bearer one-long-secret-1"}) == 1
    assert _by_route(project, url, headers={"Authorization": "Bearer another-secret-22"}) == 0
    assert "null" in project.cli("show", "last", "a", "--json").out.partition('"authorization": ')[2][:8]
    assert _by_route(project, f"{url}?api-version=1") == 1
    assert _by_route(project, f"{url}?api-version=2") == 1
    assert _by_route(project, f"{url}?api-version=2") == 0
    shown = project.cli("show", "last", "a", "--json").out
    assert "api-version" in shown


def test_why_names_a_header_that_changed(project: Project, server: Server) -> None:
    _by_route(project, server.url, headers={"X-Route": "big"})
    _by_route(project, server.url, headers={"X-Route": "small"})
    assert "header x-route of the provider" in project.cli("why", "last", "a").out


def test_what_cannot_change_an_answer_is_sent_and_no_part_of_the_key(project: Project, server: Server) -> None:
    assert _sent(project, params={"service_tier": "flex", "prompt_cache_key": "one"}) == 1
    assert server.requests[0].body["service_tier"] == "flex"
    assert server.requests[0].body["prompt_cache_key"] == "one"
    assert _sent(project, params={"service_tier": "default"}) == 0
    assert _sent(project) == 0
