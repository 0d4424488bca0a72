"""`http` steps against a real server: what goes out, what comes back, and where nothing is sent."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import patch

import pytest

from tests.support.author import Author
from tests.support.project import QUICK, as_yaml
from tests.support.web import Web, answer, redirect, running_web

MIB = 1024 * 1024


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as web:
        yield web


def flow(http: Mapping[str, Any], **options: Any) -> str:
    """A workflow of one such step, which may ask this machine."""
    step = {"http": {"allow_private": True, **http}, **options}
    inputs = {"x": {"type": "string", "default": ""}}
    return as_yaml({"inputs": inputs, "steps": {"it": step}, "outputs": {"it": "{{ it }}"}})


def got(author: Author, http: Mapping[str, Any], **inputs: Any) -> Any:
    return author.outputs(flow(http), **inputs)["it"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method(method: str, author: Author, web: Web) -> None:
    web.script = lambda asked: answer(b"" if asked.method == "HEAD" else {"n": asked.n}, X_Y="z")
    result = got(author, {"method": method, "url": f"{web.url}/a"})
    assert (web.asked[0].method, web.asked[0].target) == (method, "/a")
    assert result["status"] == 200
    assert result["headers"]["x-y"] == "z"
    assert result["body"] == (None if method == "HEAD" else {"n": 1})


def test_large_heads_are_read(author: Author, web: Web) -> None:
    web.script = lambda _: answer("a", X_Policy="v" * 20_000, **{f"X_H{n}": "v" * 60 for n in range(200)})
    headers = got(author, {"url": web.url})["headers"]
    assert (len(headers["x-policy"]), headers["x-h199"]) == (20_000, "v" * 60)


def test_what_goes_out(author: Author, web: Web) -> None:
    http = {
        "method": "POST",
        "url": f"{web.url}/ä%20b?a=1",
        "headers": {"X-Name": "é {{ inputs.x }}"},
        "query": {"q": "{{ inputs.x }}", "list": [1, True, "z"], "none": None},
        "json": {"text": "{{ inputs.x }}", "list": [1, None]},
    }
    got(author, http, x="ü&=")
    (asked,) = web.asked
    assert asked.target == "/%C3%A4%20b?a=1&q=%C3%BC%26%3D&list=1&list=true&list=z"
    assert asked.headers["x-name"].encode("latin-1").decode() == "é ü&="
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == b'{"text": "\\u00fc&=", "list": [1, null]}'
    got(author, {"method": "PUT", "url": web.url, "body": "ü {{ inputs.x }}"}, x="<>")
    assert web.asked[1].body.decode() == "ü <>"


BODIES: dict[str, tuple[bytes, Any]] = {
    "json": (answer({"a": [1, "é"]}), {"a": [1, "é"]}),
    "json of a kind": (answer([1], kind="application/problem+json; charset=utf-8"), [1]),
    "json with a mark": (answer(b'\xef\xbb\xbf{"a": 1}'), {"a": 1}),
    "json in UTF-16": (answer('{"a": "é"}'.encode("utf-16")), {"a": "é"}),
    "no json": (answer(b""), None),
    "text": (answer("é".encode(), kind="text/html"), "é"),
    "latin": (answer(b"\xe9", kind="text/plain; charset=iso-8859-1"), "é"),
    "text that is none": (answer(b"\xe9", kind="text/plain"), {"base64": "6Q=="}),
    "xml": (answer(b"<a/>", kind="image/svg+xml"), "<a/>"),
    "untold": (answer(b"plain", kind=None), "plain"),
    "a charset of nobody's": (answer(b"abc", kind="text/plain; charset=none-such"), {"base64": "YWJj"}),
    "a charset that takes hours": (
        answer(b"a" * MIB, kind="text/plain; charset=punycode"),
        {"base64": base64.b64encode(b"a" * MIB).decode()},
    ),
    "binary": (answer(b"\x89PNG\x00", kind="image/png"), {"base64": "iVBORwA="}),
    "packed": (answer(gzip.compress(b'"small"'), Content_Encoding="gzip"), "small"),
    "nothing": (answer(b"", status=204, kind=None), ""),
    "half a character": (answer(b'"\\ud800"'), "\ud800"),
}


def test_what_comes_back(author: Author, web: Web) -> None:
    names = list(BODIES)
    web.script = lambda asked: BODIES[names[int(asked.target[1:])]][0]
    steps = {f"s{place}": {"http": {"url": f"{web.url}/{place}", "allow_private": True}} for place in range(len(names))}
    outputs = author.outputs(as_yaml({"steps": steps, "outputs": {name: f"{{{{ {name}.body }}}}" for name in steps}}))
    assert dict(zip(names, outputs.values(), strict=True)) == {name: body for name, (_, body) in BODIES.items()}


@pytest.mark.parametrize("body", [b"{", b"NaN", b"[1e999]", b"[" * 100_000, b"[" * 300 + b"]" * 300, b"9" * 5000])
def test_what_says_it_is_json_and_is_not_one_that_can_be_kept(body: bytes, author: Author, web: Web) -> None:
    web.script = lambda _: answer(body)
    error = author.error(flow({"url": web.url}))
    assert error["type"] == "HttpFailed"
    assert "says that it is JSON, and is not" in error["message"]
    assert error["answer"] == body[:500].decode()
    assert len(web.asked) == 1


def test_an_answer_that_is_not_2xx_fails_with_it(author: Author, web: Web) -> None:
    web.script = lambda _: answer({"why": "é" * 1000}, status=404)
    error = author.error(flow({"url": f"{web.url}/a?key=1"}))
    assert error["type"] == "HttpFailed"
    assert error["message"] == f"{web.url}/a answered 404 Said"
    assert error["answer"].startswith('{"why": "ééé')
    assert len(error["answer"]) == 500
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("method", "retry", "sent"),
    [
        ("GET", None, 5),
        ("HEAD", None, 5),
        ("POST", None, 1),
        ("PUT", None, 1),
        ("DELETE", None, 1),
        ("POST", {"max_attempts": 3, **QUICK}, 3),
        ("GET", {"max_attempts": 2, **QUICK}, 2),
    ],
)
def test_only_what_changes_nothing_is_sent_again_by_itself(
    method: str, retry: dict[str, Any] | None, sent: int, author: Author, web: Web
) -> None:
    for broken in (answer(b"", status=503, kind=None, Retry_After="0"), b""):
        web.asked.clear()
        web.script = lambda _, broken=broken: broken
        options = {} if retry is None else {"retry": retry}
        with patch("flowllm.calls.conversation.backoff", lambda *_: 0.001):
            error = author.error(flow({"url": web.url, "method": method}, **options))
        assert error["type"] == "HttpFailed"
        assert len(web.asked) == sent


def test_a_connection_that_was_kept_open_and_is_closed_sends_nothing_twice(author: Author, web: Web) -> None:
    """aiohttp sends a PUT again by itself when a connection it had kept turns out to be closed."""
    web.script = lambda asked: answer(asked.n) if asked.n == 1 else b""
    steps = {
        name: {"http": {"url": web.url, "method": "PUT", "body": name, "allow_private": True}, "needs": needs}
        for name, needs in {"a": [], "b": ["a"]}.items()
    }
    assert author.steps(as_yaml({"steps": steps})) == {"a": "succeeded", "b": "failed"}
    assert [asked.body for asked in web.asked] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "no connection: Connection refused"),
        (b"", "the server closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nabc", "the answer broke off"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "400"),
    ],
)
def test_a_server_that_gives_no_answer(data: bytes | None, said: str, author: Author) -> None:
    with running_web(lambda _: data or b"") as web:
        if data is None:
            web.stop()
        error = author.error(flow({"url": web.url}, retry={"max_attempts": 2, **QUICK}))
    assert error["type"] == "HttpFailed"
    assert error["message"].startswith(f"{web.url}: {said}")
    assert len(web.asked) == (0 if data is None else 2)


# redirects


def test_redirects_are_followed_with_the_headers_on_the_same_host_alone(author: Author, web: Web) -> None:
    with running_web(lambda _: redirect(f"{web.url}/back")) as other:
        ways = {"/here": redirect("there?x=1", 307), "/there?x=1": redirect(f"{other.url}/away", 301)}
        web.script = lambda asked: ways.get(asked.target, answer("found"))
        http = {"url": f"{web.url}/here", "query": {}, "headers": {"X-Key": "k"}, "json": {"a": 1}}
        assert got(author, http)["body"] == "found"
    assert [asked.target for asked in web.asked] == ["/here", "/there?x=1", "/back"]
    assert [asked.headers.get("x-key") for asked in web.asked] == ["k", "k", None]
    (away,) = other.asked
    assert (away.target, away.headers.get("x-key"), away.body) == ("/away", None, b"")
    assert web.asked[2].body == b""


def test_redirects_that_go_in_a_circle(author: Author, web: Web) -> None:
    web.script = lambda _: redirect("/")
    error = author.error(flow({"url": web.url}))
    assert error["message"] == f"{web.url}: more than 5 redirects"
    assert len(web.asked) == 6


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "javascript:alert(1)",
        "http://user:pw@127.0.0.1/",
        "http://[::1",
        "http://127.1/",
        "http://2130706433/",
    ],
)
def test_redirects_that_are_not_followed(target: str, author: Author, web: Web) -> None:
    web.script = lambda _: redirect(target)
    error = author.error(flow({"url": web.url}))
    assert error["type"] == "HttpFailed"
    assert "which is not followed: it " in error["message"]
    assert ":pw@" not in error["message"]
    assert len(web.asked) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_changes_something_is_not_sent_on(method: str, author: Author, web: Web) -> None:
    web.script = lambda _: redirect("/there", 307)
    error = author.error(flow({"url": web.url, "method": method, "body": "precious"}))
    assert "answered 307" in error["message"]
    assert "GET and HEAD only" in error["hint"]
    assert len(web.asked) == 1


# size and time


def test_a_body_that_is_too_large(author: Author, web: Web) -> None:
    web.script = lambda asked: answer(b"x" * (16 * MIB if asked.target == "/fits" else 16 * MIB + 1), kind="text/plain")
    assert len(got(author, {"url": f"{web.url}/fits"})["body"]) == 16 * MIB
    error = author.error(flow({"url": web.url}))
    assert "larger than 16 MiB" in error["message"]


def test_a_body_that_is_large_once_it_is_unpacked(author: Author, web: Web) -> None:
    packed = gzip.compress(b"0" * (64 * MIB), 9)
    assert len(packed) < MIB
    web.script = lambda _: answer(packed, Content_Encoding="gzip")
    assert "larger than 16 MiB" in author.error(flow({"url": web.url}))["message"]
    web.script = lambda _: answer(b"not packed", Content_Encoding="gzip")
    assert author.error(flow({"url": web.url}, retry={"max_attempts": 1}))["type"] == "HttpFailed"


def test_a_server_that_sends_byte_by_byte_does_not_hold_the_step_up(author: Author, web: Web) -> None:
    web.drip, web.script = 0.02, lambda _: answer(b"x" * 10_000)
    error = author.error(flow({"url": web.url}, timeout="300ms"))
    assert error["type"] == "NodeTimedOut"
    assert "did not answer within 0.3 s" in error["message"]
    assert "`timeout`" in error["hint"]


def test_an_attempt_that_takes_too_long_is_made_again(author: Author, web: Web) -> None:
    web.hold = 2
    retry = {"max_attempts": 50, "attempt_timeout": "200ms", **QUICK}
    result = author.outputs(flow({"url": web.url}, retry=retry))["it"]
    assert result["body"] >= 2


# where nothing is sent


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_this_machine_is_not_asked(host: str, author: Author, web: Web) -> None:
    error = author.error(flow({"url": f"http://{host}:{web.port}/", "allow_private": False}, retry=QUICK))
    assert error["type"] == "HttpFailed"
    assert "not a public address" in error["message"]
    assert "allow_private: true" in error["hint"]
    assert (web.asked, web.open) == ([], 0)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("169.254.169.254", "a link-local address"),
        ("10.0.0.1", "a private address"),
        ("100.64.0.1", "a shared (carrier NAT) address"),
        ("192.168.0.1", "a private address"),
        ("224.0.0.1", "a multicast address"),
        ("198.18.0.1", "a reserved address"),
        ("[::]", "an unspecified address"),
        ("[::1]", "a loopback address"),
        ("[fe80::1]", "a link-local address"),
        ("[fc00::1]", "a private address"),
        ("[64:ff9b::7f00:1]", "it stands for 127.0.0.1, a loopback address"),
        ("[2002:7f00:1::]", "it stands for 127.0.0.1, a loopback address"),
    ],
)
def test_no_private_address_is_asked(host: str, kind: str, author: Author) -> None:
    """None of them is even connected to, which here would fail in another way, or hang."""
    error = author.error(flow({"url": f"http://{host}:9/", "allow_private": False}))
    assert f" ({kind}), which is not a public address" in error["message"]


@pytest.mark.parametrize(
    "host",
    ["127.1", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "0x7f000001", "127.0.1", "127.0.0.1.", "%31%32%37.0.0.1"],
)
def test_an_address_in_an_odd_spelling_is_refused_in_words(host: str, author: Author, web: Web) -> None:
    error = author.error(flow({"url": "http://{{ inputs.x }}/"}), x=f"{host}:{web.port}")
    assert error["type"] == "TemplateFailed"
    assert "a number in an unusual form" in error["message"]
    assert web.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//127.0.0.1/",
        "http://",
        "http:///x",
        "http://a b/",
        "http://a/\r\nX: y",
        "http://[::1/",
        "http://a:99999/",
        "http://user:pw@a/",
        "http://a/\ud800",
    ],
)
def test_what_is_no_url_is_not_asked(url: str, author: Author) -> None:
    error = author.error(flow({"url": "{{ inputs.x }}"}), x=url)
    assert error["type"] == "TemplateFailed"
    assert "pw" not in error["message"]


def test_a_text_makes_no_headers(author: Author, web: Web) -> None:
    http = {"url": web.url, "headers": {"X-A": "{{ inputs.x }}"}}
    for text in ("a\r\nX-B: c", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\ud800"):
        error = author.error(flow(http), x=text)
        assert error["type"] == "TemplateFailed", text
        assert "X-A" in error["message"]
    assert web.asked == []
    got(author, http, x="tab\tand {{ 7 * 7 }}")
    assert web.asked[0].headers["x-a"] == "tab\tand {{ 7 * 7 }}"


def test_a_proxy_of_the_environment_is_not_used(author: Author, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_web() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert got(author, {"url": web.url})["body"] == 1
    assert proxy.asked == []


# the memo, and the end


def test_with_a_cache_it_is_asked_once_also_at_the_same_time(author: Author, web: Web) -> None:
    author.keep()
    step = {"http": {"url": f"{web.url}/{{{{ item % 2 }}}}", "allow_private": True}, "cache": True}
    text = as_yaml(
        {
            "steps": {"it": {"foreach": "{{ range(10) | list }}", **step}},
            "outputs": {"it": "{{ it | map(attribute='body') | list }}"},
        }
    )
    web.hold = 2
    answers = author.outputs(text)["it"]
    assert sorted(asked.target for asked in web.asked) == ["/0", "/1"]
    assert set(answers[::2]) | set(answers[1::2]) == {1, 2}
    assert answers == answers[:2] * 5
    assert author.outputs(text)["it"] == answers
    assert len(web.asked) == 2


def test_without_a_cache_every_step_asks(author: Author, web: Web) -> None:
    step = {"http": {"url": web.url, "allow_private": True}}
    author.outputs(as_yaml({"steps": {"a": step, "b": step}}))
    assert len(web.asked) == 2


def test_a_failure_goes_to_all_that_waited_for_the_same_answer(author: Author, web: Web) -> None:
    web.script = lambda _: answer({"no": 1}, status=400)
    step = {"http": {"url": web.url, "allow_private": True}, "cache": True, "on_error": "continue"}
    text = as_yaml({"steps": {f"s{place}": step for place in range(6)}})
    assert set(author.steps(text).values()) == {"failed"}
    assert len(web.asked) < 6, "each of them asked again"


def test_no_connection_is_left_open(author: Author, web: Web) -> None:
    got(author, {"url": web.url})
    with running_web() as last:  # whose end comes after that of the connections before it
        got(author, {"url": last.url})
    assert web.open == 0


def test_many_steps_at_once(author: Author, web: Web) -> None:
    web.hold = 40
    text = as_yaml(
        {
            "steps": {
                "it": {
                    "foreach": "{{ range(40) | list }}",
                    "max_concurrent": 40,
                    "http": {"url": f"{web.url}/{{{{ item }}}}", "allow_private": True},
                }
            },
            "outputs": {"n": "{{ it | length }}"},
        }
    )
    assert author.outputs(text) == {"n": 40}
