"""How the address of a cluster is written."""

from __future__ import annotations

import pytest

from flowllm.cluster.base import cluster_address, travelling
from flowllm.core.errors import UsageError


@pytest.mark.parametrize(
    ("given", "text", "host", "port"),
    [
        ("ray", "local", "", 0),
        ("ray:auto", "auto", "", 0),
        ("ray://head.example.com:10001", "ray://head.example.com:10001", "head.example.com", 10001),
        ("ray:10.0.0.7:6379", "10.0.0.7:6379", "10.0.0.7", 6379),
        ("ray://[::1]:10001", "ray://[::1]:10001", "::1", 10001),
    ],
)
def test_what_is_an_address(given: str, text: str, host: str, port: int) -> None:
    found = cluster_address(given)
    assert (found.text, found.host, found.port, found.local) == (text, host, port, given == "ray")


@pytest.mark.parametrize(
    "given", ["", "slurm", "ray:", "ray://", "ray://head", "ray:head:0", "ray:head:70000", "head:10001"]
)
def test_what_is_none_says_how_one_is_written(given: str) -> None:
    with pytest.raises(UsageError, match="is no cluster") as error:
        cluster_address(given)
    assert "ray://HOST:10001" in error.value.hint


def test_files_lie_beside_each_other_as_they_do_here() -> None:
    files = ["/srv/flows/flow.yaml", "/srv/flows/steps/train.py", "/srv/lib/tools.py"]
    assert travelling(files) == {
        "/srv/flows/flow.yaml": "flows/flow.yaml",
        "/srv/flows/steps/train.py": "flows/steps/train.py",
        "/srv/lib/tools.py": "lib/tools.py",
    }
    assert travelling([]) == {}
