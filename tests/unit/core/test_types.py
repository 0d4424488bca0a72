from __future__ import annotations

import pytest

from flowllm.core.types import is_within


@pytest.mark.parametrize(
    ("node", "steps", "wanted"),
    [
        ("post", {"post"}, True),
        ("post[17]", {"post"}, True),
        ("post[17].headline", {"post"}, True),
        ("post[17].headline", {"post.headline"}, True),
        ("post[1].parts[2].text", {"post.parts"}, True),
        ("post", {"post.headline"}, False),
        ("post.headline", {"headline"}, False),
        ("poster", {"post"}, False),
        ("row[3].headline", {"headline"}, True),
        ("row[3].post[1].headline", {"post.headline"}, True),
        ("row[3].body", {"headline"}, False),
        ("row[3]", {"headline"}, False),
        ("post", set(), False),
    ],
)
def test_a_node_belongs_to_a_step_and_to_those_around_it(node: str, steps: set[str], wanted: bool) -> None:
    assert is_within(node, steps) is wanted
