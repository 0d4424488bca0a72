from __future__ import annotations

import errno
import itertools
import socket
import ssl

import pytest

from flowllm.errors import ConnectionFailed, RequestRejected
from flowllm.providers.failures import Asked
from flowllm.providers.network import broken, causes

ASKED = Asked(provider="work", server="127.0.0.1:9", model="m")


def chained(*errors: Exception) -> Exception:
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "refused"),
        (OSError(errno.ECONNREFUSED, "Multiple exceptions"), "refused"),
        (socket.gaierror(-2, "Name or service not known"), "unknown_host"),
        (ssl.SSLError(1, "wrong version number"), "tls"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (BrokenPipeError(errno.EPIPE, "pipe"), "reset"),
        (OSError(errno.EHOSTUNREACH, "no route"), "unreachable"),
        (OSError(errno.EIO, "odd"), "closed"),
    ],
)
def test_reasons(cause: Exception, reason: str) -> None:
    error = broken(chained(RuntimeError("outer"), cause), ASKED)
    assert isinstance(error, ConnectionFailed)
    assert error.reason == reason
    assert "work (127.0.0.1:9)" in error.message


def test_what_is_no_matter_of_the_network_is_not_tried_again() -> None:
    error = broken(ValueError("Out of range float values are not JSON compliant"), ASKED)
    assert isinstance(error, RequestRejected)
    assert not error.retryable
    assert "ValueError" in error.message


def test_causes_end_even_where_they_go_round() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert len(list(causes(one))) == 20
