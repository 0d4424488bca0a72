from __future__ import annotations

import random
import re

import pytest

from flowllm.providers.simulated.pattern_sample import matching


@pytest.mark.parametrize(
    "pattern",
    [
        "abc",
        "^[A-Z]{3}-\\d{4}$",
        "^(red|green|blue)$",
        "^a+b*c?d{2,}e{1,3}$",
        "^[^0-9]+$",
        "^\\w+\\s\\S+\\D\\W$",
        "^.{5}$",
        "^(ab)\\1$",
        "^(?:x|y)+?z$",
        "^[a-f0-9]{8}-[a-f0-9]{4}$",
        "^\\+?[1-9]\\d{1,14}$",
        "^#[\\da-fA-F]{6}$",
        "",
    ],
)
def test_the_pattern_is_found(pattern: str) -> None:
    for seed in range(30):
        assert re.search(pattern, matching(pattern, random.Random(seed)))


def test_a_pattern_that_cannot_be_read_gives_nothing() -> None:
    assert matching("(((", random.Random(1)) == ""
    assert matching("(?<name", random.Random(1)) == ""


def test_a_python_whose_parser_is_gone_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowllm.providers.simulated.pattern_sample._PARSER", None)
    assert matching("a+", random.Random(1)) == ""
