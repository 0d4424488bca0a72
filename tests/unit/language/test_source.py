from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowllm.language.compiling import locator
from flowllm.language.nodes import Mapping, Scalar, plain_data, scalars
from flowllm.language.problems import SourceError
from flowllm.language.source import MAX_NODES, MAX_SIZE, parse_yaml


def read(text: str) -> object:
    return plain_data(parse_yaml(text, "f.yaml"))


def wrong(text: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        parse_yaml(text, "f.yaml")
    return caught.value


def test_values_are_those_of_yaml_1_2() -> None:
    assert read("a: [no, on, 012, 12:30, 1_0, 1.5, true, null, ~, '1', \"true\"]\nb:\n") == {
        "a": ["no", "on", "012", "12:30", 10, 1.5, True, None, None, "1", "true"],
        "b": None,
    }


def test_keys_are_text_as_written() -> None:
    assert read("on: 1\nno: 2\n012: 3\n1.10: 4\ntrue: 5\nnull: 6\n") == {
        "on": 1,
        "no": 2,
        "012": 3,
        "1.10": 4,
        "true": 5,
        "null": 6,
    }


def test_nodes_know_their_places() -> None:
    root = parse_yaml("# c\na:\n  b: [x, 'y']\n", "f.yaml")
    assert isinstance(root, Mapping)
    inner = root.get("a")
    assert isinstance(inner, Mapping)
    assert str(inner.entries[0].where) == "f.yaml:3:3"
    assert [str(scalar.where) for scalar in scalars(root)] == ["f.yaml:3:7", "f.yaml:3:10"]


def test_columns_count_characters() -> None:
    root = parse_yaml("a: [é, 日本, 😀, z]\n", "f.yaml")
    assert [scalar.where.column for scalar in scalars(root)] == [5, 8, 12, 15]


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    assert read("\ufeffa: |\r\n  one\r\n  two\r\nb: 1\r\n") == {"a": "one\ntwo\n", "b": 1}


def test_a_few_aliases_repeat_a_value() -> None:
    assert read("x: &x {a: [1]}\ny: *x\nz: [*x, &t text, *t]\n") == {
        "x": {"a": [1]},
        "y": {"a": [1]},
        "z": [{"a": [1]}, "text", "text"],
    }


def bomb(levels: int, wide: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * wide)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


MANY_ALIASES = "a: &a x\nb: [" + ", ".join(["*a"] * 101) + "]\n"
BOMBS = {
    "billion laughs": (bomb(20, 9), "stand for too much"),
    "quadratic": ("a: &a [" + "x, " * 5000 + "x]\nb: [" + ", ".join(["*a"] * 90) + "]\n", "stand for too much"),
    "many aliases": (MANY_ALIASES, "stand for too much"),
    "deep by aliases": (
        "".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else 'x'}]\n" for n in range(60)),
        "nested more than 50",
    ),
    "merge": ("a: &a {x: 1}\n" + "".join(f"b{n}: &b{n}\n  <<: *a\n" for n in range(1000)), "merge keys"),
    "deep flow": ("[" * 900_000, "nested more than 50"),
    "deep flow mappings": ("{a: " * 200_000, "nested more than 50"),
    "deep block": ("".join(" " * n + "a:\n" for n in range(1000)), "nested more than 50"),
    "deep lists": ("- " * 100_000 + "x", "nested more than 50"),
    "deep keys": ("? " * 100_000 + "x", "a key must be text"),
    "large": ("a: " + "x" * 2_000_000, "too large"),
    "many values": ("[" + "1," * 250_000 + "]", "more than 100,000 values"),
    "many anchors": ("".join(f"k{n}: &k{n} [&j{n} x]\n" for n in range(20_000)) + "k0: 1\n", "a second time"),
}


@pytest.fixture(scope="module")
def longest() -> float:
    """Seconds of the processor, on this machine, that the longest list takes which is allowed."""
    started = time.process_time()
    parse_yaml("[" + "1," * (MAX_NODES - 2) + "]", "f.yaml")
    return time.process_time() - started


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_go_off(name: str, longest: float) -> None:
    text, message = BOMBS[name]
    started = time.process_time()
    caught = wrong(text)
    assert time.process_time() - started < 5 * longest
    assert message in caught.message
    assert caught.where.line >= 1
    assert caught.where.column >= 1


