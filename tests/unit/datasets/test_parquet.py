from __future__ import annotations

import io
import sys

import pyarrow.parquet as pq
import pytest

from flowllm.core.errors import UsageError
from flowllm.datasets.parquet import ColumnKinds, ParquetWriter, joined, kind_of

VALUES = {
    "flag": [True, None, False],
    "whole": [1, None, 2**63 - 1],
    "huge": [1, 2**63, None],
    "number": [1, 2.5, None],
    "text": ["a", "=1\ud800", ""],
    "vector": [[1, 0.5], [], None],
    "lists": [["a"], [None], [{"b": 1}]],
    "mixed": ["text", 1, {"a": [1]}],
    "none": [None, None, None],
    "at": ["2026-11-29T16:00:00.250Z", None, "2026-11-29T16:00:01Z"],
}


def test_types_are_found_in_the_data() -> None:
    rows = [{name: values[at] for name, values in VALUES.items()} for at in range(3)]
    kinds = ColumnKinds({"at": "time"})
    for row in rows:
        kinds.see(row)
    file = io.BytesIO()
    writer = ParquetWriter(file, kinds.of([*VALUES, "never"]))
    for row in rows:
        writer.write(row)
    writer.end()
    table = pq.read_table(file)
    assert [str(field.type) for field in table.schema] == [
        *("bool", "int64", "string", "double", "string", "list<element: double>", "string", "string", "string"),
        *("timestamp[ms, tz=UTC]", "string"),
    ]
    read = table.to_pydict()
    assert read["whole"] == VALUES["whole"]
    assert read["huge"] == ["1", "9223372036854775808", None]
    assert read["vector"] == [[1.0, 0.5], [], None]
    assert read["lists"] == ['["a"]', "[null]", '[{"b": 1}]']
    assert read["mixed"] == ["text", "1", '{"a": [1]}']
    assert read["text"][1] == "=1\\ud800"
    assert read["at"][0].isoformat() == "2026-11-29T16:00:00.250000+00:00"


def test_kinds_join_in_any_order() -> None:
    values = [None, True, 1, 2.5, "a", [], [1], [2.5], ["a"], [[1]], {"a": 1}]
    for one in map(kind_of, values):
        for other in map(kind_of, values):
            assert joined(one, other) == joined(other, one)
            for third in map(kind_of, values):
                assert joined(joined(one, other), third) == joined(one, joined(other, third))


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pyarrow") as caught:
        ParquetWriter(io.BytesIO(), {})
    assert caught.value.hint == "pip install 'flowllm[parquet]'"
