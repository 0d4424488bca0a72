from __future__ import annotations

import errno
import itertools
import socket
import ssl

import pytest
from aiohttp.http_exceptions import ContentLengthError, LineTooLong

from flowllm.core.errors import BadAnswer, ConnectionFailed, RequestRejected
from flowllm.providers.openai.client import Unreadable, bad_certificates, causes, connection_error
from flowllm.providers.openai.errors import RequestInfo

INFO = RequestInfo(provider="work", server="127.0.0.1:9", model="m")


def chained(*errors: Exception) -> Exception:
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "files"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "refused"),
        (OSError(errno.ECONNREFUSED, "Multiple exceptions"), "refused"),
        (socket.gaierror(-2, "Name or service not known"), "unknown_host"),
        (ssl.SSLError(1, "wrong version number"), "tls"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (BrokenPipeError(errno.EPIPE, "pipe"), "reset"),
        (OSError(errno.EHOSTUNREACH, "no route"), "unreachable"),
        (OSError(errno.EIO, "odd"), "closed"),
        (LineTooLong(b"x-policy: aaa", 131072), "protocol"),
        (ContentLengthError("Not enough data"), "closed"),
    ],
)
def test_reasons(cause: Exception, reason: str) -> None:
    error = connection_error(chained(RuntimeError("outer"), cause), INFO)
    assert isinstance(error, ConnectionFailed)
    assert error.reason == reason
    assert "work (127.0.0.1:9)" in error.message


def test_certificates_that_cannot_be_loaded_are_named() -> None:
    environ = {"SSL_CERT_FILE": "/none.pem", "SSL_CERT_DIR": "/certs"}
    down = bad_certificates(FileNotFoundError(errno.ENOENT, "No such file or directory"), environ)
    assert "No such file or directory" in down.message
    assert "SSL_CERT_FILE is '/none.pem' and SSL_CERT_DIR is '/certs'" in down.message


def test_a_certificate_that_is_not_trusted_tells_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", "/certs")
    assert "SSL_CERT_DIR is '/certs'" in connection_error(ssl.SSLError(1, "self-signed"), INFO).hint
    monkeypatch.delenv("SSL_CERT_DIR")
    assert "neither SSL_CERT_FILE nor SSL_CERT_DIR is set" in connection_error(ssl.SSLError(1, "x"), INFO).hint


@pytest.mark.parametrize(
    "error", [Unreadable("packed as 'br'"), type("DecodingError", (Exception,), {})("packed as 'br'")]
)
def test_a_body_that_cannot_be_unpacked_says_so(error: Exception) -> None:
    found = connection_error(chained(RuntimeError("outer"), error), INFO)
    assert isinstance(found, BadAnswer)
    assert "packed as 'br'" in found.message
    assert found.retryable is not isinstance(error, Unreadable), "the server would pack it again, for money"


def test_what_is_no_matter_of_the_network_is_not_tried_again() -> None:
    error = connection_error(ValueError("Out of range float values are not JSON compliant"), INFO)
    assert isinstance(error, RequestRejected)
    assert not error.retryable
    assert "ValueError" in error.message


def test_causes_end_even_where_they_go_round() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert len(list(causes(one))) == 20