def test_depth_50_is_allowed_and_51_is_not() -> None:
    parse_yaml("[" * 50 + "]" * 50, "f.yaml")
    assert wrong("[" * 51 + "]" * 51).where.column == 51


def test_the_largest_file_that_is_allowed() -> None:
    text = "a: " + "x" * (MAX_SIZE - 3)
    parse_yaml(text, "f.yaml")
    assert "too large" in wrong(text + "x").message


def test_a_comment_behind_an_unquoted_scalar_is_seen() -> None:
    texts = "a: List ten #1 hits\nb: 'ten' # ok\nc: ten#1\nd: two\n  lines # here\ne: |\n  # text\nf: # none\n"
    comments = [None if s.comment is None else str(s.comment) for s in scalars(parse_yaml(texts, "f.yaml"))]
    assert comments == ["f.yaml:1:13", None, None, "f.yaml:5:9", None, None]


STYLES = {
    "plain": "k: one §two three\n",
    "plain, two lines": "k: one\n    and §two\n",
    "plain, blank line": "k: one\n\n\n    and §two\n",
    "single": "k: 'it''s   §two'\n",
    "single, two lines": "k: 'it''s\n  a  §two'\n",
    "double": 'k: "tab\\t quote\\" \\u00e9\\U0001F600 \\x41 §two"\n',
    "double, two lines": 'k: "one\n\n   §two"\n',
    "double, continued": 'k: "one \\\n   §two"\n',
    "literal": "k: |\n  one\n\n    §two\n",
    "literal, indented": "k: |2-\n    one\n   §two\n",
    "literal, header comment": "k: |  # note\n\n  §two\n",
    "folded": "k: >\n  one\n  and\n\n  §two\n",
    "folded, more indented": "k: >-\n  one\n    * a\n    * §two\n  three\n",
    "anchored": "k: &name one §two\n",
    "anchored literal": "k: &name |\n  one §two\n",
    "flow": "{a: [b, {k: one §two}]}\n",
    "wide characters": "k: 日本 😀 §two\n",
}


@pytest.mark.parametrize("name", STYLES)
def test_a_place_in_a_text_is_found_in_the_file(name: str) -> None:
    marked = STYLES[name]
    offset = marked.index("§")
    source = marked.replace("§", "")
    expected = (source.count("\n", 0, offset) + 1, offset - source.rfind("\n", 0, offset))
    scalar = next(s for s in scalars(parse_yaml(source, "f.yaml")) if "two" in s.text)
    at = scalar.text.index("two")
    place = locator(scalar)(at)
    assert (place.line, place.column) == expected


def test_a_place_beyond_the_text_is_its_end() -> None:
    root = parse_yaml("k: abc\nm: d\n", "f.yaml")
    first = next(scalars(root))
    assert str(locator(first)(99)) == "f.yaml:1:7"


@given(st.text(alphabet=st.sampled_from("ab:-#{}[]'\"|>&*!%@`,?\\ \n\t0.~"), max_size=60))
def test_any_text_gives_a_tree_or_one_problem(text: str) -> None:
    try:
        tree = parse_yaml(text, "f.yaml")
    except SourceError as caught:
        place, message = caught.where, caught.message
        assert 1 <= place.line <= text.count("\n") + 1
        assert place.column >= 1
        assert message
    else:
        for scalar in scalars(tree):
            for offset in range(len(scalar.text) + 1):
                assert locator(scalar)(offset).line >= 1


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        max_leaves=10,
    )
)
def test_json_reads_as_itself(data: object) -> None:
    import json

    assert read(json.dumps({"k": data}, ensure_ascii=False)) == {"k": data}


def test_a_scalar_without_quotes_is_distinguished() -> None:
    plain, quoted = scalars(parse_yaml("[1, '1']", "f.yaml"))
    assert isinstance(plain, Scalar)
    assert (plain.plain, plain.is_text, plain.value) == (True, False, 1)
    assert (quoted.plain, quoted.is_text, quoted.value) == (False, True, "1")
