from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.cli.inputs import GivenInputs
from flowllm.core.errors import InvalidWorkflow, UsageError
from flowllm.core.types import Json


def text_inputs(pairs: list[str]) -> dict[str, str]:
    return GivenInputs(input_pairs=pairs).texts()


def file_inputs(path: str | None) -> dict[str, Json]:
    return GivenInputs(inputs_file=path).values()


def test_text_inputs(tmp_path: Path) -> None:
    path = tmp_path / "topic.txt"
    path.write_text("\ufeffGreen tea\nand é\n", encoding="utf-8")
    assert text_inputs(["a=1", "b=x=y", "c=", f"d=@{path}", "e=@@me", "f= spaced "]) == {
        "a": "1",
        "b": "x=y",
        "c": "",
        "d": "Green tea\nand é\n",
        "e": "@me",
        "f": " spaced ",
    }


@pytest.mark.parametrize("pair", ["a", "=x", " =x"])
def test_a_pair_without_name_or_sign_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="this is not NAME=VALUE"):
        text_inputs([pair])


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"-i a=@.*nowhere: No such file"):
        text_inputs([f"a=@{tmp_path}/nowhere"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        text_inputs([f"a=@{tmp_path}/binary"])


def test_an_inputs_file_is_json_or_yaml(tmp_path: Path) -> None:
    as_json, as_yaml = tmp_path / "i.json", tmp_path / "i.yaml"
    as_json.write_text(r'{"a": [1, 1.5, true, null], "b": "\ud83d\ude00"}')
    as_yaml.write_text("a: [1, 1.5, true, null]\nb: no\nc: 012\n")
    assert file_inputs(str(as_json)) == {"a": [1, 1.5, True, None], "b": "😀"}
    assert file_inputs(str(as_yaml)) == {"a": [1, 1.5, True, None], "b": "no", "c": "012"}
    assert file_inputs(None) == {}


def test_what_is_wrong_with_an_inputs_file_has_a_place(tmp_path: Path) -> None:
    bad = tmp_path / "i.json"
    bad.write_text('{\n  "a": nope\n}')
    with pytest.raises(InvalidWorkflow) as caught:
        file_inputs(str(bad))
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 8)
    bad = tmp_path / "i.yaml"
    bad.write_text("a: 1\na: 2\n")
    with pytest.raises(InvalidWorkflow) as caught:
        file_inputs(str(bad))
    assert caught.value.problems[0].line == 2


@pytest.mark.parametrize("text", ["[1]", '"x"', "[" * 100_000, '{"a": NaN}', '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_mapping_of_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "i.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        file_inputs(str(path))
