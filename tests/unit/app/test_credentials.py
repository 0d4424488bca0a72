"""What of the environment is secret to a run besides what its workflow names."""

from __future__ import annotations

import pytest

from flowllm.app.wiring import DATABASE, find_credentials


@pytest.mark.parametrize(
    ("url", "hidden", "values"),
    [
        ("postgresql://me:hunter22%2Fx@h/flow", True, {"hunter22%2Fx", "hunter22/x"}),
        ("postgresql://me:short@h/flow", True, set()),
        ("postgresql://postgres:postgres@h/flow", True, set()),
        ("postgresql://me@h/flow", False, set()),
        ("/data/flow.db", False, set()),
    ],
)
def test_the_password_of_the_database_is_told_to_no_command(url: str, hidden: bool, values: set[str]) -> None:
    """By its environment a worker finds the database, and a shell step has that of its process."""
    found = find_credentials([], {DATABASE: url, "HOME": "/"})
    assert (DATABASE in found.variables) is hidden
    assert found.values - {url} == values
    assert "HOME" not in found.variables
    assert find_credentials([], {}, url).values == values
