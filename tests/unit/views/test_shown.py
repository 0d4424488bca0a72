"""Values for the eye: cut, harmless, vectors in three numbers."""

from __future__ import annotations

import json

from flowllm.views.shown import MOST_TEXT, preview, shown, whole


def test_texts_are_cut_and_made_visible() -> None:
    found = shown("a\x1b[31m\u202eb\n")
    assert (found.text, found.size, found.cut) == ("a\\x1b[31m\\u202eb\n", 9, False)
    found = shown("x" * 1_000_000)
    assert (len(found.text or ""), found.size, found.cut) == (MOST_TEXT, 1_000_000, True)


def test_what_is_copied_is_whole() -> None:
    assert whole("a\x1b") == "a\x1b"
    assert whole({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    many = {f'"{n}"': [n, "é"] for n in range(20_000)}
    assert json.loads(whole(many)) == many
    assert whole(many).startswith('{\n"\\"0\\"": [0, "é"],\n')
    assert json.loads(whole([[n] for n in range(99_999)])) == [[n] for n in range(99_999)]


def test_values_are_trees_with_short_vectors_and_lists() -> None:
    found = shown({"vectors": [[0.5] * 1536], "ok": [1, 2], "text\u200b": "\x00"})
    assert found.value == {"vectors": [[0.5, 0.5, 0.5, "… 1,533 more numbers"]], "ok": [1, 2], "text\\u200b": "\\x00"}
    assert found.text is None
    assert found.cut
    many = shown([{"n": n} for n in range(30_000)])
    assert many.value[-1] == "… 29,500 more entries"
    large = shown({f"k{n}": "word " * 50 for n in range(2_000)})  # too much for a tree
    assert large.value is None
    assert (large.text or "").startswith('{\n  "k0": "word')
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    assert "…" in str(shown(deep).value)
    assert shown(None).value is None
    assert shown([True] * 20).value == [True] * 20
    assert not shown([1, "a"]).cut
    assert shown({"id": 2**60}).value == {"id": "1152921504606846976"}  # a browser would show another number


def test_previews_are_one_line() -> None:
    assert preview({"text": "a\nb"}) == "a b"
    assert preview({"text": "a", "n": [0.1] * 99}) == 'text: a, n: [0.1, 0.1, 0.1, "… 96 more numbers"]'
    assert preview("y" * 999, 10) == "yyyyyyyyy…"
    assert preview(None) is None
    assert preview(0) == "0"
