from __future__ import annotations

import json

import pytest

from flowllm.cli.output import print_json, print_outputs, print_table


def test_outputs_are_headed_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_outputs({"headline": "Tea\x1b[2J\n", "keywords": ["a", "b"], "none": None})
    assert capsys.readouterr().out == (
        'headline\n--------\nTea\\x1b[2J\n\nkeywords\n--------\n[\n  "a",\n  "b"\n]\n\nnone\n----\nnull\n'
    )


def test_json_is_one_valid_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "\x9b\u202e é \ud800"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": "\x9b\u202e é \ud800"}
    assert not set(out) & {"\x9b", "\u202e", "\ud800"}


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["RUN", "COST", "NOTE"], [["a", "$10", "x"], ["long\x1b", "$1", ""]], right=("COST",))
    assert capsys.readouterr().out.splitlines() == ["RUN       COST  NOTE", "a          $10  x", "long\\x1b    $1"]
