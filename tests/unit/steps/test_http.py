from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiohttp import ClientError
from aiohttp.abc import AbstractResolver

from flowllm.core.errors import HttpFailed, TemplateFailed
from flowllm.core.redact import Redactor
from flowllm.core.types import Json
from flowllm.steps.http.runner import HttpRunner
from flowllm.steps.http.transport import Request, Wire, blocked, checked_url
from tests.support.web import Web, answer, redirect, running_web


class Names(AbstractResolver):
    """Each look-up of any name gives the next list of addresses."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        del family
        found = self._answers.pop(0)
        if not found:
            raise OSError(None, "no such name")
        return [
            {"hostname": host, "host": one, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for one in found
        ]

    async def close(self) -> None:
        pass


def asked(web: Web, names: Names, *paths: str) -> list[Json | str]:
    """What requests to a name come to, one after the other: a body, or the address that was refused.

    127.0.0.2 stands for a public address.
    """

    async def main() -> list[Json | str]:
        wire = Wire(resolver=names, public=lambda address: address == "127.0.0.2")
        return [await one(wire, path) for path in paths]

    async def one(wire: Wire, path: str) -> Json | str:
        request = Request(
            method="GET",
            url=f"http://name.example:{web.port}{path}",
            headers={},
            query=(),
            body=None,
            allow_private=False,
        )
        try:
            return (await wire.send(request, shown="it", mask=str, now=lambda: 0.0))["body"]
        except ClientError as error:
            return getattr(blocked(error), "address", repr(error))
        finally:
            await wire.close()

    return asyncio.run(main())


@pytest.fixture
def web() -> Iterator[Web]:
    with running_web() as web:
        yield web


def test_a_name_is_judged_by_where_it_leads_each_time(web: Web) -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"])
    assert asked(web, names, "/", "/", "/") == ["127.0.0.1", "10.0.0.1", "169.254.169.254"]
    assert web.asked == []


def test_a_name_that_is_public_first_and_private_a_moment_later() -> None:
    with running_web(host="127.0.0.2") as web:
        web.script = lambda _: answer("reached", Connection="close")
        assert asked(web, Names(["127.0.0.2"], ["127.0.0.1"]), "/a", "/b") == ["reached", "127.0.0.1"]
        web.script = lambda _: redirect("/next", Connection="close")
        assert asked(web, Names(["127.0.0.2"], ["127.0.0.1"]), "/c") == ["127.0.0.1"]
        assert [seen.target for seen in web.asked] == ["/a", "/c"]


def test_a_refused_address_of_a_redirect_says_what_led_there() -> None:
    async def main(url: str) -> str:
        wire = Wire(resolver=Names(["127.0.0.2"], ["10.0.0.1"]), public=lambda address: address == "127.0.0.2")
        kind, body = HttpRunner(None, {}, Redactor(), wire=wire), {"method": "GET", "headers": {}, "query": ()}
        try:
            await kind._once(Request(url=url, body=None, allow_private=False, **body), 9, 9, lambda: 0.0)
        except HttpFailed as error:
            return error.message
        finally:
            await kind.close()
        raise AssertionError("it was asked")

    with running_web(host="127.0.0.2") as web:
        web.script = lambda _: redirect(f"http://inner.example:{web.port}/key?a=1")
        said = asyncio.run(main(f"http://name.example:{web.port}/"))
        assert (
            f"redirects to http://inner.example:{web.port}/key?a=1, which leads to 10.0.0.1 (a private address)" in said
        )


def test_of_several_addresses_only_the_public_ones_are_tried() -> None:
    with running_web(host="127.0.0.2") as web:
        assert asked(web, Names(["127.0.0.1", "127.0.0.2"]), "/") == [1]


def test_a_name_that_nobody_knows(web: Web) -> None:
    (said,) = asked(web, Names([]), "/")
    assert "there is no host name.example" in said


@pytest.mark.parametrize("url", ["http://a/", " https://a.example:8080/x?y=1#z ", "http://[::1]:80/", "http://1.2.3.4"])
def test_what_can_be_asked(url: str) -> None:
    assert checked_url(url) == url.strip()


def test_a_url_with_white_space_says_how_to_give_values() -> None:
    with pytest.raises(TemplateFailed) as raised:
        checked_url("http://a/?q=two words")
    assert "urlencode" in raised.value.hint
